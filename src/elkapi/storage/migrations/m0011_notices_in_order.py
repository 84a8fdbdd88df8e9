"""Notices of all keys, the newest first, in the order of an index to its last column.

For an index that gave only a part of the order SQLite 3.53 reads and sorts the whole table instead.
"""

from __future__ import annotations

from sqlalchemy import Connection, text


def pre(connection: Connection, now_ns: int) -> None:
    connection.execute(text("CREATE INDEX notices_in_order ON notices (created_ns, number, task_id, place)"))
    connection.execute(text("DROP INDEX notices_by_age"))


def post(connection: Connection, now_ns: int) -> None:
    """The new index serves old code as well."""
