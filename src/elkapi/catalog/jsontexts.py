"""The strings in a decoded JSON value at any depth, without member names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def texts_in(value: Any) -> Iterator[str]:
    """Yield every string, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts_in(inner)


def with_texts(value: Any, change: Callable[[str], Any]) -> Any:
    """A copy of the value with each string replaced by the result of `change`."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {name: with_texts(inner, change) for name, inner in value.items()}
    if isinstance(value, list):
        return [with_texts(inner, change) for inner in value]
    return value
