"""One client connection: framing, limits, timeouts, keep-alive, pipelining order and backpressure.

An asyncio Protocol around llhttp (httptools). The parser's callbacks fill `Exchange`s, which are answered strictly in
order; the server's handler interprets the request. Why not uvicorn: docs/adr/0005-http-edge.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import sys
import termios
import time
from collections import deque
from math import inf
from typing import TYPE_CHECKING

import httptools

from elkapi.edge.exchange import Exchange, head, header_lines
from elkapi.edge.heads import KnownHead, known, parsed
from elkapi.edge.upgrade import without_upgrade
from elkapi.errors import BadRequest, BodyTooLarge, GatewayError, RequestTimeout, Unavailable
from elkapi.ids import new_id
from elkapi.relay.call import ClientGone, fields_of
from elkapi.upstream.connection import poll_for

if TYPE_CHECKING:
    from elkapi.edge.server import Server

BODY_BYTES_PER_S_MIN = 65_536
LINGER_S = 2.0
# A client that reads nothing of its answer for this long counts as gone, even if its connection is open: otherwise it
# could keep the answer's memory, and the hold of a call whose answer is still arriving, indefinitely.
WRITE_STALL_S = 60.0
UPGRADES_PER_READ_MAX = 4
# How many heads of a connection are learnt: one that never repeats them is not looked at for ever.
HEADS_LEARNT_MAX = 4
FRAGMENT = 0x23  # The sign `#`; as a number, since a look for bytes is dearer (see catalog.jsonedit).
# A client may be sending its next request while its idle connection is closed, and would have to guess whether it was
# carried out. So a draining server lets idle connections ask once more; the answer tells them that it was the last one.
DRAIN_IDLE_S = 1.0
# How long an idle connection that should be closed stays open for client bytes that the loop has not read yet.
UNREAD_S = 0.5


class Connection(asyncio.Protocol):
    """One client connection: parser callbacks fill exchanges, which are answered strictly in order."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.settings = server.settings
        self.loop = loop
        self.parser = httptools.HttpRequestParser(self)
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.client_ip = ""
        # The exchange that is being answered, the next ones, and the one whose body is still arriving.
        self.current: Exchange | None = None
        self.waiting: deque[Exchange] = deque()
        self.incoming: Exchange | None = None
        self.now_s = time.monotonic()  # when the last bytes arrived
        self.deadline_s = self.now_s + self.settings.keepalive_idle_s
        self.header_bytes = 0
        self.is_parsing = False  # between the first byte of a request that the parser was given and its last
        self.known: KnownHead | None = None
        self.heads_to_learn = HEADS_LEARNT_MAX
        # What is still to come of a body whose head was recognised: the parser sees neither.
        self.unparsed_bytes = 0
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.writable: asyncio.Future[None] | None = None  # set while the client is slow; done when it is not
        self.unsent_bytes = 0
        self.unsent_until_s = inf
        self.closing = False
        self.lost = False
        self.upgrading = False
        self.held = b""  # written to the client at the end of this loop iteration
        # One task answers all exchanges of the connection: `begun` is the one to answer next, without one it waits on
        # `rest`.
        self.begun: Exchange | None = None
        self.worker: asyncio.Task[None] | None = None
        self.rest: asyncio.Future[None] | None = None

    # Transport callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        peer = transport.get_extra_info("peername")
        self.client_ip = peer[0] if isinstance(peer, tuple) else ""
        self.server.connections.add(self)
        descriptor = transport.get_extra_info("socket").fileno()
        if len(self.server.connections) > self.settings.connections_max or descriptor >= self.server.descriptors_max:
            self._refuse(
                Unavailable("The gateway has too many open connections; please try again.", code="too_many_connections")
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        self.closing = self.lost = True
        self.held = b""
        for exchange in (self.incoming, self.current, *self.waiting):
            if exchange:
                exchange.client_left()
        self.waiting.clear()
        self._wake()
        if self.writable and not self.writable.done():
            self.writable.set_exception(ClientGone())
            self.writable.exception()

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        self.now_s = time.monotonic()
        if self.known is not None and self.current is None and not self.is_parsing:
            data = self._after_known(self.known, data)
        elif self.unparsed_bytes:
            data = self._after_unparsed(data)
        if data:
            self._parse(data)

    def _after_known(self, known: KnownHead, data: bytes) -> bytes:
        """Begin the request whose head `data` begins with, if it is the known one; returns what follows the request."""
        found = known.recognise(data)
        if found is None:
            return data
        head, length, start = found
        if length > self.settings.body_bytes_max:
            return data
        exchange = Exchange(self, head)
        if len(data) - start == length:  # As most clients send it.
            exchange.has_all(data[start:])
            self.deadline_s = inf
            self._begin(exchange)
            return b""
        self.incoming = exchange
        self.unparsed_bytes = length
        self._allow_body(self.now_s, length)
        self._begin(exchange)
        return self._after_unparsed(data[start:])

    def _after_unparsed(self, data: bytes) -> bytes:
        """Take what `data` has of the body behind a recognised head; returns what follows it."""
        length = self.unparsed_bytes
        self.unparsed_bytes = max(0, length - len(data))
        if data:
            self.on_body(data[:length])
        if not self.unparsed_bytes:
            self.on_message_complete()
        return data[length:]

    def _parse(self, data: bytes) -> None:
        begins = self.current is None and not self.is_parsing
        if begins:
            self.deadline_s = self.now_s + self.settings.header_read_s
        self.header_bytes += len(data)
        try:
            rest = None
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stopped:
                rest = self._without_upgrade(data, stopped)
            if rest is not None:
                self._feed(rest)
            if self.header_bytes > self.settings.header_bytes_max:
                # An endless line reaches no callback, so the bytes that the parser consumes are counted here: a head,
                # or the overhead of a chunked body (sizes, extensions, trailers).
                raise _headers_too_large()
        except GatewayError as error:
            self._refuse(error)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, GatewayError) else BadRequest("The HTTP request is malformed."))
        except httptools.HttpParserError:
            self._refuse(BadRequest("The HTTP request is malformed.", code="bad_request_body"))
        else:
            if begins and self.heads_to_learn and self.current is not None:
                self.heads_to_learn -= 1
                self.known = known(data, self.current.head) or self.known

    def _feed(self, data: bytes) -> None:
        for _ in range(UPGRADES_PER_READ_MAX - 1):
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stopped:
                data = self._without_upgrade(data, stopped)
            else:
                return
        raise BadRequest("Too many protocol upgrades in one read; send fewer requests with an Upgrade header.")

    def _without_upgrade(self, data: bytes, stopped: httptools.HttpParserUpgrade) -> bytes:
        """The same request as plain HTTP, for a separate parser, with the rest of the received data."""
        head = without_upgrade(self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers)
        # Having seen `Connection: close`, the old one would take the same request again for data after the last.
        self.parser = httptools.HttpRequestParser(self)
        return head + data[stopped.args[0] :]

    def pause_writing(self) -> None:
        self.writable = self.loop.create_future()
        self._watch_writing()

    def resume_writing(self) -> None:
        self.unsent_until_s = inf
        if self.writable and not self.writable.done():
            self.writable.set_result(None)
        self.writable = None

    def _watch_writing(self) -> None:
        self.unsent_bytes = self._unsent()
        self.unsent_until_s = time.monotonic() + WRITE_STALL_S

    def check_writing(self) -> None:
        """WRITE_STALL_S have passed with unsent bytes: give up a client that has read none of them."""
        if self._unsent() < self.unsent_bytes:
            self._watch_writing()
        else:
            self.transport.abort()

    def _unsent(self) -> int:
        """Bytes of answers that the client has not taken yet, including those in the kernel's buffer."""
        queued = bytearray(4)
        # The socket was closed meanwhile, or the system does not support it.
        with contextlib.suppress(OSError, ValueError):
            fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, queued)
        return self.transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)

    def write(self, data: bytes) -> None:
        """Write now, after any held bytes."""
        if self.held:
            data, self.held = self.held + data, b""
        if not self.lost:  # uvloop raises for a closed connection.
            self.transport.write(data)

    def write_soon(self, data: bytes) -> None:
        """Write at the end of this loop iteration, together with other connections; at once if there are none."""
        if self.held:
            self.held += data
        elif not self.lost and (self.server.under_way > 1 or self.server.burst.holders):
            self.held = data
            self.server.burst.add(self)
        else:
            self.write(data)

    def send_held(self) -> None:
        """Write held bytes; called at the end of the loop iteration, when `write` may have sent them already."""
        if self.held:
            data, self.held = self.held, b""
            self.transport.write(data)

    def _close(self) -> None:
        """Close once everything is sent, for which the transport itself would wait indefinitely."""
        if self.lost:
            return
        self.send_held()
        self.transport.close()
        self._watch_writing()

    # Parser callbacks

    def on_message_begin(self) -> None:
        self.is_parsing = True
        self.upgrading = False
        self.url = b""
        self.headers = []

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > self.settings.header_bytes_max:
            raise BadRequest(f"The URL must be at most {self.settings.header_bytes_max} bytes.")
        if FRAGMENT in url:
            raise BadRequest("The URL must not contain a fragment (`#`).")

    def on_header(self, name: bytes, value: bytes) -> None:
        # Fields after a body are no headers (RFC 9110, 6.5.1): nothing that depends on them would have waited for them.
        if self.incoming is None:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser, settings = self.parser, self.settings
        if parser.should_upgrade():
            if parser.get_method() == b"CONNECT":
                raise BadRequest("CONNECT is not supported: this server is not a proxy.")
            self.upgrading = True
            return
        # The bytes of a head that came in one read behind another request are not counted.
        may_be_large = self.header_bytes > settings.header_bytes_max or self.current is not None
        if may_be_large and self._head_size() > settings.header_bytes_max:
            raise _headers_too_large()
        fields = fields_of(self.headers)
        length = int(fields.get(b"content-length", 0))
        if b"content-length" in fields and b"transfer-encoding" in fields:
            raise BadRequest("A request must not have both Content-Length and Transfer-Encoding.")
        if length > settings.body_bytes_max:
            raise BodyTooLarge(f"The body must be at most {settings.body_bytes_max} bytes, but has {length}.")
        self.header_bytes = 0
        self.incoming = exchange = Exchange(self, parsed(parser, self.url, self.headers, fields))
        if self.current is None:
            self._allow_body(self.now_s, length)
            self._begin(exchange)
            if b"expect" in fields:
                self._invite(exchange)
        else:
            # One request ahead is enough: its memory is bounded by not reading on until its turn.
            self.waiting.append(exchange)
            self.deadline_s = inf
            self.transport.pause_reading()

    def on_body(self, chunk: bytes) -> None:
        self.header_bytes = 0
        if self.incoming:
            self.incoming.add(chunk)

    def on_message_complete(self) -> None:
        if self.upgrading and self.incoming is None:
            return  # The same request is parsed again, without its Upgrade and with its body.
        exchange, self.incoming = self.incoming, None
        self.is_parsing = False
        self.header_bytes = 0
        self.deadline_s = inf
        if exchange:
            exchange.complete()
            if exchange.answered:
                self._next()

    def _allow_body(self, now_s: float, length: int) -> None:
        """Set the body's deadline by its size, from the moment it is this request's turn."""
        self.deadline_s = now_s + self.settings.body_read_s + length / BODY_BYTES_PER_S_MIN

    # Order of exchanges

    def _begin(self, exchange: Exchange) -> None:
        self.current = self.begun = exchange
        if self.worker is None:
            self.worker = asyncio.Task(self._work(), loop=self.loop, name="connection")
        else:
            self._wake()
        exchange.task = self.worker

    def _invite(self, exchange: Exchange) -> None:
        """Ask for a body that the client may hold back until then (Expect)."""
        if exchange.head.fields[b"expect"].lower() == b"100-continue" and not exchange.plain:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def _work(self) -> None:
        """Answer one exchange after the other: waking a task costs a third of creating one for each."""
        while not self.closing:
            if (exchange := self.begun) is not None:
                self.begun = None
                self.server.under_way += 1
                try:
                    await exchange.run()
                except Exception:
                    self._close()  # Nobody would answer the next requests.
                    raise
                finally:
                    self.server.under_way -= 1
            else:
                self.rest = self.loop.create_future()
                await self.rest

    def _wake(self) -> None:
        if self.rest and not self.rest.done():
            self.rest.set_result(None)

    def answered(self, exchange: Exchange) -> None:
        """The reply is complete; the next request waits for the rest of this one's body, which is read and dropped."""
        if exchange.body_complete:
            self._next()
        else:
            self.deadline_s = time.monotonic() + LINGER_S

    def _next(self) -> None:
        exchange, self.current = self.current, None
        if self.closing:
            return
        if exchange and exchange.close_after:
            if self.transport.is_reading():
                self._close()
            else:  # What the client sent behind it is still unread.
                self._linger()
        elif self.waiting:
            following = self.waiting.popleft()
            self._begin(following)
            if not following.body_complete:
                self._allow_body(time.monotonic(), int(following.head.fields.get(b"content-length", 0)))
                if b"expect" in following.head.fields:
                    self._invite(following)
            if not self.waiting:
                self.transport.resume_reading()
        elif self.incoming is None:
            # A reply that began before the drain did not announce that it is the last.
            wait_s = self.settings.header_read_s if self.is_parsing else self.settings.keepalive_idle_s
            self.deadline_s = time.monotonic() + (DRAIN_IDLE_S if self.server.draining else wait_s)

    def close_soon(self) -> None:
        """A drain began: close when idle, after the client had DRAIN_IDLE_S for one more request."""
        if self.current is None and self.incoming is None:
            self.deadline_s = min(self.deadline_s, time.monotonic() + DRAIN_IDLE_S)

    def overdue(self) -> None:
        """The deadline has passed: answer a slow head or body with an error, just close an idle connection."""
        self.deadline_s = inf
        if self.incoming and not self.incoming.answered:
            self.incoming.fail(RequestTimeout("The request body did not arrive in time."))
        elif self.current is None and self.is_parsing and not self.closing:
            self._refuse(RequestTimeout("The request head did not arrive in time."))
        elif self.current is None and not self.closing and self._is_unread():
            # The client has sent a request meanwhile: a lagging loop answers before it closes.
            self.deadline_s = time.monotonic() + UNREAD_S
        else:
            self._close()

    def _is_unread(self) -> bool:
        """Whether the kernel holds bytes of the client that the loop has not read yet."""
        return bool(poll_for(self.transport.get_extra_info("socket")).poll(0))

    def abort(self) -> None:
        """Abort the exchange in progress; a complete answer only has to be sent.

        The call is told at once, since one that continues in this loop iteration would answer nobody.
        """
        self.send_held()
        if self.current:
            self.current.client_left()
        self.transport.abort()

    def _refuse(self, error: GatewayError) -> None:
        """Answer with an error and close: after broken framing nothing later on this connection can be trusted."""
        if self.current and not self.current.answered:
            self.current.close_after = True
            if self.incoming is self.current:
                self.current.fail(error)
                return
            # The request in progress was complete: it is answered first, and the broken rest is dropped.
            self.transport.pause_reading()
            return
        if self.current:
            # Its answer was sent; a second one would be taken for the answer to the next request.
            self.closing = True
            self._close()
            return
        status, headers, body = self.server.rejected(error, new_id())
        framing = b"content-length: %d\r\nconnection: close\r\n" % len(body)
        self.write(head(status, header_lines(headers), self.server.date, framing) + body)
        self._linger()

    def _linger(self) -> None:
        """Half-close, and drop what the client still sends: closing at once would reset the connection and lose the
        answer."""
        self.closing = True
        if self.lost:
            return
        self.send_held()
        self.transport.write_eof()
        self.transport.resume_reading()
        self.deadline_s = time.monotonic() + LINGER_S

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)


def _headers_too_large() -> BadRequest:
    return BadRequest("The request's headers are too large.", code="headers_too_large")
