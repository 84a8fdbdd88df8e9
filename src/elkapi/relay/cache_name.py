"""The identity of a call in the response cache, as bytes; one caller's answers never match another's calls.

It leaves out what does not change the answer: how it is sent (`stream`), who asks (`user`, `metadata`), instructions to
the provider about the call. It includes everything that does: the channels' upstreams and overrides, and the forwarded
headers.
"""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.catalog.jsonedit import check_all_named_once
from elkapi.errors import NOT_JSON, BadRequest
from elkapi.relay.call import Call
from elkapi.relay.read import Request
from elkapi.relay.target import NATIVE_HEADERS, says_beta
from elkapi.snapshot import Snapshot
from elkapi.types import Channel, Grant, Policy

# Members that do not change the answer.
_NO_MEANING = frozenset(
    {
        "model",  # the resolved model is added separately
        "stream",
        "stream_options",
        "user",
        "metadata",
        "labels",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "store",
    }
)
# Members that refer to objects stored elsewhere, which may change although the body does not.
_STATEFUL = {
    "responses": ("previous_response_id", "conversation", "prompt"),
    "anthropic": ("container",),
    "gemini": ("cachedContent", "cached_content"),
}
WIRES = frozenset(
    {"chat", "completions", "responses", "anthropic", "gemini", "embeddings", "gemini-embed", "gemini-batch-embed"}
)
_VERSION = 1
_object = msgspec.json.Decoder(dict[str, Any])
_encoder = msgspec.json.Encoder(order="deterministic")


def meaning_of(snapshot: Snapshot, grant: Grant, policy: Policy, request: Request, call: Call) -> bytes | None:
    """The canonical form of a call; None if its answer depends on more than the call itself.

    A JSON decoder has accepted the body. Answers belong to one key, or to the keys of one owner and group if the policy
    shares them.
    """
    facts, wire = request.facts, request.operation.wire
    if wire not in WIRES or facts.store or facts.background or facts.choices > 1:
        return None
    try:
        members = _object.decode(request.body)
        if policy.cache_shared:
            # With a duplicate member an upstream may use the value that is not part of the identity: its answer would
            # be given to another key, which asked for the other value.
            check_all_named_once(request.body)
        body = {name: plain(value) for name, value in members.items() if name not in _NO_MEANING and value is not None}
    except (BadRequest, *NOT_JSON):
        # Parts that a view skipped may still be broken or nested too deeply; the upstream judges that.
        return None
    if any(members.get(name) is not None for name in _STATEFUL.get(wire, ())):
        return None
    channels = [one for tier in snapshot.tiers_for(grant.scope, grant.group, request.model) for one in tier]
    forwarded = (name.lower().encode() for one in channels for name in one.forward_headers)
    names = dict.fromkeys((*NATIVE_HEADERS.get(wire, ()), *forwarded))
    headers = {name.decode("latin-1"): value.decode("latin-1") for name in names if (value := call.header(name))}
    upstreams = [_asked_by(one, request.model) for one in channels]
    # An answer passed the guardrails of its time.
    guards = ([snapshot.rules[name].digest.hex() for name in policy.guards or ()], policy.guard_streams)
    who = (grant.owner_id, grant.scope, grant.group, None if policy.cache_shared else grant.key_id)
    beta = wire == "anthropic" and says_beta(call)
    return _encoder.encode((_VERSION, who, wire, request.model, body, headers, beta, upstreams, guards))


def _asked_by(channel: Channel, model: str) -> tuple[object, ...]:
    """What a channel makes of a call for a model."""
    return (
        channel.id,
        channel.family,
        channel.base_url,
        channel.options,
        channel.model_map.get(model),
        channel.aliases.get(model),
        channel.system_prompt,
        channel.param_set,
        channel.param_default,
        channel.param_remove,
        channel.header_set,
    )


def plain(value: Any) -> Any:
    """A JSON value with one spelling of whole numbers: 1.0 and 1 mean the same."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value
