"""What tests and chaos runs use of the package itself: crash points, factories, doubles; no room depends on it but for crash points."""
