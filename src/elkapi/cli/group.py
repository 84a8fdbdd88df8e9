"""`elkapi group`: groups, their price ratios and the policy of their keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from elkapi.cli.output import json_option, opened, print_json, print_table
from elkapi.cli.policy import clear_option, policy_options, readable_policy, shown_policy, take_policy
from elkapi.money import format_ratio
from elkapi.types import NO_POLICY

if TYPE_CHECKING:
    from elkapi.storage.repos.groups import GroupRow

COLUMNS = ("name", "ratio", "description", "policy")


@click.group()
def group() -> None:
    """Groups: each key belongs to one, channels serve them, and a ratio multiplies their prices."""


@group.command("set")
@click.argument("name")
@click.option("--ratio", help="multiplies every price, such as 0.8; required for a new group")
@click.option("--description")
@policy_options
@clear_option
@json_option
def set_(
    name: str, ratio: str | None, description: str | None, clear: tuple[str, ...], as_json: bool, **given: Any
) -> None:
    """Create the group NAME, or change its ratio or the rules of its keys."""
    from elkapi.admin import groups
    from elkapi.admin.context import read_input
    from elkapi.admin.policies import PolicyFields

    policy = take_policy(given, clear)
    if ratio is None and description is None and not policy:
        raise click.UsageError("nothing to change was given")
    fields = read_input(PolicyFields, policy) if policy else None
    with opened() as admin:
        row = groups.set_group(admin, name, ratio, description, fields)
    if as_json:
        print_json(_shown(row))
    else:
        laid_down = f"; {readable_policy(row.policy)}" if row.policy != NO_POLICY else ""
        click.echo(f"group {row.name}: ratio {format_ratio(row.ratio_micro)}{laid_down}")


@group.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the groups."""
    from elkapi.admin import groups

    with opened() as admin:
        rows = groups.list_groups(admin)
    if as_json:
        print_json([_shown(row) for row in rows])
        return
    cells = [_shown(row) | {"policy": readable_policy(row.policy)} for row in rows]
    print_table(COLUMNS, [[row[name] for name in COLUMNS] for row in cells], none="no groups")


@group.command()
@click.argument("name")
def remove(name: str) -> None:
    """Remove a group that no channel names and no key is in. Its revoked keys move to `default`."""
    from elkapi.admin import groups

    with opened() as admin:
        groups.remove_group(admin, name)
    click.echo(f"removed group {name}")


def _shown(row: GroupRow) -> dict[str, Any]:
    ratio = format_ratio(row.ratio_micro)
    return {"name": row.name, "ratio": ratio, "description": row.description, "policy": shown_policy(row.policy)}
