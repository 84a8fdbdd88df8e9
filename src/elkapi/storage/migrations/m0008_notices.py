"""Notices of tasks to their callers, the log of their deliveries, and the secrets that sign them.

Stands alone, as every migration does: a later change of `schema` is a migration of its own.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Connection, Index, Integer, LargeBinary, MetaData, String, Table

metadata = MetaData()

_Id = BigInteger().with_variant(Integer, "sqlite")

notices = Table(
    "notices",
    metadata,
    Column("task_id", LargeBinary, primary_key=True),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("key_id", _Id, nullable=False),
    Column("owner_id", _Id, nullable=False),
    Column("host", String, nullable=False),
    Column("form", String, nullable=False),
    Column("state", String, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("lease", LargeBinary),
    Column("created_ns", BigInteger, nullable=False),
    Column("due_ns", BigInteger, nullable=False),
    Column("until_ns", BigInteger, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Index("notices_by_key", "key_id", "created_ns"),
    Index("notices_by_age", "created_ns"),
    comment="an event of a task for one of its addresses (place); state pending | delivered | given_up; a sender that "
    "has the lease owns it until due_ns; sealed is types.NoticeBody",
)
# Senders ask for what is due; what was delivered, which is nearly all, stays out of the index.
Index(
    "notices_due",
    notices.c.due_ns,
    sqlite_where=notices.c.state == "pending",
    postgresql_where=notices.c.state == "pending",
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("task_id", LargeBinary, nullable=False),
    Column("place", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("duration_ms", Integer, nullable=False),
    Column("status", Integer),
    Column("error", String, nullable=False),
    Column("answer", String, nullable=False),
    Index("deliveries_by_notice", "task_id", "place", "number", "id"),
    comment="one try to deliver a notice: its status or the words for what went wrong, and how an answer begins",
)

webhook_secrets = Table(
    "webhook_secrets",
    metadata,
    Column("key_id", _Id, primary_key=True, autoincrement=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("shown_ns", BigInteger),
    Column("previous_until_ns", BigInteger),
    Column("sealed", LargeBinary, nullable=False),
    Column("previous_sealed", LargeBinary),
    comment="what signs the notices of a key's tasks; until then the one before it signs them too",
)


def pre(connection: Connection, now_ns: int) -> None:
    metadata.create_all(connection)


def post(connection: Connection, now_ns: int) -> None:
    """Nothing came before, so there is nothing to remove."""
