"""Hops 6 and 8: reserve the most a call may cost before any upstream byte, then resolve it exactly once.

Settlement law: docs/money.md. However a call ends, its hold is resolved: settled by `settle`, or by `resolve` with the
error, and then released (or charged for what had reached the caller) with a record that says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable

import msgspec

from elkapi.clock import milliseconds
from elkapi.errors import BadRequest, ContentBlocked, GatewayError, InsufficientQuota, Unavailable, UpstreamError
from elkapi.ledger import IdempotencyPending, IdempotencyReplay, available_nano
from elkapi.pricing.price import cost_nano, quote
from elkapi.relay.call import Call, to_its_end
from elkapi.relay.candidates import Candidate, most_nano
from elkapi.relay.count import count_embedded, count_exactly, count_left, count_locally, estimated
from elkapi.relay.keep import NotKept, answer_kept
from elkapi.relay.note import note
from elkapi.relay.outcome import Outcome
from elkapi.relay.plane import DataPlane
from elkapi.relay.relay import Failed, Left
from elkapi.testing.crash import point
from elkapi.translate.crossing import Crossing, Tally
from elkapi.types import (
    UNPRICED_FLAG,
    AttemptRecord,
    Channel,
    Grant,
    HoldOrder,
    IdempotencyClaim,
    Quote,
    RequestRecord,
    Settlement,
    StoredObject,
    StoredReply,
    Usage,
)

IDEMPOTENCY_KEY_CHARS_MAX = 255
# A shorter answer is not worth requesting.
OUTPUT_TOKENS_MIN = 16
# Added to an exact count of a text call's input, since no provider documents how many tokens it adds around messages
# and tools: one per so many counted, and a fixed number.
FRAME_SHARE, FRAME_TOKENS = 20, 512


def claim_of(call: Call, grant: Grant, operation: str, body: bytes) -> IdempotencyClaim | None:
    """The claim of the caller's Idempotency-Key for this body, if any. Raises BadRequest for an invalid key."""
    value = call.header(b"idempotency-key")
    if value is None:
        return None
    text = checked_key(value)
    fingerprint = hashlib.sha256(operation.encode() + b"\0" + body).digest()
    return IdempotencyClaim(grant.key_id, operation, text, fingerprint)


def checked_key(value: bytes) -> str:
    """A valid Idempotency-Key. Raises BadRequest."""
    text = value.decode("latin-1")
    if not 0 < len(text) <= IDEMPOTENCY_KEY_CHARS_MAX or not text.isprintable():
        raise BadRequest(
            f"Idempotency-Key must have 1 to {IDEMPOTENCY_KEY_CHARS_MAX} printable characters.", param="Idempotency-Key"
        )
    return text


async def available_to(plane: DataPlane, grant: Grant) -> int:
    """What a hold on all of a key's accounts may still take, in nano-USD. Raises Unavailable."""
    return await plane.reader.run(lambda connection: available_nano(connection, grant.accounts))


_NOTHING_YET = Usage()
STOPPED = "The gateway was stopped during the call."


class _End(msgspec.Struct, frozen=True):
    """How a call ended, for its record; `served` are the price features that its answer reported."""

    outcome: str
    status: int
    attempts: tuple[AttemptRecord, ...]
    channel: Channel | None = None
    error: GatewayError | None = None
    served: dict[str, str] = {}


class Hold:
    """The money of one call: `reserve`, then `settle`, or `resolve` if anything was raised after that.

    `request` and `quote` are those of the candidate that answers (`answer_with`); the hold covers the dearest.
    """

    def __init__(self, plane: DataPlane, call: Call, grant: Grant, candidates: tuple[Candidate, ...]) -> None:
        self.plane = plane
        self.call = call
        self.grant = grant
        self.candidates = candidates
        self.held_nano = most_nano(candidates)
        self.answer_with(0)
        self.lost_nano = 0
        self._used = _NOTHING_YET
        self.order: HoldOrder | None = None
        self.charge_nano = 0
        self._asked_again = False
        self._resolved = False

    def answer_with(self, number: int) -> None:
        """Make this candidate the one that answers, at its price."""
        candidate, self.number = self.candidates[number], number
        self.request, self.quote = candidate.request, candidate.quote

    @property
    def tokens(self) -> int:
        """The tokens of the call, in all classes."""
        return self._used.input_total + self._used.output_total

    def lose(self, unseen: Outcome, number: int) -> None:
        """Book what a candidate billed for an undelivered answer as the operator's loss. Never waits."""
        candidate = self.candidates[number]
        usage, quote = unseen.usage, candidate.quote
        if usage is None:
            usage, _ = estimated(candidate.request, unseen.tally)
        elif unseen.unsplit:
            usage = _with_dearest_writes(usage)
        self.lost_nano += cost_nano(quote, usage, unseen.served)

    async def lose_answer(self, outcome: Outcome) -> None:
        """Book a whole answer that must not reach the caller as the operator's loss."""
        usage = await self.counted(outcome)
        if outcome.unsplit:
            usage = _with_dearest_writes(usage)
        self.lost_nano += cost_nano(self.quote, usage, outcome.served)

    async def counted(self, outcome: Outcome) -> Usage:
        """The usage of an answer: the upstream's, otherwise a local count."""
        return outcome.usage if outcome.usage is not None else (await self._counted(outcome.tally))[0]

    async def reserve(self) -> StoredReply | None:
        """Reserve before any upstream byte. Returns the stored reply if this call was made before.

        Raises InsufficientQuota, Conflict (see docs/errors.md), Unavailable; then there is nothing to resolve.
        """
        claim = claim_of(self.call, self.grant, self.request.operation.id, self.request.body)
        if not self.held_nano and claim is None:
            return None
        while True:
            order = self._order(claim)
            point("relay.hold.before")
            try:
                await self.plane.ledger.hold(order)
            except InsufficientQuota:
                if not await self.lower():
                    raise
            except IdempotencyReplay as replay:
                return replay.reply
            except IdempotencyPending:
                # The same call is in progress, perhaps in another worker. None means that it failed before the upstream
                # and its claim is free again, so this one takes its place.
                if claim and (reply := await self.plane.ledger.wait_reply(claim)) is not None:
                    return reply
            else:
                self.order = order
                point("relay.hold.after")
                return None

    async def lower(self) -> bool:
        """Lower the hold, since the balance does not cover it; False if nothing is left to try.

        Bytes bound tokens from above; a closer count is worth its time only if the balance does not cover that bound.
        """
        return self._without_dearer() or await self._quote_exactly() or await self._quote_affordable()

    def _without_dearer(self) -> bool:
        """Drop the fallbacks that may cost more than the requested model; False if there are none."""
        within = tuple(one for one in self.candidates if one.quote.nano <= self.quote.nano)
        if len(within) == len(self.candidates):
            return False
        self.candidates, self.held_nano = within, self.quote.nano
        return True

    async def _quote_exactly(self) -> bool:
        """Lower the quote to an exact count of the input; False if it would not be lower, as the second time.

        Nothing is counted for a balance that no count could make sufficient, since nobody pays for that work.
        """
        least = self._quoted(self._least())
        if least.nano >= self.quote.nano or least.nano > await available_to(self.plane, self.grant):
            return False
        count = count_embedded if self.candidates[0].is_local else count_exactly
        exact = await count(self.plane, self.request)
        if exact is None:
            return False
        tokens = exact.input_tokens
        if self.request.operation.dialect is not None:
            tokens += tokens // FRAME_SHARE + FRAME_TOKENS + self.request.added.tokens
        if tokens >= self.quote.upper.input_tokens:
            return False
        self._requote(msgspec.structs.replace(self.quote.upper, input_tokens=tokens))
        return True

    async def _quote_affordable(self) -> bool:
        """Lower the quote to the most output that the balance covers, if the caller set no limit; that limit is then
        sent upstream.

        If the balance covers the quote by now, since others have released holds, the quote stays and is tried once
        more. False if no output would be left, and after that.
        """
        upper, facts = self.quote.upper, self.request.facts
        if not self._may_cap_output:
            return False
        there_nano = await available_to(self.plane, self.grant)
        if there_nano >= self.held_nano and not self._asked_again:
            self._asked_again = True
            return True
        low, high = 0, upper.output_tokens // facts.choices
        while low < high:
            middle = (low + high + 1) // 2
            if self._quoted(msgspec.structs.replace(upper, output_tokens=middle * facts.choices)).nano <= there_nano:
                low = middle
            else:
                high = middle - 1
        if low < OUTPUT_TOKENS_MIN or low * facts.choices >= upper.output_tokens:
            return False
        self._requote(msgspec.structs.replace(upper, output_tokens=low * facts.choices), output_cap=low)
        return True

    @property
    def _may_cap_output(self) -> bool:
        request = self.request
        limited = request.facts.output_limit is not None or request.output_cap is not None
        return request.operation.dialect is not None and not limited

    def _least(self) -> Usage:
        """The smallest usage that this call could be held for: one input token, and the output of a minimal answer."""
        upper, facts = self.quote.upper, self.request.facts
        output_tokens = upper.output_tokens
        if self._may_cap_output:
            output_tokens = min(output_tokens, OUTPUT_TOKENS_MIN * facts.choices)
        return msgspec.structs.replace(upper, input_tokens=min(upper.input_tokens, 1), output_tokens=output_tokens)

    def _quoted(self, upper: Usage) -> Quote:
        old = self.quote
        return quote(old.price, old.group, old.ratio_micro, upper, old.wide, old.further_micro, old.features)

    def _requote(self, upper: Usage, output_cap: int | None = None) -> None:
        """Hold less, for the requested model alone: a balance that only just covers it covers no fallback."""
        first = self.candidates[0]
        request = msgspec.structs.replace(first.request, output_cap=output_cap)
        self.candidates = (msgspec.structs.replace(first, request=request, quote=self._quoted(upper)),)
        self.answer_with(0)
        self.held_nano = self.quote.nano

    def _order(self, claim: IdempotencyClaim | None) -> HoldOrder:
        grant, quote = self.grant, self.quote
        return HoldOrder(
            self.call.id, grant.key_id, grant.accounts, self.held_nano, self.request.model, quote.price.id, claim
        )

    async def settle(self, outcome: Outcome) -> None:
        """Charge the metered usage; the record and the money are one transaction.

        Raises Unavailable, and Failed for a background response that cannot be stored, which must then be resolved.
        """
        flags = outcome.flags
        usage = outcome.usage
        end = _End("ok", outcome.status, outcome.attempts, outcome.channel, None, outcome.served)
        if outcome.unsplit and usage is not None:
            usage, flags = _with_dearest_writes(usage), (*flags, "cache_write_unsplit")
        if usage is None:
            try:
                usage, flags = await self._counted(outcome.tally)
            except asyncio.CancelledError:
                if self.plane.cutting:
                    # The caller did not leave: see `_left`.
                    self.lose(outcome, self.number)
                    gone = Unavailable(STOPPED)
                    await self._void(gone.code, gone.status, outcome.attempts, gone)
                    raise
                # The upstream answered completely, so the call is charged; its caller left while it was counted.
                # Nothing is awaited here: after another cancellation the call would not be charged.
                usage, how = estimated(self.request, outcome.tally)
                flags = ("usage_missing", "client_gone", how)
                end = msgspec.structs.replace(end, outcome="client_gone", status=499)
                await self._write(self._charged(end, usage, flags), outcome)
                raise
            if outcome.recount is not None:
                outcome.body = outcome.recount(usage)
        reply = None
        if self.order is not None and self.order.claim is not None:
            body = None if outcome.started else outcome.body
            if body is not None and not self.may_keep(len(body)):
                body = None
            reply = StoredReply(self.call.id, outcome.status, tuple(outcome.headers), body)
        stored = None
        if (keep := self.request.keep) is not None:
            try:
                stored = answer_kept(self, outcome, usage)
            except NotKept as why:
                if keep.background:
                    # The caller has only its row, which will say that it failed.
                    self.lost_nano += cost_nano(self.quote, usage, outcome.served)
                    raise Failed(UpstreamError(str(why)), outcome.attempts, outcome.channel) from None
                flags = (*flags, "not_stored")
        await self._write(self._charged(end, usage, flags, reply, stored), outcome)

    def may_keep(self, answer_bytes: int) -> bool:
        """Whether this much of an answer may be stored; for a call that costs nothing it counts from now on."""
        return self.held_nano > 0 or self.plane.free_kept.take(self.grant.key_id, answer_bytes)

    async def _counted(self, tally: Tally | None) -> tuple[Usage, tuple[str, ...]]:
        """A local count for an answer without believable usage, flagged and never above the hold."""
        usage, how = await count_locally(self.plane, self.request, tally)
        return usage, ("usage_missing", how)

    @property
    def _searches_free(self) -> bool:
        """Whether web searches of a priced text call are free; the units of a rerank may be paid by its tokens."""
        price = self.quote.price
        return self.request.operation.dialect is not None and not price.search_nano and not price.is_zero

    def _charged(
        self,
        end: _End,
        usage: Usage,
        flags: tuple[str, ...],
        reply: StoredReply | None = None,
        stored: StoredObject | None = None,
    ) -> Settlement:
        cost = cost_nano(self.quote, usage, end.served)
        charge = min(cost, self.held_nano)
        if usage.searches and self._searches_free and UNPRICED_FLAG not in flags:
            flags += (UNPRICED_FLAG,)
        if cost > charge:
            flags += ("above_hold",)
        self.charge_nano = charge
        self._resolved = True
        loss = cost - charge + self.lost_nano
        record = self._record(end, usage, charge, loss, flags)
        return Settlement(record, self.order, reply, stored=stored)

    async def resolve(self, error: BaseException) -> None:
        """Resolve the hold of a call that ended with `error`; nothing is left to do if it is settled already."""
        if self._resolved:
            return
        if isinstance(error, Failed):
            await to_its_end(self._failed(error))
        elif isinstance(error, Left):
            await to_its_end(self._left(error))
        elif isinstance(error, asyncio.CancelledError):
            await self._void("client_gone", 499, ())
        else:
            gateway = error if isinstance(error, GatewayError) else None
            await self._void("internal_error", gateway.status if gateway else 500, (), gateway)

    async def _left(self, left: Left) -> None:
        """The caller left: what had reached them is charged by a local count, flagged; before that the call is free.

        A caller cut off by the end of a drain did not leave: the gateway failed them.
        """
        if not left.started:
            await self._void("client_gone", 499, left.attempts)
            return
        if self.plane.cutting:
            gone = Unavailable(STOPPED)
            await self._failed(Failed(gone, left.attempts, left.channel, left.crossing))
            return
        end = _End("client_gone", 499, left.attempts, left.channel)
        flags: tuple[str, ...] = ()
        if left.crossing is not None:
            usage, flags = await self._passed(left.crossing, left.crossing.tally)
            end = msgspec.structs.replace(end, served=left.crossing.passed_as)
        elif left.whole is not None:
            usage, unsplit = left.whole
            if unsplit:
                usage, flags = _with_dearest_writes(usage), ("cache_write_unsplit",)
        else:
            usage, how = await count_locally(self.plane, self.request)
            flags = (how,)
        await self._write(self._charged(end, usage, ("client_gone", *flags)), left.crossing)

    async def _passed(self, crossing: Crossing, tally: Tally) -> tuple[Usage, tuple[str, ...]]:
        """(usage, flags) of the part of a stream that had passed when it ended early."""
        usage, how = await count_left(self.plane, self.request, crossing, tally)
        flags = (how, UNPRICED_FLAG) if crossing.came.unpriced else (how,)
        if usage.cache_write_tokens and crossing.unsplit and self.request.may_write_long:
            return _with_dearest_writes(usage), ("cache_write_unsplit", *flags)
        return usage, flags

    async def _failed(self, failed: Failed) -> None:
        """Free for the caller; what a broken stream had cost by then is the operator's loss."""
        error = failed.error
        if failed.crossing is None:
            await self._void(error.code, error.status, failed.attempts, error)
            return
        usage, flags = await self._passed(failed.crossing, failed.crossing.came)
        served = failed.crossing.passed_as
        loss = cost_nano(self.quote, usage, served) + self.lost_nano
        self._resolved = True
        outcome = error.code if isinstance(error, ContentBlocked) else "broken_stream"
        end = _End(outcome, error.status, failed.attempts, failed.channel, error, served)
        record = self._record(end, usage, 0, loss, flags)
        await self._write(Settlement(record=record, hold=self.order), failed.crossing)

    async def _void(
        self, outcome: str, status: int, attempts: tuple[AttemptRecord, ...], error: GatewayError | None = None
    ) -> None:
        """Release the hold free of charge. The claim is forgotten unless the upstream may have done the work."""
        self._resolved = True
        unknown = any(attempt.fate == "unknown" for attempt in attempts)
        end, flags = _End(outcome, status, attempts, None, error), ("unknown_outcome",) if unknown else ()
        record = self._record(end, Usage(), 0, self.lost_nano, flags)
        await self._write(Settlement(record=record, hold=self.order, forget_claim=not unknown))

    async def _write(self, settlement: Settlement, seen: Outcome | Crossing | None = None) -> None:
        note(self.plane, settlement.record)
        if (telemetry := self.plane.telemetry) is not None:
            telemetry.called(self.call, self.grant, self.request, settlement.record, seen)
        if settlement.hold is None and settlement.stored is None:
            self.plane.ledger.record(settlement.record)
            return
        point("relay.settle.before")
        settling: Awaitable[None] = self.plane.ledger.settle(settlement)
        try:
            if settlement.reply is None and settlement.stored is None:
                # The order is handed over before the first await, so a caller that leaves now cannot undo it.
                await settling
            else:
                # Sealing a stored answer comes before that. The shield costs a task, so only these calls use it.
                settling = asyncio.ensure_future(settling)
                await asyncio.shield(settling)
        except asyncio.CancelledError:
            await self._left_booking(settlement, settling, cut_off=self.plane.cutting)
            raise
        point("relay.settle.after")

    async def _left_booking(self, settlement: Settlement, settling: Awaitable[None], *, cut_off: bool) -> None:
        """The caller left while the call was being booked, and is charged; or a drain cut it off with its answer still
        here.

        A line of a batch has no caller waiting: its answer is stored with its charge, and a successor reports it.
        """
        if isinstance(settling, asyncio.Future):
            with contextlib.suppress(Unavailable):
                await to_its_end(settling)
        if cut_off and self.request.line is None:
            self.plane.ledger.take_back(settlement)

    def _record(
        self, end: _End, usage: Usage, charge_nano: int, loss_nano: int, flags: tuple[str, ...]
    ) -> RequestRecord:
        plane, grant, quote = self.plane, self.grant, self.quote
        attempts, channel, error = end.attempts, end.channel, end.error
        self._used = usage
        # By position, in the order of the record, because names would cost every call a dict of all of them.
        return RequestRecord(
            self.call.id,
            grant.key_id,
            grant.owner_id,
            self.request.operation.id,
            self.request.model,
            grant.group,
            plane.clock.now_ns(),
            milliseconds(plane.clock.monotonic_s() - self.call.started_s),
            end.status,
            end.outcome,
            usage,
            quote.price.id,
            quote.price.version,
            quote.ratio_micro,
            self.held_nano,
            charge_nano,
            loss_nano,
            flags,
            channel.id if channel else None,
            channel.name if channel else None,
            attempts[-1].upstream_request_id if attempts else None,
            attempts,
            error.code if error else None,
            self.request.asked or None,
            self.request.line,
            error.guard if isinstance(error, ContentBlocked) else None,
            end.served,
        )


def _with_dearest_writes(usage: Usage) -> Usage:
    """Cache writes of unknown lifetime, counted in the dearest class that the call can have written (guarantee 26)."""
    return msgspec.structs.replace(usage, cache_write_5m_tokens=0, cache_write_1h_tokens=usage.cache_write_tokens)
