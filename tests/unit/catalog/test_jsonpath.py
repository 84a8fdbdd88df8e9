"""Paths into a provider's answers find what stands there and nothing else, and set what a request names."""

from __future__ import annotations

from typing import Any

import pytest

from elkapi.catalog.jsonpath import compiled, first, first_of, put

ANSWER: dict[str, Any] = {
    "data": {"videos": [{"url": "a"}, None, {"url": None}, {"other": 1}, {"url": "b"}], "state": "done", "none": None},
    "list": [[1, 2], [3]],
    "empty": ["", [], {}],
    "nulls": [None, 1, None],
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("data.state", ["done"]),
        ("data.videos[*].url", ["a", "b"]),
        ("data.videos[0].url", ["a"]),
        ("data.videos[-1].url", ["b"]),
        ("data.videos[-5].url", ["a"]),
        ("data.videos[-6].url", []),
        ("data.videos[5].url", []),
        ("data.videos[1]", []),
        ("list[*][*]", [1, 2, 3]),
        ("list[1][0]", [3]),
        ("nulls[*]", [1]),
        *((path, []) for path in ("nothing", "data.none", "data.state.deep", "data[*]", "data[0]", "data.videos.url")),
    ],
)
def test_a_path_finds_all_that_is_there_in_order(path: str, found: list[Any]) -> None:
    assert compiled(path)(ANSWER) == found
    assert first(path, ANSWER) == (found[0] if found else None)


@pytest.mark.parametrize("path", ["", ".", "[x]", "a[", "a[1x]"])
def test_what_is_no_path_is_refused_when_it_is_declared(path: str) -> None:
    with pytest.raises(ValueError, match="is no path"):
        compiled(path)


def test_the_first_of_several_paths_is_the_first_that_says_something() -> None:
    assert first_of(("nothing", "empty[*]", "data.videos[*].url"), ANSWER) == "a"
    assert first_of(("empty[*]",), {"empty": ["", 0]}) == 0
    assert first_of(("nothing", "empty[*]"), ANSWER) is None


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("a", {}, {"a": 1}),
        ("a.b.c", {}, {"a": {"b": {"c": 1}}}),
        ("a.b", {"a": {"x": 2}}, {"a": {"x": 2, "b": 1}}),
        ("a.b", {"a": None}, {"a": {"b": 1}}),
        ("a[*].b", {"a": [{}, {"b": 2}]}, {"a": [{"b": 1}, {"b": 1}]}),
        ("a[0]", {"a": [5, 6]}, {"a": [1, 6]}),
        ("a[-1]", {"a": [5, 6]}, {"a": [5, 1]}),
        ("a[1].b", {"a": [{}]}, {"a": [{}, {"b": 1}]}),
        ("a[2].b", {"a": [{}]}, {"a": [{}]}),
        ("a[1]", {"a": [5]}, {"a": [5]}),
        ("a[0].b", {}, {}),
        ("a[*]", {"a": "text"}, {"a": "text"}),
        ("a.b", {"a": "text"}, {"a": "text"}),
    ],
)
def test_a_member_is_set_where_there_is_a_place_for_it(path: str, before: Any, after: Any) -> None:
    put(path, before, 1)
    assert before == after
