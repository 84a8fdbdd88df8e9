"""The drawing's import directions, as an AST walk: a room imports only from rooms that stand before it."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "elkapi"

# Each line may import from itself and from the lines above it.
LAYERS = [
    {"types", "errors", "money", "clock", "ids", "settings", "roles"},
    {"catalog", "translate", "pricing", "routing", "guards"},
    {"storage"},
    {"snapshot", "access", "ledger", "cache"},
    {"upstream", "local"},
    {"assets"},
    {"relay", "tasks"},
    {"edge", "admin", "control", "cli"},
    {"app", "supervisor", "worker"},
]
LEVEL = {room: level for level, layer in enumerate(LAYERS) for room in layer}
LEAVES, PURE = LAYERS[0], LAYERS[0] | LAYERS[1]
DOES_IO = {"asyncio", "socket", "ssl", "sqlite3", "sqlalchemy", "psycopg", "aiohttp", "uvloop", "subprocess"}

# Rooms beside the drawing, and what each may import.
APART = {
    "observe": LEAVES,
    "sandbox": LEAVES | {"observe"},
    "testing.crash": set(),
    "testing": {*LEVEL, "observe", "sandbox"},
    "__init__": LEAVES,
}


def _rooms_imported(tree: ast.Module, package: list[str]) -> set[tuple[int, str, str]]:
    """(line, room of elkapi or "", top-level module) of every import, wherever in the file it stands."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            prefix = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*prefix, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "elkapi" else [base]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            found.add((node.lineno, _room(rest.split(".")) if top == "elkapi" else "", top))
    return found


def _room(parts: Sequence[str]) -> str:
    """The first part; but the named crash points, a leaf that storage and the ledger call, are a room of their own."""
    return "testing.crash" if list(parts[:2]) == ["testing", "crash"] else parts[0]


def _allowed(room: str) -> set[str]:
    if room in APART:
        return APART[room] | {room}
    below = {other for other, level in LEVEL.items() if level <= LEVEL[room]}
    may_observe = {"observe"} if LEVEL[room] >= LEVEL["snapshot"] else set()
    starts_sandbox = {"sandbox"} if room in {"app", "worker", "cli"} else set()
    has_crash_points = {"testing.crash"} if LEVEL[room] >= LEVEL["storage"] else set()
    serves = {"app"} if room == "cli" else set()  # `elkapi serve` is where the composition root is called from
    return below | may_observe | starts_sandbox | has_crash_points | serves


def _is_forbidden(room: str, other: str, top: str) -> bool:
    is_room = other in LEVEL or other in APART  # `from elkapi import __version__` names no room
    return (is_room and other not in _allowed(room)) or (room in PURE and top in DOES_IO)


def _complaints(path: Path) -> list[str]:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    room = _room(parts)
    if room not in LEVEL and room not in APART:
        return [f"the room {room!r} is not in the drawing"]
    imports = _rooms_imported(ast.parse(path.read_text("utf-8")), ["elkapi", *parts[:-1]])
    return [
        f"line {line}: {room} may not import {other or top}"
        for line, other, top in sorted(imports)
        if _is_forbidden(room, other, top)
    ]


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_one_way(path: Path) -> None:
    assert _complaints(path) == []


# Copying whole tables is no query, and what a database raises is no SQL.
WRITES_TABLES = {"admin/backup.py"}


def _sql_names(tree: ast.Module) -> set[str]:
    """What of SQLAlchemy a module can write SQL with; a connection is only handed on."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name == "sqlalchemy"}
        elif isinstance(node, ast.ImportFrom) and node.module == "sqlalchemy":
            found |= {alias.name for alias in node.names} - {"Connection"}
    return found


def test_sql_is_written_in_storage_and_in_the_ledger_alone() -> None:
    others = [path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0] not in ("storage", "ledger")]
    writing = {str(path.relative_to(SOURCE)) for path in others if _sql_names(ast.parse(path.read_text("utf-8")))}
    assert writing <= WRITES_TABLES


@pytest.mark.parametrize(
    ("room", "text", "complains"),
    [
        ("pricing", "from elkapi.storage import schema", True),
        ("pricing", "from elkapi import ledger", True),
        ("pricing", "def f():\n    import elkapi.edge.server", True),
        ("pricing", "import asyncio", True),
        ("pricing", "from elkapi.types import Usage", False),
        ("ledger", "from elkapi.observe import log", False),
        ("sandbox", "from elkapi.relay import serve", True),
        ("edge", "from elkapi.relay import serve", False),
    ],
)
def test_the_walk_sees_a_forbidden_import(room: str, text: str, complains: bool) -> None:
    imports = _rooms_imported(ast.parse(text), ["elkapi", room])
    assert any(_is_forbidden(room, other, top) for _, other, top in imports) is complains


RUNS_TEXT = {"eval", "exec", "compile", "__import__", "execfile"}
RUNS_MODULES = {"pickle", "marshal", "shelve", "dill", "code", "codeop", "runpy"}


def _runs_text(tree: ast.Module) -> list[int]:
    """The lines that could run what somebody sent: built-in evaluation, pickled objects, a shell."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            named = node.func.id if isinstance(node.func, ast.Name) else ""
            member = ast.unparse(node.func) if isinstance(node.func, ast.Attribute) else ""
            shell = any(word.arg == "shell" for word in node.keywords)
            if named in RUNS_TEXT or member in ("os.system", "os.popen") or shell:
                found.append(node.lineno)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if RUNS_MODULES & {name.partition(".")[0] for name in names} and not getattr(node, "level", 0):
                found.append(node.lineno)
    return found


def test_cve_2026_40217_nothing_that_somebody_sent_is_ever_run() -> None:
    found = {str(path): lines for path in SOURCE.rglob("*.py") if (lines := _runs_text(ast.parse(path.read_text())))}
    assert found == {}
    assert _runs_text(ast.parse("import pickle\neval(x)\nos.system(x)\nrun(x, shell=True)\n")) == [1, 2, 3, 4]
