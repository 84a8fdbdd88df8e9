"""The lines of message batches for runners: leased, ended, put back, taken over, swept, counted and checked.

A line belongs to a runner while its state is `running` and its `worker` is that runner; every change requires both, so
only one of two claimants writes. Counts and the end of a batch change in the transaction of its lines.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, delete, func, select, update

from elkapi.storage import dialect as sql
from elkapi.storage import schema
from elkapi.storage.repos.batches import BatchRow
from elkapi.storage.repos.requests import decode_record
from elkapi.storage.repos.stored import within
from elkapi.types import IdempotencyClaim

_batches, _lines, _workers = schema.message_batches, schema.batch_lines, schema.workers
_b, _l = _batches.c, _lines.c

OPEN_OF_KEY_MAX = 10
ENDS = ("succeeded", "errored", "canceled", "expired")
# What is deleted in one transaction, which all calls wait for on SQLite: it writes every page that it frees.
BYTES_AT_ONCE = 4 * 1024 * 1024
_SIZE = func.coalesce(func.length(_l.request_sealed), 0) + func.coalesce(func.length(_l.result_sealed), 0)


class LeasedLine(msgspec.Struct, frozen=True):
    """A line for this worker to run. `resumed`: a worker that is gone had started it."""

    batch_id: bytes
    number: int
    request_sealed: bytes
    tries: int
    key_id: int
    key_digest: bytes
    headers: str
    resumed: bool = False


class EndedLine(msgspec.Struct, frozen=True):
    """How a line ended; its record and charge are stored under `request_id`."""

    batch_id: bytes
    number: int
    state: str
    result_sealed: bytes
    request_id: bytes | None


class PutBackLine(msgspec.Struct, frozen=True):
    """A line to be tried again later."""

    batch_id: bytes
    number: int
    tries: int
    not_before_ns: int


class OpenBatch(msgspec.Struct, frozen=True):
    """A batch with work to do; `ready` if a line of it can start now."""

    batch: BatchRow
    key_digest: bytes
    ready: bool


def open_batches(connection: Connection, limit: int, now_ns: int, after: bytes = b"") -> tuple[list[OpenBatch], bytes]:
    """(the oldest `limit` open batches after `after`, with at most OPEN_OF_KEY_MAX of a key; where to continue, b""
    after the last).

    `limit` bounds the work of one look. A key may have few enough open batches that continuing soon reaches all of
    them.
    """
    waiting = select(_l.line).where(_l.batch_id == _b.id, _l.state == "pending", _l.not_before_ns <= now_ns)
    query = select(_batches, schema.keys.c.digest, waiting.exists().label("ready"))
    query = query.join(schema.keys, schema.keys.c.id == _b.key_id).where(_b.is_done.is_(False), _b.id > after)
    rows = connection.execute(query.order_by(_b.id).limit(limit)).mappings().all()
    found, of_key = [], Counter[int]()
    for row in rows:
        fields = dict(row)
        digest, ready = fields.pop("digest"), bool(fields.pop("ready"))
        of_key[row["key_id"]] += 1
        if of_key[row["key_id"]] <= OPEN_OF_KEY_MAX:
            found.append(OpenBatch(BatchRow(**fields), digest, ready))
    return found, bytes(rows[-1]["id"]) if len(rows) == limit else b""


# Leases


def lease(connection: Connection, batch_id: bytes, worker: bytes, count: int, now_ns: int) -> list[LeasedLine]:
    """Lease up to `count` free lines to this worker; none of a batch that is being cancelled."""
    going = select(_b.id).where(_b.id == batch_id, _b.status == "in_progress", _b.expires_ns > now_ns)
    wanted = (
        select(_l.line)
        .where(_l.batch_id == batch_id, _l.state == "pending", _l.not_before_ns <= now_ns, going.exists())
        .order_by(_l.line)
        .limit(count)
    )
    numbers = connection.execute(sql.for_update(wanted, skip_locked=True)).scalars().all()
    if not numbers:
        return []
    taken = update(_lines).where(_l.batch_id == batch_id, _l.line.in_(numbers), _l.state == "pending")
    connection.execute(taken.values(state="running", worker=worker))
    return _leased(connection, batch_id, numbers, resumed=False)


def is_any_left(connection: Connection, worker: bytes) -> bool:
    """Whether any line can be taken over."""
    return connection.execute(_left_behind(worker).limit(1)).first() is not None


def _left_behind(worker: bytes) -> Select[tuple[bytes, int]]:
    alive = select(_workers.c.owner).where(_workers.c.ended_ns.is_(None))
    return select(_l.batch_id, _l.line).where(_l.state == "running", _l.worker != worker, _l.worker.not_in(alive))


def take_over(connection: Connection, worker: bytes, count: int) -> list[LeasedLine]:
    """Take over up to `count` lines of workers that are gone."""
    # Unordered: with an order, SQLite would scan the lines of all batches.
    left = connection.execute(sql.for_update(_left_behind(worker).limit(count), skip_locked=True)).all()
    found: defaultdict[bytes, list[int]] = defaultdict(list)
    for batch_id, number in sorted(tuple(line) for line in left):
        found[batch_id].append(number)
    taken: list[LeasedLine] = []
    for batch_id, numbers in found.items():
        mine = update(_lines).where(_l.batch_id == batch_id, _l.line.in_(numbers), _l.state == "running")
        connection.execute(mine.values(worker=worker))
        taken += _leased(connection, batch_id, numbers, resumed=True)
    return taken


def own(connection: Connection, worker: bytes) -> list[LeasedLine]:
    """Every line that the table assigns to this worker, for checking: it may have been started, or not."""
    mine: defaultdict[bytes, list[int]] = defaultdict(list)
    running = select(_l.batch_id, _l.line).where(_l.state == "running", _l.worker == worker)
    for batch_id, number in connection.execute(running):
        mine[batch_id].append(number)
    return [line for batch_id in mine for line in _leased(connection, batch_id, mine[batch_id], resumed=True)]


def _leased(connection: Connection, batch_id: bytes, numbers: Sequence[int], *, resumed: bool) -> list[LeasedLine]:
    keys = schema.keys.c
    query = (
        select(_l.batch_id, _l.line, _l.request_sealed, _l.tries, _b.key_id, keys.digest, _b.headers)
        .join(_batches, _b.id == _l.batch_id)
        .join(schema.keys, keys.id == _b.key_id)
        .where(_l.batch_id == batch_id, _l.line.in_(numbers))
        .order_by(_l.line)
    )
    return [LeasedLine(*row, resumed) for row in connection.execute(query)]


def put_back(connection: Connection, lines: Iterable[PutBackLine], worker: bytes) -> None:
    """Release the line; it may start again from `not_before_ns` on."""
    for line in lines:
        mine = update(_lines).where(_l.batch_id == line.batch_id, _l.line == line.number, _l.worker == worker)
        connection.execute(
            mine.where(_l.state == "running").values(
                state="pending", worker=None, tries=line.tries, not_before_ns=line.not_before_ns
            )
        )


def wait_no_longer(connection: Connection, now_ns: int) -> None:
    """Let waiting lines start at once, because the clock they wait by was set back."""
    going = select(_b.id).where(_b.is_done.is_(False))
    late = update(_lines).where(_l.batch_id.in_(going), _l.state == "pending", _l.not_before_ns > now_ns)
    connection.execute(late.values(not_before_ns=now_ns))


def find_claim(connection: Connection, key_id: int, operation: str, name: str) -> tuple[IdempotencyClaim, bytes] | None:
    """(claim, id of the call that took it) for a line that reached the ledger, or None."""
    c = schema.idempotency.c
    row = connection.execute(
        select(c.fingerprint, c.request_id).where(
            c.key_id == key_id, c.operation == operation, c.idempotency_key == name
        )
    ).one_or_none()
    return None if row is None else (IdempotencyClaim(key_id, operation, name, row[0]), row[1])


# Ends


def end_lines(connection: Connection, lines: Sequence[EndedLine], worker: bytes, now_ns: int) -> None:
    """Store results; lines that now belong to another runner are left alone. The last line of a batch ends it."""
    counts: defaultdict[bytes, Counter[str]] = defaultdict(Counter)
    for line in sorted(lines, key=lambda line: (line.batch_id, line.number)):
        mine = update(_lines).where(
            _l.batch_id == line.batch_id, _l.line == line.number, _l.state == "running", _l.worker == worker
        )
        values = {"state": line.state, "result_sealed": line.result_sealed, "request_id": line.request_id}
        if connection.execute(mine.values(**values, request_sealed=None, worker=None)).rowcount:
            counts[line.batch_id][line.state] += 1
    for batch_id in sorted(counts):
        _count(connection, batch_id, counts[batch_id], now_ns)


def end_unbegun(
    connection: Connection,
    batch_id: bytes,
    state: str,
    rows_max: int,
    now_ns: int,
    *,
    bytes_max: int = BYTES_AT_ONCE,
) -> int:
    """End free lines as canceled or expired, as many as fit both limits and at least one; returns how many."""
    free = (_l.batch_id == batch_id, _l.state == "pending")
    wanted = select(_l.line, _SIZE).where(*free).order_by(_l.line).limit(rows_max)
    numbers = within(connection.execute(sql.for_update(wanted, skip_locked=True)), bytes_max)
    if numbers:
        among = (_l.batch_id == batch_id, _l.line >= numbers[0], _l.line <= numbers[-1], _l.state == "pending")
        ended = connection.execute(update(_lines).where(*among).values(state=state, request_sealed=None)).rowcount
        _count(connection, batch_id, Counter({state: ended}), now_ns)
    return len(numbers)


def _count(connection: Connection, batch_id: bytes, counts: Counter[str], now_ns: int) -> None:
    done = {state: _b[state] + counts[state] for state in ENDS if counts[state]}
    connection.execute(update(_batches).where(_b.id == batch_id).values(done))
    ended = update(_batches).where(
        _b.id == batch_id,
        _b.status.in_(("in_progress", "canceling")),
        _b.succeeded + _b.errored + _b.canceled + _b.expired == _b.total,
    )
    connection.execute(ended.values(status="ended", ended_ns=now_ns))


# After the end


class Uncharged(msgspec.Struct):
    """Lines of an ended batch that succeeded without a charge: how many, and the call of the first."""

    lines: int = 0
    first_request_id: bytes | None = None


def find_uncharged(connection: Connection, batch_id: bytes, after: int, rows_max: int) -> tuple[Uncharged, int | None]:
    """(what is missing, the last line checked) among the next succeeded lines; None if there are no more.

    A line is in order if its record states what it cost the customer or the operator, or that it cost nothing.
    """
    r = schema.requests.c
    query = (
        select(_l.line, _l.request_id, r.record)
        .outerjoin(schema.requests, r.id == _l.request_id)
        .where(_l.batch_id == batch_id, _l.line > after, _l.state == "succeeded")
        .order_by(_l.line)
        .limit(rows_max)
    )
    found, last = Uncharged(), None
    for number, request_id, encoded in connection.execute(query):
        last = number
        record = None if encoded is None else decode_record(encoded)
        if record is None or (record.hold_nano and not (record.charge_nano or record.loss_nano)):
            found.lines += 1
            found.first_request_id = found.first_request_id or request_id
    return found, last


def close_batch(connection: Connection, batch_id: bytes) -> None:
    """Mark an ended batch as finished: a runner has nothing left to do."""
    connection.execute(update(_batches).where(_b.id == batch_id, _b.status == "ended").values(is_done=True))


def remove(connection: Connection, batch_id: bytes, rows_max: int, *, bytes_max: int = BYTES_AT_ONCE) -> bool:
    """Delete lines of a batch that is deleted or was never started, as many as fit both limits, and with the last of
    them the batch; returns whether any are left."""
    if _remove_lines(connection, batch_id, rows_max, bytes_max):
        return True
    connection.execute(delete(_batches).where(_b.id == batch_id, _b.status.in_(("deleted", "staging"))))
    return False


def is_any_kept_since(connection: Connection, before_ns: int) -> bool:
    """Whether a batch that ended before then still has its results."""
    return connection.execute(select(_b.id).where(*_kept_since(before_ns)).limit(1)).first() is not None


def _kept_since(before_ns: int) -> tuple[ColumnElement[bool], ...]:
    return _b.archived_ns.is_(None), _b.ended_ns < before_ns, _b.status == "ended"


def archive(
    connection: Connection, before_ns: int, rows_max: int, now_ns: int, *, bytes_max: int = BYTES_AT_ONCE
) -> None:
    """Delete results of a batch that ended before then, if there is one, of as many lines as fit both limits."""
    due = select(_b.id).where(*_kept_since(before_ns))
    batch_id = connection.execute(due.order_by(_b.ended_ns).limit(1)).scalar()
    if batch_id is not None and not _remove_lines(connection, batch_id, rows_max, bytes_max):
        connection.execute(update(_batches).where(_b.id == batch_id).values(archived_ns=now_ns))


def _remove_lines(connection: Connection, batch_id: bytes, rows_max: int, bytes_max: int) -> bool:
    """Delete the first lines, as many as fit both limits and at least one; returns whether any may be left."""
    first = select(_l.line, _SIZE).where(_l.batch_id == batch_id).order_by(_l.line).limit(rows_max)
    found = connection.execute(first).all()
    numbers = within(found, bytes_max)
    if numbers:
        connection.execute(delete(_lines).where(_l.batch_id == batch_id, _l.line <= numbers[-1]))
    return len(numbers) == rows_max or len(numbers) < len(found)
