"""Leases of a batch's lines: one worker's at a time, taken over from the dead alone, and counted exactly once."""

from __future__ import annotations

import threading

import msgspec
import pytest
from sqlalchemy import Connection, select, update

from elkapi.ledger import create_account
from elkapi.storage import schema
from elkapi.storage.db import Database
from elkapi.storage.repos import alerts, batch_lines, batches, keys, versions
from elkapi.storage.repos.batch_lines import EndedLine, LeasedLine, PutBackLine
from elkapi.storage.repos.batches import BatchRow, NewLine
from elkapi.types import IdempotencyClaim, RequestRecord, Usage

ALICE, BOB = b"a" * 16, b"b" * 16
BATCH = b"\x01" * 16
LINES = 10
FAR_NS = 10**18
ROOM = {"open_max": 100, "lines_max": 1000}


def live(connection: Connection, worker: bytes) -> None:
    row = {"owner": worker, "role": "worker", "started_ns": 1, "heartbeat_ns": 1, "scan_from": b""}
    connection.execute(schema.workers.insert(), row)


@pytest.fixture
def batch(database: Database) -> BatchRow:
    """Ten lines of one key, and two workers."""
    with database.write() as connection:
        owner_id = connection.execute(select(schema.owners.c.id)).scalar_one()
        key, _ = keys.create_key(
            connection,
            name="k",
            owner_id=owner_id,
            group="default",
            scope="live",
            account_id=create_account(connection, "key:k"),
            models=None,
            expires_at_ns=None,
            now_ns=1,
            actor="test",
        )
        made = BatchRow(
            id=BATCH,
            owner_id=owner_id,
            key_id=key.id,
            status="in_progress",
            total=LINES,
            created_ns=1,
            expires_ns=FAR_NS,
            headers="{}",
        )
        assert batches.add_staging(connection, made, **ROOM)
        batches.add_lines(connection, BATCH, [NewLine(n, f"line-{n}", b"sealed") for n in range(LINES)])
        assert batches.get_batch(connection, BATCH, owner_id, key.id) is None
        assert batch_lines.lease(connection, BATCH, ALICE, 5, 1) == []
        assert batches.begin(connection, BATCH)
        assert not batches.begin(connection, BATCH)
        live(connection, ALICE)
        live(connection, BOB)
    return made


def shown(connection: Connection, batch: BatchRow) -> BatchRow:
    found = batches.get_batch(connection, BATCH, batch.owner_id, batch.key_id)
    assert found is not None
    return found


def ended(line: LeasedLine, state: str = "succeeded") -> EndedLine:
    return EndedLine(line.batch_id, line.number, state, b"result", b"r" * 16)


@pytest.mark.parametrize("room", [{"open_max": 2, "lines_max": 1000}, {"open_max": 100, "lines_max": 2 * LINES}])
def test_two_batches_of_a_key_that_come_at_once_do_not_both_get_the_last_room(
    database: Database, batch: BatchRow, room: dict[str, int]
) -> None:
    made = {number: msgspec.structs.replace(batch, id=bytes([number] * 16)) for number in (2, 3)}
    refused: list[tuple[int, int]] = []

    def second() -> None:
        with database.write() as connection:
            try:
                batches.add_staging(connection, made[3], **room)
            except batches.NoRoom as full:
                refused.append((full.count, full.waiting))

    other = threading.Thread(target=second)
    with database.write() as connection:
        assert batches.add_staging(connection, made[2], **room)
        other.start()
        other.join(0.2)  # Longer than it takes where nothing keeps it waiting.
    other.join()
    assert refused == [(2, 2 * LINES)]


def test_a_line_is_one_workers_and_only_that_one_ends_it(database: Database, batch: BatchRow) -> None:
    with database.write() as connection:
        alices = batch_lines.lease(connection, BATCH, ALICE, 4, 1)
        bobs = batch_lines.lease(connection, BATCH, BOB, 4, 1)
        another(connection, batch)
        others = batch_lines.lease(connection, OTHER, ALICE, 4, 1)
    assert [line.number for line in alices] == [0, 1, 2, 3]
    assert [line.number for line in bobs] == [4, 5, 6, 7]
    with database.write() as connection:
        batch_lines.end_lines(connection, [ended(line) for line in alices], BOB, 5)
        assert shown(connection, batch).done == 0
        batch_lines.end_lines(connection, [ended(line) for line in alices], ALICE, 5)
        batch_lines.end_lines(connection, [ended(line, "errored") for line in alices], ALICE, 6)
        assert (shown(connection, batch).succeeded, shown(connection, batch).done) == (4, 4)
        owned = batch_lines.own(connection, ALICE)
        assert [(line.batch_id, line.number) for line in owned] == [(OTHER, line.number) for line in others]
        # Of what has its result nothing is kept that was asked.
        line = schema.batch_lines.c
        asked = select(line.line).where(line.batch_id == BATCH, line.request_sealed.is_not(None)).order_by(line.line)
        assert connection.execute(asked).scalars().all() == [4, 5, 6, 7, 8, 9]
        *rest, last = bobs + batch_lines.lease(connection, BATCH, BOB, LINES, 1)
        batch_lines.end_lines(connection, [ended(one) for one in rest], BOB, 7)
        assert (shown(connection, batch).status, shown(connection, batch).ended_ns) == ("in_progress", None)
        batch_lines.end_lines(connection, [ended(last)], BOB, 8)
        assert (shown(connection, batch).status, shown(connection, batch).ended_ns) == ("ended", 8)


def test_lines_of_the_dead_alone_are_taken_over(database: Database, batch: BatchRow) -> None:
    with database.write() as connection:
        (alices,) = batch_lines.lease(connection, BATCH, ALICE, 1, 1)
        assert not batch_lines.is_any_left(connection, BOB)
        assert batch_lines.take_over(connection, BOB, 10) == []
        connection.execute(update(schema.workers).where(schema.workers.c.owner == ALICE).values(ended_ns=2))
        # Whoever was taken for gone and is not runs its own lines already.
        assert not batch_lines.is_any_left(connection, ALICE)
        assert batch_lines.take_over(connection, ALICE, 10) == []
        assert batch_lines.is_any_left(connection, BOB)
        (taken,) = batch_lines.take_over(connection, BOB, 10)
        assert (taken.number, taken.resumed) == (alices.number, True)
        batch_lines.end_lines(connection, [ended(alices)], ALICE, 5)
        assert shown(connection, batch).done == 0
        batch_lines.put_back(connection, [PutBackLine(BATCH, taken.number, 1, FAR_NS)], BOB)
        assert [line.number for line in batch_lines.lease(connection, BATCH, BOB, 2, 1)] == [1, 2]
        (late,) = batch_lines.lease(connection, BATCH, BOB, 1, FAR_NS - 1)
        assert late.number == 3


OTHER, CAROL = b"\x02" * 16, b"c" * 16


def another(connection: Connection, batch: BatchRow) -> None:
    """A second batch of as many lines."""
    assert batches.add_staging(connection, msgspec.structs.replace(batch, id=OTHER), **ROOM)
    batches.add_lines(connection, OTHER, [NewLine(n, f"line-{n}", b"sealed") for n in range(LINES)])
    assert batches.begin(connection, OTHER)


def test_of_several_batches_each_is_begun_cancelled_and_deleted_alone(database: Database, batch: BatchRow) -> None:
    third, b = b"\x03" * 16, schema.message_batches.c
    whose = (batch.owner_id, batch.key_id)

    def states() -> list[str]:
        return list(connection.execute(select(b.status).order_by(b.id)).scalars())

    with database.write() as connection:
        for id_ in (OTHER, third):
            other = msgspec.structs.replace(batch, id=id_, idempotency_key=f"{id_[0]}")
            assert batches.add_staging(connection, other, **ROOM)
        assert batches.begin(connection, OTHER)
        assert states() == ["in_progress", "in_progress", "staging"]
        batches.give_up(connection, third)
        batches.give_up(connection, OTHER)
        assert states() == ["in_progress", "in_progress", "deleted"]
        # Whoever asks again under the key of one that was given up begins anew.
        assert batches.find_made(connection, batch.key_id, "3") is None
        fourth = msgspec.structs.replace(batch, id=b"\x04" * 16, idempotency_key="3")
        assert batches.add_staging(connection, fourth, **ROOM)
        for now_ns in (3, 9):
            batches.cancel(connection, BATCH, *whose, now_ns)
        assert (states()[:2], shown(connection, batch).cancel_ns) == (["canceling", "in_progress"], 3)
        found = [batches.get_batch(connection, id_, *whose) for id_ in (BATCH, OTHER, third)]
        assert [one.id if one else None for one in found] == [BATCH, OTHER, None]
        connection.execute(update(schema.message_batches).where(b.id.in_((BATCH, OTHER))).values(status="ended"))
        assert batches.delete(connection, OTHER, *whose)
        assert states() == ["ended", "deleted", "deleted", "staging"]


def test_open_batches_are_looked_at_page_by_page_and_a_few_of_each_key(
    database: Database, batch: BatchRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def page(limit: int, after: bytes = b"") -> tuple[list[bytes], bytes]:
        found, behind = batch_lines.open_batches(connection, limit, 1, after)
        return [one.batch.id for one in found], behind

    with database.write() as connection:
        another(connection, batch)
        assert page(1) == ([BATCH], BATCH)
        assert page(1, BATCH) == ([OTHER], OTHER)
        assert page(1, OTHER) == ([], b"")
        assert page(3) == ([BATCH, OTHER], b"")
        monkeypatch.setattr(batch_lines, "OPEN_OF_KEY_MAX", 1)
        assert page(2) == ([BATCH], OTHER)


def test_only_the_lines_of_the_dead_change_hands_in_whatever_batch(database: Database, batch: BatchRow) -> None:
    _l = schema.batch_lines.c

    def whose() -> dict[tuple[bytes, int], bytes]:
        running = select(_l.batch_id, _l.line, _l.worker).where(_l.worker.is_not(None), _l.state == "running")
        return {(batch_id, number): worker for batch_id, number, worker in connection.execute(running)}

    with database.write() as connection:
        another(connection, batch)
        live(connection, CAROL)
        for of, worker, count in ((BATCH, ALICE, 1), (BATCH, CAROL, 2), (OTHER, CAROL, 1), (OTHER, ALICE, 2)):
            assert len(batch_lines.lease(connection, of, worker, count, 1)) == count
        (done,) = batch_lines.lease(connection, OTHER, ALICE, 1, 1)
        batch_lines.end_lines(connection, [ended(done)], ALICE, 2)
        connection.execute(update(schema.workers).where(schema.workers.c.owner == ALICE).values(ended_ns=2))
        assert [line.number for line in batch_lines.take_over(connection, BOB, 1)] == [0]
        rest = batch_lines.take_over(connection, BOB, 10)
        assert [(line.batch_id, line.number, line.resumed) for line in rest] == [(OTHER, 1, True), (OTHER, 2, True)]
        bobs = {(BATCH, 0): BOB, (OTHER, 1): BOB, (OTHER, 2): BOB}
        assert whose() == bobs | {(BATCH, 1): CAROL, (BATCH, 2): CAROL, (OTHER, 0): CAROL}
        owned = batch_lines.own(connection, BOB)
        assert {(line.batch_id, line.number): line.resumed for line in owned} == dict.fromkeys(bobs, True)
        assert batch_lines.own(connection, ALICE) == []


def test_the_results_of_one_batch_are_archived_whole_before_those_of_the_next(
    database: Database, batch: BatchRow
) -> None:
    def kept() -> dict[bytes, tuple[int, bool]]:
        lines = [row.batch_id for row in connection.execute(select(schema.batch_lines))]
        rows = connection.execute(select(schema.message_batches))
        return {row.id: (lines.count(row.id), row.archived_ns is not None) for row in rows}

    with database.write() as connection:
        another(connection, batch)
        ends = update(schema.message_batches)
        for of, ended_ns in ((OTHER, 5), (BATCH, 6)):
            connection.execute(ends.where(schema.message_batches.c.id == of).values(status="ended", ended_ns=ended_ns))
        batch_lines.archive(connection, 5, 4, 9)
        assert kept() == {OTHER: (LINES, False), BATCH: (LINES, False)}
        for left in (5, 0):
            batch_lines.archive(connection, 6, 5, 9)
            # Only a look that finds no more knows that it was all.
            assert kept() == {OTHER: (left, False), BATCH: (LINES, False)}
        for _ in range(2):
            batch_lines.archive(connection, 6, 5, 9)
            assert kept() == {OTHER: (0, True), BATCH: (LINES, False)}
        # Each has six bytes: four fit, and of what does not fit at all one line goes.
        for bytes_max, left in ((29, 6), (1, 5)):
            batch_lines.archive(connection, 7, LINES + 1, 9, bytes_max=bytes_max)
            assert kept()[BATCH] == (left, False)
        batch_lines.archive(connection, 7, LINES + 1, 9)
        assert kept() == {OTHER: (0, True), BATCH: (0, True)}


def test_after_a_clock_was_set_back_only_open_lines_that_wait_need_wait_no_longer(
    database: Database, batch: BatchRow
) -> None:
    _l = schema.batch_lines.c
    with database.write() as connection:
        another(connection, batch)
        ready, waits, running = batch_lines.lease(connection, BATCH, ALICE, 3, 1)
        put_back = [PutBackLine(BATCH, ready.number, 1, 50), PutBackLine(BATCH, waits.number, 1, FAR_NS)]
        batch_lines.put_back(connection, put_back, ALICE)
        connection.execute(update(schema.batch_lines).where(_l.line == running.number).values(not_before_ns=FAR_NS))
        (over,) = batch_lines.lease(connection, OTHER, ALICE, 1, 1)
        batch_lines.put_back(connection, [PutBackLine(OTHER, over.number, 1, FAR_NS)], ALICE)
        closed = update(schema.message_batches).where(schema.message_batches.c.id == OTHER)
        connection.execute(closed.values(is_done=True))
        batch_lines.wait_no_longer(connection, 100)
        since = {(row.batch_id, row.line): row.not_before_ns for row in connection.execute(select(schema.batch_lines))}
    assert (since[BATCH, ready.number], since[BATCH, waits.number]) == (50, 100)
    assert since[BATCH, running.number] == since[OTHER, over.number] == FAR_NS


@pytest.mark.parametrize("state", ["canceled", "expired"])
def test_a_batch_ends_with_its_last_line_and_is_removed_whole(database: Database, batch: BatchRow, state: str) -> None:
    with database.write() as connection:
        running = batch_lines.lease(connection, BATCH, ALICE, 2, 1)
        batches.cancel(connection, BATCH, batch.owner_id, batch.key_id, 3)
        assert batch_lines.lease(connection, BATCH, BOB, 2, 1) == []
        assert batch_lines.end_unbegun(connection, BATCH, state, 5, 4, bytes_max=13) == 2
        assert batch_lines.end_unbegun(connection, BATCH, state, 5, 4) == 5
        assert batch_lines.end_unbegun(connection, BATCH, state, 5, 4) == 1
        assert batch_lines.end_unbegun(connection, BATCH, state, 5, 4) == 0
        assert shown(connection, batch).status == "canceling"
        assert not batches.delete(connection, BATCH, batch.owner_id, batch.key_id)
        batch_lines.end_lines(connection, [ended(line) for line in running], ALICE, 5)
        done = shown(connection, batch)
        assert (done.status, done.ended_ns, done.succeeded, getattr(done, state)) == ("ended", 5, 2, 8)
        (found,), _ = batch_lines.open_batches(connection, 10, 6)
        assert (found.batch.status, found.ready) == ("ended", False)
        batch_lines.close_batch(connection, BATCH)
        assert batch_lines.open_batches(connection, 10, 6) == ([], b"")
        rows = batches.results_after(connection, BATCH, -1, rows_max=4, bytes_max=7)
        # Two results of six bytes do not fit into seven; one always does.
        assert [row.number for row in rows] == [0]
        rows = batches.results_after(connection, BATCH, 0, rows_max=4, bytes_max=7)
        assert [(row.number, row.state) for row in rows] == [(1, "succeeded"), (2, state), (3, state), (4, state)]
        assert batches.delete(connection, BATCH, batch.owner_id, batch.key_id)
        # The first two lines have results, of six bytes each.
        for rows_max, bytes_max, left in ((6, 5, 9), (6, 99, 3)):
            assert batch_lines.remove(connection, BATCH, rows_max, bytes_max=bytes_max)
            assert len(connection.execute(select(schema.batch_lines)).all()) == left
        assert not batch_lines.remove(connection, BATCH, 6)
        assert connection.execute(select(schema.batch_lines)).all() == []
        assert connection.execute(select(schema.message_batches.c.id)).all() == []


def test_a_batch_is_its_owners_and_its_keys_alone(database: Database, batch: BatchRow) -> None:
    owner_id, key_id = batch.owner_id, batch.key_id
    with database.write() as connection:
        another(connection, msgspec.structs.replace(batch, key_id=key_id + 1))
        connection.execute(update(schema.message_batches).values(idempotency_key="once", fingerprint=b"f"))
        before = connection.execute(select(schema.message_batches).order_by(schema.message_batches.c.id)).all()
        for whose in ((owner_id + 1, key_id), (owner_id, key_id + 2)):
            assert batches.get_batch(connection, BATCH, *whose) is None
            assert batches.list_batches(connection, *whose, 10) == ([], False)
            batches.cancel(connection, BATCH, *whose, 3)
        for of, key in ((BATCH, key_id), (OTHER, key_id + 1)):
            page, is_more = batches.list_batches(connection, owner_id, key, 1)
            assert ([one.id for one in page], is_more) == ([of], False)
            made = batches.find_made(connection, key, "once")
            assert made is not None
            assert made.id == of
            assert batches.find_made(connection, key, "twice") is None
        assert connection.execute(select(schema.message_batches).order_by(schema.message_batches.c.id)).all() == before
        connection.execute(update(schema.message_batches).values(status="ended"))
        for whose in ((owner_id + 1, key_id), (owner_id, key_id + 2)):
            assert not batches.delete(connection, BATCH, *whose)
        batches.forget_key(connection, BATCH)
        forgotten, kept = (
            batches.get_batch(connection, of, owner_id, key) for of, key in ((BATCH, key_id), (OTHER, key_id + 1))
        )
        # Whoever asks again under the key of one that was deleted begins anew.
        assert batches.delete(connection, OTHER, owner_id, key_id + 1)
        assert batches.find_made(connection, key_id + 1, "once") is None
    assert forgotten is not None
    assert kept is not None
    assert (forgotten.status, forgotten.idempotency_key, forgotten.fingerprint) == ("ended", None, None)
    assert (kept.idempotency_key, kept.fingerprint) == ("once", b"f")


def test_the_results_of_a_batch_are_its_own_and_as_many_as_fit_exactly(database: Database, batch: BatchRow) -> None:
    def shown_after(of: bytes, after: int, bytes_max: int) -> list[tuple[int, str, bytes | None]]:
        rows = batches.results_after(connection, of, after, rows_max=LINES, bytes_max=bytes_max)
        return [(row.number, row.custom_id, row.result_sealed) for row in rows]

    with database.write() as connection:
        another(connection, batch)
        for of, result in ((BATCH, b"result"), (OTHER, b"others")):
            lines = batch_lines.lease(connection, of, ALICE, LINES, 1)
            ends = [msgspec.structs.replace(ended(line), result_sealed=result) for line in lines]
            batch_lines.end_lines(connection, ends, ALICE, 2)
        for of, result in ((BATCH, b"result"), (OTHER, b"others")):
            assert shown_after(of, 3, 12) == [(4, "line-4", result), (5, "line-5", result)]
            assert shown_after(of, LINES - 2, 12) == [(LINES - 1, f"line-{LINES - 1}", result)]
            assert shown_after(of, LINES - 1, 12) == []


def test_a_list_of_batches_is_paged_both_ways(database: Database, batch: BatchRow) -> None:
    ids = [bytes([number] * 16) for number in range(1, 6)]

    def page(limit: int, **edge: bytes) -> tuple[list[int], bool]:
        found, is_more = batches.list_batches(connection, batch.owner_id, batch.key_id, limit, **edge)
        return [ids.index(one.id) for one in found], is_more

    with database.write() as connection:
        for id_ in ids[1:]:
            assert batches.add_staging(connection, msgspec.structs.replace(batch, id=id_), **ROOM)
            assert batches.begin(connection, id_)
        assert page(2) == ([4, 3], True)
        assert page(2, after=ids[3]) == ([2, 1], True)
        assert page(1, after=ids[1]) == ([0], False)
        assert page(2, before=ids[0]) == ([2, 1], True)
        assert page(2, before=ids[2]) == ([4, 3], False)


def test_what_a_key_has_to_do_is_its_open_batches_and_their_open_lines(database: Database, batch: BatchRow) -> None:
    def work() -> tuple[int, int]:
        return batches.open_work(connection, batch.key_id)

    with database.write() as connection:
        another(connection, msgspec.structs.replace(batch, key_id=batch.key_id + 1))
        assert work() == (1, LINES)
        assert batches.add_staging(connection, msgspec.structs.replace(batch, id=b"\x03" * 16), **ROOM)
        assert work() == (2, 2 * LINES)
        batches.give_up(connection, b"\x03" * 16)
        running = batch_lines.lease(connection, BATCH, ALICE, 3, 1)
        ends = zip(running, ("succeeded", "errored", "succeeded"), strict=True)
        batch_lines.end_lines(connection, [ended(line, state) for line, state in ends], ALICE, 2)
        assert work() == (1, LINES - 3)
        batches.cancel(connection, BATCH, batch.owner_id, batch.key_id, 3)
        assert work() == (1, LINES - 3)
        assert batch_lines.end_unbegun(connection, BATCH, "canceled", LINES, 4) == LINES - 3
        # It has ended, though a runner has not closed it yet.
        assert not shown(connection, batch).is_done
        assert work() == (0, 0)


def test_each_step_of_a_batch_is_told_to_runners_and_what_changes_nothing_is_not(
    database: Database, batch: BatchRow
) -> None:
    third, whose = b"\x03" * 16, (batch.owner_id, batch.key_id)
    seen = versions.Versions(0, 0)

    def is_told() -> bool:
        nonlocal seen
        before, seen = seen, versions.read(connection)
        assert seen.routing == before.routing
        return seen.config > before.config

    with database.write() as connection:
        assert batches.add_staging(connection, msgspec.structs.replace(batch, id=third), **ROOM)
        seen = versions.read(connection)
        for is_first in (True, False):
            assert batches.begin(connection, third) is is_first
            assert is_told() is is_first
        for is_first in (True, False):
            batches.cancel(connection, third, *whose, 3)
            assert is_told() is is_first
        assert not batches.delete(connection, third, *whose)
        assert not is_told()
        connection.execute(
            update(schema.message_batches)
            .where(schema.message_batches.c.id == third)
            .values(status="ended", is_done=True)
        )
        for is_first in (True, False):
            assert batches.delete(connection, third, *whose) is is_first
            assert is_told() is is_first
        # A runner has its lines to delete, also one that was about to close it.
        batch_lines.close_batch(connection, third)
        assert [one.batch.id for one in batch_lines.open_batches(connection, 10, 1)[0]] == [BATCH, third]


def test_a_line_may_start_from_its_moment_on_until_its_batch_expires(database: Database, batch: BatchRow) -> None:
    def ready(now_ns: int) -> list[bool]:
        return [one.ready for one in batch_lines.open_batches(connection, 10, now_ns)[0]]

    with database.write() as connection:
        another(connection, msgspec.structs.replace(batch, expires_ns=60))
        running = batch_lines.lease(connection, OTHER, ALICE, LINES, 1)
        assert [line.number for line in running] == list(range(LINES))
        assert len(batch_lines.lease(connection, BATCH, ALICE, 5, 1)) == 5
        assert ready(1) == [True, False]
        batch_lines.put_back(connection, [PutBackLine(OTHER, 4, 2, 50)], ALICE)
        assert ready(49) == [True, False]
        assert batch_lines.lease(connection, OTHER, BOB, LINES, 49) == []
        assert ready(50) == [True, True]
        (again,) = batch_lines.lease(connection, OTHER, BOB, LINES, 50)
        assert (again.number, again.tries, again.resumed) == (4, 2, False)
        batch_lines.put_back(connection, [PutBackLine(OTHER, 4, 2, 50)], BOB)
        assert batch_lines.lease(connection, OTHER, BOB, LINES, 60) == []
        assert [line.number for line in batch_lines.lease(connection, OTHER, BOB, LINES, 59)] == [4]
        # It is another worker's by now.
        batch_lines.put_back(connection, [PutBackLine(OTHER, 4, 9, 51)], ALICE)
        assert [line.tries for line in batch_lines.own(connection, BOB)] == [2]
        # Nor is the line of that number in another batch put back.
        assert len(batch_lines.own(connection, ALICE)) == LINES - 1 + 5


def test_what_runs_between_lines_that_were_not_begun_is_not_ended_with_them(
    database: Database, batch: BatchRow
) -> None:
    line = schema.batch_lines.c
    with database.write() as connection:
        another(connection, batch)
        batch_lines.lease(connection, BATCH, ALICE, 4, 1)
        batch_lines.put_back(connection, [PutBackLine(BATCH, 1, 1, FAR_NS)], ALICE)
        batches.cancel(connection, BATCH, batch.owner_id, batch.key_id, 3)
        assert batch_lines.end_unbegun(connection, BATCH, "canceled", LINES, 4) == LINES - 3
        assert (shown(connection, batch).canceled, shown(connection, batch).done) == (LINES - 3, LINES - 3)
        owned = batch_lines.own(connection, ALICE)
        assert [(one.batch_id, one.number) for one in owned] == [(BATCH, 0), (BATCH, 2), (BATCH, 3)]
        # Of the others nothing is kept that was asked.
        asked = select(line.line).where(line.batch_id == BATCH, line.request_sealed.is_not(None)).order_by(line.line)
        assert connection.execute(asked).scalars().all() == [0, 2, 3]
        other = batches.get_batch(connection, OTHER, batch.owner_id, batch.key_id)
        assert other is not None
        assert (other.status, other.done) == ("in_progress", 0)


def test_each_batch_is_closed_and_removed_alone(database: Database, batch: BatchRow) -> None:
    b, whose = schema.message_batches.c, (batch.owner_id, batch.key_id)
    staged, begun = b"\x03" * 16, b"\x04" * 16

    def left() -> dict[bytes, bool]:
        return {row.id: row.is_done for row in connection.execute(select(b.id, b.is_done))}

    with database.write() as connection:
        another(connection, batch)
        for id_ in (staged, begun):
            assert batches.add_staging(connection, msgspec.structs.replace(batch, id=id_), **ROOM)
        assert batches.begin(connection, begun)
        over = update(schema.message_batches).where(b.id.in_((BATCH, OTHER)))
        connection.execute(over.values(status="ended", ended_ns=5))
        batch_lines.close_batch(connection, BATCH)
        assert left() == {BATCH: True, OTHER: False, staged: False, begun: False}
        assert batch_lines.is_any_kept_since(connection, 6)
        for id_ in (BATCH, OTHER):
            assert batches.delete(connection, id_, *whose)
        # They are deleted as a whole, not archived.
        assert not batch_lines.is_any_kept_since(connection, 6)
        for id_, rest in ((staged, {BATCH, OTHER, begun}), (begun, {BATCH, OTHER, begun}), (BATCH, {OTHER, begun})):
            assert not batch_lines.remove(connection, id_, LINES + 1)
            assert set(left()) == rest
        of = connection.execute(select(schema.batch_lines.c.batch_id)).scalars().all()
        assert of == [OTHER] * LINES


def test_the_claim_of_a_line_is_found_by_all_of_its_name(database: Database, batch: BatchRow) -> None:
    claims = [(1, "op", "a"), (2, "op", "a"), (1, "other", "a"), (1, "op", "b")]
    common = {"owner": ALICE, "state": "open", "created_ns": 1, "expires_ns": 2}
    names = ("key_id", "operation", "idempotency_key")
    with database.write() as connection:
        for number, claim in enumerate(claims):
            row = dict(zip(names, claim, strict=True)) | {"fingerprint": b"f%d" % number, "request_id": b"r%d" % number}
            connection.execute(schema.idempotency.insert(), row | common)
        for number, claim in enumerate(claims):
            found = (IdempotencyClaim(*claim, b"f%d" % number), b"r%d" % number)
            assert batch_lines.find_claim(connection, *claim) == found
        assert batch_lines.find_claim(connection, 2, "op", "b") is None


def test_of_lines_that_succeeded_those_without_a_charge_are_told(database: Database, batch: BatchRow) -> None:
    # Paid by the customer, by the operator, free; then without a charge, without a record, and failed.
    money = [(5, 4, 0), (5, 0, 3), (0, 0, 0), (5, 0, 0), None, None]
    states = ["succeeded"] * 5 + ["errored"]

    def looked(after: int, rows_max: int) -> tuple[int, bytes | None, int | None]:
        found, last = batch_lines.find_uncharged(connection, BATCH, after, rows_max)
        return found.lines, found.first_request_id, last

    with database.write() as connection:
        another(connection, batch)
        for of, count in ((BATCH, len(money)), (OTHER, LINES)):
            for line in batch_lines.lease(connection, of, ALICE, count, 1):
                state = states[line.number] if of == BATCH else "succeeded"
                done = EndedLine(of, line.number, state, b"result", bytes([line.number] * 16) if of == BATCH else None)
                batch_lines.end_lines(connection, [done], ALICE, 2)
        for number, nano in enumerate(money):
            if nano is not None:
                keep_record(connection, batch, bytes([number] * 16), *nano)
        assert looked(-1, 10) == (2, bytes([3] * 16), 4)
        assert looked(-1, 3) == (0, None, 2)
        assert looked(2, 1) == (1, bytes([3] * 16), 3)
        assert looked(3, 10) == (1, bytes([4] * 16), 4)
        assert looked(4, 10) == (0, None, None)


def keep_record(
    connection: Connection, batch: BatchRow, id_: bytes, hold_nano: int, charge_nano: int, loss_nano: int
) -> None:
    record = RequestRecord(
        id=id_,
        key_id=batch.key_id,
        owner_id=batch.owner_id,
        operation="op",
        model="m",
        group="default",
        created_ns=1,
        duration_ms=1.5,
        status=200,
        outcome="ok",
        usage=Usage(),
        price_id=1,
        price_version=1,
        ratio_micro=1_000_000,
        hold_nano=hold_nano,
        charge_nano=charge_nano,
        loss_nano=loss_nano,
    )
    columns = ("id", "key_id", "owner_id", "model", "status", "charge_nano", "loss_nano", "created_ns")
    row = {name: getattr(record, name) for name in columns} | {"record": msgspec.json.encode(record)}
    connection.execute(schema.requests.insert(), row)


def test_an_alert_is_raised_once(database: Database) -> None:
    with database.write() as connection:
        for first in (True, False):
            told = alerts.raise_alert(connection, kind="k", subject="s", detail={"n": 1}, now_ns=1)
            assert told is first
        (row,) = alerts.list_alerts(connection)
    assert (row.kind, row.subject, row.detail) == ("k", "s", '{"n":1}')


def test_alerts_are_listed_from_the_newest_page_by_page(database: Database) -> None:
    with database.write() as connection:
        for kind, subject in (("k", "s"), ("j", "s"), ("k", "t")):
            assert alerts.raise_alert(connection, kind=kind, subject=subject, detail={}, now_ns=1)
        page = alerts.list_alerts(connection, limit=2)
        assert [(row.kind, row.subject) for row in page] == [("k", "t"), ("j", "s")]
        (last,) = alerts.list_alerts(connection, limit=2, before_id=page[-1].id)
        assert (last.kind, last.subject) == ("k", "s")
