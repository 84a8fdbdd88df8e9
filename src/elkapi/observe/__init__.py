"""Structured logs, metrics and process facts for operators. Nothing here may slow a call down."""
