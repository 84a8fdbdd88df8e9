"""Calls that wait for the sources of the text before them: in their order, and not without end."""

from __future__ import annotations

from elkapi.translate.ir import Event, Failure, Finish, TextDelta, ToolCallDelta, ToolCallStart
from elkapi.translate.late_sources import WAITING_EVENTS_MAX, SourcesFirst


class Heard:
    """A writer that says which kinds of events it was fed."""

    def feed(self, event: Event) -> bytes:
        return type(event).__name__.encode() + b" "

    def finish(self) -> bytes:
        return b"end"

    def fail(self, failure: Failure) -> bytes:
        return b"failed"

    def ping(self) -> bytes:
        return b""


def test_calls_wait_for_the_end_of_the_answer() -> None:
    writer = SourcesFirst(Heard())
    assert writer.feed(TextDelta("a")) == b"TextDelta "
    assert writer.feed(ToolCallStart(0, "id", "f")) == writer.feed(ToolCallDelta(0, "{}")) == b""
    assert writer.feed(Finish("stop")) == b"Finish "
    assert writer.finish() == b"ToolCallStart ToolCallDelta end"


def test_very_many_calls_are_not_kept_until_the_end() -> None:
    writer = SourcesFirst(Heard())
    writer.feed(TextDelta("a"))
    told = [writer.feed(ToolCallStart(number, "id", "f")) for number in range(WAITING_EVENTS_MAX + 1)]
    assert told[-2] == b"ToolCallStart " * WAITING_EVENTS_MAX
    assert told[-1] == b"ToolCallStart "
