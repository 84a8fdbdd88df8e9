"""Counting a call's input ourselves: exactly, with the vocabularies of the model process, or as a flagged estimate.

The vocabularies live in the model process alone (94 MB each), so this is never on the way of an ordinary call: only
when a hold by byte length is refused, or when an upstream reported no usage.
"""

from __future__ import annotations

import msgspec

from elkapi.pricing.tokens import vocabulary_of
from elkapi.relay.plane import DataPlane
from elkapi.relay.read import Request
from elkapi.types import Usage
from elkapi.upstream import Deadlines, Origin, UpstreamFailure, UpstreamRequest

COUNT_DEADLINES = Deadlines(connect_s=0.5, header_s=5.0, first_byte_s=5.0, idle_s=5.0, total_s=5.0)
ANSWER_BYTES_MAX = 1024 * 1024
BYTES_PER_TOKEN = 4


class _Counts(msgspec.Struct):
    tokens: list[int]


_counts = msgspec.json.Decoder(_Counts)


async def count_exactly(plane: DataPlane, request: Request) -> Usage | None:
    """The exact input tokens, or None when the model's vocabulary is unknown or nobody can count now."""
    texts = request.facts.texts
    if isinstance(texts, list) and texts and not isinstance(texts[0], str):
        count = len(texts) if isinstance(texts[0], int) else sum(map(len, texts))
        return Usage(input_tokens=count, calls=request.facts.upper.calls)
    vocabulary = vocabulary_of(request.model)
    if vocabulary is None:
        return None
    items = texts if isinstance(texts, list) else [texts]
    body = msgspec.json.encode({"vocabulary": vocabulary, "input": items})
    order = UpstreamRequest(
        origin=Origin.parse("unix://" + plane.settings.socket_path("models")),
        method=b"POST",
        target=b"/v1/tokenize/count",
        headers=[(b"content-type", b"application/json")],
        body=body,
        deadlines=COUNT_DEADLINES,
    )
    try:
        reply = await plane.client.send(order)
        answer, whole = await reply.read(ANSWER_BYTES_MAX)
        if reply.status != 200 or not whole:
            return None
        return Usage(input_tokens=sum(_counts.decode(answer).tokens), calls=request.facts.upper.calls)
    except (UpstreamFailure, msgspec.DecodeError):
        return None


async def count_locally(plane: DataPlane, request: Request) -> tuple[Usage, str]:
    """(usage, flag): counted exactly where that is possible, else a quarter of the bytes, never above the bound."""
    exact = await count_exactly(plane, request)
    return (exact, "counted_locally") if exact is not None else estimated(request)


def estimated(request: Request) -> tuple[Usage, str]:
    """(usage, flag) without asking anybody: a quarter of the bytes."""
    upper = request.facts.upper
    return Usage(input_tokens=-(-upper.input_tokens // BYTES_PER_TOKEN), calls=upper.calls), "estimated_locally"
