"""Guardrails of a call: its texts are checked before anything is held, its answer before anything is released.

`elkapi.guards` finds what is to be found, and `looking` runs the guardrails. A stream that must be checked as a whole
is a whole call for everything after this module; `Dressed` gives it to the caller as a stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from elkapi.catalog.jsonedit import with_raw, without
from elkapi.errors import NOT_JSON, BadRequest, GatewayError, UpstreamError
from elkapi.guards.found import Blocked
from elkapi.guards.rules import Rule
from elkapi.guards.shapes import Shape, Unseen, walked
from elkapi.guards.wires import ANSWERED, ASKED
from elkapi.relay.call import EVENTS, JSON, Call, Headers, Reply
from elkapi.relay.exchange import facts_for
from elkapi.relay.hold import Hold
from elkapi.relay.hook import HookDown
from elkapi.relay.large import anywhere
from elkapi.relay.looking import Asker, Direction, TooLong, refusal_of, rules_of, too_long
from elkapi.relay.outcome import Outcome
from elkapi.relay.passing import Passing
from elkapi.relay.plane import DataPlane
from elkapi.relay.read import Request, with_body
from elkapi.relay.relay import Failed, Left
from elkapi.snapshot import Snapshot
from elkapi.translate.dialect import Unreadable
from elkapi.translate.ir import UsageSeen
from elkapi.translate.stored import events_of, id_of, written
from elkapi.types import Grant, Policy, Usage

# Wires whose body requests a stream.
_STREAM_IN_BODY = frozenset({"chat", "completions", "responses", "anthropic"})


class Guarding:
    """The guardrails of one call. `request` is the call to continue with: masked, and not streamed if its answer is
    checked as a whole.

    If the call is blocked, `refusal` is set, which `admit` records.
    """

    def __init__(
        self, plane: DataPlane, rules: Sequence[Rule], policy: Policy, grant: Grant, request: Request, call: Call
    ) -> None:
        self._plane = plane
        self._grant = grant
        self._call = call
        self._input = [rule for rule in rules if rule.guard.direction != "output"]
        self._output = [rule for rule in rules if rule.guard.direction != "input"]
        self._window = policy.guard_streams == "window"
        self.request = request
        self.refusal: GatewayError | None = None

    async def look(self) -> None:
        """Check the call; then `request` or `refusal` is new. Raises BadRequest for an unreadable body."""
        request = self.request
        shape = ASKED.get(request.operation.wire or "chat")
        try:
            if self._input and shape is not None:
                body = await self._looked(request.body, shape, self._input, "input")
                self.request = request = await anywhere(len(body), with_body, request, body)
        except (Blocked, HookDown) as refused:
            self.refusal = refusal_of(refused)
            return
        except Unseen:
            raise BadRequest("The guardrails of this API key cannot check token ids; send text.") from None
        except TooLong:
            raise too_long() from None
        except NOT_JSON:
            raise BadRequest(
                "The guardrails of this API key cannot read the body; send valid JSON.", code="bad_request_body"
            ) from None
        if self._output and request.operation.wire in ANSWERED:
            self.request = msgspec.structs.replace(request, output_rules=tuple(self._output))
            if request.stream:
                self._choose_stream()

    def _choose_stream(self) -> None:
        """Check a stream through a window if all its guards can, otherwise make it a whole call."""
        request = self.request
        by_window = self._window and all(rule.find is not None for rule in self._output)
        # A stored answer must be checked as a whole.
        if by_window and request.facts.choices == 1 and request.keep is None:
            return
        if request.facts.choices > 1:
            raise BadRequest(
                "`n` must be 1 in a stream: the guardrails of this API key cannot check several choices.", param="n"
            )
        if request.keep is None or not request.keep.background:
            # A background response is streamed from its stored frames, so its reply needs no conversion.
            self._call.reply = Dressed(self._call.reply, request, self._plane.clock.now_ns() // 1_000_000_000)
        body = request.body
        if request.operation.wire in _STREAM_IN_BODY:
            body = with_raw(without(body, ("stream_options",)), "stream", b"false")
        self.request = msgspec.structs.replace(request, body=body, stream=False, array=False)

    async def admit(self, hold: Hold) -> None:
        """Let the call continue, or record why not and raise Failed: nothing was held or sent."""
        if self.refusal is not None:
            failed = Failed(self.refusal, ())
            hold.held_nano = 0
            # The record of this call must not contain its text.
            hold.request = msgspec.structs.replace(hold.request, body=b"")
            await hold.resolve(failed)
            raise failed

    async def release(self, hold: Hold, outcome: Outcome) -> None:
        """Check a whole answer and mask it. Raises Failed if it is blocked, free and at the operator's loss, and
        Left if its caller went away."""
        shape = ANSWERED.get(self.request.operation.wire or "embeddings")
        if not self._output or outcome.started or shape is None:
            return
        try:
            if (error := await self._kept_here(hold, outcome, shape)) is None:
                return
            await hold.lose_answer(outcome)
        except asyncio.CancelledError:
            # Nothing has reached the caller yet.
            if outcome.channel is not None:
                hold.lose(outcome, hold.number)
                raise Left(outcome.attempts, outcome.channel, started=False) from None
            raise
        raise Failed(error, outcome.attempts)

    async def _kept_here(self, hold: Hold, outcome: Outcome, shape: Shape) -> GatewayError | None:
        """Why an answer is blocked; None for one that may be sent, masked."""
        try:
            if outcome.recount is not None:
                # The answer would be rewritten with its count, which would undo the masks.
                outcome.body, outcome.recount = outcome.recount(await hold.counted(outcome)), None
            outcome.body = await self._looked(outcome.body, shape, self._output, "output")
            if isinstance(self._call.reply, Dressed):
                # An answer that cannot become a stream must fail before the money is written.
                await anywhere(len(outcome.body), self._call.reply.try_on, outcome.body)
        except (Blocked, HookDown) as refused:
            return refusal_of(refused)
        except (Unreadable, TooLong, *NOT_JSON):
            return UpstreamError("The model's answer could not be read.")
        return None

    async def _looked(self, body: bytes, shape: Shape, rules: Sequence[Rule], direction: Direction) -> bytes:
        request = self.request
        asker = Asker(self._plane, self._grant, self._call, request.operation.id, request.model)
        return await asker.looked(body, len(body), lambda value, visit: walked(value, shape, visit), rules, direction)


async def guarding_of(
    plane: DataPlane, snapshot: Snapshot, policy: Policy, grant: Grant, request: Request, call: Call
) -> Guarding:
    """Check the call. Raises BadRequest, Unavailable for a guardrail that no longer exists."""
    guarding = Guarding(plane, rules_of(snapshot, policy), policy, grant, request, call)
    await guarding.look()
    return guarding


class Dressed(Passing):
    """A reply that sends a whole answer as the stream that its caller requested; errors pass unchanged."""

    def __init__(self, reply: Reply, request: Request, created_s: int) -> None:
        super().__init__(reply)
        self._request = request
        self._created_s = created_s
        self._tried: tuple[bytes, bytes] = (b"", b"")

    def try_on(self, body: bytes) -> bytes:
        """The stream of a whole answer. Raises Unreadable."""
        if body != self._tried[0]:
            self._tried = body, self._dressed(body)
        return self._tried[1]

    def _dressed(self, body: bytes) -> bytes:
        request = self._request
        wire = request.operation.wire
        assert wire is not None
        events = events_of(wire, body, stream=False, array=False)
        facts = facts_for(request, self._created_s)
        facts = msgspec.structs.replace(facts, id=id_of(events) or facts.id)
        usage = next((event.usage for event in events if isinstance(event, UsageSeen)), Usage())
        return written(wire, events, facts, usage, stream=True, array=request.array)

    def send(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer as a stream."""
        if status == 200:
            kind = JSON if self._request.array else EVENTS
            headers = (*kind, *(pair for pair in headers if pair[0] != b"content-type"))
            body = self.try_on(body)
        super().send(status, headers, body)
