"""Which bundled vocabulary counts a model's tokens exactly; the counting itself happens in the model process."""

from __future__ import annotations

import re

CL100K_MODELS = frozenset({"text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002"})
_CL100K = re.compile(r"^(gpt-4(-|$)|gpt-3\.5|gpt-35)")
_O200K = re.compile(r"^(gpt-4o|gpt-4\.1|gpt-4\.5|gpt-5|chatgpt-4o|o[1345](-|$)|codex)")


def vocabulary_of(model: str) -> str | None:
    """The name of the byte-pair vocabulary in the model process, or None if it is not known for certain."""
    if model in CL100K_MODELS or _CL100K.match(model):
        return "cl100k_base"
    return "o200k_base" if _O200K.match(model) else None
