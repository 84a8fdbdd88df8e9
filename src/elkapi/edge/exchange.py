"""One request and its reply on a client's connection: the body as it arrives, the bytes of the answer, in order.

It implements `relay.call.Reply`; `connection` handles the order of requests and the parser's callbacks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from http import HTTPStatus
from typing import TYPE_CHECKING

from elkapi.edge.heads import RequestHead
from elkapi.errors import BodyTooLarge, GatewayError
from elkapi.ids import new_id
from elkapi.relay.call import JSON, Call, ClientGone, Headers

if TYPE_CHECKING:
    from elkapi.edge.connection import Connection

NO_CONTENT, NOT_MODIFIED = 204, 304
# A body sent in very small chunks would take many times its size in pieces; this many are joined into one.
PIECES_MAX = 65_536

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


def _status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or f"HTTP/1.1 {status} Status {status}\r\n".encode()


def header_lines(headers: Headers) -> bytes:
    """The header lines of a head."""
    return b"".join([name + b": " + value + b"\r\n" for name, value in headers])


def head(status: int, lines: bytes, date: bytes, framing: bytes) -> bytes:
    """The head of a reply: `lines`, `date` and `framing` are whole header lines."""
    return _status_line(status) + lines + date + framing + b"\r\n"


_JSON_LINES = header_lines(JSON)


class Exchange:
    """One request and its reply (relay.call.Reply): body bytes are collected up to the limit, writes are ordered."""

    __slots__ = (
        "_body",
        "_chunks",
        "_size",
        "answered",
        "body_complete",
        "call_id",
        "close_after",
        "common",
        "connection",
        "error",
        "head",
        "head_only",
        "plain",
        "started",
        "task",
    )

    def __init__(self, connection: Connection, head: RequestHead) -> None:
        self.connection = connection
        self.head = head
        self.head_only = head.method == "HEAD"
        self.plain = head.plain
        self.close_after = head.close_after
        self.call_id = new_id()
        self.task: asyncio.Task[None] | None = None
        self.started = self.answered = self.body_complete = False
        self.error: GatewayError | ClientGone | None = None
        self.common = b""
        self._chunks: list[bytes] = []
        self._size = 0
        self._body: asyncio.Future[bytes] | None = None

    # The request

    def add(self, chunk: bytes) -> None:
        """Add a piece of the request's body; exceeding `body_bytes_max` fails the reading with BodyTooLarge."""
        if self.answered or self.error:
            return
        self._size += len(chunk)
        limit = self.connection.settings.body_bytes_max
        if self._size > limit:
            self.fail(BodyTooLarge(f"The body must be at most {limit} bytes."))
            return
        self._chunks.append(chunk)
        if len(self._chunks) == PIECES_MAX:
            self._chunks = [b"".join(self._chunks)]

    def has_all(self, body: bytes) -> None:
        """The request's whole body, within `body_bytes_max`, instead of pieces."""
        self._chunks.append(body)
        self.body_complete = True

    def complete(self) -> None:
        """The request's body is complete."""
        self.body_complete = True
        if self._body and not self._body.done():
            self._body.set_result(self._joined())

    def fail(self, error: GatewayError | ClientGone) -> None:
        """The body will not be complete; its readers get the error."""
        self.error = error
        self.close_after = True
        self._chunks.clear()
        if self._body and not self._body.done():
            self._body.set_exception(error)

    def client_left(self) -> None:
        """The connection is lost, or about to be: stop the body's reader and the handler, once."""
        if isinstance(self.error, ClientGone):
            return
        self.fail(ClientGone())
        if self._body and self._body.done() and not self._body.cancelled():
            self._body.exception()
        if self.task and not self.answered:
            self.task.cancel()

    def _joined(self) -> bytes:
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks = []
        return body

    async def _read(self) -> bytes:
        if self.error:
            raise self.error
        if self.body_complete:
            return self._joined()
        self._body = self.connection.loop.create_future()
        return await self._body

    async def run(self) -> None:
        """Run the server's handler; a reply that is incomplete afterwards ends with the connection."""
        connection, head = self.connection, self.head
        call = Call(
            self.call_id,
            "GET" if self.head_only else head.method,
            head.path,
            head.query,
            head.headers,
            connection.client_ip,
            self._joined() if self.body_complete else self._read,
            self,
            connection.now_s,
            head.fields,
            head.memo,
        )
        call.head_only = self.head_only
        try:
            await connection.server.handler(call)
        except ClientGone:
            connection.transport.abort()
        finally:
            if not self.answered:
                connection.transport.abort()

    # The reply

    def send(self, status: int, headers: Headers, body: bytes) -> None:
        # RFC 9110: a 204 has no body and no length, a 304 only the length of the answer it stands for.
        framing = b"" if status in (NO_CONTENT, NOT_MODIFIED) else b"content-length: %d\r\n" % len(body)
        text = self._head(status, headers, framing)
        self.connection.write_soon(text if self.head_only else text + body)
        self._done()

    def start(self, status: int, headers: Headers, length_bytes: int | None = None) -> None:
        if length_bytes is not None:
            framing, self.plain = b"content-length: %d\r\n" % length_bytes, True
        else:
            framing = b"" if self.plain else b"transfer-encoding: chunked\r\n"
        self.connection.write(self._head(status, headers, framing))

    def _head(self, status: int, headers: Headers, framing: bytes) -> bytes:
        self.started = True
        server = self.connection.server
        if self.close_after or server.draining:
            framing += b"connection: close\r\n"
            self.close_after = True
        lines = _JSON_LINES if headers is JSON else header_lines(headers)
        return head(status, self.common + lines, server.date, framing)

    def put(self, chunk: bytes) -> Awaitable[None] | None:
        if chunk and not self.head_only:
            self.connection.write(self._framed(chunk))
        return self.connection.writable

    async def write(self, chunk: bytes) -> None:
        if (slow := self.put(chunk)) is not None:
            await slow

    def push(self, chunk: bytes) -> None:
        if not self.answered and not self.head_only and not self.connection.writable:
            self.connection.write(self._framed(chunk))

    def finish(self, chunk: bytes = b"") -> None:
        if not self.head_only:
            last = self._framed(chunk) if chunk else b""
            self.connection.write(last if self.plain else last + b"0\r\n\r\n")
        self._done()

    def _framed(self, chunk: bytes) -> bytes:
        """Frame a piece of a started reply; with a known length, or for HTTP/1.0, it is sent as it is."""
        return chunk if self.plain else b"%x\r\n%b\r\n" % (len(chunk), chunk)

    def abort(self) -> None:
        self.answered = True
        self.connection.transport.abort()

    def _done(self) -> None:
        self.answered = True
        self._chunks.clear()
        self.connection.answered(self)
