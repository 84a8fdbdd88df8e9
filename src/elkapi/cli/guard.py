"""`elkapi guard`: guardrails, which groups and keys refer to with `--guard`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from elkapi.cli.numbers import Number
from elkapi.cli.output import chosen, json_option, opened, print_facts, print_json, print_rows, print_table, words
from elkapi.types import PiiKind

if TYPE_CHECKING:
    from elkapi.types import Guard

COLUMNS = ("name", "kind", "direction", "action", "what")


@click.group()
def guard() -> None:
    """Guardrails: word lists, personal data and secrets, and your own hooks."""


@guard.command("set")
@click.argument("name")
@click.option("--word", "given_words", multiple=True, metavar="WORD", help="a word or phrase (repeatable)")
@click.option("--words-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="one per line, UTF-8")
@click.option("--match", type=click.Choice(["word", "substring"]), help="whole words, or anywhere; default: word")
@click.option("--pii", metavar="KINDS", help="email,phone,iban,card,ip,secret,private_key")
@click.option("--regions", metavar="DE,US", help="find these countries' phone numbers without a country code too")
@click.option("--hook", "url", metavar="URL", help="ask this address, which allows, blocks or replaces")
@click.option("--secret", help="signs the requests to a hook; by default it is generated and printed once")
@click.option(
    "--deadline", "deadline_s", type=Number(), metavar="S", help="time limit of a hook in seconds; default: 2"
)
@click.option(
    "--when-down",
    type=click.Choice(["open", "closed"]),
    help="whether calls pass (open) while a hook is down; default: closed",
)
@click.option("--direction", type=click.Choice(["input", "output", "both"]), help="default: both")
@click.option("--action", type=click.Choice(["block", "mask"]), help="default: block")
@json_option
def set_(
    name: str, given_words: tuple[str, ...], words_file: Path | None, pii: str | None, as_json: bool, **given: Any
) -> None:
    """Define the guardrail NAME, or replace its definition."""
    from elkapi.admin import guards
    from elkapi.admin.context import read_input

    values: dict[str, Any] = {field: value for field, value in given.items() if value is not None}
    listed = [*given_words, *(_lines(words_file) if words_file is not None else ())]
    find = None if pii is None else chosen(pii, PiiKind, "--pii")
    values |= {"name": name, "find": find, "regions": words(given["regions"]) or [], "words": listed or None}
    with opened() as admin:
        made = guards.set_guard(admin, read_input(guards.GuardInput, values))
    if as_json:
        print_json(_shown(made) | ({"secret": made.secret} if made.kind == "hook" else {}))
        return
    click.echo(f"guard {made.name}: {_what(made)}")
    if made.kind == "hook" and given["secret"] is None:
        click.echo(made.secret)
        click.echo("this secret signs the requests to the hook; store it there, it is not shown again", err=True)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except UnicodeDecodeError:
        raise click.UsageError("the words file is not UTF-8") from None


@guard.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the guardrails."""
    from elkapi.admin import guards

    with opened() as admin:
        rows = guards.list_guards(admin)
    if as_json:
        print_json([_shown(row) for row in rows])
        return
    cells = [(row.name, row.kind, row.direction, "" if row.kind == "hook" else row.action, _what(row)) for row in rows]
    print_table(COLUMNS, cells, none="no guardrails")


@guard.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show one guardrail, without its secret."""
    from elkapi.admin import guards

    with opened() as admin:
        found = _shown(guards.show_guard(admin, name))
    if as_json:
        print_json(found)
    else:
        print_facts(found)


@guard.command()
@click.argument("name")
def remove(name: str) -> None:
    """Remove a guardrail that no group or key uses."""
    from elkapi.admin import guards

    with opened() as admin:
        guards.remove_guard(admin, name)
    click.echo(f"removed guardrail {name}")


@guard.command("try")
@click.argument("name")
@click.argument("text")
@json_option
def try_(name: str, text: str, as_json: bool) -> None:
    """Print what the guardrail NAME finds in TEXT. Calls no model and stores nothing."""
    from elkapi.admin import guards

    with opened() as admin:
        rows = guards.try_guard(admin, name, text)
    print_rows(rows, ("label", "text"), as_json, none="nothing")


def _shown(guard: Guard) -> dict[str, Any]:
    return {
        name: value
        for name, value in msgspec.structs.asdict(guard).items()
        if name in _FIELDS[guard.kind] or name in ("name", "kind", "direction")
    }


_FIELDS = {
    "words": ("action", "match", "words"),
    "pii": ("action", "find", "regions"),
    "hook": ("url", "deadline_s", "when_down"),
}


def _what(guard: Guard) -> str:
    if guard.kind == "words":
        return f"{len(guard.words)} words"
    return ", ".join(guard.find) if guard.kind == "pii" else guard.url
