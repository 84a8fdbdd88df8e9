"""`elkapi ledger`: check and repair the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from elkapi.cli.numbers import Whole
from elkapi.cli.output import json_option, opened, print_json, print_more, print_rows, when
from elkapi.ids import request_id_text
from elkapi.money import format_usd, parse_usd
from elkapi.settings import NUMBER_MAX

if TYPE_CHECKING:
    from elkapi.ledger.recovery import OpenHold


@click.group()
def ledger() -> None:
    """The ledger: every hold, charge, loss and refund."""


@ledger.command()
@json_option
def check(as_json: bool) -> int:
    """Recompute every balance from the entries and compare. Exits with 1 if an invariant is broken."""
    from elkapi.ledger import check as check_books

    with opened() as admin, admin.database.read() as connection:
        report = check_books(connection)
    if as_json:
        print_json({"ok": report.ok, "report": report})
    else:
        click.echo("\n".join(report.lines()))
    return 0 if report.ok else 1


@ledger.command()
@click.option("--limit", type=Whole(1, 100_000), default=1_000, show_default=True)
@click.option("--after", metavar="ID", help="continue after this call")
@json_option
def unknown(limit: int, after: str | None, as_json: bool) -> None:
    """List calls whose outcome at the upstream is unknown, oldest first, to compare with its bill."""
    from elkapi.admin.requests import parsed_id
    from elkapi.ledger.recovery import unknown_calls

    behind = b"" if after is None else parsed_id(after)
    with opened() as admin, admin.database.read() as connection:
        found = unknown_calls(connection, limit=limit + 1, after=behind)
    rows = [
        {
            "request_id": request_id_text(one.request_id),
            "key_id": one.key_id,
            "model": one.model,
            "held_usd": format_usd(one.held_nano),
            "reason": one.reason,
            "created_at": when(one.created_ns),
        }
        for one in found[:limit]
    ]
    _print_rows(rows, as_json, "no unknown outcomes")
    if len(found) > limit:
        print_more("elkapi ledger unknown", {"--after": rows[-1]["request_id"]})


@ledger.command()
@json_option
def holds(as_json: bool) -> None:
    """List the money held for calls under way, for open tasks and by dead workers."""
    from elkapi.ledger.recovery import standing_holds

    with opened() as admin, admin.database.read() as connection:
        rows = [_hold(hold) for hold in standing_holds(connection)]
    _print_rows(rows, as_json, "nothing is held")


@ledger.command("alerts")
@click.option("--limit", type=Whole(1, 10_000), default=100, show_default=True)
@click.option("--before", type=Whole(1, NUMBER_MAX), help="continue before this id")
@json_option
def alerts_(limit: int, before: int | None, as_json: bool) -> None:
    """List what should not happen, such as finished work without a charge, newest first."""
    from elkapi.storage.repos import alerts

    with opened() as admin, admin.database.read() as connection:
        found = alerts.list_alerts(connection, limit=limit + 1, before_id=before)
    rows = [
        {
            "id": row.id,
            "kind": row.kind,
            "subject": row.subject,
            "detail": row.detail,
            "created_at": when(row.created_ns),
        }
        for row in found[:limit]
    ]
    _print_rows(rows, as_json, "no alerts")
    if len(found) > limit:
        print_more("elkapi ledger alerts", {"--before": rows[-1]["id"]})


@ledger.command()
@json_option
def recover(as_json: bool) -> None:
    """Release the holds of dead workers now; the gateway also does this by itself."""
    from elkapi.ledger import recover as recover_holds
    from elkapi.ledger.recovery import counted

    with opened() as admin:
        with admin.database.write() as connection:
            report = recover_holds(connection, admin.clock.now_ns(), admin.settings)
    expired = [_hold(hold) for hold in report.expired]
    if as_json:
        numbers = {"workers": report.workers, "holds": report.holds, "held_usd": format_usd(report.nano)}
        print_json(numbers | {"claims_unknown": report.claims_unknown, "expired": expired})
        return
    gone, back = counted(report.workers, "worker"), counted(report.holds, "hold")
    click.echo(f"{gone} dead, {back} released: {format_usd(report.nano)} USD")
    if expired:
        _print_rows(expired, False, "")


@ledger.command()
@click.argument("request_id", metavar="ID")
@click.option("--amount", metavar="USD", help="default: the rest of the charge")
@click.option("--note", required=True, help="the reason, for the ledger")
@click.option("--name", help="makes the command safe to repeat: a name is refunded only once")
@json_option
def refund(request_id: str, amount: str | None, note: str, name: str | None, as_json: bool) -> None:
    """Refund a call's charge, as a new entry."""
    from elkapi.admin.requests import parsed_id
    from elkapi.ledger import RefundError
    from elkapi.ledger import refund as book_refund

    parsed = parsed_id(request_id)
    try:
        nano = None if amount is None else int(parse_usd(amount))
        with opened() as admin, admin.database.write() as connection:
            refunded = book_refund(connection, parsed, nano, note, admin.actor, name=name, clock=admin.clock)
    except (RefundError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        print_json({"request_id": request_id, "refunded_usd": format_usd(refunded)})
    else:
        click.echo(f"refunded {format_usd(refunded)} USD of {request_id}")


def _hold(hold: OpenHold) -> dict[str, Any]:
    return {
        "request_id": request_id_text(hold.request_id),
        "key_id": hold.key_id,
        "model": hold.model,
        "held_usd": format_usd(hold.nano),
        "worker": hold.owner.hex(),
    }


def _print_rows(rows: list[dict[str, Any]], as_json: bool, none: str) -> None:
    print_rows(rows, tuple(rows[0]) if rows else (), as_json, none=none)
