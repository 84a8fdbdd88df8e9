"""Tasks that ended long ago are forgotten, those that did not are kept, however old they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import insert, select

from elkapi.clock import ManualClock
from elkapi.control.parts import Parts
from elkapi.ids import first_id_at
from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.storage.installation import open_installation
from elkapi.storage.repos import tasks
from elkapi.storage.repos.tasks import Wanted
from elkapi.storage.schema import task_refs, workers
from elkapi.storage.schema import tasks as table
from elkapi.types import Grant

DAY_NS = 86_400 * 10**9
NOW_NS = 1_800_000_000 * 10**9


def row(
    number: int, begun_ns: int, ended_ns: int | None, *, state: str = "succeeded", size: int = 10
) -> dict[str, Any]:
    return {
        "id": first_id_at(begun_ns)[:15] + bytes([number]),
        "owner_id": 1,
        "key_id": 1,
        "version": 1,
        "progress": 100,
        "poked": False,
        **dict.fromkeys(("operation", "wire", "form", "model"), "x"),
        "state": state,
        "created_ns": begun_ns,
        "updated_ns": begun_ns,
        "finished_ns": ended_ns,
        "asked_sealed": bytes(size),
    }


def written(database: Database, rows: list[dict[str, Any]]) -> None:
    with database.write() as connection:
        connection.execute(insert(table), rows)
        refs = [{"key_id": 1, "ref": f"ref {one['id'].hex()}", "task_id": one["id"]} for one in rows]
        connection.execute(insert(task_refs), refs)


def left(database: Database) -> set[int]:
    """The numbers of the tasks that are there, whose names are there too and no others'."""
    with database.read() as connection:
        ids = set(connection.execute(select(table.c.id)).scalars())
        assert ids == set(connection.execute(select(task_refs.c.task_id)).scalars())
    return {one[15] for one in ids}


def test_tasks_are_forgotten_by_the_time_of_their_end_some_at_a_time(database: Database) -> None:
    old_ns, before_ns = NOW_NS - 40 * DAY_NS, NOW_NS - 30 * DAY_NS
    written(
        database,
        [
            row(1, old_ns, old_ns + DAY_NS),
            row(2, old_ns, old_ns + DAY_NS, state="failed"),
            row(3, old_ns, None, state="cancelled"),
            row(4, old_ns, old_ns + 20 * DAY_NS),
            row(5, old_ns, None, state="queued"),
            row(6, old_ns, None, state="running"),
            row(7, NOW_NS - DAY_NS, NOW_NS),
            row(8, old_ns + 1_000_000, old_ns + DAY_NS, size=100),
        ],
    )
    gone = []
    for _ in range(4):
        with database.write() as connection:
            gone.append(tasks.purge(connection, before_ns, 2, 50))
    # Two rows at a time, and the large one although it is beyond the bytes.
    assert gone == [2, 1, 1, 0]
    assert left(database) == {4, 5, 6, 7}
    with database.write() as connection:
        assert tasks.purge(connection, -1, 2, 50) == 0


@pytest.mark.parametrize(
    ("task_days", "file_days", "kept"),
    [
        (30, 30, {3, 4}),
        (30, 1, {3, 4}),
        (1, 1, {4}),
        (1, 30, {3, 4}),
        (1, 50, {2, 3, 4}),
        (365, 1, {1, 2, 3, 4}),
        (30, 0, {1, 2, 3, 4}),
        (0, 30, {1, 2, 3, 4}),
    ],
)
async def test_the_control_process_keeps_a_task_as_long_as_it_is_told_and_its_files_are(
    tmp_path: Path, task_days: int, file_days: int, kept: set[int]
) -> None:
    settings = Settings(data_dir=str(tmp_path), task_keep_s=task_days * 86_400.0, asset_keep_s=file_days * 86_400.0)
    installation = open_installation(settings)
    clock = ManualClock(NOW_NS)
    ages = {1: 60, 2: 40, 3: 10, 4: 0}
    written(installation.database, [row(n, NOW_NS - (d + 1) * DAY_NS, NOW_NS - d * DAY_NS) for n, d in ages.items()])
    async with Parts(settings, clock) as parts:
        for job in parts.jobs():
            if job.name == "expiry":
                await job.run_once()
    assert left(installation.database) == kept
    installation.database.close()


@pytest.mark.parametrize("states", [None, (), ("expired",), ("failed", "succeeded"), ("queued", "failed", "running")])
@pytest.mark.parametrize("ascending", [False, True])
def test_a_list_of_some_states_has_their_tasks_in_order_page_by_page(
    database: Database, states: tuple[str, ...] | None, ascending: bool
) -> None:
    kinds = ("succeeded", "failed", "queued", "expired", "succeeded", "running", "cancelled")
    rows = [row(number, NOW_NS + number * 10**7, None, state=kinds[number % 7]) for number in range(30)]
    written(database, [*rows, row(31, NOW_NS, None, state="failed") | {"key_id": 2}])
    grant = Grant(1, "k", 1, "default", "live", (1,), None, None, True)
    wanted = Wanted(wires=("x",), states=states)
    expected = [one["id"] for one in rows if states is None or one["state"] in states]
    expected = expected if ascending else expected[::-1]
    with database.read() as connection:

        def page(**more: Any) -> list[bytes]:
            return [one.id for one in tasks.page(connection, grant, wanted, ascending=ascending, **more)]

        assert page(limit=100) == expected
        assert page(limit=3, offset=2) == expected[2:5]
        if expected:
            assert page(limit=4, after=expected[1]) == expected[2:6]
        assert tasks.count(connection, grant, wanted) == len(expected)
        newest = [one.id for one in tasks.newest(connection, key_id=1, states=states, limit=5)]
        assert newest == (expected[::-1] if ascending else expected)[:5]
        everybodys = [one.key_id for one in tasks.newest(connection, states=states, limit=100)]
        assert everybodys.count(1) == len(expected)
        assert everybodys.count(2) == (states is None or "failed" in states)


POLLER, OTHER, WORKER = b"p" * 16, b"o" * 16, b"w" * 16


def test_a_poller_is_told_once_of_those_of_its_open_tasks_that_somebody_asks_about(database: Database) -> None:
    rows = [
        row(number, NOW_NS, None, state=state) | {"poller": poller}
        for number, (state, poller) in enumerate(
            (("running", POLLER), ("running", POLLER), ("queued", OTHER), ("failed", POLLER))
        )
    ]
    written(database, rows)
    asked, unasked, others, ended = (one["id"] for one in rows)
    with database.write() as connection:
        assert [tasks.poke(connection, one) for one in (asked, others, ended, b"n" * 16)] == [True, True, False, False]
        connection.execute(table.update().where(table.c.id == ended).values(poked=True))
        assert tasks.any_work(connection, POLLER) == (False, True)
        assert tasks.take_poked(connection, POLLER) == [asked]
        assert (tasks.any_work(connection, POLLER), tasks.take_poked(connection, POLLER)) == ((False, False), [])
        assert tasks.take_poked(connection, OTHER) == [others]
        assert tasks.poke(connection, unasked)
        assert tasks.take_poked(connection, POLLER) == [unasked]


def test_a_poller_leases_open_tasks_that_nobody_owns_or_submits_and_those_of_the_dead_are_free(
    database: Database,
) -> None:
    rows = [
        row(number, NOW_NS, None, state=state) | {"poller": poller, "worker": worker}
        for number, (state, poller, worker) in enumerate(
            (
                ("queued", None, None),
                ("running", None, None),
                ("queued", None, WORKER),
                ("running", OTHER, None),
                ("failed", OTHER, None),
                ("succeeded", None, None),
            )
        )
    ]
    written(database, rows)

    def leased(most: int = 9) -> list[int]:
        return [one.id[15] for one in tasks.lease(connection, POLLER, most)]

    with database.write() as connection:
        first = leased(most=1)
        assert sorted(first + leased()) == [0, 1]
        assert (leased(), tasks.any_work(connection, POLLER)) == ([], (False, False))
        tasks.release(connection, [b"n" * 16])
        tasks.leave_to_pollers(connection, [OTHER])
        assert leased() == []
        # What a worker was submitting has moved on, so that it comes too late with its own step.
        tasks.leave_to_pollers(connection, [WORKER])
        assert [(one.id[15], one.version) for one in tasks.lease(connection, POLLER, 9)] == [(2, 2)]
        tasks.release(connection, [OTHER])
        assert leased() == [3]
        assert sorted(one.id[15] for one in tasks.owned(connection, POLLER)) == [0, 1, 2, 3]
        assert tasks.owned(connection, OTHER) == []
        connection.execute(table.update().where(table.c.id == rows[3]["id"]).values(poller=OTHER))
        connection.execute(
            insert(workers).values(owner=OTHER, role="control", started_ns=1, heartbeat_ns=1, scan_from=b"")
        )
        # No heartbeat of this poller is known.
        assert tasks.release_orphans(connection) == 3
        assert tasks.owned(connection, POLLER) == []
        assert [one.id[15] for one in tasks.owned(connection, OTHER)] == [3]
        ended = table.select().where(table.c.poller == OTHER).with_only_columns(table.c.id)
        assert sorted(one[15] for one in connection.execute(ended).scalars()) == [3, 4]


GRANT = Grant(1, "k", 1, "default", "live", (1,), None, None, True)


def test_a_task_is_found_by_each_of_its_names_and_by_its_own_caller_alone(database: Database) -> None:
    rows = [
        row(number, NOW_NS + number * 10**7, None) | {"native_id": native, "deleted_ns": None}
        for number, native in enumerate("abaab")
    ]
    rows[3] |= {"key_id": 2}
    rows[4] |= {"deleted_ns": NOW_NS}
    written(database, rows)
    with database.read() as connection:

        def found(text: str, grant: Grant = GRANT) -> int | None:
            one = tasks.find(connection, grant, text)
            return None if one is None else one.id[15]

        ids = [one["id"] for one in rows]
        assert [found(tasks.task_id_text(id_)) for id_ in ids] == [0, 1, 2, None, None]
        assert [found(f"ref {id_.hex()}") for id_ in ids] == [0, 1, 2, None, None]
        # Of several of one provider's name the newest, but for one that was deleted.
        assert [found(text) for text in ("a", "b", "c", "", "a\0")] == [2, 1, None, None, None]
        for stranger in (structs.replace(GRANT, key_id=3), structs.replace(GRANT, owner_id=2)):
            names = [tasks.task_id_text(ids[0]), f"ref {ids[0].hex()}", "a"]
            assert [found(text, stranger) for text in names] == [None, None, None]
            assert tasks.page(connection, stranger, Wanted(), limit=9) == []
            assert tasks.count(connection, stranger, Wanted()) == 0


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (Wanted(), [4, 3, 2, 1, 0]),
        (Wanted(wires=("y",)), [0]),
        (Wanted(operations=("y",)), [1]),
        (Wanted(forms=("y", "z")), [2]),
        (Wanted(models=("y",)), [3]),
        (Wanted(models=("y",), wires=("y",)), []),
        (Wanted(models=("x\0",)), []),
        (Wanted(native_ids=("n", "m")), [4]),
        (Wanted(begun=True), [4]),
        (Wanted(but_form="y"), [4, 3, 1, 0]),
        (Wanted(but_form="y", states=("succeeded",)), [4, 3, 1, 0]),
    ],
)
def test_a_list_has_only_what_each_condition_admits(database: Database, wanted: Wanted, numbers: list[int]) -> None:
    columns = ("wire", "operation", "form", "model", "native_id")
    rows = [row(number, NOW_NS + number * 10**7, None) | {"native_id": None} for number in range(5)]
    for one, column in zip(rows, columns, strict=True):
        one[column] = "n" if column == "native_id" else "y"
    written(database, rows)
    with database.read() as connection:
        assert [one.id[15] for one in tasks.page(connection, GRANT, wanted, limit=9)] == numbers
        assert tasks.count(connection, GRANT, wanted) == len(numbers)
