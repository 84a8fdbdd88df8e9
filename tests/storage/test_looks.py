"""What every process asks all the time goes by an index, however many rows have ended by then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event

from elkapi.storage.db import Database
from elkapi.storage.migrations import migrate
from elkapi.storage.repos import notices, tasks

OWNER = b"o" * 16
LOOKS: dict[str, tuple[Callable[[Connection], Any], str]] = {
    "a poller's look": (lambda c: tasks.any_work(c, OWNER), "tasks_open"),
    "a poller's lease": (lambda c: tasks.lease(c, OWNER, 10), "tasks_open"),
    "a poller's own": (lambda c: tasks.owned(c, OWNER), "tasks_open"),
    "what was poked": (lambda c: tasks.take_poked(c, OWNER), "tasks_open"),
    "tasks of the dead": (lambda c: tasks.release(c, {OWNER}), "tasks_open"),
    "a sender's look": (lambda c: notices.is_any_due(c, 5), "notices_due"),
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
            assert not [step for step in steps if step.startswith("SCAN") and index not in step], (text, steps)
            assert any(index in step for step in steps), (text, steps)
    database.close()
