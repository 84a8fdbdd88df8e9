"""Paths such as `data.task_result.videos[*].url`, compiled to getters over decoded JSON. Missing values are skipped."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

_STEP = re.compile(r"([^.\[\]]+)|\[(\*|-?\d+)\]")

Getter = Callable[[Any], list[Any]]


@lru_cache(maxsize=1024)
def compiled(path: str) -> Getter:
    """A function that returns every value at a path, in order, without nulls. Raises ValueError for an invalid path."""
    steps = _steps(path)
    if not steps or _STEP.sub("", path).strip("."):
        raise ValueError(f"{path!r} is no path")

    def find(value: Any) -> list[Any]:
        found = [value]
        for step in steps:
            found = [inner for outer in found for inner in _inside(outer, step)]
        return found

    return find


def _steps(path: str) -> list[str | int | None]:
    """The steps of a path: a name, an index, or None for every item."""
    return [name or (None if index == "*" else int(index)) for name, index in _STEP.findall(path)]


def _inside(value: Any, step: str | int | None) -> Iterable[Any]:
    if step is None:
        return [item for item in value if item is not None] if isinstance(value, list) else ()
    if isinstance(step, int):
        if not isinstance(value, list) or not -len(value) <= step < len(value):
            return ()
        inner = value[step]
    else:
        inner = value.get(step) if isinstance(value, dict) else None
    return () if inner is None else (inner,)


def first(path: str, value: Any) -> Any:
    """The first value at a path, or None."""
    found = compiled(path)(value)
    return found[0] if found else None


def first_of(paths: Iterable[str], value: Any) -> Any:
    """The first value that any of the paths finds, in their order; "", [] and {} count as missing."""
    for path in paths:
        for found in compiled(path)(value):
            if found not in ("", [], {}):
                return found
    return None


def put(path: str, value: Any, new: Any) -> None:
    """Set the value at a path, creating objects on the way; `[*]` and indexes change existing items only.

    An index one past the end of a list appends an object, if the path continues.
    """
    _put(value, _steps(path), new)


def _put(value: Any, steps: list[str | int | None], new: Any) -> None:
    step, rest = steps[0], steps[1:]
    if isinstance(step, str):
        if not isinstance(value, dict):
            return
        if not rest:
            value[step] = new
        else:
            if value.get(step) is None:
                if not isinstance(rest[0], str):
                    return
                value[step] = {}
            _put(value[step], rest, new)
        return
    if not isinstance(value, list):
        return
    if rest and step == len(value):
        value.append({})
    for index in range(len(value)) if step is None else (step,):
        if not -len(value) <= index < len(value):
            continue
        if rest:
            _put(value[index], rest, new)
        else:
            value[index] = new
