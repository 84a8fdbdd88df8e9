"""`elkapi webhook`: webhook events about tasks, and the secrets that sign them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from elkapi.cli.numbers import Whole
from elkapi.cli.output import json_option, opened, print_facts, print_json, print_more, print_rows, print_table, when

if TYPE_CHECKING:
    from elkapi.storage.repos.notices import NoticeRow

COLUMNS = ("event", "key_id", "form", "host", "state", "tries", "created_at")
TRY_COLUMNS = ("at", "status", "error", "duration_ms", "answer")


@click.group()
def webhook() -> None:
    """Webhook events about tasks, and the secrets that sign them."""


@webhook.command("list")
@click.option("--key", metavar="KEY", help="only this key, by id or name")
@click.option("--state", type=click.Choice(["pending", "delivered", "given_up"]))
@click.option("--limit", type=Whole(1, 10_000), default=100, show_default=True)
@click.option("--before", metavar="EVENT", help="continue before this event")
@json_option
def list_(key: str | None, state: str | None, limit: int, before: str | None, as_json: bool) -> None:
    """List the newest events."""
    from elkapi.admin import webhooks

    with opened() as admin:
        found = webhooks.list_notices(admin, key=key, state=state, limit=limit + 1, before=before)
    rows = [_shown(row) for row in found[:limit]]
    print_rows(rows, COLUMNS, as_json, none="no events")
    if len(found) > limit:
        print_more("elkapi webhook list", {"--key": key, "--state": state, "--before": rows[-1]["event"]})


@webhook.command()
@click.argument("event")
@json_option
def show(event: str, as_json: bool) -> None:
    """Show one event: its address, its body and each try."""
    from elkapi.admin import webhooks

    with opened() as admin:
        view = webhooks.show_notice(admin, event)
    body = view.body
    facts = _shown(view.row) | {
        "url": None if body is None else body.url,
        "body": None if body is None else body.body.decode("utf-8", "replace"),
    }
    tries: list[dict[str, Any]] = [
        {
            "at": when(told.at_ns),
            "status": told.status,
            "error": told.error,
            "duration_ms": told.duration_ms,
            "answer": told.answer,
        }
        for told in view.tries
    ]
    if as_json:
        print_json(facts | {"deliveries": tries})
        return
    print_facts(facts)
    print_table(TRY_COLUMNS, [[told[name] for name in TRY_COLUMNS] for told in tries], none="not tried yet")


@webhook.command()
@click.argument("event")
@json_option
def replay(event: str, as_json: bool) -> None:
    """Send an event again, under the same id."""
    from elkapi.admin import webhooks

    with opened() as admin:
        row = webhooks.replay(admin, event)
    if as_json:
        print_json(_shown(row))
    else:
        click.echo(f"{event} will be sent again")


@webhook.command()
@click.argument("key")
@click.option("--rotate", is_flag=True, help="create a new one; both sign for a day")
@json_option
def secret(key: str, rotate: bool, as_json: bool) -> None:
    """Print the secret that signs the events of KEY. It is shown only once."""
    from elkapi.admin import webhooks

    with opened() as admin:
        told = webhooks.tell_secret(admin, key, rotate=rotate)
    until = when(told.previous_until_ns)
    if as_json:
        print_json({"key_id": told.key_id, "secret": told.secret, "previous_until": until})
        return
    click.echo(told.secret)
    click.echo("this secret is not shown again; store it where events arrive", err=True)
    if rotate:
        click.echo(f"the old secret also signs until {until}", err=True)


def _shown(row: NoticeRow) -> dict[str, Any]:
    from elkapi.ids import event_id_text
    from elkapi.storage.repos.tasks import task_id_text

    return {
        "event": event_id_text(*row.id),
        "task": task_id_text(row.task_id),
        "key_id": row.key_id,
        "form": row.form,
        "host": row.host,
        "state": row.state,
        "tries": row.tries,
        "created_at": when(row.created_ns),
        "due_at": when(row.due_ns) if row.state == "pending" else None,
    }
