"""Indexes for lists of tasks by how they ended: one of the few that failed went through all tasks of its key."""

from __future__ import annotations

from sqlalchemy import Connection, text

_INDEXES = (
    "CREATE INDEX tasks_ended_by_key ON tasks (key_id, state, id) "
    "WHERE state IN ('succeeded', 'failed', 'cancelled', 'expired')",
    "CREATE INDEX tasks_that_made_nothing ON tasks (state, id) WHERE state IN ('failed', 'cancelled', 'expired')",
)


def pre(connection: Connection, now_ns: int) -> None:
    for index in _INDEXES:
        connection.execute(text(index))


def post(connection: Connection, now_ns: int) -> None:
    """Old code asks without them."""
