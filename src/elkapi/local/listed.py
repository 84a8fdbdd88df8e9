"""Queries the model process for the models it serves, for the workers' lists and the console."""

from __future__ import annotations

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.upstream import Deadlines, Origin, Send, UpstreamFailure, UpstreamRequest, answer_to

ANSWER_BYTES_MAX = 1024 * 1024
DEADLINES = Deadlines(connect_s=1.0, header_s=5.0, first_byte_s=5.0, idle_s=5.0, total_s=5.0)


class LocalModel(msgspec.Struct, frozen=True):
    """One bundled model as the model process lists it."""

    id: str
    dimensions: int = 0


class _Listing(msgspec.Struct):
    data: list[LocalModel]


_listing = msgspec.json.Decoder(_Listing)


async def listed_models(send: Send, socket_path: str) -> tuple[LocalModel, ...] | None:
    """The models of the process behind this socket, or None without a valid answer."""
    origin = Origin.parse(f"unix://{socket_path}")
    headers = [(b"accept", b"application/json")]
    request = UpstreamRequest(origin, b"GET", b"/v1/models", headers, deadlines=DEADLINES)
    try:
        answer = await answer_to(send, request, ANSWER_BYTES_MAX)
        return tuple(_listing.decode(answer.body).data) if answer.status == 200 and answer.complete else None
    except (UpstreamFailure, *NOT_JSON):
        return None
