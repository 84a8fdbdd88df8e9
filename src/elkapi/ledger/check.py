"""Recomputes the books from their entries and says where anything differs; it changes nothing.

What must hold: cached balances equal the entries; the sum over all accounts is zero; every hold is resolved once,
whole, for no more than it reserved, or belongs to a live worker or an open task; no customer is below the credit
line; usage rows, posts and losses tell the same story call by call. `reconcile` lays an upstream's bill beside it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec
from sqlalchemy import ColumnElement, Connection, Subquery, case, func, or_, select

from elkapi.ids import request_id_text
from elkapi.ledger import transfers as entries
from elkapi.ledger.accounts import HELD_KINDS, OPERATOR_LOSS, REVENUE, Balance, balances
from elkapi.ledger.orders import TASKS
from elkapi.ledger.recovery import OpenHold, read_hold
from elkapi.money import format_usd
from elkapi.storage import dialect as sql
from elkapi.storage.repos.requests import decode_record
from elkapi.storage.repos.tasks import open_ids
from elkapi.storage.schema import requests, transfers, unknown_outcomes, workers
from elkapi.types import CACHED_FLAG

PROBLEMS_MAX = 100

WORKER_LOST = "outcome unknown: the worker ended before it was written"
ATTEMPT_CUT = "outcome unknown: an attempt went out and no whole answer came back"


class CheckReport(msgspec.Struct):
    """The books in numbers (nano-USD), and every invariant that does not hold, in words; empty `problems` is good."""

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
        """For people: the numbers, then the problems."""
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
        return [*found, "the books are in order" if self.ok else "the books are NOT in order"]


def check(connection: Connection) -> CheckReport:
    """Every invariant over one moment of the database: pass a read transaction that sees a single snapshot."""
    sql.take_time(connection)
    report = CheckReport()
    known = balances(connection)
    holds = _check_holds(connection, report)
    _check_balances(connection, report, known, holds)
    ids = {account.code: account.account_id for account in known}
    _check_story(connection, report, "post", ids.get(REVENUE), None)
    _check_story(connection, report, "loss", None, ids.get(OPERATOR_LOSS))
    t = transfers.c
    refunded = select(func.coalesce(func.sum(t.nano), 0)).where(t.kind == "refund", t.debit_account == ids.get(REVENUE))
    report.refunded_nano = int(connection.execute(refunded).scalar_one())
    report.unknown_outcomes, report.unknown_outcomes_nano = connection.execute(
        select(func.count(), func.coalesce(func.sum(unknown_outcomes.c.held_nano), 0)).select_from(unknown_outcomes)
    ).one()
    report.unknown_outcomes_nano = int(report.unknown_outcomes_nano)
    return report


def _check_balances(
    connection: Connection, report: CheckReport, known: Sequence[Balance], holds: Sequence[OpenHold]
) -> None:
    posted = _movements(connection)
    held: defaultdict[int, int] = defaultdict(int)
    for hold in holds:
        for account_id in hold.account_ids:
            held[account_id] += hold.nano
    report.accounts = len(known)
    report.entries = connection.execute(select(func.count()).select_from(transfers)).scalar_one()
    for account in known:
        name, kind = account.code, account.kind
        report.entries_sum_nano += account.posted_nano
        if kind == "customer":
            report.customers_posted_nano += account.posted_nano
            report.customers_held_nano += account.held_nano
        if account.posted_nano != posted[account.account_id]:
            report.problem(f"{name} says {account.posted_nano} nano, its entries {posted[account.account_id]}")
        if account.held_nano != held[account.account_id]:
            report.problem(f"{name} holds {account.held_nano} nano, its open holds {held[account.account_id]}")
        if kind in HELD_KINDS and account.available_nano < 0:
            report.problem(f"{name} is {-account.available_nano} nano below its credit line")
    for account_id in posted.keys() - {account.account_id for account in known}:
        report.problem(f"entries name account {account_id}, which does not exist")
    if report.entries_sum_nano:
        report.problem(f"the sum over all accounts is {report.entries_sum_nano} nano, not zero")


def _movements(connection: Connection) -> defaultdict[int, int]:
    t = transfers.c
    moved: defaultdict[int, int] = defaultdict(int)
    for column, sign in ((t.debit_account, -1), (t.credit_account, 1)):
        totals = select(column, func.sum(t.nano)).where(t.kind.in_(entries.MOVES)).group_by(column)
        for account, nano in connection.execute(totals):
            moved[account] += sign * int(nano)
    return moved


def _per_request() -> Subquery:
    t = transfers.c

    def count(condition: ColumnElement[bool]) -> ColumnElement[int]:
        return func.sum(case((condition, 1), else_=0))

    def total(kind: str) -> ColumnElement[int]:
        return func.sum(case((t.kind == kind, t.nano), else_=0))

    request = func.substr(t.id, 1, 16)
    return (
        select(
            request.label("request_id"),
            count(t.kind == "hold").label("holds"),
            count(t.kind.in_(entries.RESOLUTIONS)).label("resolutions"),
            total("hold").label("held"),
            total("post").label("posted"),
        )
        .where(t.kind.in_(entries.RESOLUTIONS | {"hold"}))
        .group_by(request)
        .subquery()
    )


def _check_holds(connection: Connection, report: CheckReport) -> list[OpenHold]:
    """The open holds; complains about resolutions that do not fit and about holds nobody owns."""
    p = _per_request()
    odd = select(p).where(or_(p.c.resolutions != p.c.holds, p.c.posted > p.c.held))
    live = set(connection.execute(select(workers.c.owner).where(workers.c.ended_ns.is_(None))).scalars())
    tasks = open_ids(connection)
    still_open = []
    for row in connection.execute(odd).all():
        name = request_id_text(row.request_id)
        if row.resolutions == 0:
            hold = read_hold(connection, row.request_id)
            assert hold is not None
            still_open.append(hold)
            if hold.owner == TASKS and row.request_id not in tasks:
                report.problem(f"{name} holds {hold.nano} nano for a task that ended")
            elif hold.owner != TASKS and hold.owner not in live:
                report.problem(f"{name} holds {hold.nano} nano for a worker that is gone")
        elif row.holds == 0:
            report.problem(f"{name} was resolved without a hold")
        elif row.resolutions != row.holds:
            report.problem(f"{name} has {row.holds} holds and {row.resolutions} resolutions")
        else:
            report.problem(f"{name} was posted for more than it held: {row.posted} of {row.held} nano")
    report.open_holds = len(still_open)
    report.open_holds_nano = sum(hold.nano for hold in still_open)
    return still_open


def _check_story(connection: Connection, report: CheckReport, kind: str, credit: int | None, debit: int | None) -> None:
    """Usage rows against posts, or against losses, call by call."""
    t = transfers.c
    column = requests.c.charge_nano if kind == "post" else requests.c.loss_nano
    request = func.substr(t.id, 1, 16)
    wanted = t.kind == kind
    if credit is not None:
        wanted = wanted & (t.credit_account == credit)
    if debit is not None:
        wanted = wanted & (t.debit_account == debit)
    back = (t.kind == "reverse") & (t.debit_account == credit)
    nano = func.sum(case((t.kind == "reverse", -t.nano), else_=t.nano)).label("nano")
    booked = select(request.label("id"), nano).where(or_(wanted, back)).group_by(request).subquery()
    said = connection.execute(select(func.coalesce(func.sum(column), 0))).scalar_one()
    done = connection.execute(select(func.coalesce(func.sum(booked.c.nano), 0))).scalar_one()
    if kind == "post":
        report.charged_nano, report.posted_nano = int(said), int(done)
    else:
        report.loss_nano = int(done)
    orphans = (
        select(booked.c.id, booked.c.nano, column)
        .select_from(booked.outerjoin(requests, requests.c.id == booked.c.id))
        .where(or_(requests.c.id.is_(None), column != booked.c.nano))
    )
    for request_id, nano, amount in connection.execute(orphans).all():
        what = "no usage row" if amount is None else f"a usage row of {amount} nano"
        report.problem(f"{request_id_text(request_id)} has a {kind} of {nano} nano and {what}")
    unbooked = (
        select(requests.c.id, column)
        .select_from(requests.outerjoin(booked, requests.c.id == booked.c.id))
        .where(column > 0, booked.c.id.is_(None))
    )
    for request_id, amount in connection.execute(unbooked).all():
        report.problem(f"{request_id_text(request_id)} says {amount} nano and has no {kind}")


class BillLine(msgspec.Struct, frozen=True):
    """A call whose bill and books differ; `why` says how."""

    request_id: bytes
    bill_nano: int
    charged_nano: int
    loss_nano: int
    why: str

    def text(self) -> str:
        parts = f"billed {self.bill_nano}, charged {self.charged_nano}, lost {self.loss_nano} nano"
        return f"{request_id_text(self.request_id)}: {parts}: {self.why}"


class ReconcileReport(msgspec.Struct):
    """bill = charged + loss + unknown when `unexplained` is empty; `unknown` lists every call of that part."""

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
    """Explain the bill of an upstream whose prices are ours.

    Its lines are (our request id, nano-USD), several to a call where it was tried again.
    """
    sql.take_time(connection)
    billed: defaultdict[bytes, int] = defaultdict(int)
    for request_id, nano in bill_lines:
        billed[request_id] += nano
    unknown = set(connection.execute(select(unknown_outcomes.c.request_id)).scalars())
    report = ReconcileReport(bill_nano=sum(billed.values()))
    for request_id, encoded in connection.execute(select(requests.c.id, requests.c.record)):
        bill = billed.pop(request_id, 0)
        record = decode_record(encoded)
        # What a cached answer costs is the operator's to set; no upstream bills it.
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
    """`unknown` says why what is billed beyond the books may be: nobody saw that outcome."""
    rest = bill - charged - loss
    if rest == 0:
        return
    if unknown is not None:
        report.unknown_nano += rest
        report.unknown.append(BillLine(request_id, bill, charged, loss, unknown))
        return
    why = "billed, and nothing here says why" if rest > 0 else "booked, and the upstream did not bill it"
    report.unexplained.append(BillLine(request_id, bill, charged, loss, why))
