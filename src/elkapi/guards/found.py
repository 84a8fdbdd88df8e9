"""What a rule finds in a text, and a text with that masked; pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Found(msgspec.Struct, frozen=True):
    """A span of a text and the word that takes its place where it is masked."""

    start: int
    end: int
    label: str


class Blocked(Exception):
    """A guard says no: its name, and for the caller a reason, where it gave one. Never the text."""

    def __init__(self, guard: str, reason: str = "") -> None:
        super().__init__(guard)
        self.guard = guard
        self.reason = reason


class TooMuch(Exception):
    """A text holds more that looks like what is to be found than can be looked at; what it holds is not known."""


def merged(found: Sequence[Found]) -> list[Found]:
    """The spans in order, those that overlap as one, under the label of the longest."""
    result: list[Found] = []
    for one in sorted(found, key=lambda one: (one.start, -one.end)):
        if result and one.start < result[-1].end:
            before = result[-1]
            longer = before if before.end - before.start >= one.end - one.start else one
            result[-1] = Found(before.start, max(before.end, one.end), longer.label)
        else:
            result.append(one)
    return result


def masked(text: str, found: Sequence[Found], start: int = 0, end: int | None = None) -> str:
    """The part of a text from `start` to `end`, with what was found in it replaced, also where it begins before."""
    end = len(text) if end is None else end
    pieces: list[str] = []
    place = start
    for one in merged(found):
        if one.end <= place or one.start >= end:
            continue
        pieces += (text[place : one.start], f"[{one.label}]")
        place = one.end
    pieces.append(text[place:end])
    return "".join(pieces)
