"""The request's way: `serve` reads as its table of contents, the other modules are its hops."""
