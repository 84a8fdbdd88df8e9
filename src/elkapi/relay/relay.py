"""Hop 7: send a call to its attempts in order until one answers; meter the answer; keep a record of each try.

A reply up to `reply_buffer_bytes_max` is held until the money is written, so that its cost can stand in a header and a
failing upstream can still be replaced. A larger one is pumped chunk by chunk with its last bytes held back.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from traceback import format_exception

from elkapi.clock import milliseconds
from elkapi.errors import (
    BadRequest,
    GatewayError,
    NoChannel,
    RateLimited,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
)
from elkapi.ids import request_id_text
from elkapi.pricing.meter import TAIL_BYTES, looks_like_json_object, metered, with_client_model
from elkapi.relay.call import Call, ClientGone
from elkapi.relay.exchange import Exchange, exchange_for
from elkapi.relay.outcome import Outcome
from elkapi.relay.plane import DataPlane
from elkapi.relay.read import Request
from elkapi.relay.redact import redact, rejected
from elkapi.relay.signing import needs_signing, signed
from elkapi.relay.stream import pump
from elkapi.relay.target import build
from elkapi.routing.verdict import Verdict, is_success, on_failure, on_status, on_unreadable
from elkapi.translate.crossing import Crossing
from elkapi.translate.dialect import Unreadable
from elkapi.translate.ir import Failure
from elkapi.types import Attempt, AttemptRecord, Channel, Usage
from elkapi.upstream import (
    FirstByteTimeout,
    HeaderTimeout,
    IdleTimeout,
    TotalTimeout,
    UpstreamFailure,
    UpstreamReply,
)
from elkapi.upstream.gcp import TokenRefused

ERROR_BODY_BYTES_MAX = 64 * 1024
TRANSLATED_REPLY_BYTES_MAX = 32 * 1024 * 1024
CREDENTIAL_REFUSED = Verdict("next", "credential_refused", "none", cool="key")
UNTRANSLATABLE = Verdict("next", "untranslatable", "none")
JSON = ((b"content-type", b"application/json"),)
# Where providers put it: OpenAI and its like, Anthropic, AWS.
_THEIR_REQUEST_ID = (b"x-request-id", b"request-id", b"x-amzn-requestid")
OWN_FAULT = "The gateway failed to handle this request."
_TIMEOUTS = frozenset(kind.code for kind in (HeaderTimeout, FirstByteTimeout, IdleTimeout, TotalTimeout))


class Failed(Exception):
    """No attempt answered: `error` is for the caller, `attempts` for the record.

    A stream that broke after its first content has a `crossing`: what had passed by then is the operator's loss, and
    its `farewell`, an explicit error event, ends the reply.
    """

    def __init__(
        self,
        error: GatewayError,
        attempts: tuple[AttemptRecord, ...],
        channel: Channel | None = None,
        crossing: Crossing | None = None,
        farewell: bytes = b"",
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.attempts = attempts
        self.channel = channel
        self.crossing = crossing
        self.farewell = farewell


class Left(Exception):
    """The caller went away; `started` tells whether a part of the answer had been sent by then."""

    def __init__(
        self, attempts: tuple[AttemptRecord, ...], channel: Channel, started: bool, crossing: Crossing | None = None
    ) -> None:
        super().__init__("client left")
        self.attempts = attempts
        self.channel = channel
        self.started = started
        self.crossing = crossing


async def relay(plane: DataPlane, attempts: tuple[Attempt, ...], request: Request, call: Call) -> Outcome:
    """The first acceptable answer. Raises Failed when there is none, Left when the caller went away meanwhile."""
    tries: list[AttemptRecord] = []
    rested: set[int] = set()
    retry_after_s = 0.0
    waiting = deque(attempts)
    while waiting:
        attempt = waiting.popleft()
        if attempt.channel.id in rested:
            continue
        one = Try(plane, attempt, request, call)
        tries.append(one.record)
        try:
            outcome = await one.run()
        except UpstreamFailure as failure:
            verdict = on_failure(failure.code, failure.sent, failure.stale, [record.outcome for record in tries[:-1]])
            if verdict.again:
                waiting.appendleft(attempt)
            one.record.error = str(failure)[:300]
        except (asyncio.CancelledError, ClientGone):
            # Cancelled by the edge because the connection closed; the record says what may have been billed.
            one.time()
            raise Left(tuple(tries), attempt.channel, one.started, one.crossing) from None
        except Exception as fault:
            # A fault of ours forgets neither what was sent before it nor that this attempt may be billed too.
            one.note(Verdict("fail", "internal_error", "unknown" if one.sent else "none"))
            plane.log.write(
                "unexpected", "error", request_id=request_id_text(call.id), trace="".join(format_exception(fault))
            )
            error = fault if isinstance(fault, GatewayError) else GatewayError(OWN_FAULT)
            raise Failed(error, tuple(tries)) from fault
        else:
            if isinstance(outcome, Outcome):
                outcome.attempts = tuple(tries)
                plane.health.succeeded(attempt.channel.id, attempt.key.id)
                return outcome
            verdict = outcome
        finally:
            one.close()
        one.note(verdict)
        _remember(plane, attempt, verdict)
        if one.started or verdict.action == "fail":
            # After a byte reached the caller there is no second try: the reply was broken off.
            break
        if verdict.cool == "channel":
            rested.add(attempt.channel.id)
        retry_after_s = max(retry_after_s, verdict.at_least_s)
    error = _final_error(one, tries, retry_after_s)
    raise Failed(error, tuple(tries), one.attempt.channel, one.crossing if one.started else None, one.farewell)


class Try:
    """One attempt under way: `sent` once the upstream may have seen it, `started` once the caller has bytes of it."""

    def __init__(self, plane: DataPlane, attempt: Attempt, request: Request, call: Call) -> None:
        self.plane = plane
        self.attempt = attempt
        self.request = request
        self.call = call
        self.started = self.sent = False
        self.crossing: Crossing | None = None
        self.farewell = b""
        self.error: GatewayError | None = None
        self.begun_s = plane.clock.monotonic_s()
        self.reply: UpstreamReply | None = None
        self.record = AttemptRecord(
            channel_id=attempt.channel.id,
            channel_name=attempt.channel.name,
            channel_key_id=attempt.key.id,
            why=attempt.why,
            outcome="cancelled",
            fate="unknown",
            upstream_model=attempt.upstream_model,
        )

    async def run(self) -> Outcome | Verdict:
        """An Outcome when the answer is accepted, else the verdict on it. Raises UpstreamFailure."""
        try:
            exchange = exchange_for(self.attempt, self.request, self.plane.clock.now_ns() // 1_000_000_000)
            upstream_request = build(self.attempt, exchange, self.call, self.plane.settings)
        except BadRequest as error:
            # Another channel may speak the caller's own dialect.
            self.error = error
            return UNTRANSLATABLE
        if needs_signing(self.attempt):
            try:
                upstream_request = await signed(self.plane, self.attempt, upstream_request)
            except (ValueError, TokenRefused) as error:
                self.record.error = str(error)[:300]
                return CREDENTIAL_REFUSED
        self.sent = True
        self.reply = reply = await self.plane.client.send(upstream_request)
        status = self.record.status = reply.status
        if self.attempt.channel.status_map:
            status = self.attempt.channel.status_map.get(status, status)
        for name in _THEIR_REQUEST_ID:
            if (theirs := reply.header(name)) is not None:
                self.record.upstream_request_id = theirs[:128].decode("latin-1")
                break
        if is_success(status):
            if exchange.stream:
                return await pump(self, reply, status, exchange)
            return await self._accept(reply, status, exchange)
        verdict = on_status(status, reply.header(b"retry-after"))
        body, _ = await reply.read(ERROR_BODY_BYTES_MAX)
        self.record.error = body[:300].decode("utf-8", "replace")
        if verdict.action == "fail":
            self.error = rejected(status, body, self.attempt, self.request.model)
        return verdict

    async def _accept(self, reply: UpstreamReply, status: int, exchange: Exchange) -> Outcome | Verdict:
        bytes_max = TRANSLATED_REPLY_BYTES_MAX if exchange.translated else self.plane.settings.reply_buffer_bytes_max
        body, whole = await reply.read(bytes_max)
        encoding = reply.header(b"content-encoding")
        if encoding is not None and encoding != b"identity":
            body = _inflated(body, bytes_max) if whole else b""
        if not (looks_like_json_object(body) if whole else body[:64].lstrip()[:1] == b"{"):
            return on_unreadable("unreadable_reply")
        if not whole:
            return on_unreadable("reply_too_large") if exchange.translated else await self._pump(reply, status, body)
        try:
            answer = exchange.whole(body)
        except Unreadable:
            return on_unreadable("unreadable_reply")
        if answer.failure is not None:
            return self.failed_inside(answer.failure)
        outcome = self.outcome(status, answer.body, answer.usage)
        outcome.unsplit, outcome.tally, outcome.flags = answer.unsplit, answer.tally, answer.flags
        return outcome

    def failed_inside(self, failure: Failure) -> Verdict:
        """The verdict on an error that came inside a success reply, before the caller has any of it."""
        self.record.error = failure.message[:300]
        verdict = on_status(failure.status)
        if verdict.action == "fail":
            message = redact(failure.message, self.attempt, self.request.model)
            self.error = UpstreamRejected(
                message, status=failure.status, code=None, type_="invalid_request_error", param=None
            )
        return verdict

    async def _pump(self, reply: UpstreamReply, status: int, first: bytes) -> Outcome | Verdict:
        """Send a large answer on as it comes, holding back its last bytes until the money is written."""
        out = self.call.reply
        try:
            self.started = True
            out.start(status, JSON)
            head = self._renamed(first[:TAIL_BYTES]) + first[TAIL_BYTES:]
            await out.write(head[:-TAIL_BYTES])
            tail = head[-TAIL_BYTES:]
            async for chunk in reply:
                tail += chunk
                if len(tail) > 2 * TAIL_BYTES:
                    await out.write(tail[:-TAIL_BYTES])
                    tail = tail[-TAIL_BYTES:]
        except UpstreamFailure:
            # The caller must not take a cut answer for a whole one.
            out.abort()
            raise
        if not tail.rstrip().endswith(b"}"):
            out.abort()
            return on_unreadable("unreadable_reply")
        wire = self.request.operation.wire or ""
        usage, unsplit = metered(tail, wire, self.request.facts.upper)
        outcome = self.outcome(status, self._renamed(tail), usage, started=True)
        outcome.unsplit = unsplit
        return outcome

    def _renamed(self, body: bytes) -> bytes:
        if self.attempt.upstream_model == self.request.model:
            return body
        return with_client_model(body, self.request.model)

    def outcome(self, status: int, body: bytes, usage: Usage | None, started: bool = False) -> Outcome:
        """The accepted answer."""
        self.record.outcome, self.record.fate = "ok", "complete"
        self.time()
        return Outcome(status, JSON, body, usage, (), self.attempt.channel, started)

    def note(self, verdict: Verdict) -> None:
        self.record.outcome, self.record.fate = verdict.outcome, verdict.fate
        self.time()

    def time(self) -> None:
        self.record.duration_ms = milliseconds(self.plane.clock.monotonic_s() - self.begun_s)

    def close(self) -> None:
        """Give the upstream connection up when its answer was not read to the end (also when the caller left)."""
        if self.reply is not None:
            self.reply.cancel()


def _inflated(body: bytes, bytes_max: int) -> bytes:
    """A gzip or zlib body although none was asked for, bounded; empty when it cannot be read whole."""
    try:
        stream = zlib.decompressobj(zlib.MAX_WBITS | 32)
        plain = stream.decompress(body, bytes_max)
    except zlib.error:
        return b""
    return plain if stream.eof else b""


def _remember(plane: DataPlane, attempt: Attempt, verdict: Verdict) -> None:
    if verdict.disable_key and attempt.key.id > 0:
        plane.judge.disable(attempt.key.id, verdict.disable_key)
    if verdict.cool == "channel":
        plane.health.failed(("channel", attempt.channel.id), verdict.at_least_s)
    elif verdict.cool == "key":
        plane.health.failed(("key", attempt.key.id), verdict.at_least_s)


def _final_error(last: Try, tries: list[AttemptRecord], retry_after_s: float) -> GatewayError:
    """What the caller is told when nobody answered; nothing in it says who was asked."""
    if last.error is not None:
        return last.error
    outcomes = {record.outcome for record in tries}
    if outcomes == {"status_429"}:
        return RateLimited(
            "The model is busy: every channel that serves it is rate limited.",
            code="upstream_rate_limited",
            retry_after_s=max(1, round(retry_after_s)),
        )
    if outcomes == {"status_404"}:
        return NoChannel(f"No channel that lists the model {last.request.model!r} knows it any more.")
    if outcomes <= _TIMEOUTS:
        return UpstreamTimeout("The model did not answer in time.")
    tried = "1 attempt" if len(tries) == 1 else f"{len(tries)} attempts"
    return UpstreamError(f"The model could not answer ({tried}).")
