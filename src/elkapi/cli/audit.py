"""`elkapi audit`: who changed what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from elkapi.cli.numbers import Whole
from elkapi.cli.output import json_option, opened, print_more, print_rows, when
from elkapi.settings import NUMBER_MAX

if TYPE_CHECKING:
    from elkapi.storage.repos.audit import AuditRow

COLUMNS = ("id", "created_at", "actor", "action", "subject", "detail")


@click.group()
def audit() -> None:
    """The audit trail: every change made by operators and by the gateway itself."""


@audit.command("list")
@click.option("--limit", type=Whole(1, 10_000), default=100, show_default=True)
@click.option("--before", type=Whole(1, NUMBER_MAX), help="continue before this id")
@json_option
def list_(limit: int, before: int | None, as_json: bool) -> None:
    """List the newest changes: when, who, what."""
    from elkapi.admin.audit import list_audit

    with opened() as admin:
        found = list_audit(admin, limit=limit + 1, before_id=before)
    rows = [_shown(row) for row in found[:limit]]
    print_rows(rows, COLUMNS, as_json, none="no changes yet")
    if len(found) > limit:
        print_more("elkapi audit list", {"--before": rows[-1]["id"]})


def _shown(row: AuditRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "created_at": when(row.created_ns),
        "actor": row.actor,
        "action": row.action,
        "subject": row.subject,
        "detail": msgspec.json.decode(row.detail),
    }
