"""`elkapi task`: tasks of all keys: list, show, poll now, or end with a refund."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from elkapi.cli.numbers import Whole
from elkapi.cli.output import json_option, opened, print_attempts, print_facts, print_json, print_more, print_rows, when
from elkapi.money import format_usd
from elkapi.types import State

if TYPE_CHECKING:
    from elkapi.storage.repos.tasks import TaskRow

COLUMNS = ("task", "created_at", "key_id", "model", "state", "progress", "channel_id", "error_code")
STATES = ("open", *(state.value for state in State))


@click.group()
def task() -> None:
    """Tasks: videos and other work in the background."""


@task.command("list")
@click.option("--state", type=click.Choice(STATES), help="only this state; open: not ended")
@click.option("--key", metavar="KEY", help="only this key, by id or name")
@click.option("--limit", type=Whole(1, 10_000), default=100, show_default=True)
@click.option("--before", metavar="ID", help="continue before this task")
@json_option
def list_(state: str | None, key: str | None, limit: int, before: str | None, as_json: bool) -> None:
    """List the newest tasks."""
    from elkapi.admin import tasks

    with opened() as admin:
        found = tasks.list_tasks(admin, state=state, key=key, limit=limit + 1, before=before)
    rows = [_shown(row) for row in found[:limit]]
    print_rows(rows, COLUMNS, as_json, none="no tasks")
    if len(found) > limit:
        among = {"--state": state, "--key": key, "--before": rows[-1]["task"]}
        print_more("elkapi task list", among)


@task.command()
@click.argument("task_id", metavar="ID")
@json_option
def show(task_id: str, as_json: bool) -> None:
    """Show one task: the request, the provider's answer and the attempts of the submit."""
    from elkapi.admin import tasks

    with opened() as admin:
        found = tasks.show_task(admin, task_id)
    facts = _shown(found.row)
    attempts: list[dict[str, Any]] = []
    if (one := found.task) is not None:
        facts |= {
            "held_usd": format_usd(one.asked.held_nano),
            "asked": one.asked.body,
            "callback_url": one.asked.callback_url,
            "error": one.told.said or one.told.error,
            "reply": bytes(one.told.reply).decode("utf-8", "replace"),
            "files": [asset.id.hex() for asset in one.told.assets],
        }
        attempts = [msgspec.structs.asdict(attempt) for attempt in one.told.attempts]
    if as_json:
        print_json(facts | {"attempts": attempts})
        return
    print_facts(facts)
    click.echo()
    print_attempts(attempts, none="no attempts")


@task.command()
@click.argument("task_id", metavar="ID")
@json_option
def poll(task_id: str, as_json: bool) -> None:
    """Poll a task's provider now."""
    from elkapi.admin import tasks

    with opened() as admin:
        tasks.poll_task(admin, task_id)
    if as_json:
        print_json({"task": task_id, "due": "now"})
    else:
        click.echo(f"{task_id} is polled next")


@task.command()
@click.argument("task_id", metavar="ID")
@click.option("--refund", is_flag=True, required=True, help="release the hold (required)")
@click.option("--reason", required=True, help="the reason, for the audit trail")
@json_option
def end(task_id: str, refund: bool, reason: str, as_json: bool) -> None:
    """End an open task, free for its caller. It is listed as unknown, because its provider may bill it."""
    from elkapi.admin import tasks

    with opened() as admin:
        ended = tasks.end_task(admin, task_id, reason)
    back = format_usd(ended.asked.held_nano)
    if as_json:
        print_json(_shown(ended.row) | {"refunded_usd": back})
    else:
        click.echo(f"{task_id} ended; {back} USD released")


def _shown(row: TaskRow) -> dict[str, Any]:
    from elkapi.storage.repos.tasks import task_id_text

    return {
        "task": task_id_text(row.id),
        "native_id": row.native_id,
        "operation": row.operation,
        "model": row.model,
        "state": row.state,
        "progress": row.progress,
        "key_id": row.key_id,
        "owner_id": row.owner_id,
        "channel_id": row.channel_id,
        "channel_key_id": row.channel_key_id,
        "error_code": row.error_code,
        "created_at": when(row.created_ns),
        "updated_at": when(row.updated_ns),
        "finished_at": when(row.finished_ns),
        "deleted_at": when(row.deleted_ns),
    }
