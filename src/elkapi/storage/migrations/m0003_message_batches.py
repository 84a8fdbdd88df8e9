"""Message batches with their lines, and what operators are alerted to.

Stands alone, as every migration does: a later change of `schema` is a migration of its own.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

metadata = MetaData()

_Id = BigInteger().with_variant(Integer, "sqlite")

message_batches = Table(
    "message_batches",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("owner_id", _Id, nullable=False),
    Column("key_id", _Id, nullable=False),
    Column("status", String, nullable=False),
    Column("total", Integer, nullable=False),
    Column("succeeded", Integer, nullable=False),
    Column("errored", Integer, nullable=False),
    Column("canceled", Integer, nullable=False),
    Column("expired", Integer, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger, nullable=False),
    Column("cancel_ns", BigInteger),
    Column("ended_ns", BigInteger),
    Column("archived_ns", BigInteger),
    Column("is_done", Boolean, nullable=False),
    Column("headers", String, nullable=False),
    Column("idempotency_key", String),
    Column("fingerprint", LargeBinary),
    UniqueConstraint("key_id", "idempotency_key", name="message_batches_once"),
    Index("message_batches_by_key", "key_id", "id"),
    comment="status staging | in_progress | canceling | ended | deleted; is_done: nothing is left for a runner to do; "
    "headers is JSON, what of the caller's goes with each line",
)
# Runners ask for what is left to do, and for results that were kept long enough; all else stays out of both.
Index(
    "message_batches_open",
    message_batches.c.id,
    sqlite_where=message_batches.c.is_done.is_(False),
    postgresql_where=message_batches.c.is_done.is_(False),
)
Index(
    "message_batches_kept",
    message_batches.c.ended_ns,
    sqlite_where=message_batches.c.archived_ns.is_(None),
    postgresql_where=message_batches.c.archived_ns.is_(None),
)

batch_lines = Table(
    "batch_lines",
    metadata,
    Column("batch_id", LargeBinary, primary_key=True),
    Column("line", Integer, primary_key=True, autoincrement=False),
    Column("custom_id", String, nullable=False),
    Column("state", String, nullable=False),
    Column("request_sealed", LargeBinary),
    Column("result_sealed", LargeBinary),
    Column("worker", LargeBinary),
    Column("request_id", LargeBinary),
    Column("tries", Integer, nullable=False),
    Column("not_before_ns", BigInteger, nullable=False),
    comment="state pending | running | succeeded | errored | canceled | expired; a worker runs it as request_id",
)
Index(
    "batch_lines_pending",
    batch_lines.c.batch_id,
    batch_lines.c.line,
    sqlite_where=batch_lines.c.state == "pending",
    postgresql_where=batch_lines.c.state == "pending",
)
Index(
    "batch_lines_running",
    batch_lines.c.worker,
    sqlite_where=batch_lines.c.state == "running",
    postgresql_where=batch_lines.c.state == "running",
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("created_ns", BigInteger, nullable=False),
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("detail", String, nullable=False),
    UniqueConstraint("kind", "subject", name="alerts_once"),
    comment="what an operator must look at, each thing once; detail is JSON",
)


def pre(connection: Connection, now_ns: int) -> None:
    metadata.create_all(connection)


def post(connection: Connection, now_ns: int) -> None:
    """Nothing came before, so there is nothing to remove."""
