"""The HTTP/1.1 server: an asyncio Protocol around llhttp (httptools) that hands whole `Call`s to one handler.

It owns framing, limits, time-outs, keep-alive, pipelining order and backpressure, and leaves every meaning to the
handler. Why not uvicorn: docs/adr/0005-http-edge.md (half the CPU a request).
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import fcntl
import sys
import termios
import time
from collections import deque
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import httptools

from elkapi.edge.upgrade import without_upgrade
from elkapi.errors import BadRequest, BodyTooLarge, GatewayError, RequestTimeout, Unavailable
from elkapi.ids import new_id
from elkapi.relay.call import Call, ClientGone, Headers
from elkapi.settings import Settings

Handler = Callable[[Call], Awaitable[None]]
Rejected = Callable[[GatewayError, bytes], tuple[int, Headers, bytes]]
BODY_BYTES_PER_S_MIN = 65_536
SWEEP_EVERY_S = 0.5
NO_CONTENT = 204
LINGER_S = 2.0
# A client that takes no byte of its answer for this long is gone, whatever its connection says: it would keep the
# answer's memory, and the hold of a call whose answer is still coming, for as long as it likes.
WRITE_STALL_S = 60.0
UPGRADES_PER_READ_MAX = 4
# A client may be sending its next request while its idle connection is closed, and would have to guess whether it was
# carried out. So a draining server lets idle connections ask once more; the answer tells them that it was the last one.
DRAIN_IDLE_S = 1.0
# What a call that a drain cut off gets to give its hold back.
CUT_WAIT_S = 3.0

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


def _status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or f"HTTP/1.1 {status} Status {status}\r\n".encode()


class Server:
    """All connections of one listening socket. `rejected` renders an error that has no handler yet."""

    def __init__(self, handler: Handler, rejected: Rejected, settings: Settings) -> None:
        self.handler = handler
        self.rejected = rejected
        self.settings = settings
        self.connections: set[Connection] = set()
        self.draining = False
        self.date = b""
        self._listener: asyncio.Server | None = None
        self._sweep: asyncio.TimerHandle | None = None

    async def start(self, sock: Any) -> None:
        """Accept on an already listening socket."""
        loop = asyncio.get_running_loop()
        self._tick()
        self._listener = await loop.create_server(lambda: Connection(self, loop), sock=sock, backlog=2048)

    def stop_accepting(self) -> None:
        """Leave the listening socket to others; each connection may finish, or ask once more within DRAIN_IDLE_S."""
        self.draining = True
        if self._listener:
            self._listener.close()
            self._listener = None
        for connection in self.connections:
            connection.close_soon()

    async def drain(self, seconds: float) -> int:
        """Finish what is under way, then close; returns how many connections had to be cut."""
        self.stop_accepting()
        deadline_s = time.monotonic() + seconds
        while self.connections and time.monotonic() < deadline_s:  # noqa: ASYNC110 - once per shutdown
            await asyncio.sleep(0.02)
        cut = len(self.connections)
        tasks = [c.current.task for c in self.connections if c.current and c.current.task]
        for connection in list(self.connections):
            connection.abort()
        if tasks:
            # Each learns of its end on the loop, and gives its hold back while there still is a ledger.
            await asyncio.wait(tasks, timeout=CUT_WAIT_S)
        if self._sweep:
            self._sweep.cancel()
        return cut

    def _tick(self) -> None:
        """Refresh the Date header and close what overstayed: one timer for all connections."""
        self.date = b"date: " + email.utils.formatdate(usegmt=True).encode() + b"\r\n"
        now_s = time.monotonic()
        for connection in [c for c in self.connections if c.deadline_s < now_s]:
            connection.overdue()
        for connection in [c for c in self.connections if c.unsent_until_s < now_s]:
            connection.check_writing()
        self._sweep = asyncio.get_running_loop().call_later(SWEEP_EVERY_S, self._tick)


class Connection(asyncio.Protocol):
    """One client connection: parser callbacks fill exchanges, which are answered strictly in order."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.settings = server.settings
        self.loop = loop
        self.parser = httptools.HttpRequestParser(self)
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.client_ip = ""
        self.current: Exchange | None = None
        self.waiting: deque[Exchange] = deque()
        self.incoming: Exchange | None = None
        self.deadline_s = time.monotonic() + self.settings.keepalive_idle_s
        self.header_bytes = 0
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.writable: asyncio.Future[None] | None = None
        self.unsent_bytes = 0
        self.unsent_until_s = float("inf")
        self.closing = False
        self.upgrading = False

    # Transport callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        peer = transport.get_extra_info("peername")
        self.client_ip = peer[0] if isinstance(peer, tuple) else ""
        self.server.connections.add(self)
        if len(self.server.connections) > self.settings.connections_max:
            self._refuse(Unavailable("Too many connections.", code="too_many_connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        self.closing = True
        for exchange in (self.incoming, self.current, *self.waiting):
            if exchange:
                exchange.client_left()
        self.waiting.clear()
        if self.writable and not self.writable.done():
            self.writable.set_exception(ClientGone())
            self.writable.exception()

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        if self.incoming is None:
            self.header_bytes += len(data)
            if self.header_bytes == len(data):
                self.deadline_s = time.monotonic() + self.settings.header_read_s
        try:
            self._feed(data)
        except GatewayError as error:
            self._refuse(error)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, GatewayError) else BadRequest("Malformed HTTP request."))
        except httptools.HttpParserError:
            self._refuse(BadRequest("Malformed HTTP request.", code="bad_request_body"))

    def _feed(self, data: bytes) -> None:
        for _ in range(UPGRADES_PER_READ_MAX):
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stopped:
                method, version = self.parser.get_method(), self.parser.get_http_version()
                head = without_upgrade(method, self.url, version, self.headers)
                self.parser = httptools.HttpRequestParser(self)
                data = head + data[stopped.args[0] :]
            else:
                return
        raise BadRequest("Too many requests for another protocol at once.")

    def pause_writing(self) -> None:
        self.writable = self.loop.create_future()
        self._watch_writing()

    def resume_writing(self) -> None:
        self.unsent_until_s = float("inf")
        if self.writable and not self.writable.done():
            self.writable.set_result(None)
        self.writable = None

    def _watch_writing(self) -> None:
        self.unsent_bytes = self._unsent()
        self.unsent_until_s = time.monotonic() + WRITE_STALL_S

    def check_writing(self) -> None:
        """WRITE_STALL_S have passed over unsent bytes: a client that took none of them since is given up."""
        if self._unsent() < self.unsent_bytes:
            self._watch_writing()
        else:
            self.transport.abort()

    def _unsent(self) -> int:
        """Bytes of answers that the client has not taken yet, those in the kernel's hands included."""
        queued = bytearray(4)
        with contextlib.suppress(OSError, ValueError):  # Closed meanwhile, or a system that does not say.
            fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, queued)
        return self.transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)

    def _close(self) -> None:
        """Close once everything is sent; the transport itself would wait for that for ever."""
        self.transport.close()
        self._watch_writing()

    # Parser callbacks

    def on_message_begin(self) -> None:
        self.upgrading = False
        self.url = b""
        self.headers = []

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > self.settings.header_bytes_max:
            raise BadRequest("The URL is too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))
        if self.header_bytes > self.settings.header_bytes_max and self._head_size() > self.settings.header_bytes_max:
            raise BadRequest("The request's headers are too large.", code="headers_too_large")

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise BadRequest("CONNECT is for proxies; this is none.")
            self.upgrading = True
            return
        length: int | None = None
        chunked = expects = False
        for name, value in self.headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                chunked = True
            elif name == b"expect" and value.lower() == b"100-continue":
                expects = True
        if chunked and length is not None:
            raise BadRequest("A request cannot carry both Content-Length and Transfer-Encoding.")
        if (length or 0) > self.settings.body_bytes_max:
            raise BodyTooLarge(f"The body has {length} bytes; at most {self.settings.body_bytes_max} are accepted.")
        exchange = Exchange(self, length)
        self.incoming = exchange
        self.deadline_s = time.monotonic() + self.settings.body_read_s + (length or 0) / BODY_BYTES_PER_S_MIN
        if self.current is None:
            self._begin(exchange)
            if expects:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        else:
            # One request ahead is enough: its memory is bounded by not reading on until its turn has come.
            self.waiting.append(exchange)
            self.deadline_s = float("inf")
            self.transport.pause_reading()

    def on_body(self, chunk: bytes) -> None:
        if self.incoming:
            self.incoming.add(chunk)

    def on_message_complete(self) -> None:
        if self.upgrading and self.incoming is None:
            return  # The same request comes again, without its Upgrade and with its body.
        exchange, self.incoming = self.incoming, None
        self.header_bytes = 0
        self.deadline_s = float("inf")
        if exchange:
            exchange.complete()
            if exchange.answered:
                self._next()

    # Order of exchanges

    def _begin(self, exchange: Exchange) -> None:
        self.current = exchange
        exchange.task = self.loop.create_task(exchange.run())

    def answered(self, exchange: Exchange) -> None:
        """The reply is out; the next request waits for the rest of this one's body, which is read and dropped."""
        if exchange.body_complete:
            self._next()
        else:
            self.deadline_s = time.monotonic() + LINGER_S

    def _next(self) -> None:
        exchange, self.current = self.current, None
        if self.closing:
            return
        if (exchange and exchange.close_after) or self.server.draining:
            self._close()
        elif self.waiting:
            following = self.waiting.popleft()
            if not following.body_complete:
                self.deadline_s = time.monotonic() + self.settings.body_read_s
            self._begin(following)
            if not self.waiting:
                self.transport.resume_reading()
        elif self.incoming is None:
            self.deadline_s = time.monotonic() + self.settings.keepalive_idle_s

    def close_soon(self) -> None:
        if self.current is None and self.incoming is None:
            self.deadline_s = min(self.deadline_s, time.monotonic() + DRAIN_IDLE_S)

    def overdue(self) -> None:
        """The sweep found the deadline passed: a slow head or body is told so, an idle connection just closes."""
        self.deadline_s = float("inf")
        if self.incoming and not self.incoming.answered:
            self.incoming.fail(RequestTimeout("The request body did not arrive in time."))
        elif self.incoming is None and self.current is None and self.header_bytes:
            self._refuse(RequestTimeout("The request head did not arrive in time."))
        else:
            self._close()

    def abort(self) -> None:
        self.transport.abort()

    def _refuse(self, error: GatewayError) -> None:
        """Answer an error and close: after broken framing nothing later on this connection can be trusted."""
        if self.current and not self.current.answered:
            self.current.close_after = True
            if self.incoming is self.current and not self.current.body_complete:
                self.current.fail(error)
                return
            # The request under way was whole: it is answered first, and the broken rest is dropped.
            self.transport.pause_reading()
            return
        self.closing = True
        if self.current:
            # Its answer is out; a second one would be read as the answer to the next request.
            self._close()
            return
        status, headers, body = self.server.rejected(error, new_id())
        framing = b"content-length: %d\r\nconnection: close\r\n" % len(body)
        self.transport.write(_head(status, headers, self.server.date, framing) + body)
        # Closing while the client still sends would reset the connection and lose this answer: half-close and linger.
        self.transport.write_eof()
        self.deadline_s = time.monotonic() + LINGER_S

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)


def _head(status: int, headers: Headers, date: bytes, framing: bytes) -> bytes:
    lines = b"".join([name + b": " + value + b"\r\n" for name, value in headers])
    return _status_line(status) + lines + date + framing + b"\r\n"


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
        "head_only",
        "headers",
        "method",
        "old",
        "started",
        "task",
        "url",
    )

    def __init__(self, connection: Connection, length: int | None) -> None:
        self.connection = connection
        self.url = connection.url
        self.headers = connection.headers
        self.method = connection.parser.get_method().decode("ascii", "replace")
        self.head_only = self.method == "HEAD"
        # HTTP/1.0 knows no chunks, and may wait for the end of the connection whatever it asked for.
        self.old = connection.parser.get_http_version() < "1.1"
        self.close_after = self.old or not connection.parser.should_keep_alive()
        self.call_id = new_id()
        self.task: asyncio.Task[None] | None = None
        self.started = self.answered = self.body_complete = False
        self.error: GatewayError | ClientGone | None = None
        self.common: Headers = ()
        self._chunks: list[bytes] = []
        self._size = 0
        self._body: asyncio.Future[bytes] | None = None

    # The request

    def add(self, chunk: bytes) -> None:
        if self.answered or self.error:
            return
        self._size += len(chunk)
        limit = self.connection.settings.body_bytes_max
        if self._size > limit:
            self.close_after = True
            self.fail(BodyTooLarge(f"The body is larger than {limit} bytes."))
            return
        self._chunks.append(chunk)

    def complete(self) -> None:
        self.body_complete = True
        if self._body and not self._body.done():
            self._body.set_result(self._joined())

    def fail(self, error: GatewayError | ClientGone) -> None:
        """The body will not come; whoever waits for it learns why."""
        self.error = error
        self.close_after = True
        self._chunks.clear()
        if self._body and not self._body.done():
            self._body.set_exception(error)

    def client_left(self) -> None:
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
        connection = self.connection
        path, _, query = self.url.decode("latin-1").partition("?")
        if not path.startswith("/"):
            # The absolute form names an authority; only its path means anything here (never route on Host).
            path = "/" + path.partition("://")[2].partition("/")[2]
        call = Call(
            self.call_id,
            "GET" if self.head_only else self.method,
            path,
            query,
            self.headers,
            connection.client_ip,
            self._joined() if self.body_complete else self._read,
            self,
            time.monotonic(),
        )
        try:
            await connection.server.handler(call)
        except ClientGone:
            connection.transport.abort()
        finally:
            if not self.answered:
                connection.transport.abort()

    # The reply

    def send(self, status: int, headers: Headers, body: bytes) -> None:
        connection = self.connection
        self.started = True
        # RFC 9110: a 204 has no body and names no length.
        framing = b"" if status == NO_CONTENT else b"content-length: %d\r\n" % len(body)
        if self.close_after or connection.server.draining:
            framing += b"connection: close\r\n"
            self.close_after = True
        head = _head(status, (*self.common, *headers), connection.server.date, framing)
        connection.transport.write(head if self.head_only else head + body)
        self._done()

    def start(self, status: int, headers: Headers) -> None:
        connection = self.connection
        self.started = True
        framing = b"" if self.old else b"transfer-encoding: chunked\r\n"
        if self.close_after or connection.server.draining:
            framing += b"connection: close\r\n"
            self.close_after = True
        connection.transport.write(_head(status, (*self.common, *headers), connection.server.date, framing))

    async def write(self, chunk: bytes) -> None:
        if chunk and not self.head_only:
            self.connection.transport.write(self._framed(chunk))
        if self.connection.writable:
            await self.connection.writable

    def finish(self, chunk: bytes = b"") -> None:
        if not self.head_only:
            last = self._framed(chunk) if chunk else b""
            self.connection.transport.write(last if self.old else last + b"0\r\n\r\n")
        self._done()

    def _framed(self, chunk: bytes) -> bytes:
        """A piece of a started reply; to HTTP/1.0 the end of the connection is the end of the body."""
        return chunk if self.old else b"%x\r\n%b\r\n" % (len(chunk), chunk)

    def abort(self) -> None:
        self.answered = True
        self.connection.transport.abort()

    def _done(self) -> None:
        self.answered = True
        self._chunks.clear()
        self.connection.answered(self)
