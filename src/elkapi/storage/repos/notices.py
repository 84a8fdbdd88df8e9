"""Notices of tasks for their senders and owners: leased, tried, delivered, listed, sent again, expired.

The ledger writes them with the transition they report (`ledger.noticing`). A leased notice belongs to its sender until
`due_ns`; if the sender dies, it is due again then. Bodies stay sealed here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Update,
    bindparam,
    delete,
    func,
    literal_column,
    select,
    tuple_,
    update,
)

from elkapi.storage import dialect as sql
from elkapi.storage import schema

_notices, _deliveries = schema.notices, schema.deliveries
_n, _d = _notices.c, _deliveries.c

PENDING, GIVEN_UP = "pending", "given_up"
# As the partial indexes spell them: PostgreSQL may not use those for a parameter.
_PENDING: ColumnElement[str] = literal_column(f"'{PENDING}'")
_GIVEN_UP: ColumnElement[str] = literal_column(f"'{GIVEN_UP}'")
# How many due notices are searched for one whose host has a free slot.
LOOKED_AT_MAX = 500
ANSWER_CHARACTERS_MAX = 500
# Longer than a try can take, so that no other sender takes the notice while its sender may still be sending.
LEASE_S = 60.0
_LEASE_NS = round(LEASE_S * 1e9)

NoticeId = tuple[bytes, int, int]
"""(task, place, number)."""


class NoticeRow(msgspec.Struct, frozen=True):
    """One notice; unsealing `sealed` with `body_context` gives types.NoticeBody."""

    task_id: bytes
    place: int
    number: int
    key_id: int
    host: str
    form: str
    state: str
    tries: int
    created_ns: int
    due_ns: int
    until_ns: int
    sealed: bytes

    @property
    def id(self) -> NoticeId:
        return self.task_id, self.place, self.number


class Try(msgspec.Struct, frozen=True):
    """The result of one delivery: the receiver's status and the beginning of its answer, or what went wrong."""

    at_ns: int
    duration_ms: int
    status: int | None
    error: str = ""
    answer: str = ""


_ANY_DUE = sql.Look(select(_n.number).where(_n.state == _PENDING, _n.due_ns <= bindparam("now_ns")).limit(1))
_COLUMNS = [_n[name] for name in NoticeRow.__struct_fields__]
_KEY = (_n.task_id, _n.place, _n.number)


def body_context(task_id: bytes, place: int, number: int) -> bytes:
    """The context that a notice's body is bound to."""
    return b"notices.sealed\0%d\0%d\0" % (place, number) + task_id


def is_any_due(connection: sql.LookConnection, now_ns: int) -> bool:
    """Whether any notice is due; a plain read."""
    return bool(_ANY_DUE.rows(connection, now_ns=now_ns))


def take(
    connection: Connection,
    lease: bytes,
    *,
    count: int,
    per_host_max: int,
    busy: Mapping[str, int],
    busy_keys: Mapping[int, int],
    paused: Collection[str],
    now_ns: int,
) -> list[NoticeRow]:
    """Lease up to `count` due notices; several senders never get the same one. `busy` counts the deliveries in progress
    per host, `busy_keys` per key.

    No key has more deliveries in progress than there are free slots: however many of a customer's receivers hang, a
    slot is left for the next key (until customers have accounts, a key stands for a customer). An event waits for older
    ones of its task and address.
    """
    full = {host for host, sending in busy.items() if sending >= per_host_max} | set(paused)
    served = {key for key, sending in busy_keys.items() if sending >= count}
    due = _oldest_due_of_each_host(full, served, per_host_max, now_ns)
    sending, of_keys = Counter(busy), Counter(busy_keys)
    chosen: list[NoticeId] = []
    for *notice, host, key in connection.execute(sql.for_update(due, skip_locked=True, of=_notices)):
        if sending[host] < per_host_max and of_keys[key] < count - len(chosen):
            sending[host] += 1
            of_keys[key] += 1
            chosen.append((notice[0], notice[1], notice[2]))
    if not chosen:
        return []
    leased = update(_notices).values(lease=lease, due_ns=now_ns + _LEASE_NS)
    sql.execute_for_each(connection, leased, _KEY, chosen)
    of_tasks = select(*_COLUMNS).where(_n.task_id.in_({task_id for task_id, _, _ in chosen}))
    rows = [NoticeRow(*row) for row in connection.execute(of_tasks)]
    mine = set(chosen)
    return sorted((row for row in rows if row.id in mine), key=lambda row: (row.created_ns, row.number))


def _oldest_due_of_each_host(
    but_hosts: Collection[str], but_keys: Collection[int], per_host: int, now_ns: int
) -> Select[Any]:
    """(task, place, number, host, key) of what can be sent, by the time it is due: of each host as many as could be
    sent there.

    It goes from host to host by the index, so a host where nothing can be sent costs a step, however much waits for it.
    """
    first, later, each = _notices.alias("first"), _notices.alias("later"), _notices.alias("each")
    hosts = select(func.min(first.c.host).label("host")).where(first.c.state == _PENDING).cte("hosts", recursive=True)
    following = select(func.min(later.c.host)).where(later.c.state == _PENDING, later.c.host > hosts.c.host)
    hosts = hosts.union_all(select(following.scalar_subquery()).where(hosts.c.host.is_not(None)))

    def fits(c: Any, until_ns: Any) -> tuple[ColumnElement[bool], ...]:
        older = _notices.alias()
        same = (older.c.task_id == c.task_id, older.c.place == c.place, older.c.number < c.number)
        waits = select(older.c.number).where(*same, older.c.state == PENDING).exists()
        is_due = (c.host == hosts.c.host, c.state == _PENDING, c.due_ns <= until_ns)
        return *is_due, ~waits, c.key_id.not_in(sorted(but_keys))

    fitting = select(each.c.due_ns).where(*fits(each.c, now_ns)).order_by(each.c.due_ns)
    last = fitting.limit(1).offset(max(per_host - 1, 0)).correlate(hosts).scalar_subquery()
    return (
        select(_n.task_id, _n.place, _n.number, _n.host, _n.key_id)
        .select_from(hosts.join(_notices, _n.host == hosts.c.host))
        .where(hosts.c.host.not_in(sorted(but_hosts)), *fits(_n, func.coalesce(last, now_ns)))
        .order_by(_n.due_ns)
        .limit(LOOKED_AT_MAX)
    )


def wait_no_longer(connection: Connection, now_ns: int) -> None:
    """Make waiting notices due and limit running leases from now on, because the clock they wait by was set back."""
    late = update(_notices).where(_n.state == PENDING)
    connection.execute(late.where(_n.lease.is_(None), _n.due_ns > now_ns).values(due_ns=now_ns))
    until_ns = now_ns + _LEASE_NS
    connection.execute(late.where(_n.lease.is_not(None), _n.due_ns > until_ns).values(due_ns=until_ns))


def end_try(
    connection: Connection, notice: NoticeId, lease: bytes, told: Try, *, state: str, tries: int, due_ns: int
) -> bool:
    """Log a try and its consequence; False if the notice is no longer under this lease."""
    mine = (*_is(notice), _n.lease == lease, _n.state == PENDING)
    values: dict[str, Any] = {"state": state, "tries": tries, "due_ns": due_ns, "lease": None}
    kept = connection.execute(update(_notices).where(*mine).values(values)).rowcount == 1
    if kept and state == PENDING:
        # Looks for what is due would find them again and again until then.
        connection.execute(_behind(notice).where(_n.due_ns < due_ns).values(due_ns=due_ns))
    task_id, place, number = notice
    facts = msgspec.structs.asdict(told)
    connection.execute(_deliveries.insert(), {"task_id": task_id, "place": place, "number": number, **facts})
    return kept


def find(connection: Connection, notice: NoticeId) -> NoticeRow | None:
    row = connection.execute(select(*_COLUMNS).where(*_is(notice))).one_or_none()
    return None if row is None else NoticeRow(*row)


def tries_of(connection: Connection, notice: NoticeId) -> list[Try]:
    """Every try of a notice, oldest first."""
    task_id, place, number = notice
    these = (_d.task_id == task_id, _d.place == place, _d.number == number)
    rows = connection.execute(select(*(_d[name] for name in Try.__struct_fields__)).where(*these).order_by(_d.id))
    return [Try(*row) for row in rows]


def newest(
    connection: Connection,
    *,
    key_id: int | None = None,
    state: str | None = None,
    limit: int = 100,
    before: NoticeRow | None = None,
) -> list[NoticeRow]:
    """Newest first, after `before`."""
    order = (_n.created_ns, _n.number, _n.task_id, _n.place)
    query: Select[Any] = select(*_COLUMNS).order_by(*(column.desc() for column in order)).limit(limit)
    if before is not None:
        stands = (before.created_ns, before.number, before.task_id, before.place)
        query = query.where(_n.created_ns <= before.created_ns, tuple_(*order) < tuple_(*stands))
    if key_id is not None:
        query = query.where(_n.key_id == key_id)
    if state is not None:
        query = query.where(_n.state == (_GIVEN_UP if state == GIVEN_UP else state))
    return [NoticeRow(*row) for row in connection.execute(query)]


def replay(connection: Connection, notice: NoticeId, *, now_ns: int, until_ns: int) -> bool:
    """Make a notice due again, whatever its state, under the same event id; one that is being sent is left to its
    sender."""
    again = update(_notices).where(*_is(notice), _n.lease.is_(None) | (_n.due_ns <= now_ns))
    values = {"state": PENDING, "tries": 0, "due_ns": now_ns, "until_ns": until_ns, "lease": None}
    done = connection.execute(again.values(values)).rowcount == 1
    if done:
        connection.execute(_behind(notice).where(_n.due_ns > now_ns).values(due_ns=now_ns))
    return done


def purge(connection: Connection, before_ns: int, rows_max: int) -> int:
    """Delete up to `rows_max` finished notices created before then, with their logs; returns how many."""
    over = (_n.created_ns < before_ns, _n.state != PENDING)
    old = select(_n.task_id, _n.place, _n.number).where(*over).order_by(_n.created_ns).limit(rows_max)
    gone = [tuple(row) for row in connection.execute(sql.for_update(old, skip_locked=True))]
    sql.execute_for_each(connection, delete(_deliveries), (_d.task_id, _d.place, _d.number), gone)
    sql.execute_for_each(connection, delete(_notices), _KEY, gone)
    return len(gone)


def _behind(notice: NoticeId) -> Update:
    """The later events of its task and address, which wait for it."""
    task_id, place, number = notice
    waits = (_n.task_id == task_id, _n.place == place, _n.number > number, _n.state == PENDING, _n.lease.is_(None))
    return update(_notices).where(*waits)


def _is(notice: NoticeId) -> tuple[ColumnElement[bool], ...]:
    task_id, place, number = notice
    return _n.task_id == task_id, _n.place == place, _n.number == number
