"""What a stream tells beside its text, where the text passes a window."""

from __future__ import annotations

import pytest

from elkapi.guards import crossing
from elkapi.guards.crossing import Guarded
from elkapi.guards.found import Blocked
from elkapi.guards.rules import rule_of
from elkapi.translate.crossing import Tally
from elkapi.translate.dialect import Reader, Unreadable
from elkapi.translate.ir import (
    Citation,
    End,
    Event,
    Failure,
    Finish,
    ImageOut,
    RedactedThinking,
    RefusalDelta,
    ServerToolPart,
    TextDelta,
    ThinkingDelta,
    ThinkingSignature,
    ToolCallDelta,
    ToolCallStart,
    UsageSeen,
)
from elkapi.translate.sse import Frame
from elkapi.types import Guard, Usage

RULES = (rule_of(Guard(name="g", kind="words", action="mask", words=("forbidden word",))),)
BLOCKING = (rule_of(Guard(name="b", kind="words", words=("forbidden word",))),)
FRAME = Frame(b"", b"", b"{}")


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
        return b"."

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


@pytest.mark.parametrize("kind", [TextDelta, RefusalDelta, ThinkingDelta])
def test_every_kind_of_text_passes_a_window_in_pieces(
    kind: type[TextDelta] | type[RefusalDelta] | type[ThinkingDelta],
) -> None:
    pieces: list[list[Event]] = [[kind(sign)] for sign in "a forbidden word, and so on"]
    told = through(*pieces, [Finish("stop"), End()])
    assert "".join(event.text for event in told if isinstance(event, kind)) == "a [REDACTED], and so on"
    assert told[-1] == Finish("stop")


def test_what_a_search_and_a_source_say_is_masked() -> None:
    bad, masked = "a forbidden word", "a [REDACTED]"
    part = ServerToolPart("anthropic", {"type": "x", "query": bad})
    source = Citation("https://a.test", title=bad, quoted=bad, passage=bad, span=(0, 2))
    assert through([part], [source], [Finish("stop"), End()]) == [
        ServerToolPart("anthropic", {"type": "x", "query": masked}),
        Citation("https://a.test", title=masked, quoted=masked, passage=masked),
        Finish("stop"),
    ]


def test_calls_of_tools_are_told_whole_before_the_end_and_once() -> None:
    calls: list[Event] = [
        ToolCallStart(1, "d", "g", custom=True),
        ToolCallStart(0, "c", "f"),
        ToolCallStart(2, "e", "h"),
    ]
    pieces: list[Event] = [
        ToolCallDelta(0, '{"a":"forbidden'),
        ToolCallDelta(1, '{"a":  "forbidden '),
        ToolCallDelta(7, "of no call"),
        ToolCallDelta(0, '\\u0020word"}'),
        ToolCallDelta(1, 'word"}'),
    ]
    assert through(calls, pieces, [Finish("tool_calls"), End()]) == [
        calls[1],
        ToolCallDelta(0, '{"a":"[REDACTED]"}'),
        calls[0],
        ToolCallDelta(1, '{"a":  "[REDACTED]"}'),
        calls[2],
        Finish("tool_calls"),
    ]


def test_arguments_that_are_too_long_to_check_together_are_not_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossing, "ARGUMENTS_CHARS_MAX", 10)
    start: list[Event] = [ToolCallStart(0, "c", "f"), ToolCallStart(1, "d", "f")]
    assert through(start, [ToolCallDelta(0, "12345")], [ToolCallDelta(1, "12345")])[-1] == ToolCallDelta(1, "12345")
    with pytest.raises(Unreadable, match="too long to check"):
        through(start, [ToolCallDelta(0, "12345")], [ToolCallDelta(1, "123456")])


def test_a_thought_is_told_before_its_signature_and_other_text_after_it() -> None:
    signed = ThinkingSignature("s", "anthropic")
    told = through(
        [ThinkingDelta("so")], [signed], [TextDelta("it is")], [ThinkingDelta("or")], [Finish("stop"), End()]
    )
    assert told == [ThinkingDelta("so"), signed, TextDelta("it is"), ThinkingDelta("or"), Finish("stop")]


@pytest.mark.parametrize(
    "bad",
    [
        [TextDelta("a forbidden"), TextDelta(" word " + "x" * 90)],
        [ServerToolPart("anthropic", {"q": "forbidden word"})],
        [ToolCallStart(0, "c", "f"), ToolCallDelta(0, '{"a":"forbidden word"}'), Finish("tool_calls")],
        [TextDelta("a forbidden word"), End()],
    ],
    ids=["text", "search", "call", "at the end"],
)
def test_a_block_ends_a_stream_behind_what_was_sent_and_sends_nothing_more(bad: list[Event]) -> None:
    writer = Seen()
    before: list[Event] = [ThinkingDelta("so"), TextDelta("this is fine. " * 9)]
    guarded = Guarded(
        Scripted([[*before, *bad, TextDelta("later"), ImageOut("image/png", "A")]]), writer, False, BLOCKING
    )
    assert guarded.feed(FRAME) == b"." * len(writer.events)
    assert guarded.failure == Failure(400, "content_blocked", "b")
    assert isinstance(guarded.stopped, Blocked)
    assert writer.events[0] == before[0]
    assert isinstance(writer.events[1], TextDelta)
    assert all(isinstance(event, ThinkingDelta | TextDelta) for event in writer.events)
    assert not any("forbidden" in event.text for event in writer.events if isinstance(event, TextDelta))


def test_the_upstreams_failure_ends_a_stream_and_what_is_behind_it_is_not_sent() -> None:
    writer = Seen()
    guarded = Guarded(Scripted([[Failure(500, "x", "y"), ImageOut("image/png", "A")]]), writer, False, RULES)
    guarded.feed(FRAME)
    assert (guarded.failure, guarded.stopped, writer.events) == (Failure(500, "x", "y"), None, [])


def said(tally: Tally) -> str:
    return "".join([*tally.thinking, *tally.text])


@pytest.mark.parametrize("counted", [False, True])
def test_what_is_held_back_has_come_but_is_not_sent_until_the_end(counted: bool) -> None:
    writer = Seen()
    guarded = Guarded(Scripted([[TextDelta("a forbidden word")], [ToolCallStart(0, "c", "f")]]), writer, False, RULES)
    guarded.feed(FRAME)
    assert (said(guarded.came), said(guarded.tally), writer.events) == ("a forbidden word", "", [])
    guarded.feed(FRAME)
    if counted:
        guarded.finish_counted(Usage())
    else:
        guarded.finish()
    assert said(guarded.tally) == "a [REDACTED]f"
    assert said(guarded.came) == "a forbidden wordf"
    assert [event for event in writer.events if not isinstance(event, UsageSeen)] == [
        TextDelta("a [REDACTED]"),
        ToolCallStart(0, "c", "f"),
    ]


def test_a_text_behind_the_finish_reason_does_not_wait() -> None:
    writer = Seen()
    guarded = Guarded(Scripted([[Finish("stop"), TextDelta("a forbidden word")]]), writer, False, RULES)
    guarded.feed(FRAME)
    assert writer.events == [Finish("stop"), TextDelta("a [REDACTED]")]
