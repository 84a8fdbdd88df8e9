"""Message batches for their owners: created in pieces, shown, listed, cancelled, deleted, read line by line.

What runners do with lines is in `batch_lines`. Every query here carries its owner (CVE-2026-30886).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, RowMapping, func, literal_column, select, update

from elkapi.storage import dialect as sql
from elkapi.storage import schema
from elkapi.storage.repos import keys, versions

_batches, _lines = schema.message_batches, schema.batch_lines
_b, _l = _batches.c, _lines.c

SHOWN = ("in_progress", "canceling", "ended")


class BatchRow(msgspec.Struct, frozen=True, kw_only=True):
    """A batch; times in Unix nanoseconds. `done` lines have a result; the others of `total` are in progress."""

    id: bytes
    owner_id: int
    key_id: int
    status: str
    total: int
    created_ns: int
    expires_ns: int
    headers: str
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0
    cancel_ns: int | None = None
    ended_ns: int | None = None
    archived_ns: int | None = None
    is_done: bool = False
    idempotency_key: str | None = None
    fingerprint: bytes | None = None

    @property
    def done(self) -> int:
        return self.succeeded + self.errored + self.canceled + self.expired


class NewLine(msgspec.Struct, frozen=True):
    """One request of a batch that is being created."""

    number: int
    custom_id: str
    request_sealed: bytes


class ResultRow(msgspec.Struct, frozen=True):
    """One line of an ended batch; `result_sealed` is None if the state says everything."""

    number: int
    custom_id: str
    state: str
    result_sealed: bytes | None


def request_context(batch_id: bytes, number: int) -> bytes:
    """The context that a sealed request is bound to."""
    return b"batch_lines.request\0" + batch_id + number.to_bytes(4)


def result_context(batch_id: bytes, number: int) -> bytes:
    """The context that a sealed result is bound to."""
    return b"batch_lines.result\0" + batch_id + number.to_bytes(4)


# Making


class NoRoom(Exception):
    """This key has `count` open batches, with `waiting` open lines."""

    def __init__(self, count: int, waiting: int) -> None:
        super().__init__(count, waiting)
        self.count = count
        self.waiting = waiting


def add_staging(connection: Connection, batch: BatchRow, *, open_max: int, lines_max: int) -> bool:
    """Create a batch that is not visible yet; False if its Idempotency-Key is taken.

    Raises NoRoom if its key would have more than `open_max` open batches or `lines_max` open lines.
    """
    keys.take_turns(connection, batch.key_id)
    count, waiting = open_work(connection, batch.key_id)
    if count >= open_max or waiting + batch.total > lines_max:
        raise NoRoom(count, waiting)
    row = msgspec.structs.asdict(batch) | {"status": "staging"}
    return sql.upsert(connection, _batches, row, key=["key_id", "idempotency_key"]) == 1


def add_lines(connection: Connection, batch_id: bytes, lines: Sequence[NewLine]) -> None:
    """Add lines to a batch that is being created."""
    rows = [
        {
            "batch_id": batch_id,
            "line": line.number,
            "custom_id": line.custom_id,
            "state": "pending",
            "request_sealed": line.request_sealed,
            "tries": 0,
            "not_before_ns": 0,
        }
        for line in lines
    ]
    connection.execute(_lines.insert(), rows)


def begin(connection: Connection, batch_id: bytes) -> bool:
    """Make a complete batch visible to its owner and to runners. False if it was given up."""
    begun = update(_batches).where(_b.id == batch_id, _b.status == "staging").values(status="in_progress")
    if connection.execute(begun).rowcount != 1:
        return False
    versions.bump(connection, routing=False)
    return True


def give_up(connection: Connection, batch_id: bytes) -> None:
    """Give up a batch that could not be written completely; a runner deletes its lines."""
    given_up = update(_batches).where(_b.id == batch_id, _b.status == "staging")
    connection.execute(given_up.values(status="deleted", idempotency_key=None))


def open_work(connection: Connection, key_id: int) -> tuple[int, int]:
    """How many open batches this key has, and how many open lines they have."""
    done = _b.succeeded + _b.errored + _b.canceled + _b.expired
    # The sum keeps both databases from using an index of keys, which would read every batch that the key ever had.
    waiting = select(func.count(), func.coalesce(func.sum(_b.total - done), 0)).where(
        _b.key_id + literal_column("0") == key_id,
        _b.is_done.is_(False),
        _b.status.in_(("staging", "in_progress", "canceling")),
    )
    count, lines = connection.execute(waiting).one()
    return count, int(lines)


def find_made(connection: Connection, key_id: int, idempotency_key: str) -> BatchRow | None:
    """The batch that this key created under this Idempotency-Key, in any state."""
    query = select(_batches).where(_b.key_id == key_id, _b.idempotency_key == idempotency_key)
    return _found(connection.execute(query).mappings().one_or_none())


def forget_key(connection: Connection, batch_id: bytes) -> None:
    """Forget the batch's Idempotency-Key, which has expired."""
    connection.execute(update(_batches).where(_b.id == batch_id).values(idempotency_key=None, fingerprint=None))


# Showing


def get_batch(connection: Connection, batch_id: bytes, owner_id: int, key_id: int) -> BatchRow | None:
    """A batch of this key, or None."""
    query = select(_batches).where(_b.id == batch_id, *_own(owner_id, key_id))
    return _found(connection.execute(query).mappings().one_or_none())


def list_batches(
    connection: Connection,
    owner_id: int,
    key_id: int,
    limit: int,
    *,
    before: bytes | None = None,
    after: bytes | None = None,
) -> tuple[list[BatchRow], bool]:
    """(page, whether there are more), newest first: the batches after `after`, or those just before `before`."""
    query = select(_batches).where(*_own(owner_id, key_id)).limit(limit + 1)
    if after is not None:
        query = query.where(_b.id < after)
    if before is not None:
        query = query.where(_b.id > before)
    query = query.order_by(_b.id.desc() if before is None else _b.id)
    rows = [BatchRow(**row) for row in connection.execute(query).mappings()]
    page = rows[:limit]
    return (page if before is None else page[::-1]), len(rows) > limit


def cancel(connection: Connection, batch_id: bytes, owner_id: int, key_id: int, now_ns: int) -> None:
    """Start no further lines of a batch; one that is already being cancelled or has ended is left alone."""
    wanted = update(_batches).where(_b.id == batch_id, *_own(owner_id, key_id), _b.status == "in_progress")
    if connection.execute(wanted.values(status="canceling", cancel_ns=now_ns)).rowcount:
        versions.bump(connection, routing=False)


def delete(connection: Connection, batch_id: bytes, owner_id: int, key_id: int) -> bool:
    """Hide an ended batch, which a runner deletes piece by piece. False if it has not ended."""
    hidden = update(_batches).where(_b.id == batch_id, *_own(owner_id, key_id), _b.status == "ended")
    values: dict[str, Any] = {"status": "deleted", "is_done": False, "idempotency_key": None}
    if connection.execute(hidden.values(values)).rowcount != 1:
        return False
    versions.bump(connection, routing=False)
    return True


def results_after(
    connection: Connection, batch_id: bytes, after: int, *, rows_max: int, bytes_max: int
) -> list[ResultRow]:
    """The next results in the order of lines, within both limits but at least one; [] at the end."""
    behind = (_l.batch_id == batch_id, _l.line > after)
    sizes = select(_l.line, func.coalesce(func.length(_l.result_sealed), 0)).where(*behind)
    last, total = None, 0
    for number, size in connection.execute(sizes.order_by(_l.line).limit(rows_max)):
        total += size
        if last is not None and total > bytes_max:
            break
        last = number
    if last is None:
        return []
    shown = select(_l.line, _l.custom_id, _l.state, _l.result_sealed).where(*behind, _l.line <= last)
    return [ResultRow(*row) for row in connection.execute(shown.order_by(_l.line))]


def _own(owner_id: int, key_id: int) -> tuple[ColumnElement[bool], ...]:
    # All keys have one owner until customers have accounts, so the key is compared as well.
    return _b.owner_id == owner_id, _b.key_id == key_id, _b.status.in_(SHOWN)


def _found(row: RowMapping | None) -> BatchRow | None:
    return None if row is None else BatchRow(**row)
