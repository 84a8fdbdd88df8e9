"""Small requests with a whole answer of bounded length; `relay` streams the answers for callers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from elkapi.upstream.encoded import plain
from elkapi.upstream.origin import UpstreamRequest
from elkapi.upstream.reply import UpstreamReply

Send = Callable[[UpstreamRequest], Awaitable[UpstreamReply]]


class Answer(msgspec.Struct, frozen=True):
    """`complete` False: the body exceeded the limit, and the rest was not read."""

    status: int
    body: bytes
    complete: bool
    header: Callable[..., bytes | None]


async def answer_to(send: Send, request: UpstreamRequest, bytes_max: int) -> Answer:
    """Send a request and return the answer with at most `bytes_max` of its body, gunzipped. Raises UpstreamFailure.
    The connection is then free or closed."""
    reply = await send(request)
    try:
        body, complete = await reply.read(bytes_max)
    finally:
        await reply.aclose()
    return Answer(reply.status, plain(reply, body, complete, bytes_max), complete, reply.header)
