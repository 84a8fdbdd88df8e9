"""Every `elkapi ...` in the documentation and on the console's page is a command that exists, with options it has."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from elkapi.cli.main import cli
from elkapi.control.front import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_OPTION = re.compile(r"--[a-z0-9-]+")


def written(text: str) -> set[str]:
    """Command lines: in code spans, in indented blocks and at the start of a line of a fenced one."""
    joined = text.replace("\\\n", " ")
    blocks = re.findall(r"^```\w*\n(.*?)^```", joined, re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"^    .*$", joined, re.MULTILINE)
    started = re.compile(r"(?:^|\$\()\s*(?:\S+/)?(elkapi [^\n)]+)", re.MULTILINE)
    lines = [line for block in blocks for line in started.findall(block)]
    return {line.strip() for line in [*re.findall(r"`(?:\S+/)?(elkapi [^`]+)`", joined), *lines]}


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the words name and what is left of them; raises LookupError for a verb nobody knows."""
    found: click.Command = cli
    rest = list(words)
    while isinstance(found, click.Group) and rest and re.fullmatch(r"[a-z]+", rest[0]):
        name = rest.pop(0)
        inner = found.get_command(click.Context(found), name)
        if inner is None:
            raise LookupError(name)
        found = inner
    return found, rest


def check(line: str) -> None:
    words = shlex.split(line.split(" #")[0].split(" &")[0].split("...")[0])[1:]
    found, rest = command_of(words)
    if found.allow_extra_args or found.context_settings.get("ignore_unknown_options"):
        return  # It hands its words on to a parser of its own.
    known = {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)}
    used = {option for word in rest for option in _OPTION.findall(word) if word.startswith("--")}
    assert used <= known | {"--help"}, f"{line}: {sorted(used - known)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_documented_commands_exist(page: Path) -> None:
    for line in written(page.read_text("utf-8")):
        check(line)


def test_commands_on_the_consoles_page_exist() -> None:
    for line, _ in COMMANDS:
        check(line)


def test_no_two_pages_make_a_key_of_one_name() -> None:
    """Whoever follows one page after the other would have two keys of that name, and be refused at the next command."""
    made = [
        name
        for page in PAGES
        for name in re.findall(r"elkapi key create (?:--\S+ )*?--name ([a-z-]+)", page.read_text("utf-8"))
    ]
    assert len(made) > 5
    assert sorted(made) == sorted(set(made))


def test_the_check_sees_a_wrong_command() -> None:
    assert "elkapi channel add --family openai" in " ".join(written((ROOT / "docs/operate.md").read_text("utf-8")))
    with pytest.raises(LookupError):
        check("elkapi channel invent")
    with pytest.raises(AssertionError):
        check("elkapi channel add --invented x")
