"""elkapi: a self-hosted AI API gateway. Start reading at ARCHITECTURE.md, then `relay/serve.py`."""

__version__ = "0.1.0"
