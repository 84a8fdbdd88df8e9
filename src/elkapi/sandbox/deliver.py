"""Sends an answer with the requested faults and returns how it ended.

The bill line of a complete answer is written before its last byte is sent, so whoever has the answer finds the line.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from elkapi.sandbox import raw
from elkapi.sandbox.faults import Extent, Faults
from elkapi.sandbox.messages import Answer, Charge, Frame, Headers, Message, Outcome, Receive, Send, Stream
from elkapi.sandbox.raw import Wire
from elkapi.sandbox.stream import output_tokens, stop_extent, under_faults

PIECE_BYTES = 64
HANG_LIMIT_S = 600.0
LINGER_S = 5.0

# A client that left is noticed after at most this many frames, even if sending never blocks.
FRAMES_BETWEEN_LOOKS = 64

Settle = Callable[[Outcome, Charge | None], None]


class Client:
    """The client of one request: send to it, wait while it is connected, and drop it."""

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
        """Wait at most `seconds`; True as soon as the client leaves, False if it is still connected."""
        if self._watch is None:
            self._watch = asyncio.ensure_future(self._until_gone())
        done, _ = await asyncio.wait({self._watch}, timeout=seconds)
        return bool(done)

    async def drop(self, *, reset: bool = False) -> None:
        """Close the connection and wait until the server notices, so that it sends nothing itself."""
        if self.wire is None:
            return  # An ASGI server closes the connection if the application returns without finishing the answer.
        if reset:
            self.wire.abort()
        else:
            self.wire.close()
        await self.gone_within(LINGER_S)

    async def finish(self) -> None:
        """Stop watching; call it once the answer has ended in any way."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch


def portion(pieces: tuple[bytes, ...], extent: Extent | None) -> tuple[list[bytes], bool]:
    """The pieces up to an extent, and whether that is before the end of the body."""
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
    """The pieces to send: a stream's own, or a plain body in slices of `PIECE_BYTES` if a fault counts pieces."""
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
    plain = answer.stream is None
    chunked = faults.chunked or not plain or (len(answer.pieces) != 1 and not faults.content_length)
    if chunked:
        headers.append((b"transfer-encoding", b"chunked"))
    else:
        headers.append((b"content-length", b"%d" % sum(map(len, answer.pieces))))
    return tuple(headers)


async def deliver(
    answer: Answer, faults: Faults, client: Client, settle: Settle, hang_limit_s: float = HANG_LIMIT_S
) -> Outcome:
    """Send `answer` with `faults`; calls `settle` exactly once, unless a fault sends no byte at all."""
    try:
        if faults.delay_s and await client.gone_within(faults.delay_s):
            return _aborted(settle, answer.charge if answer.stream is None else answer.stream.charge_at(0))
        if faults.hang:
            await client.gone_within(hang_limit_s)
            await client.drop()
            return "unanswered"
        if client.wire is not None and faults.informational is not None:
            client.wire.write(raw.head(faults.informational, ((b"link", b"</sandbox>; rel=preload"),)))
        if client.wire is not None and (faults.garbage or faults.until_close or faults.cut_mid_chunk_bytes is not None):
            return await _raw_answer(answer, faults, client, client.wire, settle)
        await client.send({"type": "http.response.start", "status": answer.status, "headers": framed(answer, faults)})
        if answer.stream is not None:
            return await _stream(answer.stream, answer.media_type, faults, client, settle, hang_limit_s)
        return await _body(answer, faults, client, settle, hang_limit_s)
    finally:
        await client.finish()


def _aborted(settle: Settle, charge: Charge | None) -> Outcome:
    settle("aborted", charge)
    return "aborted"


async def _body(answer: Answer, faults: Faults, client: Client, settle: Settle, hang_limit_s: float) -> Outcome:
    """Send the body after the headers: complete, or up to where a fault stops it."""
    pieces, stopped = portion(sliced(answer, faults), stop_extent(faults))
    last = None if stopped else (pieces.pop() if pieces else b"")
    for piece in pieces:
        if faults.slow_drip_s and await client.gone_within(faults.slow_drip_s):
            return _aborted(settle, answer.charge)
        await client.send({"type": "http.response.body", "body": piece, "more_body": True})
    if last is None:
        return await _stopped(answer.charge, faults, client, settle, hang_limit_s)
    if faults.slow_drip_s and await client.gone_within(faults.slow_drip_s):
        return _aborted(settle, answer.charge)
    settle("complete", answer.charge)
    await client.send({"type": "http.response.body", "body": last, "more_body": False})
    if client.wire is not None:
        _afterwards(faults, client.wire)
    return "complete"


async def _stopped(
    charge: Charge | None, faults: Faults, client: Client, settle: Settle, hang_limit_s: float
) -> Outcome:
    """End a body that a fault stopped: at once, or after a stall."""
    stalls = faults.hang_after_headers or faults.stall_after is not None
    outcome: Outcome = "aborted" if stalls and await client.gone_within(hang_limit_s) else "cut"
    settle(outcome, charge)
    await client.drop(reset=faults.reset_after is not None)
    return outcome


async def _stream(
    stream: Stream, media_type: str, faults: Faults, client: Client, settle: Settle, hang_limit_s: float
) -> Outcome:
    """Send the frames of a stream after the headers, one write each. Only sent frames are billed."""
    now_s = asyncio.get_running_loop().time
    started_s = now_s()
    frames = under_faults(stream, faults, media_type)
    number = produced = 0
    frame = next(frames, Frame(b"", "terminal"))
    while frame.mark != "stop":
        # Each paced frame has a fixed time after the first, so that delays do not add up.
        wait_s = faults.slow_drip_s or (faults.pace_s and started_s + number * faults.pace_s - now_s())
        looks = wait_s > 0 or number % FRAMES_BETWEEN_LOOKS == 0
        if looks and await client.gone_within(max(wait_s, 0.0)):
            return _aborted(settle, stream.charge_at(produced))
        if faults.endless and now_s() - started_s > hang_limit_s:
            break
        produced += frame.output_tokens
        following = next(frames, None)
        if following is None:
            return await _last_frame(stream, frame, produced, faults, client, settle)
        await client.send({"type": "http.response.body", "body": frame.data, "more_body": True})
        number, frame = number + 1, following
    return await _stopped(stream.charge_at(produced), faults, client, settle, hang_limit_s)


async def _last_frame(
    stream: Stream, frame: Frame, produced: int, faults: Faults, client: Client, settle: Settle
) -> Outcome:
    """End a stream that no fault stopped; a provider that failed before any output bills nothing."""
    failed = frame.mark == "error"
    outcome: Outcome = "cut" if failed else "complete"
    settle(outcome, stream.charge_at(produced) if produced or not failed else None)
    await client.send({"type": "http.response.body", "body": frame.data, "more_body": False})
    if client.wire is not None:
        _afterwards(faults, client.wire)
    return outcome


def _afterwards(faults: Faults, wire: Wire) -> None:
    """Apply faults after a complete answer: unsolicited bytes, or an unannounced close."""
    loop = asyncio.get_running_loop()
    if faults.extra_answer:
        wire.write(raw.extra_answer())
    if faults.half_close_s is not None:
        wire.write_eof()
        loop.call_later(faults.half_close_s, wire.close)
    if faults.close_keepalive_s is not None:
        loop.call_later(faults.close_keepalive_s, wire.close)


async def _raw_answer(answer: Answer, faults: Faults, client: Client, wire: Wire, settle: Settle) -> Outcome:
    """Send an answer that no ASGI server would: not HTTP, ended only by the close, or broken inside a chunk."""
    headers = tuple(pair for pair in framed(answer, faults) if pair[0] not in (b"content-length", b"transfer-encoding"))
    body = b"".join(answer.pieces)
    outcome: Outcome = "complete" if faults.until_close and not faults.garbage else "cut"
    charge = answer.charge if answer.stream is None else answer.stream.charge_at(output_tokens(answer.stream.frames))
    settle(outcome, charge)
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
    """Answer with the body unread, then discard it for at most `LINGER_S`: an immediate close could lose the answer."""
    assert client.wire is not None
    headers = (*framed(answer, Faults()), (b"connection", b"close"))
    try:
        client.wire.write(raw.head(answer.status, headers) + b"".join(answer.pieces))
        client.wire.write_eof()
        # A client that waits for "100 Continue" sends no body, and reading would make the server send that line.
        if not expects_continue:
            await client.gone_within(LINGER_S)
        await client.drop()
        return "complete"
    finally:
        await client.finish()
