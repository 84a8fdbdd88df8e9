"""Seals: signatures that prove that a value (a thought, a token, a file's URL) is this sandbox's own and unchanged."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

# The sandbox protects nothing, so the key need not be secret: a seal only has to differ for different values.
_KEY = b"elkapi sandbox seal"
_HIDDEN_BYTES = 24


def seal(purpose: str, shown: str, hidden: str = "") -> str:
    """The seal of `shown` for `purpose`, as base64; `hidden` makes two seals of the same text differ."""
    digest = hashlib.sha256(hidden.encode("utf-8", "surrogatepass")).digest()[:_HIDDEN_BYTES]
    return base64.b64encode(digest + _mac(purpose, shown, digest)).decode("ascii")


def is_sealed(purpose: str, shown: str, given: object) -> bool:
    """Whether `given` is a seal of `shown`, standard or URL-safe base64."""
    if not isinstance(given, str):
        return False
    try:
        raw = base64.b64decode(given.translate(str.maketrans("-_", "+/")), validate=True)
    except (binascii.Error, ValueError):
        return False
    digest, mac = raw[:_HIDDEN_BYTES], raw[_HIDDEN_BYTES:]
    return hmac.compare_digest(mac, _mac(purpose, shown, digest))


def _mac(purpose: str, shown: str, digest: bytes) -> bytes:
    text = b"\0".join((purpose.encode(), digest, shown.encode("utf-8", "surrogatepass")))
    return hmac.digest(_KEY, text, "sha256")
