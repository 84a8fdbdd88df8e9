"""Reads the audit trail; every change that `admin` makes writes its row itself."""

from __future__ import annotations

from elkapi.admin.context import Admin
from elkapi.storage.repos import audit
from elkapi.storage.repos.audit import AuditRow


def list_audit(admin: Admin, *, limit: int = 100, before_id: int | None = None) -> list[AuditRow]:
    """The newest changes first; `before_id` continues a page."""
    with admin.database.read() as connection:
        return audit.newest(connection, limit=limit, before_id=before_id)
