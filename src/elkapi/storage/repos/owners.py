"""Who keys belong to; users and teams arrive here later."""

from __future__ import annotations

from sqlalchemy import Connection, select

from elkapi.storage import schema
from elkapi.storage.seeds import OPERATOR


def operator_id(connection: Connection) -> int:
    """The owner that every installation starts with."""
    owner_id: int = connection.execute(select(schema.owners.c.id).where(schema.owners.c.name == OPERATOR)).scalar_one()
    return owner_id
