"""Guardrails on text, without I/O: what a text contains, where text is in a body, and a window over a stream."""
