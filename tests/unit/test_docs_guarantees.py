"""docs/guarantees.md and the suite agree: every row once, every test it names is there, and no row goes without."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guarantees.md"
ROWS = [*map(str, range(1, 79)), *(f"A{number}" for number in range(1, 25))]
NOT_YET = "## Not yet"


def rows_of(text: str) -> list[tuple[str, str]]:
    """(number, the rest) of every row of a table."""
    return re.findall(r"^\| (A?\d+) \| (.*) \|$", text, re.MULTILINE)


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    return frozenset(one.name for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))


def missing(text: str) -> list[str]:
    """What a text names as a test and is none."""
    named: list[tuple[str, str]] = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    return [
        f"{path}::{name}"
        for path, name in named
        if not name.startswith("test_") or not (ROOT / path).is_file() or name not in names_in(path)
    ]


def test_every_row_stands_on_the_page_once() -> None:
    numbers = [number for number, _ in rows_of(PAGE.read_text("utf-8"))]
    assert sorted(numbers) == sorted(ROWS)


def test_every_test_that_a_row_names_exists() -> None:
    text = PAGE.read_text("utf-8")
    assert missing(text) == []
    assert missing(
        "`tests/unit/test_docs_guarantees.py::test_no_such`, `tests/no.py::test_a`, `tests/gateway.py::gateway`"
    ) == [
        "tests/unit/test_docs_guarantees.py::test_no_such",
        "tests/no.py::test_a",
        "tests/gateway.py::gateway",
    ]


def test_a_row_names_its_tests_unless_it_is_not_yet_kept() -> None:
    kept, _, later = PAGE.read_text("utf-8").partition(NOT_YET)
    for number, rest in rows_of(kept):
        promise, _, tests = rest.partition(" | ")
        assert promise, number
        assert re.fullmatch(r"`tests/[\w/]+\.py::test_\w+`( `tests/[\w/]+\.py::test_\w+`)*", tests), number
    assert rows_of(later)
    assert not any("`" in rest for _, rest in rows_of(later))
