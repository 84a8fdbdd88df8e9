"""Number options that accept plain digits only, unlike click's own types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from elkapi.settings import NUMBER_MAX, decimal_number, whole_number


class Whole(click.IntRange):
    """An integer from `min` to `max`, if given."""

    name = "number"

    def _describe_range(self) -> str:
        # Otherwise help would show `[x<=None]` for unbounded numbers, and nineteen digits for ids.
        return "" if self.max in (None, NUMBER_MAX) else super()._describe_range()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = whole_number(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)
        # click's own refusals name the range as help does.
        if self.min is not None and number < self.min:
            self.fail(f"{number} is below the minimum, {self.min}", param, ctx)
        if self.max is not None and number > self.max:
            self.fail(f"{number} is above the maximum, {self.max}", param, ctx)
        return super().convert(number, param, ctx)


class Number(click.types.FloatParamType):
    """A decimal number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return decimal_number(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)


def read_whole(text: str, option: str) -> int:
    """Parse an integer in the value of an option; raises BadParameter."""
    return int(_read(text, option, whole_number))


def read_number(text: str, option: str) -> float:
    """Like `read_whole`, for decimal numbers."""
    return _read(text, option, decimal_number)


def _read(text: str, option: str, read: Callable[[str], float]) -> float:
    try:
        return read(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None
