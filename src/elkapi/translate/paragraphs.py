"""Separate the texts around a server tool's work with a paragraph break, for callers that do not see that work."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import msgspec

from elkapi.translate.dialect import Writer
from elkapi.translate.ir import Citation, Event, Failure, ServerToolPart, TextDelta

BREAK = "\n\n"


class _Paragraphs:
    """Inserts breaks between the texts of one answer, and shifts the spans of its sources accordingly."""

    def __init__(self) -> None:
        self._due = False
        self._last = ""
        # The length of the upstream's text, and the offsets of the breaks in it, in characters.
        self._chars = 0
        self._breaks: list[int] = []

    def of(self, event: Event) -> Event:
        """The event for the caller."""
        if isinstance(event, ServerToolPart):
            self._due = self._chars > 0
        elif isinstance(event, TextDelta) and event.text:
            first, before, self._last = event.text[0], self._last, event.text[-1]
            begun, self._chars = self._chars, self._chars + len(event.text)
            if self._due and not (before.isspace() or first.isspace()):
                self._breaks.append(begun)
                event = msgspec.structs.replace(event, text=BREAK + event.text)
            self._due = False
        elif isinstance(event, Citation) and event.span is not None and self._breaks:
            start, end = event.span
            start += len(BREAK) * bisect_right(self._breaks, start)
            end += len(BREAK) * bisect_left(self._breaks, end)
            event = msgspec.structs.replace(event, span=(start, max(start, end)))
        return event


def in_paragraphs(events: Sequence[Event]) -> list[Event]:
    """The events of a whole answer, with its texts separated."""
    paragraphs = _Paragraphs()
    return [paragraphs.of(event) for event in events]


class Paragraphed:
    """A writer before the caller's own that separates the texts of a stream."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._paragraphs = _Paragraphs()

    def feed(self, event: Event) -> bytes:
        return self._writer.feed(self._paragraphs.of(event))

    def finish(self) -> bytes:
        return self._writer.finish()

    def fail(self, failure: Failure) -> bytes:
        return self._writer.fail(failure)

    def ping(self) -> bytes:
        return self._writer.ping()
