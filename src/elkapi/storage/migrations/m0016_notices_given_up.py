"""An index for the events that were given up: a list of the few went through all that were delivered."""

from __future__ import annotations

from sqlalchemy import Connection, text


def pre(connection: Connection, now_ns: int) -> None:
    connection.execute(
        text("CREATE INDEX notices_given_up ON notices (created_ns, number, task_id, place) WHERE state = 'given_up'")
    )


def post(connection: Connection, now_ns: int) -> None:
    """Old code asks without it."""
