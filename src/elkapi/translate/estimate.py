"""Tokens guessed from bytes where nobody counts them, pure; exact counts are the model process's."""

from __future__ import annotations

from collections.abc import Iterable

BYTES_PER_TOKEN = 4
# What a chat format puts around a message: its role and its separators.
MESSAGE_TOKENS = 4


def quarter(size_bytes: int) -> int:
    """The tokens of so many bytes of text."""
    return -(-size_bytes // BYTES_PER_TOKEN)


def estimated_tokens(texts: Iterable[str]) -> int:
    """The input of a conversation, a text a message (`ir.texts_of`)."""
    return sum(quarter(len(text.encode())) + MESSAGE_TOKENS for text in texts)
