"""A streamed answer: frames in, frames out, the first content as the point of no return, the terminal event last.

Until the first content nothing reaches the caller, so a failing upstream can still be replaced; setup events wait in a
bounded buffer. After it, a break ends in an explicit error event. `translate.crossing` interprets frames.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from elkapi.pricing.meter import is_believable, looks_like_json_object
from elkapi.pricing.served import served_as, told_in
from elkapi.relay.call import EVENTS, JSON, Headers, Reply
from elkapi.relay.exchange import Exchange
from elkapi.relay.large import INLINE_BYTES, anywhere, aside
from elkapi.relay.outcome import Outcome
from elkapi.relay.redact import RECORDED_CHARS_MAX
from elkapi.routing.verdict import Verdict, on_failure, on_unreadable
from elkapi.translate.crossing import Array, Crossing, Translated
from elkapi.translate.dialect import Unreadable
from elkapi.translate.eventstream import EventStreamDecoder
from elkapi.translate.ir import Failure
from elkapi.translate.sse import Frame, FrameTooLarge, SseDecoder
from elkapi.types import UNPRICED_FLAG
from elkapi.upstream import UpstreamFailure, UpstreamReply
from elkapi.upstream.encoded import plain
from elkapi.upstream.reply import More

if TYPE_CHECKING:
    from elkapi.relay.relay import Try

# How much of a stream may arrive before any visible content; until then another channel may be tried. A response
# repeats its call's instructions and tools in each of its first events, perhaps in a longer spelling.
SETUP_BYTES_MAX, REPEATED_MAX = 256 * 1024, 4
# The longest answer that may have to be read whole before any of it can be passed on.
WHOLE_REPLY_BYTES_MAX = 32 * 1024 * 1024
CUT = Failure(502, "upstream_error", "The model's answer broke off before its end.")
BROKEN = Verdict("fail", "broken_stream", "unknown", cool="channel")
STALLED = Failure(504, "upstream_timeout", "The model stopped answering before the end of its answer.")


class Unpacked(EventStreamDecoder):
    """Unwraps AWS frames that carry another dialect's events into that dialect's own framing."""

    def feed(self, chunk: bytes) -> list[Frame]:
        return [
            frame
            if frame.data is None
            else Frame(b"event: %b\ndata: %b\n\n" % (frame.event, frame.data), frame.event, frame.data)
            for frame in super().feed(chunk)
        ]


class Noticing:
    """A decoder that also notes the price features which frames report."""

    def __init__(self, decoder: SseDecoder | EventStreamDecoder, crossing: Crossing, names: frozenset[str]) -> None:
        self._decoder = decoder
        self._crossing = crossing
        self._names = names

    def feed(self, chunk: bytes) -> list[Frame]:
        return self._noticed(self._decoder.feed(chunk))

    def close(self) -> list[Frame]:
        return self._noticed(self._decoder.close())

    def _noticed(self, frames: list[Frame]) -> list[Frame]:
        for frame in frames:
            if frame.data is not None and (told := served_as(frame.data, self._names)):
                self._crossing.served |= told
        return frames


Decoder = SseDecoder | EventStreamDecoder | Noticing


class Silence:
    """Writes a keep-alive frame whenever a started stream is silent for `after_s`."""

    def __init__(self, out: Reply, ping: bytes, after_s: float) -> None:
        self._out = out
        self._ping = ping
        self._after_s = after_s
        self._loop = asyncio.get_running_loop()
        self.spoke = False
        self._timer = self._loop.call_later(after_s, self._look)

    def _look(self) -> None:
        if not self.spoke and self._ping:
            self._out.push(self._ping)
        self.spoke = False
        self._timer = self._loop.call_later(self._after_s, self._look)

    def end(self) -> None:
        """Stop the pings."""
        self._timer.cancel()


async def pump(one: Try, reply: UpstreamReply, status: int, exchange: Exchange) -> Outcome | Verdict:
    """Relay one stream. A Verdict may be "next" while nothing has reached the caller; later `one.farewell` is set.

    Raises UpstreamFailure only before the caller has anything.
    """
    large = len(one.request.body) > INLINE_BYTES
    crossing = one.crossing = await aside(exchange.crossing) if large else exchange.crossing()
    if (telemetry := one.plane.telemetry) is not None:
        telemetry.watch(crossing)
    if (reply.header(b"content-type") or b"").startswith(b"application/json"):
        return await _not_streamed(one, reply, status, exchange)
    framed: SseDecoder | EventStreamDecoder = SseDecoder()
    if exchange.endpoint.framing == "aws":
        framed = EventStreamDecoder() if exchange.translated else Unpacked()
    decoder: Decoder = framed
    if names := one.request.features:
        crossing.asks, crossing.served = one.asks, told_in(reply.fields.get, names)
        decoder = Noticing(framed, crossing, names)
    stream = _Stream(one, reply, crossing, decoder)
    limits, settings = one.attempt.channel.limits, one.plane.settings
    try:
        async with asyncio.timeout(limits.first_token_s or settings.first_token_s):
            committed = await stream.until_content()
    except TimeoutError:
        return on_failure("first_token_timeout", sent=True)
    except (Unreadable, FrameTooLarge):
        return on_unreadable("unreadable_reply")
    if isinstance(committed, Verdict):
        return committed
    if one.judging and crossing.refused and not crossing.spoken and crossing.whole:
        return _refused(one, status, crossing, stream.setup)
    return await stream.to_the_end(status, settings.stream_ping_s)


async def _not_streamed(one: Try, reply: UpstreamReply, status: int, exchange: Exchange) -> Outcome | Verdict:
    """Stream the whole answer of an upstream that was asked for a stream."""
    crossing = one.crossing
    assert crossing is not None
    body, whole = await reply.read(WHOLE_REPLY_BYTES_MAX)
    if b"content-encoding" in reply.fields:
        # Always on a thread: a few compressed bytes may become many.
        body = await aside(plain, reply, body, whole, WHOLE_REPLY_BYTES_MAX)
    body = body.strip()
    if not whole or not looks_like_json_object(body) or isinstance(crossing, Array):
        return on_unreadable("unreadable_reply")
    try:
        data = await anywhere(len(body), lambda: crossing.whole_answer(exchange.read_whole(body)))
    except Unreadable:
        return on_unreadable("unreadable_reply")
    if crossing.failure is not None:
        return _failed_inside(one, crossing, crossing.failure)
    if one.request.features:
        crossing.served = await one.told(body)
    if one.judging and crossing.refused:
        return _refused(one, status, crossing, data)
    one.started = True
    _start(one)
    await one.call.reply.write(data)
    return _outcome(one, status, crossing)


class _Stream:
    """One stream in progress."""

    def __init__(self, one: Try, reply: UpstreamReply, crossing: Crossing, decoder: Decoder) -> None:
        self.one = one
        self.reply = reply
        self.crossing = crossing
        self.decoder = decoder
        self.out = one.call.reply
        # A repeated event that arrives alone needs no splitting.
        self.splitter = decoder if isinstance(decoder, SseDecoder) else None
        self.setup = b""
        self.silence: Silence

    async def until_content(self) -> Verdict | None:
        """Read up to the first content, or to the end of an answer without any; the frames wait in `setup`.

        If another model may be tried, a refusal is no content and is read to its end.
        """
        crossing = self.crossing
        while not (crossing.spoken if self.one.judging else crossing.content):
            chunk = await self.reply.next_chunk()
            pieces = [self.setup]
            for frame in self.decoder.feed(chunk) if chunk else self._last_frames():
                pieces.append(crossing.feed(frame))
                if crossing.failure is not None:
                    return _failed_inside(self.one, crossing, crossing.failure)
            # Not for each frame: for 256 KiB of empty comments that took the loop nearly two seconds.
            self.setup = b"".join(pieces)
            if crossing.ended or (not chunk and crossing.whole):
                # An end alone is no answer: without a choice there is no reason why it finished.
                return None if crossing.content or crossing.finish_reason else on_unreadable("no_content")
            if not chunk:
                return on_unreadable("cut_stream")
            if len(self.setup) > SETUP_BYTES_MAX + REPEATED_MAX * len(self.one.request.body):
                return None if crossing.content else on_unreadable("no_content")
        return None

    async def to_the_end(self, status: int, ping_s: float) -> Outcome | Verdict:
        """Pass the rest on as it arrives. The terminal event stays in the outcome."""
        one, crossing, out = self.one, self.crossing, self.out
        one.started = True
        _start(one)
        silence = self.silence = Silence(out, crossing.ping(), ping_s)
        broken = BROKEN
        try:
            await out.write(self.setup)
            failure = await self._relay()
        except UpstreamFailure as error:
            one.record.error = str(error)[:RECORDED_CHARS_MAX]
            failure = STALLED if "timeout" in error.code else CUT
        except (Unreadable, FrameTooLarge):
            failure = CUT
        finally:
            silence.end()
        if failure is None:
            return _outcome(one, status, crossing)
        if failure is crossing.failure:
            broken, failure = self._as_before_content(failure)
        one.farewell = one.farewell_of(crossing, failure)
        return broken

    async def _relay(self) -> Failure | None:
        crossing = self.crossing
        if not self._is_over():
            await self.reply.pour(self._take)
            if crossing.failure is None and not self._is_over():
                if pieces := [crossing.feed(frame) for frame in self._last_frames()]:
                    await self.out.write(b"".join(pieces))
                if crossing.failure is None:
                    return None if crossing.whole else CUT
        if crossing.failure is None:
            return None
        if crossing.stopped is not None:
            raise crossing.stopped
        return crossing.failure

    def _as_before_content(self, failure: Failure) -> tuple[Verdict, Failure]:
        """(the verdict on an error after content, what the caller is told of it): what cools down, and who is blamed,
        is the same as before content."""
        verdict, status, _ = self.one.judged(failure)
        if verdict.action == "next" and status < 500 and status != 429:
            # The operator's account or key, which the caller must not take for their own.
            status = CUT.status
        verdict = msgspec.structs.replace(verdict, action="fail", outcome=BROKEN.outcome, fate=BROKEN.fate)
        # The upstream's own message may name it.
        return verdict, Failure(status, failure.kind, CUT.message)

    def _last_frames(self) -> Iterator[Frame]:
        """The frames that the end of the body completes: a frame without its blank line, an answer without its
        terminal event."""
        yield from self.decoder.close()
        yield from self.crossing.left_out()

    def _take(self, chunk: bytes) -> More:
        """Pass on what a chunk brings. Called where it arrives, for each event of a stream: it never waits."""
        crossing, slow = self.crossing, None
        if self.splitter is not None and self.splitter.is_between and (known := crossing.repeat(chunk)) is not None:
            if known:
                self.silence.spoke = True
                slow = self.out.put(known)
            return True if slow is None else slow
        pieces = [crossing.feed(frame) for frame in self.decoder.feed(chunk)]
        if data := (pieces[0] if len(pieces) == 1 else b"".join(pieces)):
            self.silence.spoke = True
            slow = self.out.put(data)
        if crossing.failure is not None or self._is_over():
            return False
        return True if slow is None else slow

    def _is_over(self) -> bool:
        """Whether the upstream's answer is complete; in some dialects it ends only with the body."""
        return self.crossing.ended and not self.crossing.ends_by_close


def _failed_inside(one: Try, crossing: Crossing, failure: Failure) -> Verdict:
    """The verdict on a stream that failed before the caller has any of it. Raises what stopped it."""
    if crossing.stopped is not None:
        raise crossing.stopped
    return one.failed_inside(failure)


def _start(one: Try) -> None:
    one.call.reply.start(200, one.headers(_kind(one)))


def _kind(one: Try) -> Headers:
    return JSON if one.request.array else EVENTS


def _refused(one: Try, status: int, crossing: Crossing, setup: bytes) -> Outcome:
    """A whole stream that contains only the model's refusal; nothing of it was sent."""
    outcome = _outcome(one, status, crossing)
    outcome.started, outcome.headers = False, one.headers(_kind(one))
    if (recount := outcome.recount) is not None:
        outcome.recount = lambda usage: setup + recount(usage)
    else:
        outcome.body = setup + outcome.body
    one.refuse(outcome)
    return outcome


def _outcome(one: Try, status: int, crossing: Crossing) -> Outcome:
    usage, answered, facts = crossing.usage, not crossing.tally.is_empty, one.request.facts
    if usage is not None and not is_believable(usage, facts.upper, facts.open_ended, facts.limited, answered=answered):
        usage = None
    if usage is None and isinstance(crossing, Translated):
        outcome = one.outcome(status, b"", None, started=True)
        outcome.recount = crossing.finish_counted
    else:
        outcome = one.outcome(status, crossing.finish(), usage, started=True)
    outcome.unsplit = crossing.unsplit and one.request.may_write_long
    outcome.tally, outcome.crossing = crossing.tally, crossing
    outcome.served = crossing.served
    if crossing.tally.unpriced:
        outcome.flags = (UNPRICED_FLAG,)
    return outcome
