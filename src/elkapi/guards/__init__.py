"""Guardrails on text, without I/O: what is found in it, where text stands in a body, and a window over a stream."""
