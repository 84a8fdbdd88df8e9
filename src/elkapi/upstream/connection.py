"""One HTTP/1.1 connection: writes a request, watches the deadlines; reading is `inbound`'s, pooling `pool`'s.

A connection carries one exchange at a time. Everything runs in the event loop's callbacks: no task unless the request
body is an iterator, and no timer armed for each call. The connection keeps one timer; when it fires, it looks at
what the current phase allows, and goes back to sleep when there is time left.

    SEND ──(all written)──> HEADER ──(head complete)──> FIRST_BYTE ──(first body byte)──> BODY ──> parked in the pool
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import AsyncIterator
from math import inf
from typing import Protocol, cast

from elkapi.upstream.burst import Burst
from elkapi.upstream.errors import (
    Cut,
    FirstByteTimeout,
    HeaderTimeout,
    IdleTimeout,
    SendFailed,
    TotalTimeout,
    UpstreamFailure,
)
from elkapi.upstream.inbound import Inbound
from elkapi.upstream.origin import ClientLimits, Deadlines
from elkapi.upstream.reply import SocketReply
from elkapi.upstream.timers import TimerHandle, Timers
from elkapi.upstream.wire import CHUNKED

SEND, HEADER, FIRST_BYTE, BODY = "send", "header", "first_byte", "body"
# Up to this size, copying is cheaper than a second buffer in the transport.
JOINED_WRITE_BYTES_MAX = 256 * 1024


def poll_for(sock: socket.socket) -> select.poll:
    """Poll whether a read would return at once, at a third of the cost of a failing MSG_PEEK."""
    readable = select.poll()
    readable.register(sock, select.POLLIN)
    return readable


class Owner(Protocol):
    """The pool's side of a connection."""

    burst: Burst

    def released(self, connection: Connection) -> None: ...

    def lost(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """See the module. The pool creates it, and calls `start` or `start_stream` only if it is `usable()`."""

    def __init__(self, owner: Owner, limits: ClientLimits, timers: Timers, sock: socket.socket) -> None:
        self._owner = owner
        self._limits = limits
        self._timers = timers
        self.loop = asyncio.get_running_loop()
        self._readable = poll_for(sock)
        self._transport: asyncio.Transport | None = None
        self._inbound = Inbound(limits)
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
        self._unsent_bytes = 0
        self._half_sent = False
        self._held = b""

    # --- the pool's and the reply's calls

    def is_open(self) -> bool:
        return not self._closed and self._transport is not None and not self._transport.is_closing()

    def usable(self, *, held: bool) -> bool:
        """Whether a pooled connection can be written to: open, and the kernel holds neither a FIN nor stray bytes.

        Only the check of the kernel proves that a peer closed before we wrote, since the loop may not know yet. It will
        know before a `held` request leaves.
        """
        transport = self._transport
        if self._closed or transport is None or transport.is_closing():
            return False
        return held or not self._readable.poll(0)

    def start(
        self, reply: SocketReply, head: bytes, body: bytes, deadlines: Deadlines, total_at_s: float, *, held: bool
    ) -> None:
        """Write a whole request, at once or (`held`) together with others at the end of this loop iteration."""
        transport = self._begin(reply, deadlines, total_at_s)
        if held:
            self._held = head + body
            self._owner.burst.add(self)
        elif len(body) <= JOINED_WRITE_BYTES_MAX:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        if self._write_paused:
            self._watch_writing()
        elif self._reply is reply:
            self._enter(HEADER, deadlines.header_s)

    def send_held(self) -> None:
        """Called at the end of the loop iteration of `start`."""
        held, self._held = self._held, b""
        if held and self._transport is not None and not self._closed:
            self._transport.write(held)
            if self._write_paused and self._reply is not None:
                self._watch_writing()

    def start_stream(
        self,
        reply: SocketReply,
        head: bytes,
        body: AsyncIterator[bytes],
        framing: int,
        deadlines: Deadlines,
        total_at_s: float,
    ) -> None:
        """Write the head now and the body in a separate task, so that an early reply is seen."""
        transport = self._begin(reply, deadlines, total_at_s)
        self._enter(SEND, inf)
        transport.write(head)
        self._pump = self.loop.create_task(self._pump_body(reply, body, framing))

    def _begin(self, reply: SocketReply, deadlines: Deadlines, total_at_s: float) -> asyncio.Transport:
        assert self._transport is not None
        assert self._reply is None
        reply.reused = self.exchanges > 0
        self.exchanges += 1
        self._reply = reply
        self._inbound.begin(reply)
        self._deadlines = deadlines
        self._deadline_at_s = inf
        self._total_at_s = total_at_s
        self._phase = SEND
        return self._transport

    def park(self, until_s: float) -> None:
        """Wait in the pool; close at `until_s`."""
        self._deadline_at_s = until_s
        self._total_at_s = inf
        if until_s < self._timer_at_s or self._timer is None:
            self._arm(until_s)

    def resume_reply(self, reply: SocketReply) -> None:
        if self._read_paused:
            # Not in this iteration: uvloop reads a socket up to 32 times before it turns to the next, so a peer faster
            # than its reader would starve the others.
            self.loop.call_soon(self._resume, reply)

    def _resume(self, reply: SocketReply) -> None:
        if self._read_paused and self._reply is reply and self._transport is not None:
            self._read_paused = False
            self._transport.resume_reading()
            self._enter(BODY, self._deadlines.idle_s)

    def drop_reply(self, reply: SocketReply) -> None:
        if self._reply is reply:
            self._reply = None
            self._inbound.end()
            self.close()

    def close(self) -> None:
        """Close the socket now. The caller must end an exchange in progress first."""
        if not self._closed:
            self._closed = True
            self._held = b""
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
        self._inbound.close()

    # --- deadlines

    def _enter(self, phase: str, seconds: float) -> None:
        self._phase = phase
        self._deadline_at_s = at_s = self._timers.monotonic_s() + seconds
        when_s = at_s if at_s < self._total_at_s else self._total_at_s
        if when_s < self._timer_at_s or self._timer is None:
            self._arm(when_s)

    def _arm(self, when_s: float) -> None:
        """Set the timer; callers check that nothing else wakes the connection earlier."""
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
            self.end_badly(TotalTimeout(f"total_s passed in phase {self._phase}", phase=self._phase, sent=True))
        elif now_s < self._deadline_at_s:
            self._arm(min(self._deadline_at_s, self._total_at_s))
        elif self._reply is None:
            self.close()  # The time in the pool is over.
        elif self._phase == SEND and self._write_moved():
            self._watch_writing()
        else:
            self.end_badly(self._late())

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
                self.end_badly(error)
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
            if self._phase == SEND:
                self._watch_writing()
            self._drained = self.loop.create_future()
            await self._drained

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._reply is not None and self._phase == SEND:
            # With a body iterator the caller may be slow, which no deadline of the upstream measures.
            phase, seconds = (HEADER, self._deadlines.header_s) if self._pump is None else (SEND, inf)
            self._enter(phase, seconds)

    # --- what the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._closed:
            self._transport.abort()  # Abandoned during the handshake.
            return
        self._transport.set_write_buffer_limits(high=self._limits.write_buffer_bytes_max)

    def data_received(self, data: bytes) -> None:
        reply, inbound = self._reply, self._inbound
        if reply is None:
            self.close()  # Unsolicited bytes, such as a 408 on an idle connection.
            return
        if self._held:
            self._ended(None)  # Also before our request has left: they cannot answer it.
            return
        try:
            inbound.feed(data)
        except UpstreamFailure as violation:
            self.end_badly(violation)
            return
        if inbound.message_done:
            self._finish(reusable=inbound.keep_alive)
        elif inbound.head_done:
            self._mind_the_body(reply)
            reply.wake()

    def _mind_the_body(self, reply: SocketReply) -> None:
        if self._inbound.body_moved:
            if reply.buffered_bytes > self._limits.reply_buffer_bytes_max:
                self._pause_reading()
            elif self._phase == BODY:
                self._deadline_at_s = self._timers.monotonic_s() + self._deadlines.idle_s
            else:
                self._enter(BODY, self._deadlines.idle_s)
        elif self._phase in (SEND, HEADER):
            self._enter(FIRST_BYTE, self._deadlines.first_byte_s)
        if self._pump is not None and reply.status >= 300:
            # An early refusal: the rest of the body is useless, and without its end the connection cannot be reused.
            self._pump.cancel()
            self._pump = None
            self._half_sent = True

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
        reply, inbound = self._reply, self._inbound
        if reply is None:
            self.close()
        elif self._held:
            why = "the connection ended before the request left"
            self.end_badly(SendFailed(why, phase=SEND, sent=False, stale=reply.reused))
        elif inbound.ends_with_connection and exc is None:
            self._finish(reusable=False)
        else:
            why = f"the connection ended: {exc}" if exc is not None else "the connection ended"
            stale = reply.reused and not inbound.answered
            if self._phase == SEND and not inbound.answered:
                self.end_badly(SendFailed(why, phase=SEND, sent=True, stale=stale))
            else:
                self.end_badly(Cut(why, phase=BODY if inbound.head_done else HEADER, sent=True, stale=stale))

    def _finish(self, *, reusable: bool) -> None:
        reply, transport = self._reply, self._transport
        assert reply is not None
        self._reply = None
        self._inbound.end()
        reply.end()
        if (
            not reusable
            or transport is None
            or transport.is_closing()
            or self._pump is not None
            or self._half_sent
            or transport.get_write_buffer_size() > 0
        ):
            self.close()
            return
        if self._read_paused:
            self._read_paused = False
            transport.resume_reading()
        self._owner.released(self)

    def end_badly(self, failure: BaseException) -> None:
        """Close, and raise `failure` to the reader of the exchange in progress."""
        reply = self._reply
        self._reply = None
        self._inbound.end()
        if reply is not None:
            reply.end_badly(failure)
        self.close()
