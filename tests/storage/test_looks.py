"""What is asked all the time, and what calls ask, goes by an index, however many rows there are by then."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Table, event

from elkapi.ledger import accounts, recovery, statements
from elkapi.ledger.idempotency import purge_claims, read_claim
from elkapi.relay.account import read_account
from elkapi.storage import schema
from elkapi.storage.db import Database
from elkapi.storage.migrations import migrate
from elkapi.storage.repos import (
    alerts,
    assets,
    audit,
    batch_lines,
    batches,
    keys,
    notices,
    requests,
    stored,
    tasks,
    versions,
    webhook_secrets,
)
from elkapi.storage.repos.batch_lines import EndedLine, PutBackLine
from elkapi.storage.repos.notices import Try
from elkapi.storage.repos.tasks import Wanted
from elkapi.storage.secrets import Sealer
from elkapi.types import Grant, IdempotencyClaim

OWNER = b"o" * 16
ID = b"i" * 16
NOTICE = (ID, 0, 1)
A_NOTICE = notices.NoticeRow(ID, 0, 1, 1, "h", "standard", "delivered", 1, 5, 5, 5, b"?")
GRANT = Grant(1, "k", 1, "default", "live", (1,), None, None, True)
AN_ASSET = assets.AssetRow(
    id=ID,
    task_id=ID,
    number=0,
    owner_id=1,
    key_id=1,
    kind="image",
    content_type="image/png",
    size_bytes=9,
    sha256=b"",
    width=None,
    height=None,
    duration_ms=None,
    location="place",
    created_ns=0,
    expires_ns=9,
)
LINE = EndedLine(ID, 0, "succeeded", b"", ID)
LOOKS: dict[str, tuple[Callable[[Connection], Any], str]] = {
    "a poller's look": (lambda c: tasks.any_work(c, OWNER), "tasks_open"),
    "a poller's lease": (lambda c: tasks.lease(c, OWNER, 10), "tasks_open"),
    "a poller's own": (lambda c: tasks.owned(c, OWNER), "tasks_open"),
    "what was poked": (lambda c: tasks.take_poked(c, OWNER), "tasks_open"),
    "tasks of the dead": (lambda c: tasks.release(c, {OWNER}), "tasks_open"),
    "submits of the dead": (lambda c: tasks.leave_to_pollers(c, {OWNER}), "tasks_open"),
    "an operator's open tasks": (lambda c: tasks.newest(c, states=tasks.OPEN, limit=10), "tasks_open"),
    "an operator's open tasks behind one": (
        lambda c: tasks.newest(c, states=tasks.OPEN, limit=10, before=ID),
        "tasks_open",
    ),
    "an operator's expired tasks behind one": (
        lambda c: tasks.newest(c, states=["expired"], limit=10, before=ID),
        "tasks_that_made_nothing",
    ),
    "an operator's tasks of one end": (
        lambda c: tasks.newest(c, states=["expired"], limit=10),
        "tasks_that_made_nothing",
    ),
    "a caller's of one end": (
        lambda c: tasks.page(c, GRANT, Wanted(wires=("w",), states=("expired",), begun=True), limit=10, offset=1),
        "tasks_ended_of_key",
    ),
    "how many of one end": (
        lambda c: tasks.count(c, GRANT, Wanted(wires=("w",), states=("expired",), begun=True)),
        "tasks_ended_of_key",
    ),
    "a caller's open tasks": (
        lambda c: tasks.page(c, GRANT, Wanted(wires=("w",), states=tasks.OPEN, begun=True), limit=10, after=ID),
        "tasks_open",
    ),
    "how many are open": (
        lambda c: tasks.count(c, GRANT, Wanted(wires=("w",), states=tasks.OPEN, begun=True)),
        "tasks_open",
    ),
    "a sender's look": (lambda c: notices.is_any_due(c, 5), "notices_due"),
    "an operator's events given up": (
        lambda c: notices.newest(c, state="given_up", limit=10),
        "notices_given_up",
    ),
    "an operator's events given up behind one": (
        lambda c: notices.newest(c, state="given_up", limit=10, before=A_NOTICE),
        "notices_given_up",
    ),
    "a runner's look": (lambda c: batch_lines.open_batches(c, 10, 5), "message_batches_open"),
    "a key's open batches": (lambda c: batches.open_work(c, 1), "message_batches_open"),
    "lines taken over": (lambda c: batch_lines.take_over(c, OWNER, 10), "batch_lines_running"),
    "lines of the dead": (lambda c: batch_lines.is_any_left(c, OWNER), "batch_lines_running"),
    "answers of the dead": (lambda c: stored.fail_running(c, {OWNER}), "stored_objects_running"),
    "answers of the unknown": (lambda c: stored.fail_orphans(c), "stored_objects_running"),
    "claims that are over": (lambda c: purge_claims(c, 5, 10, 10), "idempotency_by_expiry"),
    "results kept long enough": (lambda c: batch_lines.is_any_kept_since(c, 5), "message_batches_kept"),
    "a task by its provider's id": (lambda c: tasks.find(c, GRANT, "theirs"), "tasks_of_native_id"),
    "tasks by their provider's ids": (
        lambda c: tasks.page(c, GRANT, Wanted(native_ids=("theirs",), begun=True), limit=10),
        "tasks_of_native_id",
    ),
    "how many those are": (
        lambda c: tasks.count(c, GRANT, Wanted(native_ids=("theirs",), begun=True)),
        "tasks_of_native_id",
    ),
}
# Whatever else calls, jobs and lists of one page ask: by which index is the database's to choose.
ASKED: dict[str, Callable[[Connection], Any]] = {
    "versions": versions.read,
    "a key": lambda c: keys.find_grant(c, ID * 2),
    "keys of a name": lambda c: keys.find_by_name(c, "name"),
    "changed keys": lambda c: keys.changed_since(c, 5),
    "keys": lambda c: keys.list_keys(c, limit=10, after_id=5),
    "a balance": lambda c: accounts.entries_of(c, ID),
    "an account of a call": lambda c: read_account(c, ID, 1),
    "newest calls": lambda c: requests.list_requests(c, 10),
    "a claim": lambda c: read_claim(c, IdempotencyClaim(1, "op", "name", b"")),
    "a hold": lambda c: recovery.read_hold(c, ID),
    "holds of the dead": lambda c: recovery._open_holds_from(c, ID, {OWNER}),
    "a task": lambda c: tasks.find(c, GRANT, tasks.task_id_text(ID)),
    "tasks of several ends": lambda c: tasks.page(
        c, GRANT, Wanted(wires=("w",), states=("failed", "succeeded"), begun=True), limit=10, ascending=True
    ),
    "a page of tasks": lambda c: tasks.page(c, GRANT, Wanted(wires=("w",), begun=True), limit=10, after=ID),
    "tasks that are over": lambda c: tasks.purge(c, 5, 10, 10),
    "a poke": lambda c: tasks.poke(c, ID),
    "a batch": lambda c: batches.get_batch(c, ID, 1, 1),
    "a page of batches": lambda c: batches.list_batches(c, 1, 1, 10, after=ID),
    "a batch made before": lambda c: batches.find_made(c, 1, "name"),
    "a batch cancelled": lambda c: batches.cancel(c, ID, 1, 1, 5),
    "results": lambda c: batches.results_after(c, ID, -1, rows_max=10, bytes_max=10),
    "a lease of lines": lambda c: batch_lines.lease(c, ID, OWNER, 10, 5),
    "lines put back": lambda c: batch_lines.put_back(c, [PutBackLine(ID, 0, 1, 5)], OWNER),
    "a claim of a line": lambda c: batch_lines.find_claim(c, 1, "op", "name"),
    "the ends of lines": lambda c: batch_lines.end_lines(c, [LINE], OWNER, 5),
    "lines that were not begun": lambda c: batch_lines.end_unbegun(c, ID, "expired", 10, 5),
    "what has no charge": lambda c: batch_lines.find_uncharged(c, ID, -1, 10),
    "a batch closed": lambda c: batch_lines.close_batch(c, ID),
    "a batch removed": lambda c: batch_lines.remove(c, ID, 10),
    "results archived": lambda c: batch_lines.archive(c, 5, 10, 5),
    "a stored answer": lambda c: stored.read(c, GRANT, "response", ID, 5),
    "a conversation": lambda c: stored.conversation(c, GRANT, ID, 10, 5),
    "items": lambda c: stored.items_of(c, GRANT, ["item"], [ID], 10, 5),
    "a page of stored answers": lambda c: stored.page(
        c, GRANT, "chat", 5, limit=10, bytes_max=10, after=ID, model="m", metadata={"a": "b"}
    ),
    "a stored answer changed": lambda c: stored.set_metadata(c, GRANT, "chat", ID, None),
    "an answer cancelled": lambda c: stored.cancel(c, GRANT, ID),
    "an answer deleted": lambda c: stored.remove(c, GRANT, "chat", ID),
    "a stream's frames": lambda c: stored.frames(c, ID, 0),
    "answers that are over": lambda c: stored.purge(c, 5, 10, 10),
    "notices taken": lambda c: notices.take(
        c, OWNER, count=5, per_host_max=5, busy={}, busy_keys={}, paused=(), now_ns=5
    ),
    "a try": lambda c: notices.end_try(c, NOTICE, OWNER, Try(5, 1, 200), state="delivered", tries=1, due_ns=5),
    "a notice": lambda c: notices.find(c, NOTICE),
    "its tries": lambda c: notices.tries_of(c, NOTICE),
    "newest notices of a key": lambda c: notices.newest(c, key_id=1, limit=10),
    "newest notices": lambda c: notices.newest(c, limit=10),
    "notices behind one": lambda c: notices.newest(c, limit=10, before=A_NOTICE),
    "newest notices given up": lambda c: notices.newest(c, state="given_up", limit=10),
    "notices that are over": lambda c: notices.purge(c, 5, 10),
    "a secret": lambda c: webhook_secrets.get(c, Sealer(bytes(32)), 1),
    "a file": lambda c: assets.find(c, GRANT, ID, 5),
    "a file of a task": lambda c: assets.of_place(c, ID, 0),
    "files of a key": lambda c: assets.used_bytes(c, 1, 5),
    "files that are over": lambda c: assets.expired(c, 5, 10),
    "files that are known": lambda c: assets.known_locations(c, ["a"]),
    "files forgotten": lambda c: assets.forget(c, [ID]),
    "newest changes": lambda c: audit.newest(c, limit=10),
    "alerts": alerts.list_alerts,
}
# Tables whose rows grow in number with calls, keys or time; what has no table's name was found by then.
GROWING = frozenset(
    {
        *("accounts", "alerts", "assets", "audit", "batch_lines", "deliveries", "idempotency", "keys"),
        *("message_batches", "notices", "requests", "stored_events", "stored_items", "stored_objects"),
        *("task_refs", "tasks", "transfers", "unknown_outcomes", "webhook_secrets"),
    }
)
# In the order of an index, from its end: a page of the newest reads no more than itself.
PAGED = {
    *("newest calls", "newest notices", "newest notices given up", "newest changes", "alerts"),
    "tasks of several ends",
}


# How many there are, whatever the list leaves out: by what is in the index alone.
COUNTED: dict[str, tuple[Wanted, str]] = {
    "of one kind": (Wanted(wires=("w",), operations=("o",), models=("m",), begun=True), "tasks_of_key"),
    "of one end": (Wanted(wires=("w",), states=("succeeded",), models=("m",), begun=True), "tasks_ended_of_key"),
    "of a form": (Wanted(forms=("unified",), but_form="x", begun=True), "tasks_of_key"),
}
# Rows that are all read at each new one, however many a key has: by what is in the index alone.
SUMMED: dict[str, Callable[[Connection], Any]] = {
    "files of a key": lambda c: assets.used_bytes(c, 1, 5),
    "room for a file": lambda c: assets.add(c, AN_ASSET, 1),
}


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Database]:
    made = Database.open(f"sqlite:///{tmp_path / 'looks.sqlite3'}")
    migrate(made)
    yield made
    made.close()


def asked_by(connection: Connection, asks: Callable[[Connection], Any]) -> list[tuple[str, Any]]:
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, text: str, values: Any, *_: Any) -> None:
        asked.append((text, values))

    event.listen(connection, "before_cursor_execute", note)
    asks(connection)
    event.remove(connection, "before_cursor_execute", note)
    # Rows are put where they belong; all else looks for some first.
    found = [(text, values) for text, values in asked if not text.startswith(("INSERT", "SET"))]
    assert found
    return found


def steps_of(connection: Connection, text: str, values: Any) -> list[str]:
    values = values[0] if isinstance(values, list) else values  # Of those that it is executed for, one after another.
    plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + text, values).all()
    return [str(step[3]) for step in plan]


def scanned(steps: list[str]) -> list[str]:
    """Growing tables that are gone through, and by which index."""
    found = [re.match(r"SCAN (\w+)(?: USING (?:COVERING )?INDEX (\w+))?", step) for step in steps]
    return [f"{one[1]} {one[2] or ''}".strip() for one in found if one and one[1] in GROWING]


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_at_what_is_open_reads_no_row_that_has_ended(lite: Database, look: str) -> None:
    asks, index = LOOKS[look]
    with lite.write() as connection:
        plans = [(text, steps_of(connection, text, values)) for text, values in asked_by(connection, asks)]
    for text, steps in plans:
        assert [scan for scan in scanned(steps) if not scan.endswith(f" {index}")] == [], (text, steps)
    assert any(index in step for _, steps in plans for step in steps), plans


@pytest.mark.parametrize("asked", ASKED)
def test_what_is_asked_goes_through_no_table_that_grows(lite: Database, asked: str) -> None:
    with lite.write() as connection:
        for text, values in asked_by(connection, ASKED[asked]):
            steps = steps_of(connection, text, values)
            assert asked in PAGED or not scanned(steps), (text, steps)
            # An order made of what was found, if only a part of it, has read all: newer SQLites choose to.
            assert asked not in PAGED or not [step for step in steps if "TEMP B-TREE" in step], (text, steps)


# How many each finds among SOME of everything. A statement about several rows may have another plan than about one.
OF_SEVERAL: dict[str, Callable[[Connection], int]] = {
    "claims that are over": lambda c: purge_claims(c, 5, 10, 10_000),
    "notices taken": lambda c: len(
        notices.take(c, OWNER, count=9, per_host_max=9, busy={}, busy_keys={}, paused=(), now_ns=5)
    ),
    "notices that are over": lambda c: notices.purge(c, 5, 10),
    "tasks that are over": lambda c: tasks.purge(c, 10**18, 10, 10_000),
    "a poller's lease": lambda c: len(tasks.lease(c, OWNER, 10)),
    "answers that are over": lambda c: stored.purge(c, 5, 10, 10_000),
    "lines taken over": lambda c: len(batch_lines.take_over(c, OWNER, 10)),
    "files forgotten": lambda c: assets.forget(c, [_id(number) for number in range(SOME)]),
}
SOME = 3
# Indexes of what is open alone, which may be gone through.
OF_OPEN = ("tasks_open", "batch_lines_running")


def _id(number: int) -> bytes:
    return bytes(15) + bytes([number])


def some_of_everything(connection: Connection) -> None:
    """SOME rows of all that ends, open and over."""

    def add(table: Table, **given: Any) -> None:
        kinds: dict[type, Any] = {bytes: b"", str: "x", int: 1, bool: False}
        row = {column.name: kinds[column.type.python_type] for column in table.columns if not column.nullable}
        connection.execute(table.insert(), row | given)

    add(schema.keys, id=1, owner_id=1, group="default", account_id=1, config="{}")
    add(schema.message_batches, id=ID, key_id=1)
    for number in range(SOME):
        over, due = _id(number), _id(100 + number)
        add(schema.idempotency, idempotency_key=str(number), state="done")
        add(schema.notices, task_id=over, state="delivered")
        add(schema.notices, task_id=due, state="pending")
        add(schema.deliveries, id=number, task_id=over)
        add(schema.tasks, id=over, state="failed", finished_ns=1)
        add(schema.tasks, id=due, state="running")
        add(schema.task_refs, ref=str(number), task_id=over)
        add(schema.stored_objects, id=over, kind="response")
        add(schema.stored_items, item_id=str(number), object_id=over)
        add(schema.stored_events, object_id=over)
        add(schema.batch_lines, batch_id=ID, line=number, state="running", worker=b"gone", request_sealed=b"")
        add(schema.assets, id=over, task_id=over, location=str(number))


@pytest.mark.parametrize("asked", COUNTED)
def test_tasks_are_counted_without_their_rows(lite: Database, asked: str) -> None:
    wanted, index = COUNTED[asked]
    with lite.write() as connection:
        found = asked_by(connection, lambda c: tasks.count(c, GRANT, wanted))
        plans = [steps_of(connection, *one) for one in found]
    assert all(any(f"SEARCH tasks USING COVERING INDEX {index} " in step for step in steps) for steps in plans), plans


@pytest.mark.parametrize("asked", SUMMED)
def test_a_keys_files_are_summed_up_without_their_rows(lite: Database, asked: str) -> None:
    with lite.write() as connection:
        some_of_everything(connection)
        plans = [steps_of(connection, *one) for one in asked_by(connection, SUMMED[asked])]
    of_key = [step for steps in plans for step in steps if "key_id=" in step]
    assert of_key
    assert all("COVERING INDEX assets_of_key" in step for step in of_key), plans
    assert not [step for steps in plans for step in steps if "TEMP B-TREE" in step], plans


@pytest.mark.parametrize("asked", OF_SEVERAL)
def test_several_rows_at_once_are_found_by_an_index(lite: Database, asked: str) -> None:
    found = []
    with lite.write() as connection:
        some_of_everything(connection)
        for text, values in asked_by(connection, lambda c: found.append(OF_SEVERAL[asked](c))):
            steps = steps_of(connection, text, values)
            assert not [scan for scan in scanned(steps) if not scan.endswith(OF_OPEN)], (text, steps)
    assert found == [SOME]


@pytest.mark.postgres
@pytest.mark.parametrize("asked", [*LOOKS, *ASKED])
def test_postgresql_too_has_an_index_for_what_is_asked(migrated_postgres_url: str, asked: str) -> None:
    asks = LOOKS[asked][0] if asked in LOOKS else ASKED[asked]
    database = Database.open(migrated_postgres_url)
    try:
        with database.write() as connection:
            statements_made = asked_by(connection, asks)
            # Of an empty table it would read all; so it does only where there is no index to go by.
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            for text, values in statements_made:
                plan = [str(row[0]) for row in connection.exec_driver_sql("EXPLAIN " + text, values)]
                found = [one for one in re.findall(r"Seq Scan on (\w+)", "\n".join(plan)) if one in GROWING]
                assert not found, (text, plan)
    finally:
        database.close()


@pytest.mark.postgres
def test_postgresql_finds_events_given_up_without_the_delivered_ones(migrated_postgres_url: str) -> None:
    database = Database.open(migrated_postgres_url)
    try:
        with database.write() as connection:
            ((text, values),) = asked_by(connection, lambda c: notices.newest(c, state="given_up", limit=10))
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            plan = [str(row[0]) for row in connection.exec_driver_sql("EXPLAIN " + text, values)]
            assert any("notices_given_up" in step for step in plan), plan
    finally:
        database.close()


def test_the_ledgers_own_statements_go_by_an_index(lite: Database) -> None:
    books = statements.for_dialect("sqlite")
    texts = {name: text for name, text in vars(books).items() if isinstance(text, str) and name != "begin"}
    texts = {name: text for name, text in texts.items() if text.startswith(("SELECT", "UPDATE", "DELETE"))}
    assert len(texts) > 10
    with lite.write() as connection:
        for name, text in texts.items():
            steps = steps_of(connection, text, (None,) * text.count("?"))
            assert not scanned(steps), (name, text, steps)
