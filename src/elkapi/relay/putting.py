"""Sends a submit to its providers: one account after the other, until one accepts it, refuses it, or may have
accepted it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from elkapi.access import Over
from elkapi.catalog.jsonedit import with_overrides
from elkapi.catalog.jsontexts import with_texts
from elkapi.clock import milliseconds
from elkapi.errors import NOT_JSON, BadRequest, GatewayError, UpstreamRejected
from elkapi.observe.trace import HEADER as TRACEPARENT
from elkapi.relay import forms
from elkapi.relay.asking import JSON_TYPE, Asked, provider_body
from elkapi.relay.call import Call
from elkapi.relay.large import anywhere
from elkapi.relay.plane import DataPlane
from elkapi.relay.redact import RECORDED_CHARS_MAX, recorded, redact, rejected
from elkapi.relay.relay import CREDENTIAL_REFUSED, begun_record, nobody_answered, remember
from elkapi.relay.target import CALL_ID
from elkapi.routing.meaning import meant, wait_told
from elkapi.routing.verdict import (
    Verdict,
    is_success,
    on_busy,
    on_failure,
    on_status,
    on_submit_status,
    on_unreadable,
    parse_retry_after_s,
)
from elkapi.routing.walk import Walk
from elkapi.storage.repos.tasks import task_id_text
from elkapi.tasks import machine
from elkapi.tasks.request import ANSWER_BYTES_MAX, request_for
from elkapi.testing.crash import point
from elkapi.types import Attempt, AttemptRecord
from elkapi.upstream import Answer, UpstreamFailure, answer_to
from elkapi.upstream.gcp import TokenRefused

# Headers that a caller of the same form sends to the provider besides the body.
_NATIVE = frozenset({b"x-runway-version"})
_body = msgspec.json.Decoder(Any)
TOO_MANY = 429


class NativeRefusal(Exception):
    """The provider refused. Its body, without its identity, is the answer to a caller of its own form."""

    def __init__(self, status: int, body: bytes, error: GatewayError) -> None:
        super().__init__(error.message)
        self.status = status
        self.body = body
        self.error = error


class Putting:
    """One submit being sent. `tries` records each account's result, `error` is why none accepted, `native` the same
    in the provider's format; `named` maps our ids in the request to the provider's."""

    def __init__(
        self, plane: DataPlane, asked: Asked, attempts: tuple[Attempt, ...], named: Mapping[str, str], call: Call
    ) -> None:
        self.plane = plane
        self.asked = asked
        self.attempts = attempts
        self.call_id = call.id
        self.text_call_id = call.text_id
        self.forwarded = _forwarded(call)
        self.named = named
        self.tries: list[AttemptRecord] = []
        self.error: GatewayError | None = None
        self.native: NativeRefusal | None = None

    async def ask(self) -> tuple[Attempt, int, bytes] | None:
        """The attempt that accepted, with its answer; None if none did."""
        walk = Walk(self.attempts, self.plane.settings.attempts_max)
        while (attempt := walk.next()) is not None:
            begun_s = self.plane.clock.monotonic_s()
            one = begun_record(attempt, fate="none")
            self.tries.append(one)
            try:
                outcome = await self._try(attempt, one)
            except UpstreamFailure as failure:
                # Never repeated once it was sent, not even on another connection to the same provider.
                verdict = on_failure(failure.code, failure.sent)
                one.error = str(failure)[:RECORDED_CHARS_MAX]
            else:
                if not isinstance(outcome, Verdict):
                    one.outcome, one.fate = "ok", "complete"
                    one.duration_ms = milliseconds(self.plane.clock.monotonic_s() - begun_s)
                    self.plane.health.succeeded(attempt.channel.id, attempt.key.id, attempt.upstream_model)
                    return attempt, *outcome
                verdict = outcome
            one.outcome, one.fate = verdict.outcome, verdict.fate
            one.duration_ms = milliseconds(self.plane.clock.monotonic_s() - begun_s)
            remember(self.plane, attempt, verdict)
            walk.judged(attempt, verdict)
            if verdict.fate == "unknown":
                return None
        if self.error is None:
            self.error = nobody_answered(walk, self.asked.model)
        return None

    async def _try(self, attempt: Attempt, one: AttemptRecord) -> tuple[int, bytes] | Verdict:
        plane, asked = self.plane, self.asked
        try:
            body, content_type = await anywhere(len(asked.sent), self._body, attempt)
            request = await request_for(
                plane.signer,
                plane.settings,
                asked.operation,
                attempt.channel,
                attempt.key,
                asked.operation.upstream,
                {"model": attempt.upstream_model, "ref": next(iter(self.named.values()), "")},
                model=attempt.upstream_model,
                body=body,
                content_type=content_type,
                more={CALL_ID: self.text_call_id, **self._more(attempt)},
            )
        except BadRequest as error:
            self.error = error
            return Verdict("fail", "unacceptable", "none")
        except (ValueError, TokenRefused) as error:
            one.error = str(error)[:RECORDED_CHARS_MAX]
            return CREDENTIAL_REFUSED
        try:
            lease = plane.limits.channel(attempt.channel)
        except Over as over:
            return on_busy(over.retry_after_s)
        try:
            point("tasks.submit.before")
            # From here on the task may have started, whatever goes wrong.
            one.fate = "unknown"
            reply = await answer_to(plane.client.send, request, ANSWER_BYTES_MAX)
            point("tasks.submit.after")
        finally:
            if lease is not None:
                lease.release()
        one.status = reply.status
        status = attempt.channel.status_map.get(reply.status, reply.status)
        if (theirs := reply.header(b"x-request-id", b"request-id")) is not None:
            one.upstream_request_id = theirs[:128].decode("latin-1")
        return self._judged(attempt, one, status, reply)

    def _body(self, attempt: Attempt) -> tuple[bytes, bytes]:
        asked, channel = self.asked, attempt.channel
        calls_back = asked.task.callback and asked.task.calls_back
        callback = self.plane.addresses.callback(self.call_id) if calls_back else ""
        body, content_type = provider_body(
            asked, attempt.upstream_model, task_id_text(self.call_id), callback, self.named
        )
        if channel.param_set or channel.param_default or channel.param_remove:
            body = _overridden(body, content_type, attempt)
        return body, content_type

    def _more(self, attempt: Attempt) -> Mapping[bytes, bytes]:
        allowed = {name.lower().encode() for name in attempt.channel.forward_headers}
        return {name: value for name, value in self.forwarded.items() if name in allowed or name in _NATIVE}

    def _judged(self, attempt: Attempt, one: AttemptRecord, status: int, reply: Answer) -> tuple[int, bytes] | Verdict:
        """The meaning of an answer to a submit: accepted, refused here, refused by the provider, or unknown."""
        asked, body = self.asked, reply.body
        one.error = None if is_success(status) else recorded(body, attempt)
        decoded = decoded_json(body) if reply.complete else None
        refusal = machine.refused(asked.family, decoded) if isinstance(decoded, dict) else None
        wait_s = parse_retry_after_s(wait_told(reply.header(b"retry-after"), body), self.plane.clock.now_ns())
        if not is_success(status):
            verdict = on_submit_status(meant(status, body), wait_s)
            if verdict.fate == "unknown":
                return verdict
            if refusal is not None and refusal.elsewhere:
                verdict = _elsewhere(refusal, wait_s)
            if verdict.action == "fail":
                self.error = rejected(status, body, attempt, asked.model)
                self.native = self._as_native(attempt, status, decoded)
            return verdict
        if not isinstance(decoded, dict):
            # An unreadable success may well have started a task.
            return Verdict("fail", on_unreadable("unreadable_reply").outcome, "unknown", cool="channel")
        if refusal is not None:
            one.error = recorded(refusal.message, attempt)
            if refusal.elsewhere:
                return _elsewhere(refusal, wait_s)
            message = redact(refusal.message, attempt, asked.model)
            self.error = UpstreamRejected(message, status=400)
            self.native = self._as_native(attempt, status, decoded)
            return Verdict("fail", f"code_{refusal.code}", "none")
        hooks = asked.family.hooks
        accepted = decoded if hooks.accept is None else hooks.accept(decoded)
        if not machine.native_id(asked.task, accepted):
            return Verdict("fail", "no_task_id", "unknown", cool="channel")
        return status, body

    def _as_native(self, attempt: Attempt, status: int, decoded: Any) -> NativeRefusal | None:
        """The provider's refusal without who it is."""
        if self.asked.form != "native" or not isinstance(decoded, dict) or self.error is None:
            return None
        clean = with_texts(decoded, lambda text: redact(text, attempt, self.asked.model))
        return NativeRefusal(status, msgspec.json.encode(clean), self.error)


def _elsewhere(refusal: machine.Refused, wait_s: float) -> Verdict:
    """The verdict on a refusal that another channel may not make; a rate limit counts as such with any status."""
    if refusal.busy:
        return on_status(TOO_MANY, wait_s)
    return Verdict("next", f"code_{refusal.code}", "none", cool="key")


def _forwarded(call: Call) -> dict[bytes, bytes]:
    taken = {b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key", b"host", b"cookie", TRACEPARENT}
    return {name: value for name, value in reversed(call.headers) if name not in taken}


def _overridden(body: bytes, content_type: bytes, attempt: Attempt) -> bytes:
    channel = attempt.channel
    if content_type != JSON_TYPE:
        return forms.overridden(body, content_type, channel)
    return with_overrides(body, channel.param_set, channel.param_default, channel.param_remove)


def decoded_json(body: bytes) -> Any:
    """An answer's JSON; None if it is not JSON."""
    try:
        return _body.decode(body)
    except NOT_JSON:
        return None
