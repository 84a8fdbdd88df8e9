"""`types.Policy` as the JSON text of a `config` column; keys and groups have one each."""

from __future__ import annotations

import msgspec

from elkapi.types import Policy

_decoder = msgspec.json.Decoder(Policy)


def read(text: str) -> Policy:
    """The policy of a column; members that this version does not know are passed over."""
    return _decoder.decode(text)


def written(policy: Policy) -> str:
    """The column of a policy."""
    return msgspec.json.encode(policy).decode()
