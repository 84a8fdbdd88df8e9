"""Estimate tokens from bytes where no exact count is available."""

from __future__ import annotations

from collections.abc import Iterable

BYTES_PER_TOKEN = 4
# The tokens that a chat format adds to a message: its role and separators.
MESSAGE_TOKENS = 4


def quarter(size_bytes: int) -> int:
    """The estimated tokens of `size_bytes` of text."""
    return -(-size_bytes // BYTES_PER_TOKEN)


def estimated_tokens(texts: Iterable[str]) -> int:
    """The estimated input tokens of a conversation, with one text per message (`ir.texts_of`)."""
    return sum(quarter(len(text.encode())) + MESSAGE_TOKENS for text in texts)
