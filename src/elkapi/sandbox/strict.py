"""Readers of bodies that hold values of any type: what a reader cannot take is a 400, no failure of the sandbox."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from elkapi.sandbox.messages import Problem

P = ParamSpec("P")
R = TypeVar("R")


def strictly(reader: Callable[P, R]) -> Callable[P, R]:
    """A reader whose stumbling over a value of a wrong type is a Problem 400; the fields that matter word their own."""

    @functools.wraps(reader)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return reader(*args, **kwargs)
        except (TypeError, AttributeError, LookupError, ValueError) as error:
            raise Problem(400, "The request body holds a value of a wrong type.") from error

    return checked
