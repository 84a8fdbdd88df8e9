"""Asks something in passing: a whole answer of bounded length. What callers are answered with is pumped by `relay`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from elkapi.upstream.encoded import plain
from elkapi.upstream.origin import UpstreamRequest
from elkapi.upstream.reply import UpstreamReply

Send = Callable[[UpstreamRequest], Awaitable[UpstreamReply]]


class Answer(msgspec.Struct, frozen=True):
    """`complete` False: it was longer than anybody wanted, and its rest was not waited for."""

    status: int
    body: bytes
    complete: bool
    header: Callable[..., bytes | None]


async def answer_to(send: Send, request: UpstreamRequest, bytes_max: int) -> Answer:
    """The answer, at most `bytes_max` of its body, out of gzip too. Raises UpstreamFailure.

    Its connection is free again or closed.
    """
    reply = await send(request)
    try:
        body, complete = await reply.read(bytes_max)
    finally:
        await reply.aclose()
    return Answer(reply.status, plain(reply, body, complete, bytes_max), complete, reply.header)
