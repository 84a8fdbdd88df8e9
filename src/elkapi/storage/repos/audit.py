"""The audit trail: who changed what. Callers pass no secret, and values of sealed fields are never part of a detail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from elkapi.storage import schema

_audit = schema.audit


class AuditRow(msgspec.Struct, frozen=True):
    id: int
    created_ns: int
    actor: str
    action: str
    subject: str
    detail: str


def write(
    connection: Connection,
    *,
    now_ns: int,
    actor: str,
    action: str,
    subject: str,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Add one row; `action` is noun.verb, `subject` is noun:id, `detail` is kept as JSON."""
    text = msgspec.json.encode(detail or {}, order="deterministic").decode()
    row = {"created_ns": now_ns, "actor": actor, "action": action, "subject": subject, "detail": text}
    connection.execute(_audit.insert(), row)


def newest(connection: Connection, *, limit: int = 100, before_id: int | None = None) -> list[AuditRow]:
    """The newest rows first; `before_id` continues a page."""
    query = select(_audit).order_by(_audit.c.id.desc()).limit(limit)
    if before_id is not None:
        query = query.where(_audit.c.id < before_id)
    return [AuditRow(**row) for row in connection.execute(query).mappings()]
