"""Findings in a text, and the text with them masked; pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Found(msgspec.Struct, frozen=True):
    """A span of a text and its replacement in a mask."""

    start: int
    end: int
    label: str


class Blocked(Exception):
    """A guard blocks: its name, and a reason for the caller if it gave one. Never the text."""

    def __init__(self, guard: str, reason: str = "") -> None:
        super().__init__(guard)
        self.guard = guard
        self.reason = reason


class TooMuch(Exception):
    """A text has too many candidates to check all of them, so its findings are unknown."""


def merged(found: Sequence[Found]) -> list[Found]:
    """The spans in order, overlapping ones merged under the label of the longest."""
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
    """The part of a text from `start` to `end` with findings replaced, also those that begin before it."""
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
