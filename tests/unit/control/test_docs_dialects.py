"""docs/dialects.md says what each dialect cannot carry, as the code declares it; docs/index.md leads to every page."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from elkapi.control.library import docs_folder
from elkapi.translate.dialects import UPSTREAM_DIALECTS

ROOT = Path(__file__).parents[3]


def script():  # type: ignore[no-untyped-def]
    spec = importlib.util.spec_from_file_location("dialects_page", ROOT / "scripts" / "dialects_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_code() -> None:
    made = script()
    page = (docs_folder() / "dialects.md").read_text("utf-8")
    assert page == made.page_with(made.tables(), page), "run scripts/dialects_page.py"


def test_every_dialect_of_an_upstream_has_a_table() -> None:
    named = {dialect.name for dialect in UPSTREAM_DIALECTS.values()}
    assert named == set(script().HEADINGS)


def test_a_page_without_a_place_for_tables_is_not_overwritten() -> None:
    with pytest.raises(ValueError, match="no place"):
        script().page_with("", "# Another page\n")


def test_the_index_leads_to_every_page() -> None:
    index = (docs_folder() / "index.md").read_text("utf-8")
    linked = set(re.findall(r"\]\(([a-z0-9-]+)\.md\)", index))
    assert {path.stem for path in docs_folder().glob("*.md")} - {"index"} <= linked
