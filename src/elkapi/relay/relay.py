"""Hop 7: send a call to its attempts in order until one answers; meter the answer; record each try.

A reply up to `reply_buffer_bytes_max` is held until the money is written, so that its cost can be in a header and a
failing upstream can still be replaced. A larger one is pumped chunk by chunk, with its last bytes held back.
"""

from __future__ import annotations

import asyncio
import contextlib
from traceback import format_exception
from typing import Literal

import msgspec

from elkapi.access import Lease, Over
from elkapi.clock import milliseconds
from elkapi.errors import (
    OVERFLOW,
    BadRequest,
    ContentBlocked,
    GatewayError,
    NoChannel,
    RateLimited,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRejected,
    UpstreamTimeout,
)
from elkapi.guards.found import Blocked
from elkapi.ids import request_id_text
from elkapi.pricing.meter import TAIL_BYTES, is_json, looks_like_json_object, metered, with_client_model
from elkapi.pricing.served import asked_for, asked_in, served_as, told_in
from elkapi.relay.call import JSON, Call, ClientGone, Headers, to_its_end
from elkapi.relay.exchange import MODEL_MEMBER, Exchange, exchange_for, may_show_tools
from elkapi.relay.large import INLINE_BYTES, anywhere, aside
from elkapi.relay.outcome import Outcome
from elkapi.relay.plane import DataPlane
from elkapi.relay.read import Request
from elkapi.relay.redact import RECORDED_CHARS_MAX, recorded, redact, rejected
from elkapi.relay.signing import needs_signing, signed
from elkapi.relay.stream import WHOLE_REPLY_BYTES_MAX, pump
from elkapi.relay.target import build
from elkapi.routing.fallback import reason_after, reason_in
from elkapi.routing.health import Part
from elkapi.routing.meaning import meant, wait_told
from elkapi.routing.verdict import (
    BUSY,
    Verdict,
    is_success,
    on_busy,
    on_failure,
    on_no_answer,
    on_status,
    on_unreadable,
    parse_retry_after_s,
)
from elkapi.routing.walk import Walk
from elkapi.translate.crossing import Crossing
from elkapi.translate.dialect import Unreadable
from elkapi.translate.embeddings import Packer, has_numbers
from elkapi.translate.ir import NO_ANSWER, Failure, is_refusal
from elkapi.translate.sse import AROUND
from elkapi.types import Attempt, AttemptRecord, Channel, FallbackReason, Usage
from elkapi.upstream import (
    FirstByteTimeout,
    HeaderTimeout,
    IdleTimeout,
    TotalTimeout,
    UpstreamFailure,
    UpstreamReply,
    UpstreamRequest,
)
from elkapi.upstream.encoded import plain
from elkapi.upstream.gcp import TokenRefused

ERROR_BODY_BYTES_MAX = 64 * 1024
CREDENTIAL_REFUSED = Verdict("next", "credential_refused", "none", cool="key")
BLOCKED = Verdict("fail", "content_blocked", "unknown")
UNTRANSLATABLE = Verdict("next", "untranslatable", "none")
OWN_FAULT = "The gateway failed to handle this request."
_TOO_LATE = (HeaderTimeout, FirstByteTimeout, IdleTimeout, TotalTimeout)
# How long the rest of a large answer is read after its caller left in the middle: no upstream works longer than this
# for nobody (guarantee 43).
READ_ON_S = 1.0
_TIMEOUTS = frozenset({"first_token_timeout", *(kind.code for kind in _TOO_LATE)})


class Failed(Exception):
    """No attempt answered: `error` is for the caller, `attempts` for the record.

    A stream that broke after its first content has a `crossing`: what had passed by then is the operator's loss, and
    its `farewell`, an explicit error event, ends the reply. `reason` is why another model might do better, if any.
    """

    def __init__(
        self,
        error: GatewayError,
        attempts: tuple[AttemptRecord, ...],
        channel: Channel | None = None,
        crossing: Crossing | None = None,
        farewell: bytes = b"",
        reason: FallbackReason | None = None,
        own_fault: bool = False,
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.attempts = attempts
        self.channel = channel
        self.crossing = crossing
        self.farewell = farewell
        self.reason = reason
        self.own_fault = own_fault


def blocked_error(blocked: Blocked) -> ContentBlocked:
    """The caller's error for a blocked call: the guardrail's name and a hook's reason, but nothing of the text."""
    why = f": {blocked.reason}" if blocked.reason else ""
    return ContentBlocked(f"content_blocked by the guardrail {blocked.guard!r}{why}", blocked.guard)


class Left(Exception):
    """The caller left; `started` tells whether part of the answer had been sent.

    `whole` is (usage, unsplit) of an answer that arrived completely nevertheless.
    """

    def __init__(
        self,
        attempts: tuple[AttemptRecord, ...],
        channel: Channel,
        started: bool,
        crossing: Crossing | None = None,
        whole: tuple[Usage, bool] | None = None,
    ) -> None:
        super().__init__("client left")
        self.attempts = attempts
        self.channel = channel
        self.started = started
        self.crossing = crossing
        self.whole = whole


async def relay(
    plane: DataPlane, attempts: tuple[Attempt, ...], request: Request, call: Call, *, judging: bool = False
) -> Outcome:
    """The first acceptable answer. Raises Failed if there is none, Left if the caller leaves meanwhile.

    `judging`: a refusal is held back and marked, since another model may be tried.
    """
    tries: list[AttemptRecord] = []
    walk = Walk(attempts, plane.settings.attempts_max)
    while (attempt := walk.next()) is not None:
        one = Try(plane, attempt, request, call, judging)
        tries.append(one.record)
        try:
            outcome = await one.run()
        except UpstreamFailure as failure:
            verdict = on_failure(failure.code, failure.sent, failure.stale, walk.outcomes)
            one.record.error = str(failure)[:RECORDED_CHARS_MAX]
        except (asyncio.CancelledError, ClientGone):
            # Cancelled by the edge because the connection closed; the record says what may be billed.
            one.time()
            if not one.sent:
                one.record.fate = "none"
            whole = await one.read_on() if one.tail and not plane.cutting else None
            raise Left(tuple(tries), attempt.channel, one.started, one.crossing, whole) from None
        except Blocked as blocked:
            # What had passed by then is the operator's loss, and no other model is tried.
            one.note(BLOCKED)
            raise _stopped(one, blocked, tuple(tries)) from None
        except Exception as fault:
            # A fault of ours must lose neither what was sent before nor that this attempt may be billed.
            one.note(Verdict("fail", "internal_error", "unknown" if one.sent else "none"))
            plane.log.write(
                "unexpected", "error", request_id=request_id_text(call.id), trace="".join(format_exception(fault))
            )
            error = fault if isinstance(fault, GatewayError) else GatewayError(OWN_FAULT)
            raise Failed(error, tuple(tries), own_fault=True) from fault
        else:
            if isinstance(outcome, Outcome):
                outcome.attempts = tuple(tries)
                plane.health.succeeded(attempt.channel.id, attempt.key.id, attempt.upstream_model)
                if request.session:
                    plane.affinity.answered(request.session, attempt.channel.id, attempt.key.id)
                return outcome
            verdict = outcome
        finally:
            one.close()
        one.note(verdict)
        remember(plane, attempt, verdict)
        if request.session and verdict.outcome != BUSY:
            plane.affinity.failed(request.session, attempt.channel.id, attempt.key.id)
        walk.judged(attempt, verdict)
        if one.started:
            # After a byte reached the caller there is no second try: the reply was aborted.
            break
    error = one.error or nobody_answered(walk, request.model)
    crossing = one.crossing if one.started else None
    reason = reason_after(one.reason, error.status)
    raise Failed(error, tuple(tries), one.attempt.channel, crossing, one.farewell, reason)


def _stopped(one: Try, blocked: Blocked, tries: tuple[AttemptRecord, ...]) -> Failed:
    """The end of a stream that a guardrail stopped: an explicit error event if the caller has part of it."""
    error, crossing = blocked_error(blocked), one.crossing
    farewell = b""
    if one.started and crossing is not None:
        farewell = one.farewell_of(crossing, Failure(error.status, error.code, error.message))
    return Failed(error, tries, one.attempt.channel, crossing, farewell, own_fault=True)


class Try:
    """One attempt: `sent` once the upstream may have seen it, `started` once the caller has bytes of it.

    `asks` are the words of the price's features in the request of a stream.
    """

    def __init__(self, plane: DataPlane, attempt: Attempt, request: Request, call: Call, judging: bool = False) -> None:
        self.plane = plane
        self.attempt = attempt
        self.request = request
        self.call = call
        self.judging = judging and request.operation.dialect is not None
        self.started = self.sent = False
        self.reason: FallbackReason | None = None
        self.lease: Lease | None = None
        self.crossing: Crossing | None = None
        self.farewell = b""
        self.error: GatewayError | None = None
        self.begun_s = plane.clock.monotonic_s()
        self.reply: UpstreamReply | None = None
        self.asks: dict[str, str] = {}
        # The last bytes of a large answer that is passed on as it arrives.
        self.tail = b""
        self.record = begun_record(attempt, fate="unknown", model=request.model if request.asked else None)

    async def run(self) -> Outcome | Verdict:
        """An Outcome if the answer is accepted, otherwise the verdict on it. Raises UpstreamFailure."""
        try:
            large = len(self.request.body) > INLINE_BYTES
            exchange, upstream_request = await aside(self._crossed) if large else self._crossed()
        except BadRequest as error:
            # Another channel may speak the caller's dialect.
            self.error = error
            return UNTRANSLATABLE
        if needs_signing(self.attempt):
            try:
                upstream_request = await signed(self.plane, self.attempt, upstream_request)
            except (ValueError, TokenRefused) as error:
                self.record.error = str(error)[:RECORDED_CHARS_MAX]
                return CREDENTIAL_REFUSED
        try:
            self.lease = self.plane.limits.channel(self.attempt.channel)
        except Over as over:
            return on_busy(over.retry_after_s)
        self.sent = True
        self.reply = reply = await self.plane.client.send(upstream_request)
        status = self.record.status = reply.status
        if self.attempt.channel.status_map:
            status = self.attempt.channel.status_map.get(status, status)
        said = reply.fields.get
        # The headers in which OpenAI-compatible servers, Anthropic and AWS name the call.
        if theirs := said(b"x-request-id") or said(b"request-id") or said(b"x-amzn-requestid"):
            self.record.upstream_request_id = theirs[:128].decode("latin-1")
        if is_success(status):
            if exchange.stream:
                return await pump(self, reply, status, exchange)
            return await self._accept(reply, status, exchange)
        body, whole = await reply.read(ERROR_BODY_BYTES_MAX)
        body = plain(reply, body, whole, ERROR_BODY_BYTES_MAX).strip(AROUND)
        wait_s = parse_retry_after_s(wait_told(said(b"retry-after"), body), self.plane.clock.now_ns())
        self.record.error = recorded(body, self.attempt)
        answered, status = status, meant(status, body)
        verdict = on_status(status, wait_s)
        if verdict.action == "fail":
            self.error = rejected(status, body, self.attempt, self.request.model)
            self.reason = reason_in(status, body)
        elif status == 404:
            # The unknown object may be one that the request refers to (a file, an answer): another channel may have it.
            told = rejected(answered, body, self.attempt, self.request.model)
            self.error = told if answered != status or told.param not in (None, "model") else None
        return verdict

    def _crossed(self) -> tuple[Exchange, UpstreamRequest]:
        """The conversion, and the call as it is sent. Raises BadRequest."""
        exchange = exchange_for(self.attempt, self.request, self.plane.clock)
        sent = build(self.attempt, exchange, self.call, self.plane.settings, self.plane.telemetry)
        if exchange.stream and (names := self.request.features):
            headers = dict(sent.headers) | dict(sent.shared)
            assert isinstance(sent.body, bytes)
            self.asks = asked_for(sent.body, names) | asked_in(headers.get, names)
        return exchange, sent

    async def _accept(self, reply: UpstreamReply, status: int, exchange: Exchange) -> Outcome | Verdict:
        # An answer that must be checked is never passed on as it arrives.
        request = self.request
        whole_only = exchange.translated or request.output_rules or request.features or may_show_tools(request)
        bytes_max = WHOLE_REPLY_BYTES_MAX if whole_only else self.plane.settings.reply_buffer_bytes_max
        body, whole = await reply.read(bytes_max)
        fields = reply.fields
        if b"content-encoding" in fields:
            body = await aside(plain, reply, body, whole, bytes_max)
        # Some upstreams send blank lines until they have an answer.
        body = body.strip() if whole else body.lstrip()
        if not (looks_like_json_object(body) if whole else body[:1] == b"{"):
            return on_unreadable("unreadable_reply")
        if not whole:
            return on_unreadable("reply_too_large") if whole_only else await self._pump(reply, status, body)
        if b"content-length" not in fields and b"transfer-encoding" not in fields and not is_json(body):
            # Only the end of the connection marks the end of the answer.
            return on_unreadable("unreadable_reply")
        try:
            # An answer may repeat the request.
            size_bytes = max(len(body), len(self.request.body))
            answer = exchange.whole(body) if size_bytes <= INLINE_BYTES else await aside(exchange.whole, body)
        except Unreadable:
            return on_unreadable("unreadable_reply")
        if answer.failure is not None:
            return self.failed_inside(answer.failure)
        outcome = self.outcome(status, answer.body, answer.usage)
        outcome.unsplit = answer.unsplit and self.request.may_write_long
        outcome.tally, outcome.flags = answer.tally, answer.flags
        outcome.recount = answer.recount
        if self.request.features:
            outcome.served = await self.told(body)
        if self.judging and is_refusal(await anywhere(len(body), exchange.read_whole, body)):
            self.refuse(outcome)
        return outcome

    async def told(self, body: bytes) -> dict[str, str]:
        """The price features that a whole answer reports."""
        assert self.reply is not None
        names = self.request.features
        return told_in(self.reply.fields.get, names) | await anywhere(len(body), served_as, body, names)

    def refuse(self, outcome: Outcome) -> None:
        """Mark an answer, of which nothing was sent yet, as a refusal that another model may better."""
        outcome.refused, self.record.outcome = True, "refusal"

    def judged(self, failure: Failure) -> tuple[Verdict, int, bytes]:
        """(the verdict on an error inside a success reply, the status that it means, what it says)."""
        self.record.error = recorded(failure.message, self.attempt)
        told = msgspec.json.encode({"error": {"code": failure.kind, "message": failure.message}})
        status = meant(failure.status, told)
        return on_no_answer() if failure.kind == NO_ANSWER else on_status(status), status, told

    def failed_inside(self, failure: Failure) -> Verdict:
        """The verdict on an error inside a success reply, before the caller has any of it."""
        verdict, status, told = self.judged(failure)
        if verdict.action == "fail":
            self.reason = reason_in(status, told)
            message = redact(failure.message, self.attempt, self.request.model)
            code = OVERFLOW if self.reason == "context" else None
            self.error = UpstreamRejected(message, status=status, code=code)
        return verdict

    async def _pump(self, reply: UpstreamReply, status: int, first: bytes) -> Outcome | Verdict:
        """Pass a large answer on as it arrives, holding back its last bytes until the money is written.

        A truncated or invalid answer is no Outcome: `edge.front` aborts a started reply, so that nobody takes it for
        complete.
        """
        out = self.call.reply
        packer = Packer() if self.request.facts.base64 and has_numbers(first) else None
        try:
            if packer is not None:
                first = await aside(packer.feed, first)
            self.started = True
            out.start(status, self.headers(JSON))
            head = self._renamed(first[:TAIL_BYTES]) + first[TAIL_BYTES:]
            self.tail = head[-TAIL_BYTES:]
            await out.write(head[:-TAIL_BYTES])
            async for chunk in reply:
                self.tail += chunk if packer is None else packer.feed(chunk)
                if len(self.tail) > 2 * TAIL_BYTES:
                    sent, self.tail = self.tail[:-TAIL_BYTES], self.tail[-TAIL_BYTES:]
                    await out.write(sent)
        except Unreadable:
            return on_unreadable("unreadable_reply")
        if packer is not None:
            self.tail += packer.finish()
        if not self.tail.rstrip().endswith(b"}"):
            return on_unreadable("unreadable_reply")
        usage, unsplit = self._metered()
        outcome = self.outcome(status, self._renamed(self.tail), usage, started=True)
        outcome.unsplit = unsplit and self.request.may_write_long
        return outcome

    def _metered(self) -> tuple[Usage | None, bool]:
        facts = self.request.facts
        return metered(self.tail, self.request.operation.wire or "", facts.upper, facts.open_ended, facts.limited)

    async def read_on(self) -> tuple[Usage, bool] | None:
        """(usage, unsplit) of a large answer whose caller left in the middle, None if it does not end soon.

        It was already made and is billed in full, and the caller may have taken nearly all of it.
        """
        await to_its_end(self._read_on())
        if not self.tail.rstrip().endswith(b"}"):
            return None
        usage, unsplit = self._metered()
        if usage is None:
            return None
        self.record.fate = "complete"
        return usage, unsplit and self.request.may_write_long

    async def _read_on(self) -> None:
        assert self.reply is not None
        with contextlib.suppress(UpstreamFailure, TimeoutError):
            async with asyncio.timeout(READ_ON_S):
                async for chunk in self.reply:
                    self.tail = (self.tail + chunk)[-TAIL_BYTES:]

    def _renamed(self, body: bytes) -> bytes:
        if self.attempt.upstream_model == self.request.model:
            return body
        wire = self.request.operation.wire
        member = "model" if wire is None else MODEL_MEMBER.get(wire, "model")
        return with_client_model(body, self.request.model, member, whole=False)

    def outcome(self, status: int, body: bytes, usage: Usage | None, started: bool = False) -> Outcome:
        """The accepted answer."""
        self.record.outcome, self.record.fate = "ok", "complete"
        self.time()
        return Outcome(status, self.headers(JSON), body, usage, (), self.attempt.channel, started)

    def headers(self, kind: Headers) -> Headers:
        """The head of an answer; it names the model if the caller used another name."""
        if not self.request.asked:
            return kind
        return (*kind, (b"x-elkapi-model", self.request.model.encode("ascii", "backslashreplace")))

    def farewell_of(self, crossing: Crossing, failure: Failure) -> bytes:
        """The explicit error event that ends a started stream; like any error it contains the call's id."""
        message = f"{failure.message} (request id: {request_id_text(self.call.id)})"
        return crossing.fail(Failure(failure.status, failure.kind, message))

    def note(self, verdict: Verdict) -> None:
        self.record.outcome, self.record.fate = verdict.outcome, verdict.fate
        self.time()

    def time(self) -> None:
        self.record.duration_ms = milliseconds(self.plane.clock.monotonic_s() - self.begun_s)

    def close(self) -> None:
        """Close the upstream connection unless its answer was read to the end (also if the caller left)."""
        if self.reply is not None:
            self.reply.cancel()
        if self.lease is not None:
            self.lease.release()


def begun_record(attempt: Attempt, fate: Literal["none", "unknown"], model: str | None = None) -> AttemptRecord:
    """The record of a try at its start, which stays if nothing comes of it; `fate` as in AttemptRecord."""
    return AttemptRecord(
        channel_id=attempt.channel.id,
        channel_name=attempt.channel.name,
        channel_key_id=attempt.key.id,
        why=attempt.why,
        outcome="cancelled",
        fate=fate,
        upstream_model=attempt.upstream_model,
        model=model,
    )


def remember(plane: DataPlane, attempt: Attempt, verdict: Verdict) -> None:
    """Apply a verdict to the health of the channel and the key, or of one model on them."""
    if verdict.disable_key and attempt.key.id > 0:
        plane.judge.disable(attempt.key.id, verdict.disable_key)
    if verdict.cool is not None:
        id = attempt.channel.id if verdict.cool == "channel" else attempt.key.id
        part: Part = (verdict.cool, id, attempt.upstream_model) if verdict.model_only else (verdict.cool, id)
        plane.health.failed(part, verdict.at_least_s)


def nobody_answered(walk: Walk, model: str) -> GatewayError:
    """The caller's error if nobody answered; it does not reveal who was asked."""
    outcomes = set(walk.outcomes)
    after_s = max(1, round(walk.retry_after_s))
    if outcomes <= {"status_429", BUSY}:
        message = "The model is busy: every channel that serves it is rate limited. Please try again later."
        return RateLimited(message, code="upstream_rate_limited", retry_after_s=after_s)
    if outcomes <= {"status_529", "status_429", BUSY}:
        return UpstreamOverloaded("The model is overloaded; please try again later.", retry_after_s=after_s)
    if outcomes <= {"status_404", "status_410"}:
        return NoChannel(f"The model {model!r} is no longer available from its providers.")
    if outcomes <= _TIMEOUTS:
        return UpstreamTimeout("The model did not answer in time; please try again.")
    count = len(walk.outcomes)
    tried = "1 attempt" if count == 1 else f"{count} attempts"
    return UpstreamError(f"No provider of the model gave a usable answer ({tried}); please try again.")
