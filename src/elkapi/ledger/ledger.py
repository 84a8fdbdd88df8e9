"""A worker's interface to the ledger: hold, settle, keep, step, record, wait for a reply; `_send` hands orders over.

`ThreadLedger` writes in this process (one worker, or any worker on PostgreSQL); `client.RemoteLedger` sends the same
orders to the ledger process (SQLite with several workers). Orders of one loop iteration are handed over together.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from typing import Any

import msgspec

from elkapi.clock import SYSTEM_CLOCK, Clock
from elkapi.errors import Conflict, InsufficientQuota, Unavailable
from elkapi.ids import request_id_text
from elkapi.ledger.accounts import ensure_system_accounts
from elkapi.ledger.books import FAILED, Books, Outcome, not_covered
from elkapi.ledger.checkpoint import Checkpointer
from elkapi.ledger.idempotency import ReplyWaits, open_reply, seal_reply
from elkapi.ledger.keeping import seal_stored
from elkapi.ledger.noticing import seal_notices
from elkapi.ledger.orders import (
    TASKS,
    UNKNOWN_FLAG,
    Beat,
    ClaimResult,
    Hold,
    IdempotencyPending,
    IdempotencyReplay,
    Keep,
    Kept,
    Order,
    Refusal,
    Settle,
    Step,
    StepRefused,
    UsageRow,
    encode_record,
    ended,
    given_back,
    lost,
)
from elkapi.ledger.recovery import LOOKS_MIN, Recoverer, behind_heartbeats_s, mark_dead, open_holds
from elkapi.ledger.tasking import seal_task, seal_told
from elkapi.ledger.told import ToldFailures
from elkapi.ledger.writer import INLINE_ORDERS_MAX, LINGER_FROM_HOLDS, UNREACHABLE, Entry, Limits, Writer
from elkapi.settings import NUMBER_MAX, Settings
from elkapi.storage.db import Database
from elkapi.storage.repos import batch_lines, notices
from elkapi.storage.secrets import Sealer
from elkapi.types import HoldOrder, IdempotencyClaim, RequestRecord, Settlement, StoredObject, StoredReply, TaskStep

SWEEP_S = 0.05
# A batch with a larger answer to keep is written on the thread, not on the loop.
INLINE_KEPT_BYTES_MAX = 256 * 1024
# The orders of one loop iteration are written on the loop in up to so many transactions; more go to the thread.
INLINE_BATCHES_MAX = 4
# How long orders written on the loop wait for others at most, while many calls are in flight.
LINGER_ON_LOOP_S = 0.002
# Clocks of several machines may differ by this much; a larger lag is logged at the start.
CLOCK_BEHIND_S = 60.0
CLOCK_BEHIND = (
    "this machine's clock is %.0f s behind the newest heartbeat of a worker, so keys and stored replies expire that "
    "much later; correct the clock of the machine that is wrong"
)
TOO_SLOW_HOLD = "The ledger did not reserve this call's cost in time; please try again."
TOO_SLOW_SETTLE = "The ledger did not book this call in time, so it was not charged; please try again."

log = logging.getLogger("elkapi.ledger")
_TIMED_OUT = Refusal("unavailable", TOO_SLOW_HOLD, "ledger_timeout")

# (loop time of the deadline, the waiter, what it waits for)
_Wait = tuple[float, "asyncio.Future[Outcome]", Order]


class Boot(msgspec.Struct, frozen=True):
    """One start of a worker: `owner` is its 16-byte id, `dead_owner` that of the crashed worker it follows."""

    settings: Settings
    database: Database
    owner: bytes
    sealer: Sealer
    dead_owner: bytes | None = None
    clock: Clock = SYSTEM_CLOCK

    @property
    def beat(self) -> Beat:
        """The first heartbeat."""
        return Beat(self.owner, "worker", self.clock.now_ns())


class Ledger(ABC):
    """The ledger of one worker; call every method on that worker's event loop."""

    def __init__(self, boot: Boot) -> None:
        settings, database = boot.settings, boot.database
        self._boot = boot
        self._settings = settings
        self._sealer = boot.sealer
        self._told = ToldFailures(settings.data_path, boot.owner)
        self._replies = ReplyWaits(database, boot.sealer, settings.idempotency_wait_s)
        self._collected: list[Entry] = []
        self._hold_waits: deque[_Wait] = deque()
        self._settle_waits: deque[_Wait] = deque()
        self._sweeping = False
        self._closed = True
        self._loop: asyncio.AbstractEventLoop
        self._heavy = False
        self.records_dropped = 0

    async def start(self) -> None:
        """Start taking orders. Raises Unavailable if the database is unreachable."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(prepare, self._boot.database, self._boot.dead_owner)
        left_behind = await asyncio.to_thread(self._told.take_over)
        await self._start()
        self._closed = False
        for order in left_behind:
            self._collect(order)

    async def aclose(self) -> None:
        """Stop taking holds, write everything queued, then end."""
        if self._closed:
            return
        self._closed = True
        self._flush()
        await self._stop()
        self._sweep()
        self._told.close()
        await self._replies.aclose()

    async def hold(self, order: HoldOrder) -> None:
        """Reserve `order.nano` on every account, durably on return; nano 0 without a claim does nothing.

        Raises InsufficientQuota, Unavailable, and for a claim IdempotencyReplay, IdempotencyPending or Conflict. A wait
        that times out or is cancelled leaves nothing held: if the hold is made later, it is voided.
        """
        claim = order.claim
        if not order.nano and claim is None and order.task is None:
            return
        if self._closed or self.depth >= self._settings.ledger_queue_max:
            raise Unavailable(UNREACHABLE)
        if order.nano > NUMBER_MAX:
            # Above every possible balance, and beyond the integers that either database can compare.
            raise InsufficientQuota(not_covered(order.nano), order.nano)
        task = None
        if order.task is not None:
            task = await seal_task(self._sealer, order.task, self._boot.owner)
        hold = Hold(
            order.request_id,
            order.key_id,
            order.accounts,
            order.nano,
            order.model,
            order.price_id,
            self._boot.owner if task is None else TASKS,
            claim,
            task,
        )
        waiter = self._ask(hold)
        try:
            outcome = await waiter
        except asyncio.CancelledError:
            # Cancelled after the answer arrived but before this coroutine resumed: nobody else knows of the hold.
            if waiter.done() and not waiter.cancelled() and waiter.result() is None:
                self._give_back(hold)
            raise
        if outcome is not None:
            self._raise(outcome, order)

    async def settle(self, settlement: Settlement) -> None:
        """Charge the hold, release the rest and write the usage row in one transaction, durably on return.

        Raises Unavailable if that takes longer than settle_wait_s or what is to be kept cannot be encrypted. The caller
        must then be told that the call failed, and it will be free whatever became of the settlement. Repeating a
        settlement is safe. What exceeds the hold is the operator's loss, flagged `above_hold`.
        """
        hold, stored = settlement.hold, settlement.stored
        try:
            claim = await self._claim_result(settlement) if hold is not None and hold.claim is not None else None
            kept = await self._sealed(stored) if stored is not None else None
        except Exception as error:
            await self._settle_lost(settlement, error)
            raise Unavailable(FAILED) from error
        if self._closed:
            raise Unavailable(UNREACHABLE)
        outcome = await self._ask(_settle_order(settlement.record, hold, claim, kept))
        if outcome is not None:
            raise Unavailable(TOO_SLOW_SETTLE if outcome is _TIMED_OUT else outcome.message or FAILED)

    async def _settle_lost(self, settlement: Settlement, error: Exception) -> None:
        """Resolve a hold whose answer could not be encrypted (no thread, memory or random bytes left), since nobody
        else will. Its claim records that the upstream may have done the work."""
        record, hold = settlement.record, settlement.hold
        log.error("cannot encrypt the stored reply or object of %s: %r", request_id_text(record.id), error)
        claim = ended(hold.claim, "unknown") if hold is not None and hold.claim is not None else None
        if not self._closed:
            await self._ask(lost(_settle_order(record, hold, claim), "settle_refused"))

    def take_back(self, settlement: Settlement) -> None:
        """Make a queued or committed settlement free, because its caller did not get the answer. Never waits."""
        order = _settle_order(settlement.record, settlement.hold)
        self._told.note([order])
        if (free := self._told.get(order.request_id)) is not None and not self._closed:
            self._collect(free)

    async def keep(self, stored: StoredObject, *, frames_only: bool = False) -> None:
        """Store an object outside a settlement (a background call's row), durably on return.

        Raises Unavailable; it may be stored all the same. With `frames_only` only its frames are stored.
        """
        kept = await self._sealed(stored)
        if self._closed:
            raise Unavailable(UNREACHABLE)
        order = Keep(stored.id, kept, frames_only)
        outcome = await self._ask(order)
        if outcome is not None:
            raise Unavailable(outcome.message or FAILED)

    async def step(self, step: TaskStep) -> bool:
        """Write a task's step, with its settlement in the same transaction, durably on return. Returns False, with
        nothing changed, if the task is no longer at the version where the step begins.

        Raises Unavailable, after which the step may have been written all the same (the task's version tells), or
        StepRefused if retrying is pointless.
        """
        if self._closed:
            raise Unavailable(UNREACHABLE)
        settle = None if step.settlement is None else _settle_order(step.settlement.record, step.settlement.hold)
        claim = None
        if (claimed := step.claim) is not None:
            if step.claim_end == "reply":
                claim = await self._claim_ended(claimed, step.reply)
            else:
                claim = ended(claimed, step.claim_end)
        told = await seal_told(self._sealer, step)
        order = Step(
            step.id,
            step.version,
            step.key_id,
            step.state.value,
            step.progress,
            step.now_ns,
            step.native_id,
            step.channel_id,
            step.channel_key_id,
            step.started_ns,
            step.finished_ns,
            step.deleted_ns,
            step.error_code,
            told,
            settle,
            step.refs,
            claim,
            await seal_notices(self._sealer, step.notices),
            step.unnamed,
        )
        self._heavy |= len(told or b"") > INLINE_KEPT_BYTES_MAX
        outcome = await self._ask(order)
        if outcome is None:
            return True
        if outcome.kind == "moved":
            return False
        raise (StepRefused if outcome.kind == "refused" else Unavailable)(outcome.message or FAILED)

    async def _sealed(self, stored: StoredObject) -> Kept:
        kept = await seal_stored(self._sealer, stored)
        # The loop then hands over its batch with this order in it.
        self._heavy |= kept.size_bytes > INLINE_KEPT_BYTES_MAX
        return kept

    def record(self, record: RequestRecord) -> None:
        """Write the usage row of a free call soon. Never waits, and drops the row (counted) if the queue is full."""
        if self._closed or self.depth >= self._settings.ledger_queue_max:
            self.records_dropped += 1
            return
        self._collect(_settle_order(record, None))

    async def wait_reply(self, claim: IdempotencyClaim) -> StoredReply | None:
        """The reply of the call that holds this claim, in whichever worker it runs; None if the claim was forgotten.

        After None the caller may hold again. Raises Conflict: `idempotency_in_progress` after idempotency_wait_s,
        `outcome_unknown`, `idempotent_replay_unavailable`, `idempotency_key_reused`; and Unavailable.
        """
        return await self._replies.wait(claim)

    # To be implemented by both ledgers

    @property
    @abstractmethod
    def depth(self) -> int:
        """Orders that are not answered yet."""

    @property
    @abstractmethod
    def unwritten_s(self) -> float:
        """Seconds since anything of this worker, at least its heartbeat, was written."""

    @abstractmethod
    async def _start(self) -> None: ...

    @abstractmethod
    async def _stop(self) -> None: ...

    @abstractmethod
    def _send(self, entries: list[Entry]) -> list[Entry]:
        """Hand over the orders of one loop iteration; returns those not answered yet. Raises Unavailable."""

    def _ask(self, order: Order) -> asyncio.Future[Outcome]:
        """Not a coroutine, because each coroutine between a caller and its future costs time on every resumption."""
        waiter: asyncio.Future[Outcome] = self._loop.create_future()
        self._collect(order, waiter)
        return waiter

    def _collect(self, order: Order, waiter: asyncio.Future[Outcome] | None = None) -> None:
        self._collected.append((order, waiter))
        if len(self._collected) == 1:
            self._schedule_flush()

    def _schedule_flush(self) -> None:
        """Schedule the handover of a batch at its first order, to collect the others of this loop iteration."""
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        entries = self._collected
        if not entries:
            return
        self._collected = []
        try:
            if waiting := self._send(entries):
                self._limit_waits(waiting)
        except Unavailable as error:
            self._deliver(entries, [Refusal("unavailable", error.message)] * len(entries))

    def _limit_waits(self, entries: list[Entry]) -> None:
        """Limit the waits for these orders to what the settings allow; most are answered before."""
        settings, now_s = self._settings, self._loop.time()
        for order, waiter in entries:
            if waiter is None:
                continue
            if type(order) is Hold:
                self._hold_waits.append((now_s + settings.hold_wait_s, waiter, order))
            else:
                self._settle_waits.append((now_s + settings.settle_wait_s, waiter, order))
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_S, self._sweep)

    def _deliver(self, entries: list[Entry], outcomes: list[Outcome]) -> None:
        for (order, waiter), outcome in zip(entries, outcomes, strict=True):
            if waiter is not None and not waiter.done():
                waiter.set_result(outcome)
            elif outcome is None and (waiter is not None or self._told):
                self._done_too_late(order)

    def _done_too_late(self, order: Order) -> None:
        """Undo an order that was carried out after its caller left or was told that it failed."""
        if type(order) is Hold:
            self._give_back(order)
        elif type(order) is Settle and (waived := self._told.get(order.request_id)) is not None:
            if order.waived:
                self._told.resolved(order.request_id)
            elif not self._closed:
                self._collect(waived)

    def _again(self, entry: Entry) -> Entry:
        """The settlement to retry: a free one if its caller was told that the call failed. Thread-safe."""
        order, waiter = entry
        waived = self._told.get(order.request_id) if type(order) is Settle else None
        return entry if waived is None else (waived, waiter)

    def _give_back(self, hold: Hold) -> None:
        """Void a hold made for a caller who no longer waits."""
        if not self._closed:
            self._collect(given_back(hold))

    def _sweep(self) -> None:
        """End the waits that are over. One timer serves all of them, since a timer per order would cost more than the
        order."""
        now_s = self._loop.time()
        over: list[_Wait] = []
        for waits in (self._hold_waits, self._settle_waits):
            while waits and (self._closed or waits[0][1].done() or waits[0][0] <= now_s):
                wait = waits.popleft()
                if not wait[1].done():
                    over.append(wait)
        if over:
            self._told.note([order for _, _, order in over])
            for _, waiter, _ in over:
                waiter.set_result(_TIMED_OUT)
        self._sweeping = bool(self._hold_waits or self._settle_waits)
        if self._sweeping:
            self._loop.call_later(SWEEP_S, self._sweep)

    def _raise(self, refusal: Refusal, order: HoldOrder) -> None:
        if refusal.kind == "quota":
            raise InsufficientQuota(refusal.message, order.nano)
        if refusal.kind == "pending":
            raise IdempotencyPending
        if refusal.kind == "conflict":
            raise Conflict(refusal.message, code=refusal.code)
        if refusal.kind == "replay" and refusal.sealed is not None and order.claim is not None:
            raise IdempotencyReplay(open_reply(self._sealer, order.claim, refusal.sealed))
        raise Unavailable(refusal.message or FAILED)

    async def _claim_result(self, settlement: Settlement) -> ClaimResult:
        assert settlement.hold is not None
        claim, reply = settlement.hold.claim, settlement.reply
        assert claim is not None
        if settlement.forget_claim:
            return ended(claim, "forget")
        if reply is None and UNKNOWN_FLAG in settlement.record.flags:
            return ended(claim, "unknown")
        return await self._claim_ended(claim, reply)

    async def _claim_ended(self, claim: IdempotencyClaim, reply: StoredReply | None) -> ClaimResult:
        bytes_max = self._settings.idempotency_reply_bytes_max
        if reply is None or reply.body is None or len(reply.body) > bytes_max:
            return ended(claim, "too_large")
        return ended(claim, "done", await seal_reply(self._sealer, claim, reply))


def _settle_order(
    record: RequestRecord, hold: HoldOrder | None, claim: ClaimResult | None = None, kept: Kept | None = None
) -> Settle:
    held = hold is not None and hold.nano > 0
    unknown = held and (UNKNOWN_FLAG in record.flags or _tried_in_vain(record))
    encoded = encode_record(record)
    row = UsageRow(record.key_id, record.owner_id, record.model, record.status, record.created_ns, encoded)
    return Settle(record.id, held, record.charge_nano, record.loss_nano, row, claim, unknown, kept=kept)


def _tried_in_vain(record: RequestRecord) -> bool:
    """Whether an attempt was sent and no complete answer came back: it may be billed, whatever a later attempt
    returned."""
    for attempt in record.attempts:  # noqa: SIM110  a generator would cost more than the look
        if attempt.fate == "unknown":
            return True
    return False


class ThreadLedger(Ledger):
    """The ledger written by a thread of this process."""

    def __init__(self, boot: Boot) -> None:
        super().__init__(boot)
        settings, database = boot.settings, boot.database
        self.writer = Writer(
            lambda: open_books(database, settings, boot.clock, boot.owner),
            self._deliver,
            writer_limits(settings),
            beat=boot.beat,
            tick=Recoverer(database, settings, boot.clock).tick,
            abandoned=_is_done,
            again=self._again,
        )
        # A transaction would block the loop if each commit flushes to disk or asks a server.
        self._inline = database.dialect == "sqlite" and settings.sqlite_synchronous.upper() == "NORMAL"
        self._checkpointer = checkpointer(database, self.writer)

    @property
    def depth(self) -> int:
        return self.writer.depth + len(self._collected)

    @property
    def unwritten_s(self) -> float:
        return self.writer.unwritten_s

    async def _start(self) -> None:
        self.writer.start()
        if self._checkpointer is not None:
            self._checkpointer.start()

    async def _stop(self) -> None:
        await self.writer.stop()
        if self._checkpointer is not None:
            await asyncio.to_thread(self._checkpointer.stop)

    def _schedule_flush(self) -> None:
        if self._inline and self.writer.open_holds >= LINGER_FROM_HOLDS:
            self._loop.call_soon(self._flush_when_quiet, 0, self._loop.time() + LINGER_ON_LOOP_S)
        else:
            self._loop.call_soon(self._flush)

    def _flush_when_quiet(self, before: int, until_s: float) -> None:
        """Hand the batch over after a loop iteration without a further order: a busy loop fills its batches, and a
        quiet one makes nobody wait. `before` is the number of orders one iteration ago."""
        queued = len(self._collected)
        if queued == before or queued >= INLINE_ORDERS_MAX or self._loop.time() >= until_s:
            self._flush()
        else:
            self._loop.call_soon(self._flush_when_quiet, queued, until_s)

    def _send(self, entries: list[Entry]) -> list[Entry]:
        if self._inline and not self._heavy and len(entries) <= INLINE_BATCHES_MAX * INLINE_ORDERS_MAX:
            while entries:
                batch = entries[:INLINE_ORDERS_MAX]
                outcomes = self.writer.write_now(batch)
                if outcomes is None:
                    break
                self._deliver(batch, outcomes)
                entries = entries[INLINE_ORDERS_MAX:]
        self._heavy = False
        if entries:
            self.writer.submit(entries)
        return entries


def _is_done(waiter: Any) -> bool:
    return waiter is not None and waiter.done()


def prepare(database: Database, dead_owner: bytes | None = None) -> None:
    """Mark a crashed predecessor as gone, and make sure that nothing waits for hours because the clock was set back
    before this start. Raises Unavailable."""
    now_ns = SYSTEM_CLOCK.now_ns()
    with database.write() as connection:
        if dead_owner is not None:
            mark_dead(connection, dead_owner, now_ns)
        if (behind_s := behind_heartbeats_s(connection, now_ns)) > CLOCK_BEHIND_S:
            notices.wait_no_longer(connection, now_ns)
            batch_lines.wait_no_longer(connection, now_ns)
            log.warning(CLOCK_BEHIND, behind_s)


def open_books(
    database: Database, settings: Settings, clock: Clock = SYSTEM_CLOCK, owner: bytes | None = None
) -> Books:
    """The books on their own connection, with the open holds of `owner` (or of everybody). Raises Unavailable or the
    driver's error."""
    with database.write() as connection:
        house = ensure_system_accounts(connection)
        holds = open_holds(connection, None if owner is None else {owner})
    keep_ns = round(settings.idempotency_keep_s * 1e9)
    raw = database.raw_writer()
    if database.dialect == "sqlite":
        raw.execute("PRAGMA busy_timeout = 0")  # the books wait by themselves, or not at all
        raw.execute("PRAGMA wal_autocheckpoint = 0")  # see checkpoint.py
    else:
        # Imported here: the driver's libraries cost 10 MB and 40 ms of a start, and SQLite does not need them.
        from elkapi.ledger.postgres import Session

        raw = Session(raw)
    books = Books(raw, database.dialect, house, clock, keep_ns)
    books.adopt((hold.request_id, hold.nano, hold.account_ids) for hold in holds if hold.owner != TASKS)
    return books


def checkpointer(database: Database, writer: Writer) -> Checkpointer | None:
    """The checkpointer of this writer; None if it needs none."""
    if database.dialect != "sqlite":
        return None
    return Checkpointer(database.raw_writer, writer.lock, lambda: writer.stats.transactions)


def writer_limits(settings: Settings) -> Limits:
    return Limits(
        batch_max=settings.ledger_batch_max,
        heartbeat_s=settings.heartbeat_s,
        tick_s=settings.heartbeat_lost_s / LOOKS_MIN,
        drain_s=settings.settle_wait_s,
    )
