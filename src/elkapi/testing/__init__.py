"""What tests and chaos runs need of the package itself; no room depends on it but for its crash points."""
