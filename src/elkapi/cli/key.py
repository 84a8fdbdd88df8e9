"""`elkapi key`: customers' keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from elkapi.cli.numbers import Whole
from elkapi.cli.output import (
    json_option,
    listed,
    opened,
    parse_expiry,
    print_facts,
    print_json,
    print_more,
    print_rows,
    readable,
    when,
    words,
)
from elkapi.cli.policy import clear_option, policy_options, readable_policy, shown_policy, take_policy
from elkapi.clock import SYSTEM_CLOCK
from elkapi.money import format_usd
from elkapi.settings import NUMBER_MAX

if TYPE_CHECKING:
    from elkapi.admin.context import Admin
    from elkapi.admin.keys import KeyView
    from elkapi.storage.repos.keys import KeyRow

COLUMNS = ("id", "name", "hint", "group", "scope", "state", "balance_usd", "models", "expires_at")


@click.group()
def key() -> None:
    """Customers' keys. WHICH is a key's id or its exact name."""


@key.command()
@click.option("--name", required=True)
@click.option("--group", help="sets prices, channels and rules; default: default")
@click.option("--balance", metavar="USD", help="opening balance; without one, the key can only call free models")
@click.option("--models", metavar="A,B", help="allow only these models")
@click.option("--expires", metavar="WHEN", help="30d, 12h or a date such as 2027-01-31")
@click.option("--test", "is_test", is_flag=True, help="a test key, which reaches only the sandbox, free of charge")
@policy_options
@json_option
def create(expires: str | None, is_test: bool, models: str | None, as_json: bool, **given: Any) -> None:
    """Create a key and print it. It is never shown again: only its digest is stored."""
    from elkapi.admin import keys
    from elkapi.admin.context import read_input
    from elkapi.admin.notes import namesakes

    policy = take_policy(given)
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    values["policy"] = policy
    values["models"] = words(models)
    values["scope"] = "test" if is_test else "live"
    if expires is not None:
        values["expires_at_ns"] = parse_expiry(expires)
    with opened() as admin:
        view, plaintext = keys.create_key(admin, read_input(keys.KeyInput, values))
        others = namesakes(admin, view.row)
        unserved = _unserved(admin, view.row)
    _print_new(view, plaintext, as_json)
    if others:
        ids = listed(others)
        click.echo(f"note: key {ids} has the same name; commands about either need its id", err=True)
    _tell_unserved(view.row, unserved)


@key.command("list")
@click.option("--limit", type=Whole(1, 100_000), default=1_000, show_default=True)
@click.option("--after", type=Whole(0, NUMBER_MAX), default=0, help="continue after this id")
@json_option
def list_(limit: int, after: int, as_json: bool) -> None:
    """List the keys with their group, state and balance."""
    from elkapi.admin import keys

    with opened() as admin:
        views = keys.list_keys(admin, limit=limit + 1, after_id=after)
    rows = [_shown(view) for view in views[:limit]]
    print_rows(rows, COLUMNS, as_json, none="no keys")
    if len(views) > limit:
        print_more("elkapi key list", {"--after": rows[-1]["id"]})


@key.command()
@click.argument("which")
@json_option
def show(which: str, as_json: bool) -> None:
    """Show one key."""
    from elkapi.admin import keys

    with opened() as admin:
        _print(keys.show_key(admin, which), as_json)


@key.command()
@click.argument("which")
@json_option
def disable(which: str, as_json: bool) -> None:
    """Refuse a key until you enable it again, everywhere within a second."""
    from elkapi.admin import keys

    with opened() as admin:
        _print(keys.set_key_enabled(admin, which, False), as_json)


@key.command()
@click.argument("which")
@json_option
def enable(which: str, as_json: bool) -> None:
    """Accept a disabled key again."""
    from elkapi.admin import keys

    with opened() as admin:
        _print(keys.set_key_enabled(admin, which, True), as_json)


@key.command()
@click.argument("which")
@json_option
def revoke(which: str, as_json: bool) -> None:
    """Refuse a key for good."""
    from elkapi.admin import keys

    with opened() as admin:
        _print(keys.revoke_key(admin, which), as_json)


@key.command()
@click.argument("which")
@json_option
def rotate(which: str, as_json: bool) -> None:
    """Give a key another secret and print it; the old one is refused everywhere within a second.

    The key keeps its id, balance, rules and history, and its tasks and stored answers.
    """
    from elkapi.admin import keys

    with opened() as admin:
        view, plaintext = keys.rotate_key(admin, which)
    _print_new(view, plaintext, as_json)


@key.command()
@click.argument("which")
@click.argument("amount", metavar="USD")
@click.option("--note", default="", help="the reason, for the ledger")
@json_option
def deposit(which: str, amount: str, note: str, as_json: bool) -> None:
    """Add US dollars to a key's balance."""
    from elkapi.admin import keys

    with opened() as admin:
        _print(keys.deposit(admin, which, amount, note), as_json)


# An amount may start with a minus sign, which click would read as an option.
@key.command(context_settings={"ignore_unknown_options": True})
@click.argument("which")
@click.argument("amount", metavar="USD")
@click.option("--note", required=True, help="the reason, for the ledger")
@json_option
def adjust(which: str, amount: str, note: str, as_json: bool) -> None:
    """Correct a key's balance: 5 adds 5 US dollars, -5 takes them away, but never held money."""
    from elkapi.admin import keys

    with opened() as admin:
        _print(keys.adjust(admin, which, amount, note), as_json)


@key.command()
@click.argument("which")
@click.argument("amount", metavar="USD")
@click.option("--note", default="", help="the reason, for the ledger")
@json_option
def credit(which: str, amount: str, note: str, as_json: bool) -> None:
    """Set a credit line: the key may spend this many US dollars more than was paid in; 0 ends it."""
    from elkapi.admin import keys

    with opened() as admin:
        _print(keys.set_credit(admin, which, amount, note), as_json)


@key.command()
@click.argument("which")
@click.option("--name")
@click.option("--group")
@click.option("--models", metavar="A,B", help="allow only these models")
@click.option("--all-models", is_flag=True, help="allow every model")
@click.option("--expires", metavar="WHEN", help="30d, 12h or a date such as 2027-01-31")
@click.option("--never-expires", is_flag=True)
@policy_options
@clear_option
@json_option
def edit(
    which: str,
    models: str | None,
    all_models: bool,
    expires: str | None,
    never_expires: bool,
    clear: tuple[str, ...],
    as_json: bool,
    **given: Any,
) -> None:
    """Change a key's name, group, models, expiry or rules."""
    from elkapi.admin import keys
    from elkapi.admin.context import read_input

    if models is not None and all_models:
        raise click.UsageError("--models and --all-models contradict each other")
    if expires is not None and never_expires:
        raise click.UsageError("--expires and --never-expires contradict each other")
    policy = take_policy(given, clear)
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if policy:
        values["policy"] = policy
    if models is not None or all_models:
        values["models"] = words(models)
    if expires is not None or never_expires:
        values["expires_at_ns"] = None if expires is None else parse_expiry(expires)
    if not values:
        raise click.UsageError("nothing to change was given")
    with opened() as admin:
        view = keys.edit_key(admin, which, read_input(keys.KeyPatch, values))
        unserved = _unserved(admin, view.row) if values.keys() & {"models", "group"} else []
    _print(view, as_json)
    _tell_unserved(view.row, unserved)


def _unserved(admin: Admin, row: KeyRow) -> list[str]:
    """The models that this key may use and its group has no channel for; a test key has the sandbox."""
    from elkapi.admin.notes import without_channel

    return without_channel(admin, row.models, row.group) if row.models and row.scope == "live" else []


def _tell_unserved(row: KeyRow, names: list[str]) -> None:
    if names:
        click.echo(f"note: no channel serves {listed(names)} in group {readable(row.group)} yet", err=True)


def _print_new(view: KeyView, plaintext: str, as_json: bool) -> None:
    if as_json:
        print_json({"key": plaintext} | _shown(view))
    else:
        click.echo(plaintext)
        click.echo(f"key {view.row.id} ({view.row.name}); save it now, it is not shown again", err=True)


def _print(view: KeyView, as_json: bool) -> None:
    if as_json:
        print_json(_shown(view))
    else:
        print_facts(_shown(view) | {"policy": readable_policy(view.row.policy)})


def _shown(view: KeyView) -> dict[str, Any]:
    row = view.row
    state = "revoked" if row.revoked_ns is not None else "enabled" if row.enabled else "disabled"
    if state == "enabled" and row.expires_at_ns is not None and row.expires_at_ns <= SYSTEM_CLOCK.now_ns():
        state = "expired"
    return {
        "id": row.id,
        "name": row.name,
        "hint": row.hint,
        "group": row.group,
        "scope": row.scope,
        "state": state,
        "models": row.models,
        "policy": shown_policy(row.policy),
        "expires_at": when(row.expires_at_ns),
        "balance_usd": format_usd(view.available_nano),
        "held_usd": format_usd(view.held_nano),
        "credit_usd": format_usd(view.credit_nano),
        "account_id": row.account_id,
        "created_at": when(row.created_ns),
    }
