"""What lists of a caller's tasks ask for is in their indexes: a total, or a rare model, read all of the key's rows."""

from __future__ import annotations

from sqlalchemy import Connection, text

_LISTED_BY = "wire, operation, form, model, owner_id, deleted_ns, native_id"
_STEPS = (
    "CREATE INDEX tasks_of_native_id ON tasks (key_id, native_id, id)",
    "DROP INDEX tasks_by_native_id",
    f"CREATE INDEX tasks_of_key ON tasks (key_id, id, {_LISTED_BY})",
    "DROP INDEX tasks_by_key",
    f"CREATE INDEX tasks_ended_of_key ON tasks (key_id, state, id, {_LISTED_BY}) "
    "WHERE state IN ('succeeded', 'failed', 'cancelled', 'expired')",
    "DROP INDEX tasks_ended_by_key",
)


def pre(connection: Connection, now_ns: int) -> None:
    for step in _STEPS:
        connection.execute(text(step))


def post(connection: Connection, now_ns: int) -> None:
    """The new indexes serve old code as well."""
