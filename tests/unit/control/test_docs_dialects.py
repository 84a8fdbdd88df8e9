"""docs/dialects.md says what each dialect cannot carry, as the code declares it; docs/index.md leads to every page."""

from __future__ import annotations

import re

import pytest

from elkapi.control.library import docs_folder
from elkapi.translate.dialects import UPSTREAM_DIALECTS
from scripts import dialects_page


def test_the_tables_are_those_of_the_code() -> None:
    page = (docs_folder() / "dialects.md").read_text("utf-8")
    assert page == dialects_page.page_with(dialects_page.tables(), page), "run scripts/dialects_page.py"


def test_every_dialect_of_an_upstream_has_a_table() -> None:
    named = {dialect.name for dialect in UPSTREAM_DIALECTS.values()}
    assert named == set(dialects_page.HEADINGS)


def test_a_page_without_a_place_for_tables_is_not_overwritten() -> None:
    with pytest.raises(ValueError, match="no place"):
        dialects_page.page_with("", "# Another page\n")


def test_the_index_leads_to_every_page() -> None:
    index = (docs_folder() / "index.md").read_text("utf-8")
    linked = set(re.findall(r"\]\(([a-z0-9-]+)\.md\)", index))
    assert {path.stem for path in docs_folder().glob("*.md")} - {"index"} <= linked
