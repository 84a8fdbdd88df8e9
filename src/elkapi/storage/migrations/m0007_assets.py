"""Files that tasks made, by their place in the asset store.

Stands alone, as every migration does: a later change of `schema` is a migration of its own.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Connection, Index, Integer, LargeBinary, MetaData, String, Table

metadata = MetaData()

_Id = BigInteger().with_variant(Integer, "sqlite")

assets = Table(
    "assets",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("task_id", LargeBinary, nullable=False),
    Column("number", Integer, nullable=False),
    Column("owner_id", _Id, nullable=False),
    Column("key_id", _Id, nullable=False),
    Column("kind", String, nullable=False),
    Column("content_type", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("width", Integer),
    Column("height", Integer),
    Column("duration_ms", BigInteger),
    Column("location", String, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger, nullable=False),
    Index("assets_by_task", "task_id", "number", unique=True),
    Index("assets_by_key", "key_id", "created_ns"),
    Index("assets_by_expiry", "expires_ns"),
    Index("assets_by_location", "location", unique=True),
    comment="one file that a task made, at location in the asset store; the file is written before its row and "
    "removed before it",
)


def pre(connection: Connection, now_ns: int) -> None:
    metadata.create_all(connection)


def post(connection: Connection, now_ns: int) -> None:
    """Nothing came before, so there is nothing to remove."""
