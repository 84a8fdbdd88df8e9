"""Rows of notices: written once by the ledger's statement, sealed, taken by one sender, tried, replayed and purged."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from elkapi.ids import event_id_text, new_id, parse_event_id
from elkapi.ledger.noticing import Noticer, seal_notices
from elkapi.ledger.statements import for_dialect
from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.storage.installation import Installation, open_installation
from elkapi.storage.repos import notices as rows
from elkapi.storage.schema import deliveries
from elkapi.storage.schema import notices as table
from elkapi.types import Notice, NoticeBody

DAY_NS = 86_400_000_000_000
NOW_NS = time.time_ns()


def a_notice(**fields: Any) -> Notice:
    made = Notice(
        task_id=new_id(),
        number=1,
        key_id=1,
        owner_id=1,
        url="https://hooks.example.test/in?token=secret",
        form="standard",
        body=b'{"type":"task.succeeded"}',
        created_ns=NOW_NS,
        until_ns=NOW_NS + DAY_NS,
    )
    return msgspec.structs.replace(made, **fields)


async def written(installation: Installation, *notices: Notice) -> None:
    """As the ledger's writer does it: in a transaction of its own connection."""
    sealed = await seal_notices(installation.sealer, notices)
    raw = installation.database.raw_writer()
    sql = for_dialect(installation.database.dialect)
    cursor = raw.cursor()
    try:
        cursor.execute(sql.begin)
        Noticer(cursor, sql).write(sealed)
        cursor.execute("COMMIT")
    finally:
        raw.close()


def taken(database: Database, lease: bytes = b"a", now_ns: int = NOW_NS, **fields: Any) -> list[rows.NoticeRow]:
    given: dict[str, Any] = {"count": 10, "per_host_max": 10, "busy": {}, "busy_keys": {}, "paused": ()} | fields
    with database.write() as connection:
        return rows.take(connection, lease, now_ns=now_ns, **given)


def ended(database: Database, row: rows.NoticeRow, lease: bytes = b"a", **fields: Any) -> bool:
    given: dict[str, Any] = {"state": "delivered", "tries": 1, "due_ns": NOW_NS} | fields
    told = rows.Try(NOW_NS, 12, 204)
    with database.write() as connection:
        return rows.end_try(connection, row.id, lease, told, **given)


async def test_what_a_dead_sender_had_on_its_way_is_due_soon_after_the_clock_was_set_back(
    installation: Installation,
) -> None:
    await written(installation, a_notice())
    ahead_ns, now_ns = NOW_NS + 10**9, NOW_NS - 365 * 86_400 * 10**9
    (row,) = taken(installation.database, now_ns=ahead_ns)
    with installation.database.write() as connection:
        rows.wait_no_longer(connection, now_ns)
    # It may live, and send it at this moment.
    assert taken(installation.database, b"b", now_ns=now_ns) == []
    lease_ns = round(rows.LEASE_S * 1e9)
    assert taken(installation.database, b"b", now_ns=now_ns + lease_ns - 1) == []
    assert [one.id for one in taken(installation.database, b"b", now_ns=now_ns + lease_ns)] == [row.id]


async def test_after_a_clock_was_set_back_only_what_waits_for_a_later_time_is_due_at_once(
    installation: Installation,
) -> None:
    await written(installation, *(a_notice() for _ in range(4)))
    sending, waits, due, over = taken(installation.database)
    for row, state, due_ns in ((waits, "pending", NOW_NS + 5), (due, "pending", 50), (over, "failed", NOW_NS + 5)):
        assert ended(installation.database, row, state=state, due_ns=due_ns)
    with installation.database.write() as connection:
        rows.wait_no_longer(connection, NOW_NS - 10)
        by_task = {row.task_id: row.due_ns for row in connection.execute(select(table))}
    lease_ns = round(rows.LEASE_S * 1e9)
    assert [by_task[row.task_id] for row in (sending, waits, due, over)] == [
        NOW_NS - 10 + lease_ns,
        NOW_NS - 10,
        50,
        NOW_NS + 5,
    ]


def test_an_event_id_names_its_transition() -> None:
    task_id = new_id()
    text = event_id_text(task_id, 1, 7)
    assert parse_event_id(text) == (task_id, 1, 7)
    for wrong in ("", "evt_", text[:-1], text.upper(), text.replace("evt_", "req_"), text[:-1] + "g"):
        assert parse_event_id(wrong) is None


async def test_the_same_transition_is_written_once_and_sealed(installation: Installation) -> None:
    notice = a_notice()
    other = msgspec.structs.replace(notice, place=1, url="https://other.example.test/")
    await written(installation, notice, other)
    await written(installation, notice, other)
    with installation.database.read() as connection:
        found = rows.find(connection, (notice.task_id, 0, 1))
        assert found is not None
        stored = connection.execute(select(table)).mappings().all()
    assert len(stored) == 2
    assert (found.host, found.state, found.tries) == ("hooks.example.test", "pending", 0)
    assert "secret" not in str([dict(row) for row in stored])
    opened = installation.sealer.open(found.sealed, rows.body_context(*found.id))
    assert msgspec.msgpack.decode(opened, type=NoticeBody) == NoticeBody(notice.url, notice.body)


async def test_a_large_body_is_kept_whole(installation: Installation) -> None:
    notice = a_notice(body=os.urandom(200_000))
    await written(installation, notice)
    [row] = taken(installation.database)
    opened = installation.sealer.open(row.sealed, rows.body_context(*row.id))
    assert msgspec.msgpack.decode(opened, type=NoticeBody).body == notice.body


async def test_a_taken_notice_is_its_senders_until_the_lease_is_over(installation: Installation) -> None:
    database = installation.database
    await written(installation, a_notice())
    with database.read() as connection:
        assert rows.is_any_due(connection, NOW_NS)
    [row] = taken(database, b"a")
    assert taken(database, b"b") == []
    [again] = taken(database, b"b", NOW_NS + 61_000_000_000)
    assert again.id == row.id
    assert not ended(database, row, b"a")
    assert ended(database, again, b"b")
    with database.read() as connection:
        assert not rows.is_any_due(connection, NOW_NS + DAY_NS)
        assert [told.status for told in rows.tries_of(connection, row.id)] == [204, 204]


async def test_an_event_waits_for_the_older_ones_of_its_task_and_address(installation: Installation) -> None:
    database = installation.database
    first = a_notice()
    second = msgspec.structs.replace(first, number=2)
    elsewhere = msgspec.structs.replace(first, number=2, place=1)
    await written(installation, second, elsewhere, first)
    found = taken(database)
    assert sorted(row.id[1:] for row in found) == [(0, 1), (1, 2)]
    assert taken(database) == []
    for row in found:
        ended(database, row, state="given_up")
    assert [row.number for row in taken(database)] == [2]


async def test_a_full_or_paused_host_does_not_keep_others_waiting(installation: Installation) -> None:
    database = installation.database
    slow = [a_notice(created_ns=NOW_NS - 1000 + at) for at in range(5)]
    quick = a_notice(url="https://quick.example.test/")
    await written(installation, *slow, quick)
    assert taken(database, count=0) == []
    found = taken(database, per_host_max=2)
    assert sorted(row.host for row in found) == ["hooks.example.test"] * 2 + ["quick.example.test"]
    assert taken(database, per_host_max=2, busy={"hooks.example.test": 2}) == []
    assert taken(database, paused={"hooks.example.test"}) == []
    assert len(taken(database, per_host_max=2, busy={"hooks.example.test": 1})) == 1


async def test_what_waits_for_a_host_where_nothing_can_be_sent_is_not_gone_through(tmp_path: Path) -> None:
    installation = open_installation(Settings(data_dir=str(tmp_path)))
    database, dead, other = installation.database, "hooks.example.test", "other.example.test"

    def steps(**fields: Any) -> int:
        """How many times SQLite did some steps for a look."""
        count = 0

        def one() -> None:
            nonlocal count
            count += 1

        with database.write() as connection:
            raw: Any = connection.connection.driver_connection
            raw.set_progress_handler(one, 10)
            given: dict[str, Any] = {"count": 10, "per_host_max": 2, "busy": {}, "busy_keys": {}, "paused": ()} | fields
            assert [row.host for row in rows.take(connection, b"a", now_ns=NOW_NS, **given)].count(other) == 1
            raw.set_progress_handler(None, 0)
            connection.rollback()
        return count

    try:
        await written(installation, a_notice(url=f"https://{other}/"), *(a_notice() for _ in range(4)))
        few = {"paused": steps(paused={dead}), "full": steps(busy={dead: 2}), "free": steps()}
        backlog = [a_notice(created_ns=NOW_NS - 5_000 + number) for number in range(2_000)]
        await written(installation, *backlog)
        many = {"paused": steps(paused={dead}), "full": steps(busy={dead: 2}), "free": steps()}
        assert all(many[name] < 2 * few[name] for name in few), (few, many)
    finally:
        database.close()


async def test_events_that_wait_for_an_older_one_are_due_with_its_next_try(installation: Installation) -> None:
    database, later_ns = installation.database, NOW_NS + 60 * 10**9
    first = a_notice()
    others = [msgspec.structs.replace(first, place=1), a_notice()]
    await written(installation, first, *(msgspec.structs.replace(first, number=n) for n in (2, 3)), *others)

    (one,) = (row for row in taken(database) if row.id == (first.task_id, 0, 1))
    assert ended(database, one, state=rows.PENDING, due_ns=later_ns)
    assert taken(database) == []
    with database.read() as connection:
        of_first = (table.c.task_id == first.task_id, table.c.place == 0)
        waiting = select(table.c.number).where(*of_first, table.c.due_ns == later_ns)
        assert sorted(connection.execute(waiting).scalars()) == [1, 2, 3]
        assert not rows.is_any_due(connection, NOW_NS)
    # Sent again by hand, and delivered: then what waited is not to wait until the time of the next try.
    with database.write() as connection:
        assert rows.replay(connection, one.id, now_ns=NOW_NS, until_ns=NOW_NS + DAY_NS)
    assert [row.number for row in taken(database)] == [1]
    assert ended(database, one)
    assert [row.number for row in taken(database)] == [2]


async def test_whoever_has_many_events_leaves_a_place_for_the_next_key(installation: Installation) -> None:
    """Each of his hosts is another and hangs: he had every place, and all that was looked at."""
    database = installation.database
    his = [
        a_notice(created_ns=NOW_NS - 10_000 + at, url=f"https://dead{at}.example.test/")
        for at in range(rows.LOOKED_AT_MAX)
    ]
    await written(installation, *his, a_notice(key_id=2))
    first = taken(database, count=8)
    assert [row.key_id for row in first] == [1] * 4
    [second] = taken(database, count=4, busy_keys={1: 4})
    assert second.key_id == 2


async def test_keys_share_the_places(installation: Installation) -> None:
    made = [
        a_notice(key_id=at % 3, url=f"https://h{at}.example.test/", created_ns=NOW_NS - 99 + at) for at in range(24)
    ]
    await written(installation, *made)
    found = [row.key_id for row in taken(installation.database, count=8)]
    assert sorted(found) == [0, 0, 1, 1, 2, 2]


async def test_replay_makes_it_due_again_unless_it_is_on_its_way(installation: Installation) -> None:
    database = installation.database
    await written(installation, a_notice(), a_notice())
    row, delivered = taken(database)
    with database.write() as connection:
        assert not rows.replay(connection, row.id, now_ns=NOW_NS, until_ns=NOW_NS + DAY_NS)
    ended(database, row, state="given_up", tries=30)
    ended(database, delivered)
    with database.write() as connection:
        assert rows.replay(connection, row.id, now_ns=NOW_NS, until_ns=NOW_NS + 2 * DAY_NS)
    [again] = taken(database)
    assert (again.id, again.tries, again.until_ns) == (row.id, 0, NOW_NS + 2 * DAY_NS)


async def test_old_notices_are_forgotten_with_their_log(installation: Installation) -> None:
    database = installation.database
    old, waiting = a_notice(created_ns=NOW_NS - 40 * DAY_NS), a_notice(created_ns=NOW_NS - 40 * DAY_NS, key_id=2)
    await written(installation, old, waiting, a_notice(key_id=3))
    for row in taken(database):
        if row.key_id != 2:
            ended(database, row)
    with database.write() as connection:
        assert rows.purge(connection, NOW_NS - 30 * DAY_NS, 10) == 1
        assert rows.purge(connection, NOW_NS - 30 * DAY_NS, 10) == 0
        assert [row.key_id for row in rows.newest(connection)] == [3, 2]
        assert [row.key_id for row in rows.newest(connection, state="delivered")] == [3]
        assert len(connection.execute(select(deliveries)).all()) == 1


async def test_pages_of_notices_continue_where_the_one_before_ended(installation: Installation) -> None:
    task_id = new_id()
    same_time = [a_notice(task_id=task_id, number=number) for number in (1, 2, 3)]
    others = [a_notice(created_ns=NOW_NS - 1), a_notice(created_ns=NOW_NS + 1)]
    await written(installation, *same_time, *others)
    seen, before = [], None
    with installation.database.read() as connection:
        while page := rows.newest(connection, limit=2, before=before):
            assert len(page) <= 2
            seen += [(row.created_ns - NOW_NS, row.number) for row in page]
            before = page[-1]
    assert seen == [(1, 1), (0, 3), (0, 2), (0, 1), (-1, 1)]


async def test_events_given_up_are_listed_newest_first_page_by_page_without_the_others(
    installation: Installation,
) -> None:
    database, fate = installation.database, ("given_up", "delivered", "given_up", "given_up", "delivered")
    await written(installation, *(a_notice(created_ns=NOW_NS + age, key_id=age) for age in range(6)))
    for row in taken(database, now_ns=NOW_NS + 4):
        assert ended(database, row, state=fate[row.key_id])
    seen, before = [], None
    with database.read() as connection:
        while page := rows.newest(connection, state="given_up", limit=2, before=before):
            seen.append([row.key_id for row in page])
            before = page[-1]
        assert [row.key_id for row in rows.newest(connection, state="given_up", key_id=2)] == [2]
        assert rows.newest(connection, state="given_up", key_id=1) == []
        assert [row.key_id for row in rows.newest(connection, state="pending")] == [5]
        assert [row.key_id for row in rows.newest(connection, state="delivered")] == [4, 1]
    assert seen == [[3, 2], [0]]
    # Sent again, it is no longer among them.
    with database.write() as connection:
        assert before is not None
        assert rows.replay(connection, before.id, now_ns=NOW_NS, until_ns=NOW_NS + DAY_NS)
        assert [row.key_id for row in rows.newest(connection, state="given_up")] == [3, 2]


async def test_what_a_dead_sender_left_can_be_sent_again_as_soon_as_nobody_may_send_it(
    installation: Installation,
) -> None:
    await written(installation, a_notice())
    (row,) = taken(installation.database)
    over_ns = NOW_NS + round(rows.LEASE_S * 1e9)
    with installation.database.write() as connection:
        assert not rows.replay(connection, row.id, now_ns=over_ns - 1, until_ns=over_ns)
        assert rows.replay(connection, row.id, now_ns=over_ns, until_ns=over_ns)


async def test_the_longest_due_come_first_and_those_of_a_full_host_hide_no_other(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written(installation, *(a_notice(url=f"https://{host}.example.test/") for host in "abc"))
    due_ns = {"a.example.test": NOW_NS - 2, "b.example.test": NOW_NS - 1, "c.example.test": NOW_NS - 3}
    for row in taken(installation.database):
        assert ended(installation.database, row, state="pending", due_ns=due_ns[row.host])
    monkeypatch.setattr(rows, "LOOKED_AT_MAX", 1)
    hosts = []
    with installation.database.read() as connection:
        assert not rows.is_any_due(connection, NOW_NS - 4)
        assert rows.is_any_due(connection, NOW_NS - 3)
    busy = {"c.example.test": 10}
    for _ in range(2):
        hosts += [row.host for row in taken(installation.database, busy=busy)]
    assert hosts == ["a.example.test", "b.example.test"]


async def test_so_many_notices_are_forgotten_at_once_the_oldest_first(installation: Installation) -> None:
    await written(installation, *(a_notice(created_ns=NOW_NS + age, key_id=age) for age in (3, 1, 2)))
    for row in taken(installation.database, now_ns=NOW_NS + 9):
        assert ended(installation.database, row)
    with installation.database.write() as connection:
        assert rows.purge(connection, NOW_NS + 3, 1) == 1
        assert [row.key_id for row in rows.newest(connection)] == [3, 2]
        assert [rows.purge(connection, NOW_NS + 3, 1) for _ in range(2)] == [1, 0]
        assert [row.key_id for row in rows.newest(connection)] == [3]
