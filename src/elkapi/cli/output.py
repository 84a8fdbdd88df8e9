"""Output of verbs, JSON for scripts and aligned columns for people, and their shared options."""

from __future__ import annotations

import getpass
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, get_args
from unicodedata import category, east_asian_width

import click
import msgspec

from elkapi.settings import NUMBER_MAX, load_settings

if TYPE_CHECKING:
    from elkapi.admin.context import Admin

F = TypeVar("F", bound=Callable[..., Any])
CELL_WIDTH_MAX = 60
LISTED_MAX = 10
ATTEMPT_COLUMNS = (
    "channel_name",
    "channel_key_id",
    "why",
    "outcome",
    "status",
    "fate",
    "duration_ms",
    "upstream_request_id",
)
# DEL, the C1 controls (equivalent to ESC and a letter), line separators, and bidirectional controls.
_CONTROLS = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def with_options(rows: Sequence[Callable[[F], F]]) -> Callable[[F], F]:
    """A decorator that adds these options to a command, in this order."""

    def decorated(command: F) -> F:
        for option in reversed(rows):
            command = option(command)
        return command

    return decorated


def json_option(command: F) -> F:
    """Add the option `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="print JSON for scripts")(command)


def opened() -> Admin:
    """Open the configured installation for the current user.

    If there was none it is created, and a note is printed: a command with another data directory than the gateway, or
    run by another user, would create keys that the gateway does not know.
    """
    from elkapi.admin.context import Admin

    admin = Admin.open(load_settings(), actor())
    if admin.installation.is_new:
        hint = "if a gateway is already running, its data is elsewhere: see ELKAPI_DATA_DIR and ELKAPI_DATABASE_URL"
        click.echo(f"note: created a new installation at {admin.database.address}; {hint}", err=True)
    return admin


def actor() -> str:
    """The actor in audit rows."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return f"cli:uid {os.getuid()}"


def print_json(value: Any) -> None:
    """Print indented JSON, with control characters above ASCII escaped, which msgspec does not do."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    click.echo(_CONTROLS.sub(lambda hit: f"\\u{ord(hit[0]):04x}", text))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, none: str) -> None:
    """Print aligned columns, or `none` without rows."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        click.echo(none, err=True)
        return
    widths = [max(_width(row[column]) for row in (list(headings), *cells)) for column in range(len(headings))]
    for row in ([heading.upper() for heading in headings], *cells):
        padded = (text + " " * (width - _width(text)) for text, width in zip(row, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def print_rows(rows: Sequence[Mapping[str, object]], columns: Sequence[str], as_json: bool, *, none: str) -> None:
    """Print the complete rows as JSON, or these columns as a table."""
    if as_json:
        print_json(rows)
    else:
        print_table(columns, [[row[name] for name in columns] for row in rows], none=none)


def print_attempts(attempts: Iterable[Mapping[str, object]], *, none: str) -> None:
    """Print a call's attempts, then the full error of each that failed."""
    shown = list(attempts)
    print_table(ATTEMPT_COLUMNS, [[attempt.get(name) for name in ATTEMPT_COLUMNS] for attempt in shown], none=none)
    for attempt in shown:
        if error := attempt.get("error"):
            click.echo(f"{_cell(attempt['channel_name'])}: {readable(' '.join(str(error).split()))}")


def print_more(command: str, options: Mapping[str, object]) -> None:
    """Print the command that continues a listing; options that are None are omitted."""
    given = "".join(f" {name} {shlex.quote(str(value))}" for name, value in options.items() if value is not None)
    click.echo(f"there are more: {command}{given}", err=True)


def listed(names: Sequence[object]) -> str:
    """`a, b, c and 4 more`, for a note."""
    shown = ", ".join(readable(str(name)) for name in names[:LISTED_MAX])
    return shown if len(names) <= LISTED_MAX else f"{shown} and {len(names) - LISTED_MAX} more"


def print_facts(facts: dict[str, object]) -> None:
    """Print one fact per line."""
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(f"{name.ljust(width)}  {_cell(value, None)}")


def _cell(value: object, width_max: int | None = CELL_WIDTH_MAX) -> str:
    if value is None or value in ("", [], (), {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = ", ".join(map(_word, value)) if isinstance(value, list | tuple) else _word(value)
    text = readable(text)
    if width_max is None or _width(text) <= width_max:
        return text
    while _width(text) >= width_max:
        text = text[: width_max - 1] if len(text) > width_max else text[:-1]
    return text + "…"


def readable(text: str) -> str:
    """Foreign text without control characters, which could move the terminal's cursor."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _width(text: str) -> int:
    """The width in terminal columns: wide East Asian characters and emoji take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if category(sign) in ("Mn", "Me") else 2 if east_asian_width(sign) in ("W", "F") else 1 for sign in text
    )


def _word(value: object) -> str:
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else str(value)


def when(ns: int | None) -> str | None:
    """Unix nanoseconds -> `2026-11-22T20:00:00Z`."""
    if ns is None:
        return None
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_expiry(text: str) -> int:
    """`30d`, `12h` or an ISO date or time (UTC by default) -> Unix nanoseconds; raises UsageError."""
    try:
        if text[-1:] in _UNITS and text.isascii() and text[:-1].isdecimal() and len(text) < 8:
            at = datetime.now(UTC) + int(text[:-1]) * _UNITS[text[-1]]
        else:
            at = datetime.fromisoformat(text)
            at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    except ValueError:
        raise click.UsageError(f"{text!r} is not a time: use 30d, 12h or a date such as 2027-01-31") from None
    except OverflowError:
        ns = NUMBER_MAX + 1
    else:
        ns = int(at.timestamp()) * 1_000_000_000
    if not -NUMBER_MAX <= ns <= NUMBER_MAX:
        raise click.UsageError(
            f"{text!r} is not a time that can be stored: the last is 2262-04-11 (a key that never expires has none)"
        )
    return ns


def words(text: str | None) -> list[str] | None:
    """`a,b` -> ["a", "b"]; None stays None."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def chosen(text: str, kinds: Any, option: str) -> list[str]:
    """Like `words`, for the values of a Literal; raises UsageError with the valid values."""
    known, found = get_args(kinds), words(text) or []
    for word in found:
        if word not in known:
            raise click.UsageError(f"{option}: {word!r} is not one of {', '.join(known)}")
    return found


def pairs(given: Sequence[str], option: str, separator: str = "=") -> dict[str, str]:
    """`("a=b", ...)` -> {"a": "b"}; raises UsageError, also for a duplicate name. The message never contains the
    value."""
    result: dict[str, str] = {}
    for text in given:
        name, found, value = text.partition(separator)
        if not found or not name.strip():
            raise click.UsageError(f"{option} takes NAME{separator}VALUE")
        if name.strip() in result:
            raise click.UsageError(f"{option} is given twice for {name.strip()[:80]}")
        result[name.strip()] = value.strip()
    return result
