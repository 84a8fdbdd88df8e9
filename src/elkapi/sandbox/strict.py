"""Turns type errors in body readers into a 400 instead of an internal error."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from elkapi.sandbox.messages import Problem

P = ParamSpec("P")
R = TypeVar("R")


def strictly(reader: Callable[P, R]) -> Callable[P, R]:
    """Make a reader raise Problem 400 for a value of a wrong type that it does not check itself."""

    @functools.wraps(reader)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return reader(*args, **kwargs)
        except (TypeError, AttributeError, LookupError, ValueError) as error:
            raise Problem(400, "The request body holds a value of a wrong type.") from error

    return checked
