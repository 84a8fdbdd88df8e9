"""Alerts for the operator: each thing once, however many processes find it."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, select

from elkapi.storage import dialect as sql
from elkapi.storage import schema

_alerts = schema.alerts


class AlertRow(msgspec.Struct, frozen=True):
    """`kind` is what is wrong, `subject` what it concerns (`batch:msgbatch_...`), `detail` is JSON."""

    id: int
    created_ns: int
    kind: str
    subject: str
    detail: str


def raise_alert(connection: Connection, *, kind: str, subject: str, detail: dict[str, object], now_ns: int) -> bool:
    """Store an alert; False if it was already stored."""
    row = {"created_ns": now_ns, "kind": kind, "subject": subject, "detail": msgspec.json.encode(detail).decode()}
    return sql.upsert(connection, _alerts, row, key=["kind", "subject"]) == 1


def list_alerts(connection: Connection, *, limit: int = 100, before_id: int | None = None) -> list[AlertRow]:
    """The newest first; `before_id` continues a page."""
    query = select(_alerts).order_by(_alerts.c.id.desc()).limit(limit)
    if before_id is not None:
        query = query.where(_alerts.c.id < before_id)
    return [AlertRow(**row) for row in connection.execute(query).mappings()]
