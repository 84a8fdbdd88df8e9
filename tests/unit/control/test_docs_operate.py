"""docs/operate.md tells every kind of account and every option by which a channel or a price is set."""

from __future__ import annotations

import re

import click
import pytest

from elkapi.catalog.upstreams import UPSTREAM_FAMILIES
from elkapi.cli.channel import channel
from elkapi.cli.price import price
from elkapi.control.library import docs_folder

PAGE = (docs_folder() / "operate.md").read_text("utf-8")
ACCOUNTS = {name: row for name, row in UPSTREAM_FAMILIES.items() if row.operator_may_add}


def families_of(page: str) -> dict[str, str]:
    """The row that tells of each family: its name stands in the first cell of a table below a heading on accounts."""
    rows: dict[str, str] = {}
    for table in re.findall(r"^\| family \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", page, re.MULTILINE):
        for line in table.splitlines():
            rows |= dict.fromkeys(re.findall(r"`([\w-]+)`", line.split("|")[1]), line)
    return rows


def test_every_kind_of_account_has_a_row_and_no_row_is_made_up() -> None:
    told = families_of(PAGE) | families_of((docs_folder() / "tasks.md").read_text("utf-8"))
    assert told.keys() == ACCOUNTS.keys()


def test_a_row_names_the_options_and_the_address_where_there_is_none() -> None:
    told = families_of(PAGE)
    for name, row in ACCOUNTS.items():
        for option, default in row.options.items():
            assert f"--option {option}=" in told[name]
            needed = re.search(rf"`--option {option}=\S+` is needed", told[name])
            assert (default is None) == (needed is not None)
        if name in told:
            assert ("own |" in told[name] or "http://127.0.0.1" in told[name]) == (row.base_url is not None), name


@pytest.mark.parametrize(("group", "verb"), [(channel, "add"), (price, "set")])
def test_every_option_is_told(group: click.Group, verb: str) -> None:
    command = group.commands[verb]
    options = {one.opts[0] for one in command.params if isinstance(one, click.Option)}
    assert {one for one in options if not re.search(rf"{one}\b", PAGE)} == set()
