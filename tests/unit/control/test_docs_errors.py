"""docs/errors.md lists every code the gateway can send, and no other: compared with the classes and the raise sites."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

from elkapi import errors
from elkapi.control.library import docs_folder

Row = tuple[str, str, str, str]  # status, code, type, retry
ROOMS = Path(errors.__file__).parent
# Rooms with error trees of their own, which no caller of the gateway ever sees.
FOREIGN = {"sandbox", "upstream"}
CLASSES = {
    name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, errors.GatewayError)
}


def documented() -> list[Row]:
    rows = []
    for line in (docs_folder() / "errors.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and cells[0] not in {"status", "---"}:
            rows.append((cells[0], cells[1].strip("`"), cells[2].strip("`"), cells[4]))
    return rows


def row_of(kind: type[errors.GatewayError], code: str | None = None) -> Row:
    if kind is errors.UpstreamRejected:
        # Its status is the upstream's, and so are code and type where the upstream gave them.
        rejected = errors.UpstreamRejected("", status=400, code=None, type_=kind.type, param=None)
        return ("4xx", rejected.code, rejected.type, "no")
    return (str(kind.status), code or kind.code, kind.type, "yes" if kind.retryable else "no")


def raised() -> set[Row]:
    """Rows of every call in our sources that gives an error class, or a refused claim, a code of its own."""
    rows: set[Row] = set()
    for path in ROOMS.rglob("*.py"):
        room = path.relative_to(ROOMS).parts[0]
        if room in FOREIGN:
            continue
        found: set[Row] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                found |= _rows_of_call(node.func.id, node)
        # The model process is an upstream: a caller sees its verdict on a request, not its troubles.
        rows |= {row for row in found if room != "local" or row[0].startswith("4")}
    return rows


def _rows_of_call(name: str, node: ast.Call) -> set[Row]:
    texts = [arg.value if isinstance(arg, ast.Constant) else None for arg in node.args]
    if name == "Refusal" and texts[:1] == ["conflict"] and len(texts) > 2:
        return {row_of(errors.Conflict, str(texts[2]))}
    if name not in CLASSES:
        return set()
    codes = [k.value.value for k in node.keywords if k.arg == "code" and isinstance(k.value, ast.Constant)]
    return {row_of(CLASSES[name], str(code)) for code in codes if code is not None}


def test_every_class_and_every_code_is_documented() -> None:
    expected = {row_of(kind) for kind in CLASSES.values()} | raised()
    assert expected - set(documented()) == set()


def test_every_documented_error_exists() -> None:
    expected = {row_of(kind) for kind in CLASSES.values()} | raised()
    assert set(documented()) - expected == set()


def test_no_error_is_documented_twice() -> None:
    rows = documented()
    assert len(rows) == len(set(rows))
    assert len(rows) > len(CLASSES)


def test_the_scan_finds_codes_at_raise_sites() -> None:
    assert ("404", "unknown_url", "invalid_request_error", "no") in raised()
    assert ("409", "outcome_unknown", "invalid_request_error", "no") in raised()


def test_every_row_says_what_to_do() -> None:
    text = (docs_folder() / "errors.md").read_text("utf-8")
    for line in re.findall(r"^\| [0-9].*$", text, re.MULTILINE):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert all(cells), line
