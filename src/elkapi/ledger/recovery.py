"""Releases the holds of workers that are gone and lists those calls; holds of live workers are never touched.

A worker is gone if it said so, if the supervisor saw its process end (`mark_dead`), or if its heartbeat did not move
for heartbeat_lost_s while others' did. Its unresolved holds expire back to the customer, each listed in
`unknown_outcomes`, because it is unknown whether the upstream billed the call. Its open idempotency keys become
`unknown`. Tasks that it was submitting or polling keep their holds and pass to a poller.

Its row stays for another heartbeat_lost_s and is checked a second time, since a hold sent just before its end may still
have been on its way to the disk. A heartbeat of 0 marks that the first check was made.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Collection, Mapping

import msgspec
from sqlalchemy import Connection, case, delete, func, select, update

from elkapi.clock import Clock
from elkapi.ledger import transfers as entries
from elkapi.settings import Settings
from elkapi.storage import dialect as sql
from elkapi.storage.db import Database
from elkapi.storage.repos import tasks
from elkapi.storage.repos.stored import fail_running
from elkapi.storage.schema import accounts, idempotency, transfers, unknown_outcomes, workers
from elkapi.testing.crash import point

log = logging.getLogger("elkapi.ledger")

LOOKED_AT = 0
LOOKS_MIN = 4
_BEATS = sql.Look(select(workers.c.owner, workers.c.heartbeat_ns, workers.c.ended_ns))


class OpenHold(msgspec.Struct, frozen=True):
    """An unresolved hold; `legs` are (account, counter account) in the order's order."""

    request_id: bytes
    owner: bytes
    key_id: int
    model: str
    nano: int
    legs: tuple[tuple[int, int], ...]

    @property
    def account_ids(self) -> tuple[int, ...]:
        return tuple(account for account, _ in self.legs)


class UnknownCall(msgspec.Struct, frozen=True):
    """A call with an attempt whose outcome at the upstream is unknown; `held_nano` was held for it."""

    request_id: bytes
    key_id: int
    model: str
    held_nano: int
    reason: str
    created_ns: int


class RecoveryReport(msgspec.Struct):
    """What one recovery did: workers that are gone and how many of them fell silent, expired holds and their sum in
    nano-USD, claims with an unknown outcome, background responses that failed."""

    workers: int = 0
    silent: int = 0
    holds: int = 0
    nano: int = 0
    claims_unknown: int = 0
    answers_failed: int = 0
    expired: list[OpenHold] = []

    @property
    def is_news(self) -> bool:
        """Whether there is anything to report; a worker that ended properly and left nothing is not."""
        return bool(self.silent or self.holds or self.claims_unknown or self.answers_failed)

    def text(self) -> str:
        """One line for the log."""
        return (
            f"{counted(self.workers, 'worker')} gone, {counted(self.holds, 'hold')} of {self.nano} nano released, "
            f"{counted(self.claims_unknown, 'idempotent call')} unknown"
        )


def counted(number: int, what: str) -> str:
    """`1 hold`, `2 holds`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def open_holds(connection: Connection, owners: Collection[bytes] | None = None) -> list[OpenHold]:
    """Every unresolved hold, or those of these owners, oldest first; looks no further back than `scan_from`.

    Holds of tasks are not included: they are found by their tasks, whatever their age.
    """
    # ORDER BY instead of min(), which PostgreSQL lacks for bytes before version 18.
    known = select(workers.c.scan_from).order_by(workers.c.scan_from).limit(1)
    if owners is not None:
        known = known.where(workers.c.owner.in_(owners))
    scan_from = connection.execute(known).scalar()
    return [] if scan_from is None else _open_holds_from(connection, scan_from, owners)


def standing_holds(connection: Connection) -> list[OpenHold]:
    """Every open hold, oldest first: of calls in progress, and of open tasks whatever their age."""
    found = {hold.request_id: hold for hold in open_holds(connection)}
    for task_id in tasks.open_ids(connection) - found.keys():
        if (hold := read_hold(connection, task_id)) is not None:
            found[task_id] = hold
    return [found[request_id] for request_id in sorted(found)]


def _open_holds_from(connection: Connection, scan_from: bytes, owners: Collection[bytes] | None) -> list[OpenHold]:
    t = transfers.c
    request = func.substr(t.id, 1, 16)
    resolutions = func.sum(case((t.kind.in_(entries.RESOLUTIONS), 1), else_=0))
    candidates = (
        select(request)
        .where(t.id >= scan_from, t.kind.in_(entries.RESOLUTIONS | {"hold"}))
        .group_by(request)
        .having(resolutions == 0)
        .order_by(request)
    )
    found = [read_hold(connection, request_id) for request_id in connection.execute(candidates).scalars()]
    return [hold for hold in found if hold is not None and (owners is None or hold.owner in owners)]


def unknown_calls(connection: Connection, *, limit: int, after: bytes = b"") -> list[UnknownCall]:
    """Up to `limit` calls of `unknown_outcomes` after `after`, oldest first."""
    c = unknown_outcomes.c
    columns = [c[name] for name in UnknownCall.__struct_fields__]
    query = select(*columns).where(c.request_id > after).order_by(c.request_id).limit(limit)
    return [UnknownCall(*row) for row in connection.execute(query)]


def read_hold(connection: Connection, request_id: bytes) -> OpenHold | None:
    """A request's hold as it was made, resolved or not; None if there is none."""
    t = transfers.c
    low, high = entries.entries_range(request_id, entries.HOLD_STEP)
    rows = connection.execute(
        select(t.owner, t.key_id, t.note, t.nano, t.debit_account, t.credit_account)
        .where(t.id.between(low, high))
        .order_by(t.id)
    ).all()
    if not rows:
        return None
    owner, key_id, model, nano, *_ = rows[0]
    return OpenHold(request_id, owner or b"", key_id or 0, model or "", nano, tuple((row[4], row[5]) for row in rows))


def mark_dead(connection: Connection, owner: bytes, now_ns: int) -> None:
    """Record that the supervisor saw this worker's process end."""
    statement = update(workers).where(workers.c.owner == owner, workers.c.ended_ns.is_(None))
    connection.execute(statement, {"ended_ns": now_ns})


def behind_heartbeats_s(connection: Connection, now_ns: int) -> float:
    """Seconds by which this clock is behind the newest heartbeat of any worker; negative if it is ahead."""
    newest = connection.execute(select(func.max(func.coalesce(workers.c.ended_ns, workers.c.heartbeat_ns)))).scalar()
    return -math.inf if newest is None else (newest - now_ns) / 1e9


def _beats(connection: sql.LookConnection) -> list[tuple[bytes, int, int | None]]:
    """(owner, heartbeat, end) of every worker."""
    return [(owner, beat, ended) for owner, beat, ended in _BEATS.rows(connection)]


def gone_workers(connection: Connection, now_ns: int, settings: Settings) -> dict[bytes, int]:
    """Owners that ended, or whose heartbeat is older than heartbeat_lost_s by this clock, and are due for a check;
    each with the heartbeat that was read."""
    lost_ns = now_ns - round(settings.heartbeat_lost_s * 1e9)
    beats = _beats(connection)
    return {
        owner: beat for owner, beat, ended in beats if (beat < lost_ns if ended is None else _due(beat, ended, lost_ns))
    }


def _due(beat_ns: int, ended_ns: int, lost_ns: int) -> bool:
    """Whether an ended worker is due for its first check, or for its second and last one."""
    return beat_ns != LOOKED_AT or ended_ns < lost_ns


def recover(connection: Connection, now_ns: int, settings: Settings) -> RecoveryReport:
    """Resolve what gone workers left behind, in the caller's transaction; safe to repeat."""
    gone = gone_workers(connection, now_ns, settings)
    return recover_owners(connection, gone, now_ns, gone)


def recover_owners(
    connection: Connection, owners: Collection[bytes], now_ns: int, seen_ns: Mapping[bytes, int] | None = None
) -> RecoveryReport:
    """As `recover`, for these owners; an owner whose heartbeat moved on from `seen_ns` is alive."""
    report = RecoveryReport()
    if not owners:
        return report
    w = workers.c
    # With this lock a worker that comes back at this moment must wait with its heartbeat, and so with new holds.
    wanted = select(w.owner, w.heartbeat_ns, w.ended_ns).where(w.owner.in_(owners)).order_by(w.owner)
    locked = connection.execute(sql.for_update(wanted)).all()
    owners = {owner for owner, beat, _ in locked if seen_ns is None or seen_ns.get(owner) == beat}
    looked_at = {owner for owner, beat, _ in locked if beat == LOOKED_AT} & owners
    report.silent = sum(owner in owners for owner, _, ended in locked if ended is None)
    holds = open_holds(connection, owners)
    expired = [hold for hold in holds if _expire(connection, hold, now_ns)]
    c = idempotency.c
    unknown = update(idempotency).where(c.owner.in_(owners), c.state == "open").values(state="unknown")
    report.claims_unknown = connection.execute(unknown).rowcount
    # Background responses of these workers will never complete.
    report.answers_failed = fail_running(connection, owners)
    # Tasks keep their holds: a poller continues them, books their ends and reports them.
    tasks.release(connection, owners)
    tasks.leave_to_pollers(connection, owners)
    _release(connection, expired)
    first = owners - looked_at
    ended = {"heartbeat_ns": LOOKED_AT, "ended_ns": func.coalesce(w.ended_ns, now_ns)}
    connection.execute(update(workers).where(w.owner.in_(first)).values(ended))
    connection.execute(delete(workers).where(w.owner.in_(looked_at)))
    point("ledger.recover.before_commit")
    report.workers, report.holds, report.expired = len(first), len(expired), expired
    report.nano = sum(hold.nano for hold in expired)
    return report


def _expire(connection: Connection, hold: OpenHold, now_ns: int) -> bool:
    """Insert the resolution and the report line; False if the hold has been resolved meanwhile."""
    rows = [
        msgspec.structs.asdict(entries.expire(hold.request_id, leg, account, counter, hold.nano, now_ns))
        for leg, (account, counter) in enumerate(hold.legs)
    ]
    if sql.upsert(connection, transfers, rows, key=["id"]) != len(rows):
        return False
    line = UnknownCall(hold.request_id, hold.key_id, hold.model, hold.nano, "worker_lost", now_ns)
    sql.upsert(connection, unknown_outcomes, msgspec.structs.asdict(line), key=["request_id"])
    return True


def _release(connection: Connection, expired: list[OpenHold]) -> None:
    back: defaultdict[int, int] = defaultdict(int)
    for hold in expired:
        for account, _ in hold.legs:
            back[account] += hold.nano
    c = accounts.c
    for account in sorted(back):
        connection.execute(update(accounts).where(c.id == account).values(held_nano=c.held_nano - back[account]))


class Recoverer:
    """Watches heartbeats from inside a process and recovers; the writer's thread calls `tick` every few seconds.

    A heartbeat counts as stopped once it stood still for heartbeat_lost_s of this process's running time. Only
    intervals in which another heartbeat moved count, each for at most a fourth of that: after a machine slept, or while
    a database is unreachable, locked or full, all heartbeats are old and nobody is dead. If no heartbeat moves, nobody
    can spend either, and the next worker's first heartbeat is a move.
    """

    def __init__(self, database: Database, settings: Settings, clock: Clock) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._looked_s = clock.monotonic_s()
        # Per owner: its heartbeat, and the seconds for which it stood still while others moved.
        self._seen: dict[bytes, tuple[int, float]] = {}

    def tick(self) -> None:
        """Check the heartbeats and recover if somebody is gone. Raises Unavailable."""
        beats = self._database.look(_beats)
        if not (gone := self._gone(beats)):
            return
        started_s = time.perf_counter()
        with self._database.write() as connection:
            seen_ns = {owner: beat for owner, beat, _ in beats}
            report = recover_owners(connection, gone, self._clock.now_ns(), seen_ns)
        if report.is_news:
            log.warning("recovery: %s (%.0f ms)", report.text(), (time.perf_counter() - started_s) * 1000)

    def _gone(self, beats: list[tuple[bytes, int, int | None]]) -> list[bytes]:
        lost_s = self._settings.heartbeat_lost_s
        now_s = self._clock.monotonic_s()
        passed_s, self._looked_s = min(now_s - self._looked_s, lost_s / LOOKS_MIN), now_s
        still = {owner for owner, beat, _ in beats if owner in self._seen and self._seen[owner][0] == beat}
        if not any(ended is None and owner not in still for owner, _, ended in beats):
            passed_s = 0.0
        still_s = {owner: self._seen[owner][1] + passed_s for owner in still}
        self._seen = {owner: (beat, still_s.get(owner, 0.0)) for owner, beat, _ in beats}
        lost_ns = self._clock.now_ns() - round(lost_s * 1e9)
        return [
            owner
            for owner, beat, ended in beats
            if (self._seen[owner][1] >= lost_s if ended is None else _due(beat, ended, lost_ns))
        ]
