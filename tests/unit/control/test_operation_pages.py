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


@pytest.mark.parametrize(
    ("name", "said"),
    [
        # The provider's default is told as one, and not in the notation of the catalog.
        ("kling.text-to-video", "| feature `mode` | `mode` or `input.mode`; `std` by default |"),
        ("luma.video-modify", "| feature `resolution` | always `720p` |"),
        # What is answered at once begins no task, and what is free is not sold by the call.
        ("runway.upload", "Answers at once, without a task."),
        ("runway.upload", "| price | free |"),
        ("kling.identify-face", "| model | its own; `kling-identify-face` |"),
        # Where a path has no place for the id it is asked for by its name.
        ("minimax.file", "/minimax/v1/files/retrieve?file_id=${file_id}"),
        ("minimax.query", "/minimax/v1/query/video_generation?task_id=${task_id}"),
        ("veo.query", "/v1/video/query?id=${id}"),
        ("veo.operation", "It has ended once `done` is true."),
        # How the gateway's own forms look.
        ("tasks.get", '"object": "task"'),
        ("seedance.unified-query", '"status": "completed"'),
        ("tasks.cancel", "and shows one that ended"),
        ("tasks.delete", '"object": "task.deleted"'),
        ("sora.content", "The answer is the file."),
        ("runway.task-delete", "The answer is 204, without a body."),
    ],
)
def test_a_page_says_how_the_operation_is_asked_and_what_it_answers(library: Library, name: str, said: str) -> None:
    page = library.page(f"operations/{name}")
    assert page is not None
    assert said in page.markdown
