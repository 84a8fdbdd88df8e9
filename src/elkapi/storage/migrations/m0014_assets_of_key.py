"""What a key's files take together comes from an index alone: at each new file all rows of the others were read."""

from __future__ import annotations

from sqlalchemy import Connection, text

_OF_KEY = "CREATE INDEX assets_of_key ON assets (key_id, created_ns, id, expires_ns, size_bytes)"


def pre(connection: Connection, now_ns: int) -> None:
    connection.execute(text(_OF_KEY))
    connection.execute(text("DROP INDEX assets_by_key"))


def post(connection: Connection, now_ns: int) -> None:
    """The new index serves old code as well."""
