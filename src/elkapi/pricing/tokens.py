"""Which bundled vocabulary counts a model's tokens exactly; the counting itself happens in the model process."""

from __future__ import annotations

CL100K_MODELS = frozenset({"text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002"})


def vocabulary_of(model: str) -> str | None:
    """The name of the byte-pair vocabulary, or None when it is not known for certain."""
    return "cl100k" if model in CL100K_MODELS else None
