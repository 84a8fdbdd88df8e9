"""`elkapi request`: past calls with every attempt and ledger entry."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from elkapi.cli.numbers import Whole
from elkapi.cli.output import (
    json_option,
    opened,
    print_attempts,
    print_facts,
    print_json,
    print_more,
    print_rows,
    print_table,
    when,
)
from elkapi.ids import request_id_text
from elkapi.money import format_ratio, format_usd
from elkapi.types import RequestRecord

COLUMNS = ("id", "created_at", "key_id", "model", "status", "outcome", "charge_usd", "loss_usd", "channel_name")
ENTRY_COLUMNS = ("kind", "amount_usd", "created_at")


@click.group()
def request() -> None:
    """Past calls."""


@request.command()
@click.argument("request_id", metavar="ID")
@json_option
def show(request_id: str, as_json: bool) -> None:
    """Show one call, by its `x-request-id` or the id of its task."""
    from elkapi.admin import requests

    with opened() as admin:
        account = requests.show_request(admin, request_id)
    entries = [
        {"kind": entry.kind, "amount_usd": format_usd(entry.nano), "created_at": when(entry.created_ns)}
        for entry in account.entries
    ]
    shown = _shown(account.record)
    if as_json:
        print_json(shown | {"ledger": entries})
        return
    attempts = shown.pop("attempts")
    used = [f"{unit} {number}" for unit, number in shown["usage"].items() if number]
    print_facts(shown | {"usage": ", ".join(used)})
    click.echo()
    print_attempts(attempts, none="no attempts")
    click.echo()
    print_table(ENTRY_COLUMNS, [list(entry.values()) for entry in entries], none="no ledger entries")


@request.command("list")
@click.option("--key", metavar="KEY", help="only this key, by id or name")
@click.option("--limit", type=Whole(1, 10_000), default=50, show_default=True)
@click.option("--before", metavar="ID", help="continue before this call")
@json_option
def list_(key: str | None, limit: int, before: str | None, as_json: bool) -> None:
    """List the newest calls."""
    from elkapi.admin import requests

    with opened() as admin:
        found = requests.list_requests(admin, limit=limit + 1, key=key, before=before)
    rows = [_shown(record) for record in found[:limit]]
    print_rows(rows, COLUMNS, as_json, none="no calls yet")
    if len(found) > limit:
        print_more("elkapi request list", {"--key": key, "--before": rows[-1]["id"]})


def _shown(record: RequestRecord) -> dict[str, Any]:
    fields = msgspec.structs.asdict(record)
    changed: dict[str, Any] = {
        "id": request_id_text(record.id),
        "usage": msgspec.structs.asdict(record.usage),
        "attempts": [msgspec.structs.asdict(attempt) for attempt in record.attempts],
    }
    dropped = {"hold_nano", "charge_nano", "loss_nano", "created_ns", "ratio_micro", "hit_ratio_micro"}
    extra = {
        "created_at": when(record.created_ns),
        "ratio": format_ratio(record.ratio_micro),
        "hit_ratio": None if record.hit_ratio_micro is None else format_ratio(record.hit_ratio_micro),
        "hold_usd": format_usd(record.hold_nano),
        "charge_usd": format_usd(record.charge_nano),
        "loss_usd": format_usd(record.loss_nano),
    }
    return {name: value for name, value in (fields | changed | extra).items() if name not in dropped}
