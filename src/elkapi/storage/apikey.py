"""The format of a customer's key: creating, parsing, digesting and hinting at it; pure except for randomness.

A key is `sk-` (or `sk-test-` for the sandbox) and 48 base62 characters. Only its sha256 digest is ever stored.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string

from elkapi.types import Scope

ALPHABET = string.ascii_letters + string.digits
BODY_CHARACTERS = 48
PREFIX: dict[Scope, str] = {"live": "sk-", "test": "sk-test-"}
PRESENTED_CHARACTERS_MAX = 256

_KEY = re.compile(rf"(?:sk-)?(test-)?([A-Za-z0-9]{{{BODY_CHARACTERS}}})", re.ASCII)
_WRITTEN = re.compile(rf"sk-(?:test-)?[A-Za-z0-9]{{{BODY_CHARACTERS}}}", re.ASCII)
_BEARER = re.compile(r"bearer[ \t]+", re.ASCII | re.IGNORECASE)


def new_key(scope: Scope) -> str:
    """A new key with about 285 bits of randomness."""
    return PREFIX[scope] + "".join(secrets.choice(ALPHABET) for _ in range(BODY_CHARACTERS))


def normalize(presented: str) -> str | None:
    """The key in full, or None if the text cannot be one. `Bearer ` and `sk-` are optional on input."""
    if presented[:10] == "Bearer sk-" and len(presented) == 10 + BODY_CHARACTERS:
        # The usual case.
        body = presented[10:]
        if body.isascii() and body.isalnum():
            return presented[7:]
    if len(presented) > PRESENTED_CHARACTERS_MAX:
        return None
    text = presented.strip(" \t")
    if bearer := _BEARER.match(text):
        text = text[bearer.end() :]
    if (match := _KEY.fullmatch(text)) is None:
        return None
    return PREFIX["test" if match[1] else "live"] + match[2]


def digest(key: str) -> bytes:
    """The 32 bytes that a key is looked up by. A key is random, so its plain hash cannot be reversed by guessing."""
    return hashlib.sha256(key.encode()).digest()


def hint(key: str) -> str:
    """The displayable part of a customer's key: its first 7 and last 4 characters."""
    return f"{key[:7]}...{key[-4:]}"


def hinted(text: str) -> str:
    """The text with every customer's key replaced by its hint."""
    return _WRITTEN.sub(lambda hit: hint(hit[0]), text)


def secret_hint(secret: str) -> str:
    """The displayable part of a provider's credential; of a short one it shows less, so that it never gives the
    secret away."""
    if len(secret) >= 24:
        return f"{secret[:7]}...{secret[-4:]}"
    return f"...{secret[-2:]}" if len(secret) >= 12 else "..."
