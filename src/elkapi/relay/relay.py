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
from elkapi.errors import GatewayError, NoChannel, RateLimited, UpstreamError, UpstreamTimeout
from elkapi.ids import request_id_text
from elkapi.pricing.meter import TAIL_BYTES, looks_like_json_object, read_usage, with_client_model
from elkapi.relay.call import Call, ClientGone
from elkapi.relay.outcome import Outcome
from elkapi.relay.plane import DataPlane
from elkapi.relay.read import Request
from elkapi.relay.redact import rejected
from elkapi.relay.target import build
from elkapi.routing.verdict import Verdict, is_success, on_failure, on_status, on_unreadable
from elkapi.types import Attempt, AttemptRecord, Channel, Usage
from elkapi.upstream import (
    FirstByteTimeout,
    HeaderTimeout,
    IdleTimeout,
    TotalTimeout,
    UpstreamFailure,
    UpstreamReply,
)

ERROR_BODY_BYTES_MAX = 64 * 1024
JSON = ((b"content-type", b"application/json"),)
OWN_FAULT = "The gateway failed to handle this request."
_TIMEOUTS = frozenset(kind.code for kind in (HeaderTimeout, FirstByteTimeout, IdleTimeout, TotalTimeout))


class Failed(Exception):
    """No attempt answered: `error` is for the caller, `attempts` for the record."""

    def __init__(self, error: GatewayError, attempts: tuple[AttemptRecord, ...]) -> None:
        super().__init__(error.message)
        self.error = error
        self.attempts = attempts


class Left(Exception):
    """The caller went away; `started` tells whether a part of the answer had been sent by then."""

    def __init__(self, attempts: tuple[AttemptRecord, ...], channel: Channel, started: bool) -> None:
        super().__init__("client left")
        self.attempts = attempts
        self.channel = channel
        self.started = started


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
            raise Left(tuple(tries), attempt.channel, one.started) from None
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
    raise Failed(_final_error(one, tries, retry_after_s), tuple(tries))


class Try:
    """One attempt under way: `sent` once the upstream may have seen it, `started` once the caller has bytes of it."""

    def __init__(self, plane: DataPlane, attempt: Attempt, request: Request, call: Call) -> None:
        self.plane = plane
        self.attempt = attempt
        self.request = request
        self.call = call
        self.started = self.sent = False
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
        upstream_request = build(self.attempt, self.request, self.call, self.plane.settings)
        self.sent = True
        self.reply = reply = await self.plane.client.send(upstream_request)
        status = self.record.status = reply.status
        if self.attempt.channel.status_map:
            status = self.attempt.channel.status_map.get(status, status)
        if (theirs := reply.header(b"x-request-id")) is not None:
            self.record.upstream_request_id = theirs[:128].decode("latin-1")
        if is_success(status):
            return await self._accept(reply, status)
        verdict = on_status(status, reply.header(b"retry-after"))
        body, _ = await reply.read(ERROR_BODY_BYTES_MAX)
        self.record.error = body[:300].decode("utf-8", "replace")
        if verdict.action == "fail":
            self.error = rejected(status, body, self.attempt, self.request.model)
        return verdict

    async def _accept(self, reply: UpstreamReply, status: int) -> Outcome | Verdict:
        body, whole = await reply.read(self.plane.settings.reply_buffer_bytes_max)
        encoding = reply.header(b"content-encoding")
        if encoding is not None and encoding != b"identity":
            body = _inflated(body, self.plane.settings.reply_buffer_bytes_max) if whole else b""
        if not (looks_like_json_object(body) if whole else body[:64].lstrip()[:1] == b"{"):
            return on_unreadable("unreadable_reply")
        if not whole:
            return await self._pump(reply, status, body)
        usage = read_usage(body, self.request.facts.upper)
        return self._outcome(status, self._renamed(body), usage, started=False)

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
        return self._outcome(status, self._renamed(tail), read_usage(tail, self.request.facts.upper), started=True)

    def _renamed(self, body: bytes) -> bytes:
        if self.attempt.upstream_model == self.request.model:
            return body
        return with_client_model(body, self.attempt.upstream_model, self.request.model)

    def _outcome(self, status: int, body: bytes, usage: Usage | None, started: bool) -> Outcome:
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
