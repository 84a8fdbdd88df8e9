"""The first schema and what a fresh installation starts with; nothing here knows later versions."""

from __future__ import annotations

from sqlalchemy import Connection

from elkapi.storage import schema
from elkapi.storage.seeds import seed


def pre(connection: Connection, now_ns: int) -> None:
    schema.metadata.create_all(connection)
    seed(connection, now_ns)


def post(connection: Connection, now_ns: int) -> None:
    """Nothing came before, so there is nothing to remove."""
