"""A call and the interface of its reply; the edge fills both in, whatever server it runs on."""

from __future__ import annotations

import asyncio
import contextlib
from binascii import hexlify
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

import msgspec

from elkapi.types import StoredReply

Headers = Sequence[tuple[bytes, bytes]]
Fields = dict[bytes, bytes]

JSON = ((b"content-type", b"application/json"),)
# A stream is useful while it arrives, so proxies must not buffer it.
EVENTS: Headers = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
# List headers: several lines count together. Anthropic's SDK for Go sends one per beta.
_LISTS = (b"anthropic-beta", b"openai-beta")
# Marks a repeated answer to a call with the same Idempotency-Key.
REPLAYED = (b"idempotent-replayed", b"true")
COST_USD = b"x-elkapi-cost-usd"


def fields_of(headers: list[tuple[bytes, bytes]]) -> Fields:
    """Values by lower-case name: the first of a repeated header, except for lists."""
    fields = dict(reversed(headers))
    if len(fields) < len(headers):
        for name in _LISTS:
            if name in fields:
                fields[name] = b",".join(value for other, value in headers if other == name)
    return fields


class ClientGone(Exception):
    """The caller closed the connection, so nobody is left to answer."""


class Reply(Protocol):
    """Where a reply goes. `started` becomes true when a byte of it may have reached the client.

    `common` header lines (request id, CORS, cost), formatted as in a head, are added to every reply.
    """

    started: bool
    common: bytes

    def send(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole reply; the server adds content-length."""

    def start(self, status: int, headers: Headers, length_bytes: int | None = None) -> None:
        """Start a reply of this length, or of unknown length."""

    def put(self, chunk: bytes) -> Awaitable[None] | None:
        """Write one piece of a started reply; returns what to await before the next while the client is slow, else
        None."""

    def write(self, chunk: bytes) -> Awaitable[None]:
        """`put` one piece and wait."""

    def push(self, chunk: bytes) -> None:
        """Write one small piece of a started reply from outside its own flow of writes; never waits."""

    def finish(self, chunk: bytes = b"") -> None:
        """Write the last piece; only this completes a started reply."""

    def abort(self) -> None:
        """Abort a started reply, so that the client cannot take it for complete."""


class HeadMemo:
    """What was found out from the head of a request, for the next one with the same head on its connection."""

    __slots__ = ("key_digest",)

    def __init__(self) -> None:
        self.key_digest: bytes | None = None


class Call:
    """One request: `headers` have lower-case names, `path` is percent-encoded as it came, `query` without `?`.

    `header(name)` is the first header of a lower-case name (all of a list, joined), or None. `text_id` is the id's
    public spelling, as in headers. `whole` is the body if all of it arrived with the head, else None: `body()` waits
    for it. `head_only`: a HEAD, handled as the GET that it stands for.
    """

    __slots__ = (
        "_read",
        "client_ip",
        "head_only",
        "header",
        "headers",
        "id",
        "memo",
        "method",
        "path",
        "query",
        "reply",
        "started_s",
        "text_id",
        "whole",
    )

    def __init__(
        self,
        id: bytes,
        method: str,
        path: str,
        query: str,
        headers: list[tuple[bytes, bytes]],
        client_ip: str,
        body: Callable[[], Awaitable[bytes]] | bytes,
        reply: Reply,
        started_s: float,
        fields: Fields | None = None,
        memo: HeadMemo | None = None,
    ) -> None:
        self.id = id
        self.text_id = b"req_" + hexlify(id)
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        # The lookup itself instead of a method around it, because every call needs several.
        self.header: Callable[[bytes], bytes | None] = (fields_of(headers) if fields is None else fields).get
        self.memo = HeadMemo() if memo is None else memo
        self.client_ip = client_ip
        self.head_only = False
        self.whole = body if isinstance(body, bytes) else None
        self._read = None if isinstance(body, bytes) else body
        self.reply = reply
        self.started_s = started_s

    async def body(self) -> bytes:
        """The whole body. Raises BodyTooLarge, RequestTimeout, BadRequest (broken framing) or ClientGone."""
        return self.whole or b"" if self._read is None else await self._read()


def send_json(call: Call, value: object) -> None:
    """Answer 200 with this value as JSON."""
    call.reply.send(200, JSON, msgspec.json.encode(value))


def replay(reply: Reply, stored: StoredReply, body: bytes | None = None) -> None:
    """Repeat the stored answer of an earlier call, or `body` in its place, without an upstream or a charge."""
    reply.send(stored.status, (*stored.headers, REPLAYED), (stored.body or b"") if body is None else body)


async def to_its_end(work: Coroutine[Any, Any, None] | asyncio.Future[None]) -> None:
    """Await what settles a call even if this task is cancelled meanwhile: counting comes first and may take a while,
    and nobody else would resolve the hold."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait((task,))
    task.result()
