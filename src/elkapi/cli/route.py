"""`elkapi route`: where a call would go, and the consequence of each failure; a dry run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from elkapi.cli.numbers import Whole
from elkapi.cli.output import json_option, opened, pairs, print_facts, print_json, print_table
from elkapi.cli.policy import readable_policy

if TYPE_CHECKING:
    from elkapi.admin.explain import Explanation

COLUMNS = ("model", "channel", "key_id", "upstream_model", "why", "outcome", "then")


@click.group()
def route() -> None:
    """Where calls go."""


@route.command()
@click.option("--key", metavar="NAME", help="call with this key")
@click.option("--group", metavar="GROUP", help="call with a key of this group; default: default")
@click.option("--model", required=True)
@click.option("--path", default="/v1/chat/completions", show_default=True, help="the endpoint")
@click.option(
    "--fail",
    multiple=True,
    metavar="CHANNEL=WHAT",
    help="what happens at a channel: a status, or refused, timeout, cut, garbage, silence, busy, context, filtered",
)
@click.option("--seed", type=Whole(), default=0, help="redraw the order of channels of equal priority")
@json_option
def explain(
    key: str | None, group: str | None, model: str, path: str, fail: tuple[str, ...], seed: int, as_json: bool
) -> None:
    """Print the attempts of a call in order, what each outcome leads to, and who answers in the end."""
    from elkapi.admin.explain import Question
    from elkapi.admin.explain import explain as answer
    from elkapi.app import installed_models
    from elkapi.sandbox.providers import SERVED_MODELS

    if key is not None and group is not None:
        raise click.UsageError("give --key or --group, not both")
    question = Question(key=key, group=group, model=model, path=path, fail=pairs(fail, "--fail"), seed=seed)
    with opened() as admin:
        installed, _ = installed_models(admin.settings)
        bundled, chat = ([one.id for one in installed if one.role == role] for role in ("models", "chat"))
        found = answer(admin, question, bundled=bundled, chat=chat, sandbox=SERVED_MODELS)
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    _print(found)


def _print(found: Explanation) -> None:
    print_facts(
        {
            "operation": found.operation,
            "group": found.group,
            "asked": found.asked,
            "models in order": found.models,
            "policy": readable_policy(found.policy),
        }
    )
    click.echo()
    print_table(COLUMNS, [[getattr(step, name) for name in COLUMNS] for step in found.steps], none="no attempts")
    click.echo()
    click.echo(f"answered by {found.answered_by}" if found.answered_by else f"the caller gets {found.told}")
    for note in found.notes:
        click.echo(f"note: {note}")
