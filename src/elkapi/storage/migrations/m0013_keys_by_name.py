"""An index for keys by name: each command about a key went through all keys, changes while every call waited."""

from __future__ import annotations

from sqlalchemy import Connection, text


def pre(connection: Connection, now_ns: int) -> None:
    connection.execute(text("CREATE INDEX keys_by_name ON keys (name)"))


def post(connection: Connection, now_ns: int) -> None:
    """Old code asks without it."""
