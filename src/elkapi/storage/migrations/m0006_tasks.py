"""Tasks and the names of what they made.

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
)

metadata = MetaData()

_Id = BigInteger().with_variant(Integer, "sqlite")

tasks = Table(
    "tasks",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("owner_id", _Id, nullable=False),
    Column("key_id", _Id, nullable=False),
    Column("operation", String, nullable=False),
    Column("wire", String, nullable=False),
    Column("form", String, nullable=False),
    Column("model", String, nullable=False),
    Column("state", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("progress", Integer, nullable=False),
    Column("native_id", String),
    Column("channel_id", _Id),
    Column("channel_key_id", _Id),
    Column("worker", LargeBinary),
    Column("poller", LargeBinary),
    Column("poked", Boolean, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("updated_ns", BigInteger, nullable=False),
    Column("started_ns", BigInteger),
    Column("finished_ns", BigInteger),
    Column("deleted_ns", BigInteger),
    Column("error_code", String),
    Column("asked_sealed", LargeBinary, nullable=False),
    Column("told_sealed", LargeBinary),
    Index("tasks_by_key", "key_id", "id"),
    Index("tasks_by_native_id", "key_id", "native_id"),
    comment="state queued | running | succeeded | failed | cancelled | expired; worker submits it, poller owns it "
    "after; asked_sealed is JSON of tasks.record.Asked, told_sealed of Told; every step raises version by one",
)
_OPEN = tasks.c.state.in_(("queued", "running"))
# Pollers ask for what nobody owns and for what they own; tasks that ended, which are nearly all, stay out of it.
Index("tasks_open", tasks.c.poller, sqlite_where=_OPEN, postgresql_where=_OPEN)

task_refs = Table(
    "task_refs",
    metadata,
    Column("key_id", _Id, primary_key=True),
    Column("ref", String, primary_key=True),
    Column("task_id", LargeBinary, nullable=False),
    Index("task_refs_by_task", "task_id"),
    comment="names of a provider's for what a task made (a video's id, a file's), by which later calls refer to it",
)


def pre(connection: Connection, now_ns: int) -> None:
    metadata.create_all(connection)


def post(connection: Connection, now_ns: int) -> None:
    """Nothing is left behind."""
