"""One HTTP/1.1 connection: writes a request, feeds the parser, watches the deadlines; pooling is left to `pool`.

A connection carries one exchange at a time. Everything runs in the event loop's callbacks: no task unless the request
body is an iterator, and no timer armed for each call. The connection keeps one timer; when it fires, it looks at
what the current phase allows, and goes back to sleep when there is time left.

    SEND ──(all written)──> HEADER ──(head complete)──> FIRST_BYTE ──(first body byte)──> BODY ──> parked in the pool

What the parser lets pass and we do not: see `wire.reply_framing`. Empty lines between two replies are skipped by the
parser; any other byte after a reply, in the same segment or later, means that the connection is not used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from math import inf
from typing import Protocol, cast

from httptools import HttpResponseParser

from elkapi.upstream.errors import (
    Cut,
    FirstByteTimeout,
    HeaderTimeout,
    IdleTimeout,
    ProtocolViolation,
    SendFailed,
    TotalTimeout,
    UpstreamFailure,
)
from elkapi.upstream.origin import ClientLimits, Deadlines
from elkapi.upstream.reply import Headers, SocketReply
from elkapi.upstream.timers import TimerHandle, Timers
from elkapi.upstream.wire import CHUNKED, UNTIL_CLOSE, reply_framing

SEND, HEADER, FIRST_BYTE, BODY = "send", "header", "first_byte", "body"
# Up to this size a copy is cheaper than a second buffer in the transport.
JOINED_WRITE_BYTES_MAX = 256 * 1024


class Owner(Protocol):
    """The pool's side of a connection."""

    def released(self, connection: Connection) -> None: ...

    def lost(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """See the module. Made by the pool, which calls `start` or `start_stream` on one that is `usable()`."""

    def __init__(self, owner: Owner, limits: ClientLimits, timers: Timers, sock: socket.socket) -> None:
        self._owner = owner
        self._limits = limits
        self._timers = timers
        self._sock = sock
        self._transport: asyncio.Transport | None = None
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self.opened_at_s = timers.monotonic_s()
        self.exchanges = 0
        self._closed = False
        self._timer: TimerHandle | None = None
        self._timer_at_s = inf
        self._deadline_at_s = inf
        self._total_at_s = inf
        self._phase = SEND
        self._write_paused = False
        self._read_paused = False
        self._drained: asyncio.Future[None] | None = None
        self._pump: asyncio.Task[None] | None = None
        self._reply: SocketReply | None = None
        self._deadlines = Deadlines()
        self._clear()

    def _clear(self) -> None:
        self._headers: Headers = []
        self._head_bytes = 0  # Bytes fed while the head was incomplete,
        self._field_bytes = 0  # and bytes of complete fields: either alone may reach the limit first.
        self._header_count = 0
        self._interim_count = 0
        self._in_interim = False
        self._head_done = False
        self._message_done = False
        self._answered = False
        self._body_moved = False
        self._framing = 0
        self._silent_bytes = 0
        self._keep_alive = False
        self._unsent_bytes = 0
        self._violation: UpstreamFailure | None = None

    # --- the pool's and the reply's calls

    def is_open(self) -> bool:
        return not self._closed and self._transport is not None and not self._transport.is_closing()

    def usable(self) -> bool:
        """Whether a pooled connection may be written to: open, and the kernel holds neither a FIN nor stray bytes.

        The look into the kernel is what makes it provable that a peer closed before we wrote; the loop may not have
        been told yet.
        """
        if not self.is_open():
            return False
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        return False

    def start(self, reply: SocketReply, head: bytes, body: bytes, deadlines: Deadlines, total_at_s: float) -> None:
        """Writes a whole request at once."""
        transport = self._begin(reply, deadlines, total_at_s)
        self._deadline_at_s = inf
        if len(body) <= JOINED_WRITE_BYTES_MAX:
            transport.write(head + body if body else head)
        else:
            transport.writelines((head, body))
        if self._write_paused:
            self._watch_writing()
        elif self._reply is reply:
            self._enter(HEADER, deadlines.header_s)

    def start_stream(
        self,
        reply: SocketReply,
        head: bytes,
        body: AsyncIterator[bytes],
        framing: int,
        deadlines: Deadlines,
        total_at_s: float,
    ) -> None:
        """Writes the head now and the body from a task of its own, so that an early reply is seen."""
        transport = self._begin(reply, deadlines, total_at_s)
        self._enter(SEND, inf)
        transport.write(head)
        self._pump = asyncio.get_running_loop().create_task(self._pump_body(reply, body, framing))

    def _begin(self, reply: SocketReply, deadlines: Deadlines, total_at_s: float) -> asyncio.Transport:
        assert self._transport is not None
        assert self._reply is None
        reply.reused = self.exchanges > 0
        self.exchanges += 1
        self._reply = reply
        self._deadlines = deadlines
        self._total_at_s = total_at_s
        self._phase = SEND
        return self._transport

    def park(self, until_s: float) -> None:
        """Waits in the pool; closes itself at `until_s`."""
        self._deadline_at_s = until_s
        self._total_at_s = inf
        self._arm(until_s)

    def resume_reply(self, reply: SocketReply) -> None:
        if self._read_paused and self._reply is reply and self._transport is not None:
            self._read_paused = False
            self._transport.resume_reading()
            self._enter(BODY, self._deadlines.idle_s)

    def drop_reply(self, reply: SocketReply) -> None:
        if self._reply is reply:
            self._reply = None
            self.close()

    def end_badly(self, failure: UpstreamFailure) -> None:
        """Closes, and gives `failure` to whoever reads the exchange under way."""
        self._fail(failure)

    def close(self) -> None:
        """Lets go of the socket now. An exchange under way is the caller's to end first."""
        if not self._closed:
            self._closed = True
            self._let_go()
            if self._transport is not None:
                self._transport.abort()

    def _let_go(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pump is not None:
            self._pump.cancel()
            self._pump = None
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        # The parser holds our bound methods: without this the pair waits for the cycle collector.
        self._parser = None

    # --- deadlines

    def _enter(self, phase: str, seconds: float) -> None:
        self._phase = phase
        self._deadline_at_s = self._timers.monotonic_s() + seconds
        self._arm(min(self._deadline_at_s, self._total_at_s))

    def _arm(self, when_s: float) -> None:
        if when_s < self._timer_at_s or self._timer is None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at_s = when_s
            self._timer = self._timers.call_at(when_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._closed:
            return
        now_s = self._timers.monotonic_s()
        if now_s >= self._total_at_s:
            self._fail(TotalTimeout(f"total_s passed in phase {self._phase}", phase=self._phase, sent=True))
        elif now_s < self._deadline_at_s:
            self._arm(min(self._deadline_at_s, self._total_at_s))
        elif self._reply is None:
            self.close()  # Parked long enough.
        elif self._phase == SEND and self._write_moved():
            self._watch_writing()
        else:
            self._fail(self._late())

    def _late(self) -> UpstreamFailure:
        if self._phase == HEADER:
            return HeaderTimeout("no reply head within header_s", phase=HEADER, sent=True)
        if self._phase == FIRST_BYTE:
            return FirstByteTimeout("no body byte within first_byte_s", phase=FIRST_BYTE, sent=True)
        what = "the peer takes no more of the request" if self._phase == SEND else "the reply stands still"
        return IdleTimeout(f"{what} for idle_s", phase=self._phase, sent=True)

    def _watch_writing(self) -> None:
        assert self._transport is not None
        self._unsent_bytes = self._transport.get_write_buffer_size()
        self._enter(SEND, self._deadlines.idle_s)

    def _write_moved(self) -> bool:
        return self._transport is not None and self._transport.get_write_buffer_size() < self._unsent_bytes

    # --- the request body

    async def _pump_body(self, reply: SocketReply, body: AsyncIterator[bytes], framing: int) -> None:
        try:
            left = framing
            async for chunk in body:
                if not chunk:
                    continue
                left -= len(chunk)
                if framing != CHUNKED and left < 0:
                    raise SendFailed("the body is longer than announced", phase=SEND, sent=True)
                await self._write_piece(b"%x\r\n%b\r\n" % (len(chunk), chunk) if framing == CHUNKED else chunk)
            if framing == CHUNKED:
                await self._write_piece(b"0\r\n\r\n")
            elif left:
                raise SendFailed("the body is shorter than announced", phase=SEND, sent=True)
        except Exception as error:
            self._pump = None
            if self._reply is reply:
                self._fail(error)
        else:
            self._pump = None
            if self._reply is reply and self._phase == SEND:
                self._enter(HEADER, self._deadlines.header_s)
        finally:
            close = getattr(body, "aclose", None)
            if close is not None:
                with contextlib.suppress(Exception):
                    await close()

    async def _write_piece(self, piece: bytes) -> None:
        assert self._transport is not None
        self._transport.write(piece)
        if self._write_paused and not self._closed:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def pause_writing(self) -> None:
        self._write_paused = True
        if self._pump is not None and self._phase == SEND:
            self._watch_writing()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._reply is not None and self._phase == SEND:
            # With a pump it is the caller's turn to be slow, which no deadline of the upstream's measures.
            phase, seconds = (HEADER, self._deadlines.header_s) if self._pump is None else (SEND, inf)
            self._enter(phase, seconds)

    # --- what the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._closed:
            self._transport.abort()  # Given up while the handshake was under way.
            return
        self._transport.set_write_buffer_limits(high=self._limits.write_buffer_bytes_max)

    def data_received(self, data: bytes) -> None:
        if self._reply is None or self._parser is None:
            self.close()  # Bytes nobody asked for, such as a 408 on an idle connection.
            return
        self._answered = True
        self._body_moved = False
        try:
            self._parser.feed_data(data)
        except Exception as error:
            if not self._message_done:
                self._fail(self._violation or self._unreadable(error))
                return
            self._keep_alive = False
        if self._message_done:
            self._finish()
        elif self._head_done:
            self._after_body_bytes(len(data))
        else:
            self._head_bytes += len(data)
            if self._head_bytes > self._limits.header_bytes_max:
                self._fail(self._unreadable(f"the head is longer than {self._limits.header_bytes_max} bytes"))

    def _after_body_bytes(self, size: int) -> None:
        reply = self._reply
        assert reply is not None
        if self._body_moved:
            self._silent_bytes = 0
            if reply.buffered_bytes > self._limits.reply_buffer_bytes_max:
                self._pause_reading()
            elif self._phase == BODY:
                self._deadline_at_s = self._timers.monotonic_s() + self._deadlines.idle_s
            else:
                self._enter(BODY, self._deadlines.idle_s)
        else:
            if self._phase in (SEND, HEADER):
                self._enter(FIRST_BYTE, self._deadlines.first_byte_s)
                size = 0  # That was the head, which has its own limit.
            # Chunk extensions and trailers are collected by the parser without telling us: bound them here.
            self._silent_bytes += size
            if self._silent_bytes > self._limits.header_bytes_max:
                self._fail(self._unreadable("the reply's framing is longer than its limit"))
                return
        if self._pump is not None and reply.status >= 300:
            # An early refusal: the rest of the body is of no use to anyone.
            self._pump.cancel()
            self._pump = None
            self._keep_alive = False

    def _pause_reading(self) -> None:
        assert self._transport is not None
        if not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()
        self._enter(BODY, inf)

    def eof_received(self) -> bool | None:
        self._ended(None)
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(exc)
        self._transport = None
        self.close()
        self._owner.lost(self)

    def _ended(self, exc: Exception | None) -> None:
        reply = self._reply
        if reply is None:
            self.close()
        elif self._head_done and self._framing == UNTIL_CLOSE and exc is None:
            self._keep_alive = False
            self._finish()
        else:
            why = f"the connection ended: {exc}" if exc is not None else "the connection ended"
            stale = reply.reused and not self._answered
            if self._phase == SEND and not self._answered:
                self._fail(SendFailed(why, phase=SEND, sent=True, stale=stale))
            else:
                self._fail(Cut(why, phase=BODY if self._head_done else HEADER, sent=True, stale=stale))

    def _finish(self) -> None:
        reply = self._reply
        transport = self._transport
        assert reply is not None
        assert transport is not None
        self._reply = None
        reusable = self._keep_alive and self._pump is None and transport.get_write_buffer_size() == 0
        reply.end()
        if not reusable or transport.is_closing():
            self.close()
            return
        if self._read_paused:
            self._read_paused = False
            transport.resume_reading()
        self._clear()
        self._owner.released(self)

    def _fail(self, failure: BaseException) -> None:
        reply = self._reply
        self._reply = None
        if reply is not None:
            reply.end_badly(failure)
        self.close()

    # --- what the parser says

    def on_message_begin(self) -> None:
        if self._message_done:
            raise ValueError("bytes after the reply")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_count += 1
        if self._header_count > self._limits.header_count_max:
            self._refuse(f"the reply has more than {self._limits.header_count_max} headers")
        if self._head_done:
            return  # Trailers are counted and dropped.
        self._field_bytes += len(name) + len(value) + 4
        if self._field_bytes > self._limits.header_bytes_max:
            self._refuse(f"the head is longer than {self._limits.header_bytes_max} bytes")
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        reply, parser = self._reply, self._parser
        assert reply is not None
        assert parser is not None
        status = parser.get_status_code()
        try:
            framing = reply_framing(reply.is_head, status, parser.get_http_version(), self._headers)
        except UpstreamFailure as violation:
            self._violation = violation
            raise
        if status < 200:
            self._interim_count += 1
            if status == 101 or self._interim_count > self._limits.interim_replies_max:
                self._refuse(f"unexpected interim reply {status}")
            self._in_interim = True
            self._headers = []
            return
        self._head_done = True
        self._framing = framing
        # The parser cannot be told that this was a HEAD, so its state is of no use afterwards.
        self._keep_alive = not reply.is_head and parser.should_keep_alive()
        self._message_done = reply.is_head
        reply.give_head(status, self._headers)

    def on_body(self, chunk: bytes) -> None:
        if self._message_done or self._reply is None:
            self._keep_alive = False
            return
        self._body_moved = True
        self._reply.give_body(chunk)

    def on_message_complete(self) -> None:
        if self._in_interim:
            self._in_interim = False
        else:
            self._message_done = True

    def _refuse(self, detail: str) -> None:
        self._violation = self._unreadable(detail)
        raise self._violation

    def _unreadable(self, detail: object) -> ProtocolViolation:
        return ProtocolViolation(str(detail), phase=BODY if self._head_done else HEADER, sent=True)
