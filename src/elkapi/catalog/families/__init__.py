"""One small declarative file per family of endpoints."""
