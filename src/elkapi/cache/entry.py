"""`Entry`: one stored answer and its form at rest, sealed under the installation's key; the stores keep it."""

from __future__ import annotations

import msgspec

from elkapi.storage.secrets import Sealer, SealError
from elkapi.types import Usage


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One answer as its caller got it: a JSON body, or every frame of a stream (`array`: as one JSON array).

    `created_ns` is Unix time. `include_usage` tells whether a stream's frames contain its usage, which `usage` always
    does. `served` are the price features that it reported.
    """

    created_ns: int
    body: bytes
    usage: Usage
    stream: bool = False
    array: bool = False
    include_usage: bool = False
    served: dict[str, str] = {}


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)
_CONTEXT = b"answer cache\0"


def sealed(sealer: Sealer, name: bytes, entry: Entry) -> bytes:
    """The entry as it is stored under `name`."""
    return sealer.seal(_encoder.encode(entry), _CONTEXT + name)


def opened(sealer: Sealer, name: bytes, stored: bytes) -> Entry | None:
    """The entry of `name`; None for bytes that are damaged, or sealed with another key, name or version."""
    try:
        return _decoder.decode(sealer.open(stored, _CONTEXT + name))
    except (SealError, msgspec.DecodeError):
        return None
