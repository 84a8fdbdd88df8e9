"""Delivery: sends one given answer down the connection with the faults asked for, and tells how it ended.

The bill line of a complete answer is written before its last byte leaves: whoever has the answer finds the line.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from elkapi.sandbox import raw
from elkapi.sandbox.faults import Extent, Faults
from elkapi.sandbox.messages import Answer, Headers, Message, Outcome, Receive, Send
from elkapi.sandbox.raw import Wire

PIECE_BYTES = 64
HANG_LIMIT_S = 600.0
LINGER_S = 5.0

Settle = Callable[[Outcome], None]


class Client:
    """The other end of one request: sending to it, waiting while it is there, and dropping it."""

    def __init__(self, receive: Receive, send: Send, wire: Wire | None) -> None:
        self.send = send
        self.wire = wire
        self._receive = receive
        self._watch: asyncio.Task[None] | None = None

    async def _until_gone(self) -> None:
        message: Message = {"type": "http.request"}
        while message["type"] != "http.disconnect":
            message = await self._receive()

    async def gone_within(self, seconds: float) -> bool:
        """Wait at most `seconds`; True as soon as the client has left, False when it is still there after them."""
        if self._watch is None:
            self._watch = asyncio.ensure_future(self._until_gone())
        done, _ = await asyncio.wait({self._watch}, timeout=seconds)
        return bool(done)

    async def drop(self, *, reset: bool = False) -> None:
        """Close the connection and wait until the server has noticed, so that it sends nothing of its own."""
        if self.wire is None:
            return  # Returning with the answer unfinished makes an ASGI server close the connection itself.
        if reset:
            self.wire.abort()
        else:
            self.wire.close()
        await self.gone_within(LINGER_S)

    async def finish(self) -> None:
        """Stop watching; to be called once the answer has ended, however it did."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch


def portion(pieces: tuple[bytes, ...], extent: Extent | None) -> tuple[list[bytes], bool]:
    """The pieces up to an extent, and whether it was reached before the end of the body."""
    if extent is None:
        return list(pieces), False
    if not extent.is_bytes:
        return list(pieces[: extent.count]), extent.count < len(pieces)
    kept: list[bytes] = []
    room_bytes = extent.count
    for piece in pieces:
        if len(piece) > room_bytes:
            return [*kept, piece[:room_bytes]] if room_bytes else kept, True
        kept.append(piece)
        room_bytes -= len(piece)
    return kept, False


def sliced(answer: Answer, faults: Faults) -> tuple[bytes, ...]:
    """The pieces to send: a stream's own, or a plain body in slices of `PIECE_BYTES` when a fault counts pieces."""
    counts_pieces = faults.cut_after or faults.stall_after or faults.reset_after or faults.slow_drip_s
    if not counts_pieces or len(answer.pieces) != 1:
        return answer.pieces
    body = answer.pieces[0]
    return tuple(body[start : start + PIECE_BYTES] for start in range(0, len(body), PIECE_BYTES))


def framed(answer: Answer, faults: Faults) -> Headers:
    """The answer's headers with type, framing and the header faults. A plain body has a length, a stream is chunked."""
    headers = [*answer.headers, (b"content-type", answer.media_type.encode("ascii"))]
    if faults.oversized_header_bytes:
        headers.append((b"x-sandbox-oversized", b"o" * faults.oversized_header_bytes))
    chunked = faults.chunked or (len(answer.pieces) != 1 and not faults.content_length)
    if chunked:
        headers.append((b"transfer-encoding", b"chunked"))
    else:
        headers.append((b"content-length", b"%d" % sum(map(len, answer.pieces))))
    return tuple(headers)


async def deliver(
    answer: Answer, faults: Faults, client: Client, settle: Settle, hang_limit_s: float = HANG_LIMIT_S
) -> Outcome:
    """Send `answer` under `faults`, calling `settle` exactly once unless not a byte was sent on purpose."""
    try:
        if faults.delay_s and await client.gone_within(faults.delay_s):
            return _settled(settle, "aborted")
        if faults.hang:
            await client.gone_within(hang_limit_s)
            await client.drop()
            return "unanswered"
        if client.wire is not None and faults.informational is not None:
            client.wire.write(raw.head(faults.informational, ((b"link", b"</sandbox>; rel=preload"),)))
        if client.wire is not None and (faults.garbage or faults.until_close or faults.cut_mid_chunk_bytes is not None):
            return await _raw_answer(answer, faults, client, client.wire, settle)
        await client.send({"type": "http.response.start", "status": answer.status, "headers": framed(answer, faults)})
        return await _body(answer, faults, client, settle, hang_limit_s)
    finally:
        await client.finish()


def _settled(settle: Settle, outcome: Outcome) -> Outcome:
    settle(outcome)
    return outcome


async def _body(answer: Answer, faults: Faults, client: Client, settle: Settle, hang_limit_s: float) -> Outcome:
    """The body after the headers have left: whole, or up to where a fault stops it."""
    stall = Extent(0, is_bytes=False) if faults.hang_after_headers else faults.stall_after
    extent = stall or faults.cut_after or faults.reset_after
    pieces, stopped = portion(sliced(answer, faults), extent)
    last = None if stopped else (pieces.pop() if pieces else b"")
    for piece in pieces:
        if faults.slow_drip_s and await client.gone_within(faults.slow_drip_s):
            return _settled(settle, "aborted")
        await client.send({"type": "http.response.body", "body": piece, "more_body": True})
    if last is None:
        gone = stall is not None and await client.gone_within(hang_limit_s)
        settle("aborted" if gone else "cut")
        await client.drop(reset=faults.reset_after is not None)
        return "aborted" if gone else "cut"
    if faults.slow_drip_s and await client.gone_within(faults.slow_drip_s):
        return _settled(settle, "aborted")
    settle("complete")
    await client.send({"type": "http.response.body", "body": last, "more_body": False})
    if client.wire is not None:
        _afterwards(faults, client.wire)
    return "complete"


def _afterwards(faults: Faults, wire: Wire) -> None:
    """What happens to a connection whose answer was complete: bytes nobody asked for, or an unannounced end."""
    loop = asyncio.get_running_loop()
    if faults.extra_answer:
        wire.write(raw.extra_answer())
    if faults.half_close_s is not None:
        wire.write_eof()
        loop.call_later(faults.half_close_s, wire.close)
    if faults.close_keepalive_s is not None:
        loop.call_later(faults.close_keepalive_s, wire.close)


async def _raw_answer(answer: Answer, faults: Faults, client: Client, wire: Wire, settle: Settle) -> Outcome:
    """An answer no ASGI server would send: not HTTP at all, ended by the close alone, or broken inside a chunk."""
    headers = tuple(pair for pair in framed(answer, faults) if pair[0] not in (b"content-length", b"transfer-encoding"))
    body = raw.joined(answer.pieces)
    outcome: Outcome = "complete" if faults.until_close and not faults.garbage else "cut"
    settle(outcome)
    if faults.garbage:
        wire.write(raw.GARBAGE)
    elif faults.cut_mid_chunk_bytes is not None:
        wire.write(raw.head(answer.status, (*headers, (b"transfer-encoding", b"chunked"))))
        wire.write(raw.broken_chunk(body, faults.cut_mid_chunk_bytes))
    else:
        wire.write(raw.head(answer.status, (*headers, (b"connection", b"close"))) + body)
    await client.drop()
    return outcome


async def answer_early(answer: Answer, client: Client, *, expects_continue: bool) -> Outcome:
    """Answer with the body unread, then discard it for at most `LINGER_S`: a close at once could lose the answer."""
    assert client.wire is not None
    headers = (*framed(answer, Faults()), (b"connection", b"close"))
    try:
        client.wire.write(raw.head(answer.status, headers) + raw.joined(answer.pieces))
        client.wire.write_eof()
        # A client that waits for "100 Continue" sends no body, and reading would make the server write that line.
        if not expects_continue:
            await client.gone_within(LINGER_S)
        await client.drop()
        return "complete"
    finally:
        await client.finish()
