"""From socket to `Call` and back: the HTTP server, CORS, error bodies per dialect, drain."""
