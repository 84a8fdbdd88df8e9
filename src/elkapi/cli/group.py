"""`elkapi group`: groups and their price ratios."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from elkapi.cli.output import json_option, opened, print_json, print_table
from elkapi.money import format_ratio

if TYPE_CHECKING:
    from elkapi.storage.repos.groups import GroupRow


@click.group()
def group() -> None:
    """Groups: what a key belongs to, what a channel serves, and the ratio its prices are multiplied with."""


@group.command("set")
@click.argument("name")
@click.option("--ratio", required=True, help="a multiplier such as 0.8")
@click.option("--description")
@json_option
def set_(name: str, ratio: str, description: str | None, as_json: bool) -> None:
    """Create the group NAME or change its ratio."""
    from elkapi.admin import groups

    with opened() as admin:
        row = groups.set_group(admin, name, ratio, description)
    if as_json:
        print_json(_shown(row))
    else:
        click.echo(f"group {row.name}: ratio {format_ratio(row.ratio_micro)}")


@group.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Every group."""
    from elkapi.admin import groups

    with opened() as admin:
        rows = [_shown(row) for row in groups.list_groups(admin)]
    if as_json:
        print_json(rows)
    else:
        print_table(("name", "ratio", "description"), [tuple(row.values()) for row in rows], none="no group")


def _shown(row: GroupRow) -> dict[str, str]:
    return {"name": row.name, "ratio": format_ratio(row.ratio_micro), "description": row.description}
