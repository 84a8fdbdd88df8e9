"""Signatures of other dialects inside a reasoning item's `encrypted_content`, or a thought's `signature`.

It owns the envelope and no meaning. A stateless client of the responses dialect hands reasoning items back as they
came, one of Anthropic's its thinking blocks. So thinking that another dialect signed travels in an envelope of ours,
and the writer of that dialect finds its signature again. The provider that signed it is the one who checks it, so the
envelope itself needs no signature. A summary (of `/v1/responses/compact`) travels the same way.
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.translate.ir import DialectName

# The version stands before the base64 so that a later one is told apart without decoding.
PREFIX = "elkapi.v1."


class Sealed(msgspec.Struct, frozen=True, omit_defaults=True):
    """`signature` signs `text`, or the call `call_id`; `redacted` is thinking nobody but `dialect` can read.

    `summary` is the text that stands for a compacted conversation.
    """

    dialect: DialectName | None = None
    signature: str | None = None
    redacted: str | None = None
    text: str = ""
    call_id: str | None = None
    summary: str | None = None


_decoder = msgspec.json.Decoder(Sealed)


def seal(content: Sealed) -> str:
    """The text that stands for it in the other dialect."""
    return PREFIX + base64.urlsafe_b64encode(msgspec.json.encode(content)).decode()


def unseal(encrypted_content: str | None) -> Sealed | None:
    """What `seal` put in, or None for anything else (a provider's own encrypted content, a broken envelope)."""
    if not encrypted_content or not encrypted_content.startswith(PREFIX):
        return None
    try:
        return _decoder.decode(base64.urlsafe_b64decode(encrypted_content[len(PREFIX) :]))
    except (binascii.Error, ValueError, *NOT_JSON):
        return None
