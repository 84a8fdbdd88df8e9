"""`types.Policy` as the JSON text of a `config` column; keys and groups have one each."""

from __future__ import annotations

import msgspec

from elkapi.types import Policy

_decoder = msgspec.json.Decoder(Policy)


def read(text: str) -> Policy:
    """Decode the policy of a column; members unknown to this version are ignored."""
    return _decoder.decode(text)


def written(policy: Policy) -> str:
    """Encode a policy for its column."""
    return msgspec.json.encode(policy).decode()
