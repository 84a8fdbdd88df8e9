"""Carries out a batch of orders as one transaction on one connection; queues, threads and waiting are left to `writer`.

The fast path is one pass over the batch (`_together`): resolutions and usage rows, then one conditional UPDATE per
account, then the admitted holds. Whatever does not fit it (a repeated order, a hold that recovery has expired, a row
the database refuses) sends the batch down the slow path (`_alone`): order by order, each in a savepoint, so that one
bad row fails alone. Rows are always locked in the same order: resolutions, customers by id, system accounts.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from elkapi.clock import Clock
from elkapi.ids import first_id_at, request_id_text
from elkapi.ledger import accounts
from elkapi.ledger.claims import Claims
from elkapi.ledger.keeping import Keeper
from elkapi.ledger.orders import MARK_TAKEN, Beat, Hold, Keep, Order, Refusal, Settle, Step, flagged, lost
from elkapi.ledger.reversal import Reversal
from elkapi.ledger.statements import for_dialect
from elkapi.ledger.tasking import Tasker
from elkapi.ledger.transfers import HOLD_STEP, HOLD_SUFFIX, LEGS_MAX, LOSS_SUFFIX, RESOLVE_SUFFIX, entries_range
from elkapi.money import format_usd
from elkapi.storage.dialect import is_taken, is_too_much, lacks_right, only_reads
from elkapi.testing.crash import point

log = logging.getLogger("elkapi.ledger")

# Holds made by this writer are settled without a query; older ones are looked up.
OPEN_MAX = 200_000
BUSY_WAIT_S = 5.0
BUSY_STEP_S = 0.002
# The longest time from a request's arrival (its id) to its hold; recovery relies on it to know where to begin.
CALL_AGE_MAX_NS = 300 * 1_000_000_000
COUNTERS_MAX = 50_000
# How many workers' heartbeats are remembered: far more than run at once, since killed workers leave theirs behind.
OWNERS_MAX = 1_000
ATTEMPTS_MAX = 5
SQLITE_UNREADABLE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")

ACCOUNT_REFUSED = "The accounts of this API key cannot pay for a call; ask the operator."
TOO_OLD = "This call waited too long before its cost was reserved; please try again."
FAILED = "The ledger could not book this call; please try again."

Outcome = Refusal | None


class _Irregular(Exception):
    """The batch does not fit the fast path: it is rolled back and taken order by order."""


class _Batch:
    """What one pass collects: flat rows to write, and what each account gains and loses."""

    def __init__(self, orders: Sequence[Order], now_ns: int) -> None:
        self.now_ns = now_ns
        self.oldest_allowed = first_id_at(now_ns - CALL_AGE_MAX_NS)
        self.outcomes: list[Outcome] = [None] * len(orders)
        self.entries: list[Any] = []
        self.rows: list[Any] = []
        self.spent: defaultdict[int, int] = defaultdict(int)
        self.released: defaultdict[int, int] = defaultdict(int)
        self.house: defaultdict[int, int] = defaultdict(int)
        self.holds: list[tuple[int, Hold, tuple[int, ...]]] = []
        self.begun: list[Hold] = []
        self.claim_ends: list[Settle | Step] = []
        self.unknowns: list[Any] = []
        self.kept: list[Settle | Keep] = []


class Books:
    """The ledger's tables behind one DBAPI connection in autocommit; used by one thread at a time."""

    def __init__(self, connection: Any, dialect: str, house: dict[str, int], clock: Clock, keep_ns: int) -> None:
        """`house` comes from accounts.ensure_system_accounts(); `keep_ns` is how long an idempotency key is kept."""
        self._connection = connection
        self._cursor = connection.cursor()
        self._sql = for_dialect(dialect)
        self._claims = Claims(self._cursor, self._sql, keep_ns)
        self._keeper = Keeper(self._cursor, self._sql)
        self._tasker = Tasker(self._cursor, self._sql)
        self._reversal = Reversal(self._cursor, self._sql, house)
        self._clock = clock
        self._revenue = house[accounts.REVENUE]
        self._quota_spent = house[accounts.QUOTA_SPENT]
        self._loss = house[accounts.OPERATOR_LOSS]
        self._upstream = house[accounts.UPSTREAM]
        self._open: dict[bytes, tuple[int, tuple[int, ...]]] = {}
        self._opened: list[Hold] = []
        self._closed: list[bytes] = []
        self._counters: dict[tuple[int, ...], tuple[int, ...] | None] = {}
        self._evicted = b"\xff" * 16
        # Per owner, where recovery would begin to look for its holds, as of its last heartbeat here.
        self._scanned_from: dict[bytes, bytes] = {}
        self._patient = True
        # Whether the last transaction failed during its commit, so that it may be committed all the same.
        self.in_doubt = False

    def adopt(self, holds: Iterable[tuple[bytes, int, tuple[int, ...]]]) -> None:
        """Register holds made before this connection: (request id, nano, accounts)."""
        for request_id, nano, legs in holds:
            self._open[request_id] = (nano, legs)

    def close(self) -> None:
        """Close the connection; an open transaction is rolled back."""
        with contextlib.suppress(Exception):
            self._connection.close()

    @property
    def open_holds(self) -> int:
        """Unresolved holds made here: the calls in flight."""
        return len(self._open)

    def apply(self, orders: Sequence[Order], *, patient: bool = True) -> list[Outcome]:
        """Commit the orders and return the outcome of each. Raises the driver's error if nothing was committed.

        With `patient=False` it raises at once instead of waiting for another process that is writing.
        """
        self._patient = patient
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                return self._apply_once(orders)
            except Exception as error:
                if attempt == ATTEMPTS_MAX or not _may_succeed_again(error):
                    raise
        raise AssertionError("unreachable")

    def _apply_once(self, orders: Sequence[Order]) -> list[Outcome]:
        try:
            return self._transaction(lambda: self._together(orders))
        except _Irregular:
            pass
        except Exception as error:
            # An outage fails the batch; a value the database refuses must only fail its own order.
            if _may_succeed_again(error) or _is_outage(error):
                raise
            if not is_taken(error):
                log.warning("a batch of %d orders failed and is retried one by one: %s", len(orders), _words(error))
        return self._transaction(lambda: [self._alone(order) for order in orders])

    def _transaction(self, work: Callable[[], list[Outcome]]) -> list[Outcome]:
        self._opened.clear()
        self._closed.clear()
        self.in_doubt = False
        self._begin()
        try:
            outcomes = work()
            point("ledger.before_commit")
            self.in_doubt = True
            self._cursor.execute("COMMIT")
            self.in_doubt = False
        except BaseException:
            self._roll_back()
            raise
        self._remember()
        return outcomes

    def _begin(self) -> None:
        """Begin; on SQLite wait for another writer in small steps, since its own wait sleeps for up to 100 ms."""
        deadline_s = time.monotonic() + BUSY_WAIT_S
        while True:
            try:
                self._cursor.execute(self._sql.begin)
            except Exception as error:
                busy = getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY")
                if not busy or not self._patient or time.monotonic() > deadline_s:
                    raise
                time.sleep(BUSY_STEP_S)
            else:
                return

    def _roll_back(self) -> None:
        try:
            self._cursor.execute("ROLLBACK")
        except Exception as error:  # the connection is gone, and the transaction with it
            log.debug("rollback: %r", error)

    def _remember(self) -> None:
        for hold in self._opened:
            self._open[hold.request_id] = (hold.nano, hold.accounts)
        for request_id in self._closed:
            self._open.pop(request_id, None)
        while len(self._open) > OPEN_MAX:
            oldest = next(iter(self._open))
            self._evicted = min(self._evicted, oldest)
            del self._open[oldest]

    # The fast path

    def _together(self, orders: Sequence[Order]) -> list[Outcome]:
        batch = _Batch(orders, self._clock.now_ns())
        # Most holds have neither a claim nor a task.
        special = [
            (index, order) for index, order in enumerate(orders) if type(order) is Hold and (order.claim or order.task)
        ]
        for index, refusal in self._claims.take_all(special, batch.now_ns):
            batch.outcomes[index] = refusal
        for index, hold in self._tasker.name_all(special, batch.outcomes):
            batch.outcomes[index] = Refusal("conflict", code=MARK_TAKEN)
            self._claims.forget(hold)
        for index, order in enumerate(orders):
            if isinstance(order, Settle):
                self._plan_settle(batch, order)
            elif isinstance(order, Hold):
                if batch.outcomes[index] is None:
                    self._plan_hold(batch, index, order)
            elif isinstance(order, Keep):
                batch.kept.append(order)
            elif isinstance(order, Step):
                self._plan_step(batch, index, order)
            else:
                self._beat(order, batch.now_ns)
        self._write(batch)
        return batch.outcomes

    def _write(self, batch: _Batch) -> None:
        sql, cursor = self._sql, self._cursor
        if batch.rows or batch.entries:
            point("ledger.settle.before")
            sql.entries.insert(cursor, batch.entries)
            sql.usage_rows.insert(cursor, batch.rows)
            sql.unknowns.insert(cursor, batch.unknowns)
        for settle in batch.claim_ends:
            self._claims.end(settle)
        if batch.kept:
            self._keeper.write(batch.kept)
        self._change_accounts(batch)
        if batch.holds:
            point("ledger.hold.before")
            self._insert_holds(batch)
            point("ledger.hold.after")
        if batch.begun:
            self._tasker.begin(batch.begun)
        for account in sorted(batch.house):
            cursor.execute(sql.account_change, (-batch.house[account], 0, account))
        if batch.rows or batch.entries:
            point("ledger.settle.after")

    def _plan_settle(self, batch: _Batch, order: Settle) -> None:
        request_id, charge, loss, row = order.request_id, order.charge_nano, order.loss_nano, order.row
        held = 0
        if order.held:
            known = self._open.get(request_id)
            if known is None:
                raise _Irregular
            held, legs = known
            if charge > held:
                charge, loss, row = held, loss + charge - held, flagged(row, held, loss + charge - held, "above_hold")
            self._resolve(batch, request_id, held, legs, charge)
        elif charge:
            charge, loss, row = 0, loss + charge, flagged(row, 0, loss + charge, "hold_missing")
        if loss:
            batch.entries += (request_id + LOSS_SUFFIX, "loss", self._loss, self._upstream, loss, batch.now_ns)
            batch.house[self._loss] -= loss
            batch.house[self._upstream] += loss
        if row is not None:
            if order.unknown:
                reason = "retried" if charge or loss else "no_answer"
                batch.unknowns += (request_id, row.key_id, row.model, held, reason, batch.now_ns)
            batch.rows += (request_id, row.key_id, row.owner_id, row.model, row.status, charge, loss)
            batch.rows += (row.created_ns, row.record)
        if order.claim is not None:
            batch.claim_ends.append(order)
        if order.kept is not None:
            batch.kept.append(order)

    def _plan_step(self, batch: _Batch, index: int, order: Step) -> None:
        """Write a task's step now; its settlement and claim are written with the batch."""
        if not self._tasker.step(order):
            batch.outcomes[index] = Refusal("moved")
            return
        if order.claim is not None:
            batch.claim_ends.append(order)
        if order.settle is not None and (settle := self._adapted(order.settle)) is not None:
            self._plan_settle(batch, settle)

    def _resolve(self, batch: _Batch, request_id: bytes, held: int, legs: tuple[int, ...], charge: int) -> None:
        counters = self._counters_of(legs)
        if counters is None:
            raise _Irregular
        kind, amount = ("post", charge) if charge else ("void", held)
        for leg, account in enumerate(legs):
            counter = counters[leg]
            batch.entries += (request_id + RESOLVE_SUFFIX[leg], kind, account, counter, amount, batch.now_ns)
            batch.released[account] += held
            if charge:
                batch.spent[account] += charge
                batch.house[counter] += charge
        self._closed.append(request_id)

    def _plan_hold(self, batch: _Batch, index: int, order: Hold) -> None:
        if not order.nano:
            if order.task is not None:
                batch.begun.append(order)
            return
        counters = self._counters_of(order.accounts)
        if counters is None or order.request_id < batch.oldest_allowed:
            message = ACCOUNT_REFUSED if counters is None else TOO_OLD
            batch.outcomes[index] = Refusal("unavailable", message, "account_error")
            self._let_go(order)
            return
        if order.request_id < self._scanned_from.get(order.owner, b""):
            # The clock was set back since the last heartbeat: recovery would miss this hold if the worker died before
            # the next one.
            self._cursor.execute(self._sql.scan_earlier, (order.request_id, order.owner, order.request_id))
        batch.holds.append((index, order, counters))

    def _change_accounts(self, batch: _Batch) -> None:
        """One UPDATE per account for the whole batch; it admits all of the batch's holds on that account, or none."""
        wanting: defaultdict[int, list[tuple[int, Hold]]] = defaultdict(list)
        for index, order, _ in batch.holds:
            for account in order.accounts:
                wanting[account].append((index, order))
        sql = self._sql
        changes: list[tuple[str, Sequence[Any]]] = []
        asked: list[tuple[int, int]] = []
        touched = sorted(wanting.keys() | batch.released.keys())
        for account in touched:
            spent, released = batch.spent[account], batch.released[account]
            wanted = sum([order.nano for _, order in wanting[account]]) if account in wanting else 0
            if not wanted:
                changes.append((sql.account_change, (spent, -released, account)))
                continue
            if not sql.is_sqlite and len(touched) > 1:
                # A refused UPDATE locks no row, and the row would then be locked out of order below.
                changes.append((sql.account_available, (account,)))
            asked.append((len(changes), account))
            changes.append((sql.account_change_if, (spent, wanted - released, account, wanted + spent - released)))
        if not asked:
            for text, values in changes:
                self._cursor.execute(text, values)
            return
        counts = sql.execute_all(self._cursor, changes)
        short = {account for place, account in asked if counts[place] != 1}
        for account in sorted(short):
            alive = [(index, order) for index, order in wanting[account] if batch.outcomes[index] is None]
            self._admit_in_turn(batch, account, alive, short)
            short.remove(account)

    def _admit_in_turn(self, batch: _Batch, account: int, alive: list[tuple[int, Hold]], short: set[int]) -> None:
        """The account does not cover all its holds: admit them in order of arrival as far as the balance goes.

        Nothing is held yet on the accounts in `short`, which include this one.
        """
        cursor, sql = self._cursor, self._sql
        spent, released = batch.spent[account], batch.released[account]
        if spent or released:
            cursor.execute(sql.account_change, (spent, -released, account))
        cursor.execute(sql.account_available, (account,))
        found = cursor.fetchone()
        (available, held), admitted = found or (0, 0), 0
        for index, order in alive:
            if admitted + order.nano <= available:
                admitted += order.nano
                continue
            batch.outcomes[index] = Refusal("quota", not_covered(order.nano, available - admitted, held + admitted))
            self._let_go(order)
            for other in order.accounts:
                if other not in short:
                    cursor.execute(sql.account_change, (0, -order.nano, other))
        if admitted:
            cursor.execute(sql.account_change_if, (0, admitted, account, admitted))
            if cursor.rowcount != 1:
                raise _Irregular

    def _let_go(self, order: Hold) -> None:
        """Free the claim and the name of a refused hold."""
        self._claims.forget(order)
        if order.task is not None and order.task.own_mark:
            self._tasker.unname(order.request_id)

    def _insert_holds(self, batch: _Batch) -> None:
        flat: list[Any] = []
        for index, order, counters in batch.holds:
            if batch.outcomes[index] is not None:
                continue
            for leg, account in enumerate(order.accounts):
                flat += (order.request_id + HOLD_SUFFIX[leg], account, counters[leg], order.nano, batch.now_ns)
                flat += (order.owner, order.key_id, order.price_id, order.model)
            if order.task is None:
                self._opened.append(order)
            else:
                # A task's hold may stay open for hours, so it is looked up at its end instead of being remembered.
                batch.begun.append(order)
        self._sql.holds.insert(self._cursor, flat)

    def _counters_of(self, legs: tuple[int, ...]) -> tuple[int, ...] | None:
        """The counter account of each leg; None unless the legs are exactly one customer and any number of quotas."""
        try:
            return self._counters[legs]
        except KeyError:
            pass
        kinds = []
        for account in legs:
            self._cursor.execute(self._sql.account_kind, (account,))
            found = self._cursor.fetchone()
            kinds.append(found[0] if found else "")
        usable = kinds.count(accounts.CUSTOMER) == 1 and set(kinds) <= accounts.HELD_KINDS and len(legs) <= LEGS_MAX
        counters = None
        if usable and len(set(legs)) == len(legs):
            counters = tuple(self._revenue if kind == accounts.CUSTOMER else self._quota_spent for kind in kinds)
            if len(self._counters) >= COUNTERS_MAX:
                self._counters.clear()
            self._counters[legs] = counters
        return counters

    def _beat(self, order: Beat, now_ns: int) -> None:
        ended = now_ns if order.ended else None
        scan_from, told = self._scan_from(now_ns), self._scanned_from
        # Moved to the end, so that the first is the owner that has been silent the longest.
        told.pop(order.owner, None)
        if not order.ended:
            told[order.owner] = scan_from
        if len(told) > OWNERS_MAX:
            del told[next(iter(told))]
        self._cursor.execute(self._sql.beat, (order.owner, order.role, order.started_ns, now_ns, ended, scan_from))

    def _scan_from(self, now_ns: int) -> bytes:
        """Where recovery would have to begin: no open or future hold has a smaller id."""
        return min(first_id_at(now_ns - CALL_AGE_MAX_NS), self._evicted, min(self._open, default=self._evicted))

    # The slow path

    def _alone(self, order: Order) -> Outcome:
        try:
            return self._saved(order)
        except Exception as error:
            if _may_succeed_again(error) or _is_outage(error):
                raise
            name = order.owner.hex() if isinstance(order, Beat) else request_id_text(order.request_id)
            log.error("the ledger refused %s of %s: %s", type(order).__name__, name, _words(error))
        if isinstance(order, Settle) and (order.kept is not None or order.charge_nano):
            # The caller is told that the call failed, and nobody will settle it again.
            self._alone(lost(order, "settle_refused"))
        return Refusal("refused" if isinstance(order, Step) else "unavailable", FAILED)

    def _saved(self, order: Order) -> Outcome:
        """The outcome of one order inside a savepoint, which is rolled back if this raises."""
        self._cursor.execute("SAVEPOINT alone")
        opened, closed = len(self._opened), len(self._closed)
        try:
            outcome = self._alone_inside(order)
            self._cursor.execute("RELEASE SAVEPOINT alone")
        except Exception as error:
            if not (_may_succeed_again(error) or _is_outage(error)):
                self._cursor.execute("ROLLBACK TO SAVEPOINT alone")
                self._cursor.execute("RELEASE SAVEPOINT alone")
                del self._opened[opened:], self._closed[closed:]
            raise
        return outcome

    def _alone_inside(self, order: Order) -> Outcome:
        if isinstance(order, Hold) and order.nano:
            legs = self._stored_legs(order.request_id)
            if legs:
                return self._repeated_hold(order, legs)
        elif isinstance(order, Settle):
            adapted = self._adapted(order)
            if adapted is None:
                return None
            order = adapted
        return self._together([order])[0]

    def _stored_legs(self, request_id: bytes) -> list[tuple[int, int]]:
        self._cursor.execute(self._sql.hold_legs, entries_range(request_id, HOLD_STEP))
        return list(self._cursor.fetchall())

    def _resolution(self, request_id: bytes) -> str | None:
        self._cursor.execute(self._sql.resolution, (request_id + RESOLVE_SUFFIX[0],))
        found = self._cursor.fetchone()
        return found[0] if found else None

    def _repeated_hold(self, order: Hold, legs: list[tuple[int, int]]) -> Outcome:
        if self._resolution(order.request_id) is not None or legs != [(a, order.nano) for a in order.accounts]:
            return Refusal("unavailable", FAILED, "hold_already_ended")
        if order.task is None:
            self._opened.append(order)
        return None

    def _adapted(self, order: Settle) -> Settle | None:
        """The settlement as it can still be booked, or None if it was booked before."""
        request_id = order.request_id
        self._cursor.execute(self._sql.usage_row, (request_id,))
        made = self._cursor.fetchone()
        if made is not None:
            if order.waived:
                charge, loss, record = made
                self._reversal.take_back(request_id, charge, loss, record, self._clock.now_ns())
            return None
        if not order.held:
            return order
        legs = self._stored_legs(request_id)
        resolution = self._resolution(request_id)
        if legs and resolution is None:
            # Remembered again, so that the fast path can resolve it; a rollback forgets it with the next batch.
            self._open[request_id] = (legs[0][1], tuple(account for account, _ in legs))
            return order
        self._cursor.execute(self._sql.forget_unknown, (request_id,))
        flag = {None: "hold_missing", "expire": "hold_expired"}.get(resolution, "hold_resolved")
        loss = order.loss_nano + order.charge_nano
        row = flagged(order.row, 0, loss, flag)
        return msgspec.structs.replace(order, held=False, charge_nano=0, loss_nano=loss, row=row)


def not_covered(wanted_nano: int, available_nano: int | None = None, held_nano: int = 0) -> str:
    """The refusal of a hold. It tells a spent balance from one that calls in progress hold; amounts in nano-USD."""
    text = f"Your balance does not cover the most that this call may cost, {format_usd(wanted_nano)} USD"
    if available_nano is None:
        return f"{text}."
    text += f": {format_usd(max(available_nano, 0))} USD are available"
    return f"{text}, and {format_usd(held_nano)} USD are held for calls in progress." if held_nano else f"{text}."


def _may_succeed_again(error: BaseException) -> bool:
    """Deadlocks and serialization failures of PostgreSQL: the transaction was rolled back and can be repeated."""
    return getattr(error, "sqlstate", None) in ("40001", "40P01")


def _is_outage(error: BaseException) -> bool:
    """Whether the database is unavailable, by the class names from which both drivers derive such errors. SQLite
    reports a transient read failure as a damaged page, and a lack of memory as MemoryError."""
    if is_too_much(error):
        return False
    if isinstance(error, MemoryError) or getattr(error, "sqlite_errorname", "").startswith(SQLITE_UNREADABLE):
        return True
    named = (kind.__name__ for kind in type(error).__mro__)
    return only_reads(error) or lacks_right(error) or not {"OperationalError", "InterfaceError"}.isdisjoint(named)


def _words(error: Exception) -> str:
    """An error without the values in it: drivers quote them below the first line, and Python in the message itself."""
    kind = type(error).__name__
    if not hasattr(error, "sqlstate") and not hasattr(error, "sqlite_errorname"):
        return kind
    return f"{kind}: {str(error).partition(chr(10))[0]}"
