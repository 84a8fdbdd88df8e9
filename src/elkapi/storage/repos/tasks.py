"""Tasks: finding, listing, owning and recovering their rows; the ledger makes every change of state (`ledger.tasking`).

Every query of a caller carries their key, so another's task is as unknown as one that never existed. The request and
the provider's report stay sealed here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, bindparam, delete, func, select, true, union_all, update

from elkapi.errors import OutcomeUnknown
from elkapi.ids import first_id_at, parse_prefixed_id
from elkapi.storage import dialect as sql
from elkapi.storage import schema
from elkapi.storage.repos.stored import within
from elkapi.types import Grant, State

_tasks, _refs = schema.tasks, schema.task_refs
OPEN = (State.QUEUED.value, State.RUNNING.value)
_IS_OPEN, _HAS_ENDED, _MADE_NOTHING = schema.task_is_open, schema.task_has_ended, schema.task_made_nothing
_ANY_OPEN = select(_tasks.c.id).where(_IS_OPEN).limit(1)
_ANY_FREE = sql.Look(_ANY_OPEN.where(_tasks.c.poller.is_(None), _tasks.c.worker.is_(None)))
_ANY_POKED = sql.Look(_ANY_OPEN.where(_tasks.c.poller == bindparam("poller"), _tasks.c.poked.is_(True)))
_BEYOND = b"\xff" * 17  # Ids have 16 bytes.
OUTCOME_UNKNOWN = OutcomeUnknown.code
PREFIX = "task_"


class TaskRow(msgspec.Struct, frozen=True):
    """One row of a task; the sealed parts are unsealed with `asked_context` and `told_context`."""

    id: bytes
    owner_id: int
    key_id: int
    operation: str
    wire: str
    form: str
    model: str
    state: str
    version: int
    progress: int
    native_id: str | None
    channel_id: int | None
    channel_key_id: int | None
    worker: bytes | None
    created_ns: int
    updated_ns: int
    started_ns: int | None
    finished_ns: int | None
    deleted_ns: int | None
    error_code: str | None
    asked_sealed: bytes
    told_sealed: bytes | None


_COLUMNS = [_tasks.c[name] for name in TaskRow.__struct_fields__]


def asked_context(task_id: bytes) -> bytes:
    """The context that a task's request is bound to."""
    return b"tasks.asked\0" + task_id


def told_context(task_id: bytes) -> bytes:
    """The context that a provider's report on a task is bound to."""
    return b"tasks.told\0" + task_id


def task_id_text(task_id: bytes) -> str:
    """A task's public spelling: `task_` and 32 hex digits."""
    return PREFIX + task_id.hex()


def parse_task_id(text: str) -> bytes | None:
    """The id behind the public spelling, or None when it is not one."""
    return parse_prefixed_id(text, PREFIX)


def find(connection: Connection, grant: Grant, text: str) -> TaskRow | None:
    """The caller's task by our id, its provider's (the newest of several), or a name of what it made."""
    if not sql.askable([text]):
        return None
    c = _tasks.c
    mine = _own(grant)
    row = None
    if (task_id := parse_task_id(text)) is not None:
        row = connection.execute(mine.where(c.id == task_id)).first()
    if row is None:
        # An order without an index: otherwise SQLite would scan all tasks of the key by id.
        newest = mine.where(c.native_id == text).order_by(c.created_ns.desc(), c.id.desc()).limit(1)
        row = connection.execute(newest).first()
    if row is None:
        made = select(_refs.c.task_id).where(_refs.c.key_id == grant.key_id, _refs.c.ref == text).scalar_subquery()
        row = connection.execute(mine.where(c.id == made)).first()
    return None if row is None else TaskRow(*row)


def read(connection: Connection, task_id: bytes) -> TaskRow | None:
    """A task by our id, of any owner: for pollers and operators."""
    row = connection.execute(select(*_COLUMNS).where(_tasks.c.id == task_id)).first()
    return None if row is None else TaskRow(*row)


def newest(
    connection: Connection,
    *,
    key_id: int | None = None,
    states: Collection[str] | None = None,
    limit: int,
    before: bytes | None = None,
) -> list[TaskRow]:
    """Tasks of all owners, deleted ones included, newest first, after `before`: for operators."""
    wanted = select(*_COLUMNS)
    if key_id is not None:
        wanted = wanted.where(_tasks.c.key_id == key_id)

    def behind(id_: ColumnElement[bytes]) -> ColumnElement[bool]:
        return true() if before is None else id_ < before

    return _in_order(connection, _of_each(wanted, states, behind, of_key=key_id is not None), limit=limit)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which of a caller's tasks a list contains; None is no condition. `but_form` is excluded; `begun` excludes
    tasks that no provider is known to have started."""

    wires: Collection[str] | None = None
    states: Collection[str] | None = None
    operations: Collection[str] | None = None
    forms: Collection[str] | None = None
    native_ids: Collection[str] | None = None
    models: Collection[str] | None = None
    but_form: str = ""
    begun: bool = False


def page(
    connection: Connection,
    grant: Grant,
    wanted: Wanted,
    *,
    limit: int,
    offset: int = 0,
    after: bytes | None = None,
    ascending: bool = False,
) -> list[TaskRow]:
    """The caller's own tasks, newest first unless `ascending`."""

    def behind(id_: ColumnElement[bytes]) -> ColumnElement[bool]:
        return true() if after is None else id_ > after if ascending else id_ < after

    queries = _of_each(_among(grant, wanted), wanted.states, behind)
    return _in_order(connection, queries, limit=limit, offset=offset, ascending=ascending)


def _of_each(
    query: Select[Any],
    states: Collection[str] | None,
    behind: Callable[[ColumnElement[bytes]], ColumnElement[bool]],
    *,
    of_key: bool = True,
) -> list[Select[Any]]:
    """A query per state on its page, so that each uses an index; `of_key`: the query is for one key's tasks."""
    if states is None:
        return [query.where(behind(_tasks.c.id))]
    return [query.where(*_in_state(state, of_key, behind)) for state in states]


def _in_state(
    state: str, of_key: bool, behind: Callable[[ColumnElement[bytes]], ColumnElement[bool]]
) -> tuple[ColumnElement[bool], ...]:
    """A condition that an index answers, on both databases."""
    c = _tasks.c
    if state in OPEN:
        # Not a condition on the bare column: SQLite would scan all the key's tasks after the page.
        return c.id.in_(select(c.id).where(_IS_OPEN)), c.state == state, behind(func.coalesce(c.id, b""))
    if of_key:
        # This bound, which all ids satisfy, shows SQLite that the index is in the right order as well.
        return _HAS_ENDED, c.state == state, c.id < _BEYOND, behind(c.id)
    # Nearly all tasks succeed, so the newest of those are soon found among all.
    found = (c.state == state, behind(c.id))
    return found if state == State.SUCCEEDED.value else (_MADE_NOTHING, *found)


def count(connection: Connection, grant: Grant, wanted: Wanted) -> int:
    """How many tasks the caller has."""
    each = _of_each(_among(grant, wanted), wanted.states, lambda _: true())
    return sum(connection.scalar(select(func.count()).select_from(query.subquery())) or 0 for query in each)


def _in_order(
    connection: Connection, queries: list[Select[Any]], *, limit: int, offset: int = 0, ascending: bool = False
) -> list[TaskRow]:
    """The rows of all queries as one list: each is read in order and merged, while a single query would sort."""
    if not queries:
        return []
    rows = queries[0] if len(queries) == 1 else union_all(*queries)
    order = rows.selected_columns["id"]
    found = rows.order_by(order if ascending else order.desc()).limit(limit).offset(offset)
    return [TaskRow(*row) for row in connection.execute(found)]


def _among(grant: Grant, wanted: Wanted) -> Select[Any]:
    c = _tasks.c
    query = _own(grant)
    for column, among in (
        (c.wire, wanted.wires),
        (c.operation, wanted.operations),
        (c.form, wanted.forms),
        (c.model, wanted.models),
    ):
        if among is not None:
            query = query.where(column.in_(sql.askable(among)))
    if wanted.native_ids is not None:
        # By ids, since SQLite would scan all tasks of the key to order them.
        named = select(c.id).where(c.key_id == grant.key_id, c.native_id.in_(sql.askable(wanted.native_ids)))
        query = query.where(c.id.in_(named))
    elif wanted.begun:
        # Not the bare column: SQLite would scan all the key's tasks that have one, whatever the other conditions.
        query = query.where((c.native_id + "").is_not(None))
    return query.where(c.form != wanted.but_form) if wanted.but_form else query


def _own(grant: Grant) -> Select[Any]:
    c = _tasks.c
    return select(*_COLUMNS).where(c.key_id == grant.key_id, c.owner_id == grant.owner_id, c.deleted_ns.is_(None))


# Pollers


class Owned(msgspec.Struct, frozen=True):
    """What a poller keeps in memory about an open task."""

    id: bytes
    operation: str
    version: int
    progress: int
    state: str
    native_id: str | None
    channel_id: int | None
    channel_key_id: int | None
    created_ns: int


_OWNED = [_tasks.c[name] for name in Owned.__struct_fields__]


def lease(connection: Connection, poller: bytes, limit: int) -> list[Owned]:
    """Lease open tasks that nobody owns or submits to this poller."""
    c = _tasks.c
    free = select(c.id).where(_IS_OPEN, c.poller.is_(None), c.worker.is_(None)).limit(limit)
    ids = list(connection.execute(sql.for_update(free, skip_locked=True)).scalars())
    if not ids:
        return []
    connection.execute(update(_tasks).where(c.id.in_(ids), c.poller.is_(None)).values(poller=poller))
    return [Owned(*row) for row in connection.execute(select(*_OWNED).where(c.id.in_(ids), c.poller == poller))]


def owned(connection: Connection, poller: bytes) -> list[Owned]:
    """Every open task of this poller."""
    c = _tasks.c
    return [Owned(*row) for row in connection.execute(select(*_OWNED).where(_IS_OPEN, c.poller == poller))]


def take_poked(connection: Connection, poller: bytes) -> list[bytes]:
    """Tasks of this poller that are to be polled now; each is returned once."""
    c = _tasks.c
    mine = (_IS_OPEN, c.poller == poller, c.poked.is_(True))
    ids = list(connection.execute(select(c.id).where(*mine)).scalars())
    if ids:
        connection.execute(update(_tasks).where(c.id.in_(ids)).values(poked=False))
    return ids


def any_work(connection: sql.LookConnection, poller: bytes) -> tuple[bool, bool]:
    """(whether any task can be leased, whether any task was poked); a plain read."""
    return bool(_ANY_FREE.rows(connection)), bool(_ANY_POKED.rows(connection, poller=poller))


def poke(connection: Connection, task_id: bytes) -> bool:
    """Have an open task polled now; False if it is not open."""
    change = update(_tasks).where(_tasks.c.id == task_id, _IS_OPEN).values(poked=True)
    return connection.execute(change).rowcount == 1


# Recovery and expiry


def release(connection: Connection, owners: Collection[bytes]) -> None:
    """Release the open tasks of these pollers."""
    connection.execute(update(_tasks).where(_IS_OPEN, _tasks.c.poller.in_(owners)).values(poller=None))


def release_orphans(connection: Connection) -> int:
    """Release open tasks whose poller is unknown, such as one that ended before its first heartbeat; returns how
    many."""
    known = select(schema.workers.c.owner)
    return connection.execute(
        update(_tasks).where(_IS_OPEN, _tasks.c.poller.not_in(known)).values(poller=None)
    ).rowcount


def leave_to_pollers(connection: Connection, owners: Collection[bytes]) -> None:
    """Pass the unfinished submits of these gone workers to pollers, which find out what became of them. A worker
    that comes back finds the version moved on."""
    c = _tasks.c
    change = update(_tasks).where(_IS_OPEN, c.worker.in_(owners))
    connection.execute(change.values(worker=None, version=c.version + 1))


def purge(connection: Connection, before_ns: int, rows_max: int, bytes_max: int) -> int:
    """Delete tasks that ended before then, with the names of what they made, as many as fit both limits and at least
    one; returns how many. What a call cost stays in its usage row and in the ledger."""
    c = _tasks.c
    size = func.length(c.asked_sealed) + func.coalesce(func.length(c.told_sealed), 0)
    # The time in the ids comes first, because it has an index: a task that ended by then was created before.
    over = (c.id < first_id_at(max(before_ns, 0)), ~_IS_OPEN, func.coalesce(c.finished_ns, c.updated_ns) < before_ns)
    due = select(c.id, size).where(*over).order_by(c.id).limit(rows_max)
    ids = within(connection.execute(sql.for_update(due, skip_locked=True)), bytes_max)
    if ids:
        connection.execute(delete(_refs).where(_refs.c.task_id.in_(ids)))
        connection.execute(delete(_tasks).where(c.id.in_(ids)))
    return len(ids)


def open_ids(connection: Connection) -> set[bytes]:
    """The ids of all open tasks, which own the holds that no worker owns."""
    return set(connection.execute(select(_tasks.c.id).where(_IS_OPEN)).scalars())
