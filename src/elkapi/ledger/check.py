"""Recomputes the ledger from its entries and reports every difference; it changes nothing.

Invariants: cached balances equal the entries; the sum over all accounts is zero; every hold is resolved once, for no
more than it reserved, or belongs to a live worker or an open task; no customer is below the credit line; usage rows,
posts and losses agree for each call. `reconcile` compares the ledger with an upstream's bill.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, func, select

from elkapi.ids import ID_BYTES, request_id_text
from elkapi.ledger import transfers as entries
from elkapi.ledger.accounts import HELD_KINDS, OPERATOR_LOSS, REVENUE, balances, system_ids
from elkapi.ledger.orders import TASKS
from elkapi.ledger.recovery import OpenHold, read_hold
from elkapi.money import format_usd
from elkapi.storage import dialect as sql
from elkapi.storage.repos.requests import decode_record
from elkapi.storage.repos.tasks import open_ids
from elkapi.storage.schema import requests, transfers, unknown_outcomes, workers
from elkapi.types import CACHED_FLAG

PROBLEMS_MAX = 100
ROWS_AT_ONCE = 10_000

WORKER_LOST = "outcome unknown: the worker ended before it settled the call"
ATTEMPT_CUT = "outcome unknown: an attempt was sent and no complete answer came back"


class CheckReport(msgspec.Struct):
    """The ledger in numbers (nano-USD), and a sentence for every broken invariant; `problems` is empty if all hold."""

    accounts: int = 0
    entries: int = 0
    entries_sum_nano: int = 0
    customers_posted_nano: int = 0
    customers_held_nano: int = 0
    charged_nano: int = 0
    posted_nano: int = 0
    refunded_nano: int = 0
    loss_nano: int = 0
    open_holds: int = 0
    open_holds_nano: int = 0
    unknown_outcomes: int = 0
    unknown_outcomes_nano: int = 0
    problems: list[str] = []
    problems_more: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems

    def problem(self, text: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(text)
        else:
            self.problems_more += 1

    def lines(self) -> list[str]:
        """The numbers, then the problems, as text."""
        money = {"entries_sum", "customers_posted", "customers_held", "charged", "posted", "refunded", "loss"}
        found = []
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if isinstance(value, int) and field != "problems_more":
                usd = f" ({format_usd(value)} USD)" if field.removesuffix("_nano") in money else ""
                found.append(f"{field.replace('_', ' ')}: {value}{usd}")
        found += [f"PROBLEM: {problem}" for problem in self.problems]
        if self.problems_more:
            found.append(f"PROBLEM: and {self.problems_more} more")
        return [*found, "the ledger is consistent" if self.ok else "the ledger has ERRORS"]


def check(connection: Connection) -> CheckReport:
    """Check every invariant; pass a read transaction that sees a single snapshot.

    Entries and usage rows are streamed side by side in the order of their calls. Only a number per account and the open
    holds stay in memory.
    """
    sql.take_time(connection)
    report = CheckReport()
    walk = _Walk(connection, report)
    walk.all_calls()
    _check_balances(connection, report, walk.moved, _check_open_holds(connection, report, walk.unresolved))
    report.unknown_outcomes, report.unknown_outcomes_nano = connection.execute(
        select(func.count(), func.coalesce(func.sum(unknown_outcomes.c.held_nano), 0)).select_from(unknown_outcomes)
    ).one()
    report.unknown_outcomes_nano = int(report.unknown_outcomes_nano)
    return report


_Entry = tuple[bytes, str, int, int, int]
_Usage = tuple[bytes, int, int]


def _rows(connection: Connection, query: Select[Any]) -> Iterator[Any]:
    """The rows of a query, streamed; several may be read side by side."""
    streamed = query.execution_options(stream_results=True, yield_per=ROWS_AT_ONCE)
    for part in connection.execute(streamed).partitions():
        yield from part


class _Walk:
    """Walks the ledger call by call. `moved` is the sum of the entries per account; `unresolved` are the calls with an
    open hold."""

    def __init__(self, connection: Connection, report: CheckReport) -> None:
        self.moved: defaultdict[int, int] = defaultdict(int)
        self.unresolved: list[bytes] = []
        self._connection = connection
        self._report = report
        house = system_ids(connection)
        self._revenue, self._loss = house.get(REVENUE), house.get(OPERATOR_LOSS)

    def all_calls(self) -> None:
        t, r = transfers.c, requests.c
        entries_read = select(t.id, t.kind, t.debit_account, t.credit_account, t.nano).order_by(t.id)
        usage = _rows(self._connection, select(r.id, r.charge_nano, r.loss_nano).order_by(r.id))
        row: _Usage | None = next(usage, None)
        for request_id, found in groupby(_rows(self._connection, entries_read), key=lambda entry: entry[0][:ID_BYTES]):
            while row is not None and row[0] < request_id:
                self._call(row[0], (), row)
                row = next(usage, None)
            if row is not None and row[0] == request_id:
                self._call(request_id, found, row)
                row = next(usage, None)
            else:
                self._call(request_id, found, None)
        while row is not None:
            self._call(row[0], (), row)
            row = next(usage, None)

    def _call(self, request_id: bytes, found: Iterable[_Entry], row: _Usage | None) -> None:
        """Check the entries and usage row of one call, or of whatever else has an id: a deposit, a correction."""
        report, moved = self._report, self.moved
        holds = resolutions = held = posted = 0
        # Revenue and loss; None if nothing was booked.
        earned: int | None = None
        lost: int | None = None
        for _, kind, debit, credit, nano in found:
            report.entries += 1
            if kind in entries.MOVES:
                moved[debit] -= nano
                moved[credit] += nano
            if kind == "hold":
                holds, held = holds + 1, held + nano
            elif kind in entries.RESOLUTIONS:
                resolutions += 1
                if kind == "post":
                    posted += nano
                    if credit == self._revenue:
                        earned = (earned or 0) + nano
            elif kind == "reverse" and debit == self._revenue:
                earned = (earned or 0) - nano
            elif kind == "loss" and debit == self._loss:
                lost = (lost or 0) + nano
            elif kind == "refund" and debit == self._revenue:
                report.refunded_nano += nano
        if resolutions != holds or posted > held:
            self._odd(request_id, holds, resolutions, held, posted)
        charge, loss = (None, None) if row is None else row[1:]
        report.charged_nano += charge or 0
        report.posted_nano += earned or 0
        report.loss_nano += lost or 0
        self._story(request_id, "post", earned, charge)
        self._story(request_id, "loss", lost, loss)

    def _odd(self, request_id: bytes, holds: int, resolutions: int, held: int, posted: int) -> None:
        name, report = request_id_text(request_id), self._report
        if resolutions == 0:
            self.unresolved.append(request_id)
        elif holds == 0:
            report.problem(f"{name} was resolved without a hold")
        elif resolutions != holds:
            report.problem(f"{name} has {holds} holds and {resolutions} resolutions")
        else:
            report.problem(f"{name} was posted for more than it held: {posted} of {held} nano")

    def _story(self, request_id: bytes, kind: str, booked: int | None, said: int | None) -> None:
        """Compare the usage row with what was booked."""
        name = request_id_text(request_id)
        if booked is None:
            if said:
                self._report.problem(f"{name} records {said} nano but has no {kind}")
        elif booked != said:
            what = "no usage row" if said is None else f"a usage row of {said} nano"
            self._report.problem(f"{name} has a {kind} of {booked} nano and {what}")


def _check_balances(
    connection: Connection, report: CheckReport, moved: defaultdict[int, int], holds: Sequence[OpenHold]
) -> None:
    """Compare every balance with its entries; empties `moved`."""
    held: defaultdict[int, int] = defaultdict(int)
    for hold in holds:
        for account_id in hold.account_ids:
            held[account_id] += hold.nano
    for account in balances(connection, ROWS_AT_ONCE):
        kind = account.kind
        name = f"account {account.account_id}" if kind in HELD_KINDS else account.code
        posted = moved.pop(account.account_id, 0)
        report.accounts += 1
        report.entries_sum_nano += account.posted_nano
        if kind == "customer":
            report.customers_posted_nano += account.posted_nano
            report.customers_held_nano += account.held_nano
        if account.posted_nano != posted:
            report.problem(f"{name} says {account.posted_nano} nano, its entries {posted}")
        if account.held_nano != held[account.account_id]:
            report.problem(f"{name} holds {account.held_nano} nano, its open holds {held[account.account_id]}")
        if kind in HELD_KINDS and account.available_nano < 0:
            report.problem(f"{name} is {-account.available_nano} nano below its credit line")
    for account_id in moved:
        report.problem(f"entries name account {account_id}, which does not exist")
    if report.entries_sum_nano:
        report.problem(f"the sum over all accounts is {report.entries_sum_nano} nano, not zero")


def _check_open_holds(connection: Connection, report: CheckReport, unresolved: Sequence[bytes]) -> list[OpenHold]:
    """The open holds; reports those that nobody owns."""
    live = set(connection.execute(select(workers.c.owner).where(workers.c.ended_ns.is_(None))).scalars())
    tasks = open_ids(connection)
    still_open = []
    for request_id in unresolved:
        name, hold = request_id_text(request_id), read_hold(connection, request_id)
        assert hold is not None
        still_open.append(hold)
        if hold.owner == TASKS and request_id not in tasks:
            report.problem(f"{name} holds {hold.nano} nano for a task that ended")
        elif hold.owner != TASKS and hold.owner not in live:
            report.problem(f"{name} holds {hold.nano} nano for a worker that is gone")
    report.open_holds = len(still_open)
    report.open_holds_nano = sum(hold.nano for hold in still_open)
    return still_open


class BillLine(msgspec.Struct, frozen=True):
    """A call whose bill differs from the ledger; `why` explains it."""

    request_id: bytes
    bill_nano: int
    charged_nano: int
    loss_nano: int
    why: str

    def text(self) -> str:
        """One line, in nano-USD."""
        parts = f"bill {self.bill_nano}, charged {self.charged_nano}, lost {self.loss_nano} nano"
        return f"{request_id_text(self.request_id)}: {parts}: {self.why}"


class ReconcileReport(msgspec.Struct):
    """If `unexplained` is empty, bill = charged + loss + unknown; `unknown` lists every call of that part."""

    bill_nano: int = 0
    charged_nano: int = 0
    loss_nano: int = 0
    unknown_nano: int = 0
    unknown: list[BillLine] = []
    unexplained: list[BillLine] = []

    @property
    def ok(self) -> bool:
        explained = self.charged_nano + self.loss_nano + self.unknown_nano
        return not self.unexplained and explained == self.bill_nano


def reconcile(connection: Connection, bill_lines: Iterable[tuple[bytes, int]]) -> ReconcileReport:
    """Explain the bill of an upstream that charges our prices. Its lines are (our request id, nano-USD), several for a
    call that was retried."""
    sql.take_time(connection)
    billed: defaultdict[bytes, int] = defaultdict(int)
    for request_id, nano in bill_lines:
        billed[request_id] += nano
    unknown = set(connection.execute(select(unknown_outcomes.c.request_id)).scalars())
    report = ReconcileReport(bill_nano=sum(billed.values()))
    for request_id, encoded in _rows(connection, select(requests.c.id, requests.c.record)):
        bill = billed.pop(request_id, 0)
        record = decode_record(encoded)
        # The operator sets the price of a cached answer; no upstream bills it.
        charged, loss = (0 if CACHED_FLAG in record.flags else record.charge_nano), record.loss_nano
        report.charged_nano += charged
        report.loss_nano += loss
        rest = bill - charged - loss
        tried_in_vain = any(attempt.fate == "unknown" for attempt in record.attempts)
        why = (ATTEMPT_CUT if tried_in_vain else WORKER_LOST if request_id in unknown else None) if rest > 0 else None
        _explain(report, request_id, bill, charged, loss, why)
    for request_id, bill in billed.items():
        _explain(report, request_id, bill, 0, 0, WORKER_LOST if request_id in unknown else None)
    return report


def _explain(
    report: ReconcileReport, request_id: bytes, bill: int, charged: int, loss: int, unknown: str | None
) -> None:
    """`unknown` is why the bill may exceed the ledger: nobody saw that outcome."""
    rest = bill - charged - loss
    if rest == 0:
        return
    if unknown is not None:
        report.unknown_nano += rest
        report.unknown.append(BillLine(request_id, bill, charged, loss, unknown))
        return
    why = "billed by the upstream, not booked here" if rest > 0 else "booked here, not billed by the upstream"
    report.unexplained.append(BillLine(request_id, bill, charged, loss, why))
