"""What every process asks all the time goes by an index, however many rows have ended by then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event

from elkapi.ledger.idempotency import purge_claims
from elkapi.storage.db import Database
from elkapi.storage.migrations import migrate
from elkapi.storage.repos import batch_lines, notices, stored, tasks

OWNER = b"o" * 16
LOOKS: dict[str, tuple[Callable[[Connection], Any], str]] = {
    "a poller's look": (lambda c: tasks.any_work(c, OWNER), "tasks_open"),
    "a poller's lease": (lambda c: tasks.lease(c, OWNER, 10), "tasks_open"),
    "a poller's own": (lambda c: tasks.owned(c, OWNER), "tasks_open"),
    "what was poked": (lambda c: tasks.take_poked(c, OWNER), "tasks_open"),
    "tasks of the dead": (lambda c: tasks.release(c, {OWNER}), "tasks_open"),
    "a sender's look": (lambda c: notices.is_any_due(c, 5), "notices_due"),
    "a runner's look": (lambda c: batch_lines.open_batches(c, 10, 5), "message_batches_open"),
    "lines of the dead": (lambda c: batch_lines.is_any_left(c, OWNER), "batch_lines_running"),
    "answers of the dead": (lambda c: stored.fail_running(c, {OWNER}), "stored_objects_running"),
    "answers of the unknown": (lambda c: stored.fail_orphans(c), "stored_objects_running"),
    "claims that are over": (lambda c: purge_claims(c, 5, 10, 10), "idempotency_by_expiry"),
}


@pytest.fixture
def database(tmp_path: Path) -> Database:
    made = Database.open(f"sqlite:///{tmp_path / 'looks.sqlite3'}")
    migrate(made)
    return made


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_at_what_is_open_reads_no_row_that_has_ended(database: Database, look: str) -> None:
    asks, index = LOOKS[look]
    asked: list[tuple[str, Any]] = []
    with database.write() as connection:

        @event.listens_for(connection, "before_cursor_execute")
        def note(_connection: Any, _cursor: Any, text: str, values: Any, *_: Any) -> None:
            asked.append((text, values))

        asks(connection)
        assert asked
        for text, values in list(asked):
            plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + text, values).all()
            steps = [str(step[3]) for step in plan]
            scans = [step for step in steps if step.startswith("SCAN") and index not in step]
            # What has no table's name was found by then, and the workers are few.
            assert not [scan for scan in scans if not scan.startswith(("SCAN (", "SCAN anon", "SCAN workers"))], (
                text,
                steps,
            )
            assert any(index in step for step in steps), (text, steps)
    database.close()
