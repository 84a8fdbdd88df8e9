"""Stored responses and chat completions: reading, listing, changing and expiring their rows.

The ledger writes them, in the settlement's transaction (`ledger.keeping`). Every query of a caller carries their key,
so another's object is as unknown as one that never existed. Bodies stay sealed here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import CTE, ColumnElement, Connection, Select, delete, func, literal, select, update

from elkapi.errors import BodyTooLarge
from elkapi.storage import dialect as sql
from elkapi.storage import schema
from elkapi.types import Grant

_objects, _events, _items = schema.stored_objects, schema.stored_events, schema.stored_items
IN_PROGRESS = "in_progress"
ANSWERED = ("completed", "incomplete")
TURNS_MAX = 2_000
ITEMS_MAX = 10_000


class StoredRow(msgspec.Struct, frozen=True):
    """One object; `sealed` is unsealed with `body_context(id)`."""

    id: bytes
    status: str
    expires_ns: int
    worker: bytes | None
    metadata: str | None
    sealed: bytes


_COLUMNS = [_objects.c[name] for name in StoredRow.__struct_fields__]


def body_context(object_id: bytes) -> bytes:
    """The context that a body is bound to."""
    return b"stored_objects.sealed\0" + object_id


def frames_context(object_id: bytes, first: int) -> bytes:
    """The context that a piece of a stream is bound to."""
    return b"stored_events.sealed\0%d\0" % first + object_id


def read(connection: Connection, grant: Grant, kind: str, object_id: bytes, now_ns: int) -> StoredRow | None:
    """The caller's own object, or None."""
    found = connection.execute(_own(grant, now_ns).where(_objects.c.id == object_id, _objects.c.kind == kind)).first()
    return None if found is None else StoredRow(*found)


def conversation(
    connection: Connection, grant: Grant, object_id: bytes, bytes_max: int, now_ns: int
) -> list[StoredRow] | None:
    """The responses that lead to this one, oldest first and itself last; None if one of them does not exist.

    Raises BodyTooLarge for a conversation of more than `bytes_max` or TURNS_MAX turns.
    """
    chain = _chain(grant, object_id, now_ns)
    turns = connection.execute(select(chain).order_by(chain.c.depth)).all()
    if len(turns) > TURNS_MAX or sum(turn.size_bytes for turn in turns) > bytes_max:
        raise BodyTooLarge(f"The conversation must have at most {TURNS_MAX} earlier turns and {bytes_max} bytes.")
    if not turns or turns[-1].previous is not None:
        return None
    ids = [turn.id for turn in turns]
    rows = connection.execute(select(*_COLUMNS).where(_objects.c.id.in_(ids)))
    found = {row.id: row for row in (StoredRow(*row) for row in rows)}
    return [found[id_] for id_ in reversed(ids)]


def touch(connection: Connection, ids: Collection[bytes], expires_ns: int) -> None:
    """Extend the retention of a conversation's turns."""
    connection.execute(update(_objects).where(_objects.c.id.in_(ids)).values(expires_ns=expires_ns))


def _chain(grant: Grant, object_id: bytes, now_ns: int) -> CTE:
    """id, previous, size and distance of a response and its predecessors, as far as they belong to the caller."""
    c = _objects.c
    first = select(c.id, c.previous, func.length(c.sealed).label("size_bytes"), literal(0).label("depth"))
    first = first.where(*_mine(grant, "response", object_id), c.expires_ns > now_ns)
    chain = first.cte("chain", recursive=True)
    b = _objects.alias("before").c
    before = select(b.id, b.previous, func.length(b.sealed), chain.c.depth + 1).where(
        b.id == chain.c.previous,
        b.key_id == grant.key_id,
        b.owner_id == grant.owner_id,
        b.expires_ns > now_ns,
        chain.c.depth < TURNS_MAX,
    )
    return chain.union_all(before)


def items_of(
    connection: Connection,
    grant: Grant,
    item_ids: Collection[str],
    derived: Collection[bytes],
    bytes_max: int,
    now_ns: int,
) -> list[StoredRow]:
    """The caller's responses that contain these items, by the table of items and by these ids.

    Raises BodyTooLarge for more than ITEMS_MAX items, or for responses of more than `bytes_max`.
    """
    if len(item_ids) > ITEMS_MAX:
        raise BodyTooLarge(f"`input` must refer to at most {ITEMS_MAX} items.")
    named = select(_items.c.object_id).where(
        _items.c.key_id == grant.key_id, _items.c.item_id.in_(sql.askable(item_ids))
    )
    ids = {*derived, *connection.execute(named).scalars()}
    wanted = (_objects.c.id.in_(ids), _objects.c.kind == "response")
    sizes = _own(grant, now_ns).where(*wanted).with_only_columns(func.sum(func.length(_objects.c.sealed)))
    if (connection.execute(sizes).scalar() or 0) > bytes_max:
        raise BodyTooLarge(f"The responses that `input` refers to must have at most {bytes_max} bytes together.")
    return [StoredRow(*row) for row in connection.execute(_own(grant, now_ns).where(*wanted))]


def page(
    connection: Connection,
    grant: Grant,
    kind: str,
    now_ns: int,
    *,
    limit: int,
    bytes_max: int,
    ascending: bool = True,
    after: bytes | None = None,
    model: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> tuple[list[StoredRow], bool]:
    """(the caller's objects in the order of creation, which is that of their ids; whether there are more).

    As many as fit both limits, at least one.
    """
    c = _objects.c
    order = c.id if ascending else c.id.desc()
    query = _own(grant, now_ns).where(c.kind == kind)
    if after is not None:
        query = query.where(c.id > after if ascending else c.id < after)
    if model is not None:
        query = query.where(c.model == model)
    for name, value in (metadata or {}).items():
        query = query.where(sql.json_member(connection, c.metadata, name) == value)
    sizes = query.with_only_columns(c.id, func.length(c.sealed)).order_by(order).limit(limit + 1)
    found = connection.execute(sizes).all()
    shown = within(found[:limit], bytes_max)
    rows = connection.execute(select(*_COLUMNS).where(c.id.in_(shown)).order_by(order))
    return [StoredRow(*row) for row in rows], len(shown) < len(found)


def set_metadata(connection: Connection, grant: Grant, kind: str, object_id: bytes, metadata: str | None) -> bool:
    """Replace the metadata of a caller's object; False if it does not exist."""
    statement = update(_objects).where(*_mine(grant, kind, object_id)).values(metadata=metadata)
    return connection.execute(statement).rowcount == 1


def cancel(connection: Connection, grant: Grant, object_id: bytes) -> bool:
    """Mark a response in progress as cancelled; False if it is not in progress, or not the caller's."""
    statement = update(_objects).where(*_mine(grant, "response", object_id), _objects.c.status == IN_PROGRESS)
    return connection.execute(statement.values(status="cancelled")).rowcount == 1


def remove(connection: Connection, grant: Grant, kind: str, object_id: bytes) -> bool:
    """Delete an object and everything that belongs to it; False if the caller has none."""
    if connection.execute(delete(_objects).where(*_mine(grant, kind, object_id))).rowcount != 1:
        return False
    _forget_parts(connection, [object_id])
    return True


def still_wanted(connection: Connection, ids: Collection[bytes]) -> set[bytes]:
    """Those of these background responses that are neither cancelled nor deleted."""
    query = select(_objects.c.id).where(_objects.c.id.in_(ids), _objects.c.status == IN_PROGRESS)
    return set(connection.execute(query).scalars())


def frames(connection: Connection, object_id: bytes, first: int) -> list[tuple[int, bytes]]:
    """(number of the first frame, sealed frames) of a stream, from the piece that contains frame `first` on."""
    c = _events.c
    pieces = connection.execute(select(c.first, c.sealed).where(c.object_id == object_id).order_by(c.first)).all()
    begin = max((at for at, (number, _) in enumerate(pieces) if number <= first), default=0)
    return [(number, sealed) for number, sealed in pieces[begin:]]


def fail_running(connection: Connection, workers: Collection[bytes]) -> int:
    """Mark the unfinished responses of gone workers as failed; returns how many."""
    running = (_objects.c.worker.in_(workers), _objects.c.status == IN_PROGRESS)
    return connection.execute(update(_objects).where(*running).values(status="failed")).rowcount


def fail_orphans(connection: Connection) -> int:
    """Mark the unfinished responses of unknown workers as failed, as after a restore; returns how many."""
    known = select(schema.workers.c.owner)
    orphaned = (_objects.c.status == IN_PROGRESS, _objects.c.worker.not_in(known))
    return connection.execute(update(_objects).where(*orphaned).values(status="failed")).rowcount


def purge(connection: Connection, now_ns: int, rows_max: int, bytes_max: int) -> int:
    """Delete expired objects, as many as fit both limits and at least one; returns how many.

    The limits keep the transaction short: SQLite writes every page that it frees.
    """
    c = _objects.c
    frames = select(func.coalesce(func.sum(func.length(_events.c.sealed)), 0)).where(_events.c.object_id == c.id)
    due = select(c.id, func.length(c.sealed) + frames.scalar_subquery()).where(c.expires_ns <= now_ns).limit(rows_max)
    ids = within(connection.execute(due).all(), bytes_max)
    if ids:
        connection.execute(delete(_objects).where(c.id.in_(ids)))
        _forget_parts(connection, ids)
    return len(ids)


def within(sizes: Iterable[Sequence[Any]], bytes_max: int) -> list[Any]:
    """The first ids of (id, size) within so many bytes together, at least one."""
    ids: list[Any] = []
    total = 0
    for object_id, size in sizes:
        total += int(size)
        if ids and total > bytes_max:
            break
        ids.append(object_id)
    return ids


def _forget_parts(connection: Connection, ids: Sequence[bytes]) -> None:
    connection.execute(delete(_events).where(_events.c.object_id.in_(ids)))
    connection.execute(delete(_items).where(_items.c.object_id.in_(ids)))


def _own(grant: Grant, now_ns: int) -> Select[Any]:
    """All objects of the caller. All keys have one owner until customers have accounts, so the key is compared as
    well."""
    c = _objects.c
    return select(*_COLUMNS).where(c.key_id == grant.key_id, c.owner_id == grant.owner_id, c.expires_ns > now_ns)


def _mine(grant: Grant, kind: str, object_id: bytes) -> tuple[ColumnElement[bool], ...]:
    c = _objects.c
    return (c.id == object_id, c.kind == kind, c.key_id == grant.key_id, c.owner_id == grant.owner_id)
