"""Envelopes for the signatures of other dialects, in `encrypted_content` of reasoning items or `signature` of thinking.

A stateless client sends back reasoning items (responses) or thinking blocks (Anthropic) unchanged. So thinking signed
by another dialect travels in the gateway's envelope, and the writer of that dialect gets its signature back. The
provider verifies its own signature, so the envelope needs none. The summary of `/v1/responses/compact` travels the same
way.
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.translate.ir import DialectName

# The version precedes the base64, so that a later one can be recognized without decoding.
PREFIX = "elkapi.v1."


class Sealed(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of an envelope. `signature` signs `text`, or the call `call_id`; only `dialect` can read `redacted`.

    `summary` is the text that replaces a compacted conversation.
    """

    dialect: DialectName | None = None
    signature: str | None = None
    redacted: str | None = None
    text: str = ""
    call_id: str | None = None
    summary: str | None = None


_decoder = msgspec.json.Decoder(Sealed)


def seal(content: Sealed) -> str:
    """The envelope as text."""
    return PREFIX + base64.urlsafe_b64encode(msgspec.json.encode(content)).decode()


# Signs thinking of an upstream without signatures. Nothing is in it.
UNSIGNED = seal(Sealed())


def unseal(encrypted_content: str | None) -> Sealed | None:
    """The content of an envelope; None for anything else (a provider's own encrypted content, a broken envelope)."""
    if not encrypted_content or not encrypted_content.startswith(PREFIX):
        return None
    try:
        return _decoder.decode(base64.urlsafe_b64decode(encrypted_content[len(PREFIX) :]))
    except (binascii.Error, ValueError, *NOT_JSON):
        return None
