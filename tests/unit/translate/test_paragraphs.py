"""Texts around a server tool's work are kept apart for callers who are not shown it, streamed and whole."""

from __future__ import annotations

import msgspec
import pytest

from elkapi.translate.dialect import ReplyFacts
from elkapi.translate.dialects import DIALECTS
from elkapi.translate.ir import (
    ChatRequest,
    Citation,
    Event,
    Finish,
    Message,
    ServerToolPart,
    Start,
    Text,
    TextDelta,
    ThinkingDelta,
)
from elkapi.translate.paragraphs import Paragraphed, in_paragraphs
from tests.text_calls import streamed_text, text_of

SEARCH = (
    ServerToolPart("anthropic", {"type": "server_tool_use"}),
    ServerToolPart("anthropic", {"type": "web_search_tool_result"}),
)


def texts(*events: Event) -> str:
    return "".join(event.text for event in in_paragraphs(events) if isinstance(event, TextDelta))


def test_a_text_after_a_tool_is_a_paragraph_of_its_own() -> None:
    said = (
        TextDelta("Let me "),
        TextDelta("look."),
        *SEARCH,
        ThinkingDelta("hm"),
        TextDelta("It is"),
        TextDelta(" so."),
    )
    assert texts(*said) == "Let me look.\n\nIt is so."
    # Nothing stands before the first text, and a text that ends its line itself is not given another.
    assert texts(*SEARCH, TextDelta("It is.")) == "It is."
    assert texts(TextDelta("Look.\n"), *SEARCH, TextDelta("It is."), *SEARCH) == "Look.\nIt is."
    assert texts(TextDelta("Look."), *SEARCH, TextDelta(""), TextDelta(" It is.")) == "Look. It is."


def test_sources_move_with_the_words_that_they_are_of() -> None:
    events = in_paragraphs(
        (
            TextDelta("One."),
            Citation("https://a.example", span=(0, 4)),
            *SEARCH,
            TextDelta("Two."),
            Citation("https://b.example", span=(4, 8)),
            Citation("https://c.example"),
            *SEARCH,
            TextDelta("Three."),
            Citation("https://d.example", span=(8, 14)),
            Citation("https://e.example", span=(0, 14)),
        )
    )
    told = texts(*events)
    assert told == "One.\n\nTwo.\n\nThree."
    spans = [event.span for event in events if isinstance(event, Citation)]
    assert [told[slice(*span)] if span else None for span in spans] == ["One.", "Two.", None, "Three.", told]


@pytest.mark.parametrize("client", ["chat", "responses", "gemini"])
def test_a_stream_and_a_whole_answer_are_kept_apart_alike(client: str) -> None:
    request = ChatRequest(model="m", messages=[Message("user", (Text("q"),))], stream=True)
    facts = ReplyFacts("id", "m", 1_700_000_000, request)
    events: list[Event] = [Start("id", "m"), TextDelta("Look."), *SEARCH, TextDelta("It is."), Finish("stop")]
    writer = Paragraphed(DIALECTS[client].writer(facts))
    streamed = b"".join(writer.feed(event) for event in events) + writer.finish()
    whole = msgspec.json.decode(DIALECTS[client].write_reply(in_paragraphs(events), facts))
    assert streamed_text(client, streamed.decode()) == text_of(client, whole) == "Look.\n\nIt is."
