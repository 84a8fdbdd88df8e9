"""The path of a request: `serve` is its table of contents, the other modules are its steps (hops)."""
