"""Stored responses and chat completions: the objects, the streams of background responses, and where an item is from.

Stands alone, as every migration does: a later change of `schema` is a migration of its own.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Connection, Index, Integer, LargeBinary, MetaData, String, Table

metadata = MetaData()

_Id = BigInteger().with_variant(Integer, "sqlite")

stored_objects = Table(
    "stored_objects",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("kind", String, nullable=False),
    Column("owner_id", _Id, nullable=False),
    Column("key_id", _Id, nullable=False),
    Column("model", String, nullable=False),
    Column("status", String, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger, nullable=False),
    Column("previous", LargeBinary),
    Column("worker", LargeBinary),
    Column("metadata", String),
    Column("sealed", LargeBinary, nullable=False),
    Index("stored_objects_by_key", "key_id", "kind", "id"),
    Index("stored_objects_by_expiry", "expires_ns"),
    comment="answers kept for their callers: kind response | chat, sealed is JSON of translate.kept.Kept; previous is "
    "the turn before; worker runs it while status is in_progress; metadata is JSON, what lists filter by",
)
# Recovery asks for what one worker runs; everything that ended stays out of the index.
Index(
    "stored_objects_running",
    stored_objects.c.worker,
    sqlite_where=stored_objects.c.status == "in_progress",
    postgresql_where=stored_objects.c.status == "in_progress",
)

stored_events = Table(
    "stored_events",
    metadata,
    Column("object_id", LargeBinary, primary_key=True),
    Column("first", Integer, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    comment="the stream of a background response, some frames a row; first is the number of the row's first frame",
)

stored_items = Table(
    "stored_items",
    metadata,
    Column("key_id", _Id, primary_key=True),
    Column("item_id", String, primary_key=True),
    Column("object_id", LargeBinary, nullable=False),
    Index("stored_items_by_object", "object_id"),
    comment="which stored response an output item is of, for inputs that refer to it",
)


def pre(connection: Connection, now_ns: int) -> None:
    metadata.create_all(connection)


def post(connection: Connection, now_ns: int) -> None:
    """Nothing came before, so there is nothing to remove."""
