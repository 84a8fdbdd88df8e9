"""What a stream tells beside its text, where the text passes a window."""

from __future__ import annotations

import pytest

from elkapi.guards.crossing import Guarded
from elkapi.guards.rules import rule_of
from elkapi.translate.dialect import Reader
from elkapi.translate.ir import (
    Citation,
    End,
    Event,
    Failure,
    Finish,
    ImageOut,
    RedactedThinking,
    ServerToolPart,
    TextDelta,
    ToolCallStart,
    UsageSeen,
)
from elkapi.translate.sse import Frame
from elkapi.types import Guard

RULES = (rule_of(Guard(name="g", kind="words", action="mask", words=("forbidden word",))),)


class Scripted:
    """A reader whose frames are events already."""

    def __init__(self, several: list[list[Event]]) -> None:
        self._several = several

    def feed(self, _frame: Frame) -> list[Event]:
        return self._several.pop(0)


class Seen:
    """A writer that keeps its events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def feed(self, event: Event) -> bytes:
        self.events.append(event)
        return b""

    def finish(self) -> bytes:
        return b""

    def fail(self, _failure: Failure) -> bytes:
        return b""

    def ping(self) -> bytes:
        return b""


def through(*several: list[Event]) -> list[Event]:
    """The events that the caller's writer is given, neighbouring texts joined."""
    writer = Seen()
    reader: Reader = Scripted(list(several))
    guarded = Guarded(reader, writer, False, RULES)
    for _ in several:
        guarded.feed(Frame(b"", b"", b"{}"))
    guarded.finish()
    joined: list[Event] = []
    for event in writer.events:
        if isinstance(event, TextDelta) and joined and isinstance(joined[-1], TextDelta):
            joined[-1] = TextDelta(joined[-1].text + event.text)
        elif not isinstance(event, UsageSeen):
            joined.append(event)
    return joined


def test_a_source_follows_the_text_that_it_is_of_also_where_that_waits() -> None:
    """Before any text it would be nobody's, and its caller's writer would leave it out."""
    a, b = Citation("https://a.test", span=(0, 9)), Citation("https://b.test")
    bare = Citation("https://a.test")
    ended: list[Event] = [Finish("stop"), End()]
    assert through([TextDelta("It rains.")], [a], ended) == [TextDelta("It rains."), bare, Finish("stop")]
    first, second, rest, third, _ = through([TextDelta("It rains.")], [a], [TextDelta(" So " * 9)], [b], ended)
    assert isinstance(first, TextDelta)
    assert isinstance(rest, TextDelta)
    assert first.text + rest.text == "It rains." + " So " * 9
    assert first.text.startswith("It rains.")
    assert (second, third) == (bare, b)
    call = ToolCallStart(0, "c", "f")
    assert through([TextDelta("x")], [a], [call], ended) == [TextDelta("x"), bare, call, Finish("stop")]


@pytest.mark.parametrize(
    "between",
    [
        ServerToolPart("anthropic", {"type": "server_tool_use"}),
        ImageOut("image/png", "AAAA"),
        RedactedThinking("sealed"),
    ],
    ids=["server tool", "picture", "sealed thought"],
)
def test_a_text_that_waits_goes_before_what_came_after_it(between: Event) -> None:
    """Of an answer around a search the end of the first text was told with the second one, behind the search."""
    before, after = TextDelta("Let me look."), TextDelta("It is so.")
    ended: list[Event] = [Finish("stop"), End()]
    assert through([before], [between], [after], list(ended)) == [before, between, after, Finish("stop")]
    told = through([TextDelta("a forbidden")], [between], [TextDelta(" word")], list(ended))
    assert not any("forbidden word" in event.text for event in told if isinstance(event, TextDelta))


def test_a_finding_with_a_source_inside_of_it_is_masked_whole() -> None:
    before, after = TextDelta("a forbidden"), TextDelta(" word, and so on")
    text, source, rest, _ = through([before], [Citation("https://a.test")], [after], [Finish("stop"), End()])
    assert isinstance(source, Citation)
    assert isinstance(text, TextDelta)
    assert isinstance(rest, TextDelta)
    assert "forbidden" not in text.text + rest.text
    assert "word" not in text.text + rest.text
