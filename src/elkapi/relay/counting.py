"""Counting a call's input without making it: by the upstream if possible, otherwise locally. No money is involved.

Contract: anthropic.md sections 1.2 and 6.4, openai.md ("Count").
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from elkapi.catalog import Match
from elkapi.catalog.upstreams import serves
from elkapi.relay.call import JSON, Call
from elkapi.relay.count import count_texts, quarters
from elkapi.relay.count_by_model import count_by_model
from elkapi.relay.guarding import guarding_of
from elkapi.relay.keep import prepared
from elkapi.relay.large import anywhere
from elkapi.relay.plane import DataPlane
from elkapi.relay.read import Request, read
from elkapi.relay.relay import Failed, relay
from elkapi.relay.route import PLANNED_MAX, check_allowed, no_channel
from elkapi.routing.plan import plan
from elkapi.snapshot import Snapshot
from elkapi.translate import anthropic_request, embeddings, responses_state
from elkapi.translate.estimate import MESSAGE_TOKENS
from elkapi.translate.ir import ChatRequest, texts_of
from elkapi.types import Attempt, Grant


class _Counter(msgspec.Struct, frozen=True):
    """A dialect's request and answer of a count."""

    read: Callable[[bytes], ChatRequest]
    write: Callable[[int], bytes]


def _member(name: str, **more: str) -> Callable[[int], bytes]:
    return lambda tokens: msgspec.json.encode({**more, name: tokens})


_COUNTERS = {
    "anthropic.count-tokens": _Counter(anthropic_request.read_count_request, _member("input_tokens")),
    "gemini.count-tokens": _Counter(embeddings.read_count_request, embeddings.write_count_reply),
    "openai.responses-input-tokens": _Counter(responses_state.read_input_tokens, responses_state.write_input_tokens),
}


async def count_input(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """Answer a count. Raises ModelForbidden, NoChannel, BadRequest, and Failed if an upstream refuses the body."""
    policy = snapshot.policy_for(grant)
    request = await read(call, match, policy.aliases)
    if request.facts.stateful:
        request = await prepared(plane, grant, request)
    with plane.limits.key(grant.key_id, policy, 0):
        if policy.guards:
            guarding = await guarding_of(plane, snapshot, policy, grant, request, call)
            if guarding.refusal is not None:
                raise guarding.refusal
            request = guarding.request
        await _count(plane, snapshot, grant, request, call)


async def _count(plane: DataPlane, snapshot: Snapshot, grant: Grant, request: Request, call: Call) -> None:
    check_allowed(grant, request)
    tiers = snapshot.tiers_for(grant.scope, grant.group, request.model)
    if not tiers:
        raise no_channel(snapshot, grant, request)
    able = partial(serves, request.operation)
    attempts = plan(tiers, request.model, able, plane.health, plane.rng, PLANNED_MAX)
    if attempts and (body := await _asked(plane, attempts, request, call)) is not None:
        call.reply.send(200, JSON, body)
        return
    counter = _COUNTERS[request.operation.id]
    size_bytes = len(request.body)
    asked = await anywhere(size_bytes, counter.read, request.body)
    if (exact := await count_by_model(plane, tiers, asked)) is not None:
        call.reply.send(200, JSON, counter.write(exact))
        return
    texts = await anywhere(size_bytes, texts_of, asked)
    counts = await count_texts(plane, request.model, texts)
    if not counts:
        counts = await anywhere(size_bytes, quarters, texts)
    call.reply.send(200, JSON, counter.write(sum(counts) + MESSAGE_TOKENS * len(texts)))


async def _asked(plane: DataPlane, attempts: tuple[Attempt, ...], request: Request, call: Call) -> bytes | None:
    """The upstream's own count; None if nobody answers, since an estimate is then better than an error."""
    try:
        outcome = await relay(plane, attempts, request, call)
    except Failed as failed:
        if 400 <= failed.error.status < 500 and failed.error.status != 429:
            raise
        return None
    return outcome.body


COUNTING_PAGES = dict.fromkeys(_COUNTERS, count_input)
