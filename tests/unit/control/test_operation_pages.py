"""Every operation of tasks has a page, made of the catalog, and its sample asks what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from elkapi.catalog import CATALOG
from elkapi.control import operations
from elkapi.control.library import Library, docs_folder


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(docs_folder())


@pytest.mark.parametrize("name", sorted(operations.task_operations()))
def test_an_operation_has_a_page_with_its_paths_and_a_sample(library: Library, name: str) -> None:
    operation = operations.task_operations()[name]
    page = library.page(f"operations/{name}")
    assert page is not None
    assert page.title == name
    assert operation.path in page.markdown
    assert all(alias in page.markdown for alias in operation.aliases)
    assert f"curl -X {operation.method}" in page.markdown
    assert "<h1" in page.html


def test_the_pages_that_are_made_can_be_found_by_links(library: Library) -> None:
    assert 'href="/docs/operations"' in library.pages["index"].html
    assert 'href="/docs/operations"' in library.pages["tasks"].html
    index = library.page("operations")
    assert index is not None
    names = re.findall(r'href="(operations/[^"]+)"', index.html)
    assert len(names) == len(operations.task_operations())
    assert all(library.page(name) for name in names)


def test_the_index_names_them_all_and_nothing_else_is_made_up(library: Library, tmp_path: Path) -> None:
    index = library.page("operations")
    assert index is not None
    tasks = [one.id for one in CATALOG.operations if one.role.value in ("submit", "fetch", "cancel", "list")]
    assert all(f"`{name}`" in index.markdown for name in tasks)
    assert library.page("operations/openai.chat") is None
    assert library.page("nothing") is None
    assert Library(tmp_path).page("index") is None
