"""The secrets that sign the notices of each key's tasks, sealed under the key's id: created once, shown once, rotated.

After a rotation the previous secret signs as well for a while, so that receivers need not change at the same moment.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from sqlalchemy import Connection, select, update

from elkapi.storage import dialect as sql
from elkapi.storage import schema
from elkapi.storage.repos import audit
from elkapi.storage.secrets import Sealer

_table = schema.webhook_secrets
_c = _table.c


class WebhookSecret(msgspec.Struct, frozen=True):
    """A key's secret; `shown_ns` is when its owner saw it, None before that."""

    key_id: int
    secret: str
    shown_ns: int | None
    previous: str | None
    previous_until_ns: int | None

    def in_force(self, now_ns: int) -> tuple[str, ...]:
        """The secrets that sign now, newest first."""
        overlaps = (self.previous_until_ns or 0) > now_ns
        return (self.secret, self.previous) if overlaps and self.previous else (self.secret,)


def get(connection: Connection, sealer: Sealer, key_id: int) -> WebhookSecret | None:
    """A key's secrets. Raises storage.secrets.SealError if they were sealed with another installation's key."""
    row = connection.execute(select(_table).where(_c.key_id == key_id)).one_or_none()
    if row is None:
        return None
    previous = row.previous_sealed
    return WebhookSecret(
        key_id,
        sealer.open(row.sealed, _context(key_id, "sealed")).decode(),
        row.shown_ns,
        None if previous is None else sealer.open(previous, _context(key_id, "previous_sealed")).decode(),
        row.previous_until_ns,
    )


def ensure(connection: Connection, sealer: Sealer, key_id: int, make: Callable[[], str], now_ns: int) -> WebhookSecret:
    """A key's secret, created if it has none. Raises storage.secrets.SealError."""
    if (found := get(connection, sealer, key_id)) is not None:
        return found
    sealed = sealer.seal(make().encode(), _context(key_id, "sealed"))
    sql.upsert(connection, _table, {"key_id": key_id, "created_ns": now_ns, "sealed": sealed}, key=["key_id"])
    made = get(connection, sealer, key_id)
    assert made is not None
    return made


def show(connection: Connection, key_id: int, *, now_ns: int, actor: str) -> None:
    """Record that its owner saw it."""
    connection.execute(update(_table).where(_c.key_id == key_id).values(shown_ns=now_ns))
    subject = f"key:{key_id}"
    audit.write(connection, now_ns=now_ns, actor=actor, action="webhook.secret.show", subject=subject, detail={})


def rotate(
    connection: Connection,
    sealer: Sealer,
    before: WebhookSecret,
    secret: str,
    *,
    until_ns: int,
    now_ns: int,
    actor: str,
) -> None:
    """Make this the current secret; the previous one signs as well until then."""
    key_id = before.key_id
    values = {
        "created_ns": now_ns,
        "shown_ns": None,
        "sealed": sealer.seal(secret.encode(), _context(key_id, "sealed")),
        "previous_sealed": sealer.seal(before.secret.encode(), _context(key_id, "previous_sealed")),
        "previous_until_ns": until_ns,
    }
    connection.execute(update(_table).where(_c.key_id == key_id).values(values))
    subject = f"key:{key_id}"
    audit.write(connection, now_ns=now_ns, actor=actor, action="webhook.secret.rotate", subject=subject, detail={})


def _context(key_id: int, column: str) -> bytes:
    return f"webhook_secrets.{column}\0{key_id}".encode()
