"""docs/settings.md lists every setting with its true default and variable, says which is not used yet, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import elkapi
from elkapi.control.library import docs_folder
from elkapi.settings import Settings

UNITS = {"_s": "seconds", "_bytes_max": "bytes", "_ratio": "share"}
# Settings that modules read through a property of Settings.
THROUGH = {"data_dir": ("data_path", "socket_path"), "database_url": ("effective_database_url", "is_sqlite")}
NOT_USED = "Not used in this release"


def documented() -> dict[str, tuple[str, str, str, str]]:
    """Setting -> (default, unit, variable, text)."""
    rows = {}
    for line in (docs_folder() / "settings.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[0].startswith("`"):
            name, default, unit, variable, text = cells
            assert name not in rows, f"{name} stands there twice"
            rows[name.strip("`")] = (default.strip("`"), unit, variable.strip("`"), text)
    return rows


def shown(value: Any) -> str:
    if isinstance(value, tuple):
        return json.dumps(value)
    return value or '""' if isinstance(value, str) else str(value)


def is_read(name: str) -> bool:
    names = "|".join((name, *THROUGH.get(name, ())))
    pattern = re.compile(rf"settings\.({names})\b")
    root = Path(elkapi.__file__).parent
    return any(pattern.search(path.read_text("utf-8")) for path in root.rglob("*.py") if path.name != "settings.py")


def test_every_setting_is_documented_and_every_documented_one_exists() -> None:
    assert set(documented()) == set(Settings.__struct_fields__)


@pytest.mark.parametrize("name", Settings.__struct_fields__)
def test_default_unit_and_variable_are_true(name: str) -> None:
    default, unit, variable, text = documented()[name]
    assert default == shown(getattr(Settings(), name))
    assert variable == f"ELKAPI_{name.upper()}"
    assert text
    assert unit
    for ending, expected in UNITS.items():
        if name.endswith(ending):
            assert unit == expected
    if get_type_hints(Settings)[name] is float and not name.endswith("_ratio"):
        assert unit == "seconds"


@pytest.mark.parametrize("name", Settings.__struct_fields__)
def test_docs_say_which_setting_nothing_reads_yet(name: str) -> None:
    assert (NOT_USED in documented()[name][3]) is not is_read(name)
