"""Support for tests and chaos runs; other packages use only its crash points."""
