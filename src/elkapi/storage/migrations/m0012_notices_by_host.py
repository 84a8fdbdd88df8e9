"""An index for the due notices of each host: one host's that could not be sent were gone through at every look."""

from __future__ import annotations

from sqlalchemy import Connection, text


def pre(connection: Connection, now_ns: int) -> None:
    connection.execute(text("CREATE INDEX notices_due_by_host ON notices (host, due_ns) WHERE state = 'pending'"))


def post(connection: Connection, now_ns: int) -> None:
    """Old code asks without it."""
