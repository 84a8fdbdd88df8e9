"""What upstreams answer, streamed and whole, and what callers of every other dialect are told of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from elkapi.translate.dialect import ReplyFacts
from elkapi.translate.dialects import DIALECTS, UPSTREAM_DIALECTS
from elkapi.translate.ir import ChatRequest, End, Event, TextDelta, ToolCallStart
from elkapi.translate.sse import Frame


def streamed(upstream: str, rows: list[dict[str, Any]]) -> list[Event]:
    """The events of a stream of these objects."""
    reader = UPSTREAM_DIALECTS[upstream].reader()
    frames = [Frame(b"", str(row.get("type", "")).encode(), json.dumps(row).encode()) for row in rows]
    return [event for frame in frames for event in reader.feed(frame)]


def whole(upstream: str, body: dict[str, Any]) -> list[Event]:
    """The events of a whole answer."""
    return UPSTREAM_DIALECTS[upstream].read_reply(json.dumps(body).encode())


def told(caller: Any, events: Sequence[Event], **asked: Any) -> dict[str, Any]:
    """The whole answer that a caller gets."""
    request = ChatRequest(model="m", messages=[], dialect=caller, **asked)
    body: dict[str, Any] = json.loads(DIALECTS[caller].write_reply(events, ReplyFacts("id", "m", 1, request)))
    return body


# --- sources ---------------------------------------------------------------------------------------------------------


def block(index: int, text: str, *sources: str) -> list[dict[str, Any]]:
    """A text block of a stream of Claude's, which tells its sources first."""
    start: dict[str, Any] = {"type": "text", "text": ""} | ({"citations": []} if sources else {})
    cited = [{"type": "citations_delta", "citation": source(url)} for url in sources]
    deltas = [*cited, {"type": "text_delta", "text": text[:3]}, {"type": "text_delta", "text": text[3:]}]
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def source(url: str) -> dict[str, Any]:
    """A page that Claude's search found."""
    return {"type": "web_search_result_location", "url": url, "title": "T", "cited_text": "c", "encrypted_index": "e"}


def test_the_sources_of_claude_stand_behind_the_words_that_they_are_of() -> None:
    said = [("It rains.", ["https://a.test"]), (" So ", []), ("stay in.", ["https://a.test", "https://b.test"])]
    rows = [row for index, (text, urls) in enumerate(said) for row in block(index, text, *urls)]
    content = [{"type": "text", "text": text, "citations": [source(url) for url in urls]} for text, urls in said]
    stream = [event for event in streamed("anthropic", rows) if not isinstance(event, End)]
    body = {"type": "message", "content": content, "usage": {}, "stop_reason": "end_turn"}
    for caller in ("chat", "responses", "anthropic", "gemini"):
        assert told(caller, stream) == told(caller, whole("anthropic", body))
    (choice,) = told("chat", stream)["choices"]
    places = [
        (row["url_citation"]["start_index"], row["url_citation"]["end_index"])
        for row in choice["message"]["annotations"]
    ]
    assert places == [(0, 9), (13, 21), (13, 21)]
    (item,) = told("responses", stream)["output"]
    assert [(row["start_index"], row["end_index"]) for row in item["content"][0]["annotations"]] == places


def searched(wire: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An answer of one of OpenAI's dialects with two sources, whole and streamed with each behind its words."""
    texts = ["It rains (a), ", "stay in (b)."]
    notes = [
        {"type": "url_citation", "url": "https://a.test", "title": "A", "start_index": 9, "end_index": 12},
        {"type": "url_citation", "url": "https://b.test", "title": "B", "start_index": 22, "end_index": 25},
    ]
    if wire == "chat":
        rows = [{"type": "url_citation", "url_citation": note} for note in notes]
        message = {"role": "assistant", "content": "".join(texts), "annotations": rows}
        deltas = [{"content": texts[0]}, {"annotations": rows[:1]}, {"content": texts[1]}, {"annotations": rows[1:]}]
        chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        return {"choices": [{"message": message, "finish_reason": "stop"}]}, [*chunks, end]
    items: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    # What was said before it is a message of its own.
    for index, (pieces, told) in enumerate(((["Wait. "], []), (texts, notes))):
        part = {"type": "output_text", "text": "".join(pieces), "annotations": told}
        items.append({"type": "message", "content": [part]})
        place = {"output_index": index, "content_index": 0}
        events.append({"type": "response.output_item.added", "output_index": index, "item": {"type": "message"}})
        events.append({"type": "response.content_part.added", **place, "part": {"type": "output_text", "text": ""}})
        for number, text in enumerate(pieces):
            events.append({"type": "response.output_text.delta", **place, "delta": text})
            for note in told[number : number + 1]:
                events.append({"type": "response.output_text.annotation.added", **place, "annotation": note})
        events.append({"type": "response.output_item.done", "output_index": index, "item": items[-1]})
    body = {"id": "r", "model": "m", "status": "completed", "output": items}
    return body, [*events, {"type": "response.completed", "response": body}]


@pytest.mark.parametrize("upstream", ["chat", "responses"])
def test_the_places_of_sources_cross_between_openais_dialects(upstream: str) -> None:
    body, rows = searched(upstream)
    stream = streamed(upstream, rows)
    for caller in ("chat", "responses", "anthropic", "gemini"):
        assert told(caller, stream) == told(caller, whole(upstream, body))
    message = told("chat", stream)["choices"][0]["message"]
    places = [
        slice(row["url_citation"]["start_index"], row["url_citation"]["end_index"]) for row in message["annotations"]
    ]
    assert [message["content"][place] for place in places] == ["(a)", "(b)"]
    (part,) = told("responses", stream)["output"][0]["content"]
    places = [slice(row["start_index"], row["end_index"]) for row in part["annotations"]]
    assert [part["text"][place] for place in places] == ["(a)", "(b)"]


@pytest.mark.parametrize("place", [{}, {"start_index": 0, "end_index": 0}, {"start_index": "9", "end_index": 12}])
def test_a_source_without_a_place_stands_behind_the_text_so_far(place: dict[str, Any]) -> None:
    row = {"type": "url_citation", "url_citation": {"url": "https://a.test", **place}}
    message = {"content": "It rains.", "annotations": [row]}
    events = whole("chat", {"choices": [{"message": message, "finish_reason": "stop"}]})
    (part,) = told("responses", events)["output"][0]["content"]
    assert [(note["start_index"], note["end_index"]) for note in part["annotations"]] == [(9, 9)]


def test_words_of_a_source_are_no_words_of_the_answer() -> None:
    """Claude quotes the source, Gemini names the words of its answer that the source is of."""
    rows = [*block(0, "Well: "), *block(1, "it pours é.", "https://a.test", "https://b.test"), *block(2, " So.")]
    claude = [event for event in streamed("anthropic", rows) if not isinstance(event, End)]
    grounding = told("gemini", claude)["candidates"][0]["groundingMetadata"]
    # The words begin where those of the last source ended: "Well: " has none of its own. In bytes, as Google counts.
    assert grounding["groundingSupports"] == [
        {"segment": {"startIndex": 0, "endIndex": 18}, "groundingChunkIndices": [0, 1]}
    ]
    metadata = {
        "groundingChunks": [{"web": {"uri": "https://a.test", "title": "T"}}],
        "groundingSupports": [{"segment": {"text": "It rains."}, "groundingChunkIndices": [0]}],
    }
    content = {"role": "model", "parts": [{"text": "So: It rains. Stay in."}]}
    body = {"candidates": [{"content": content, "finishReason": "STOP", "groundingMetadata": metadata}]}
    gemini = whole("gemini", body)
    (text,) = told("anthropic", gemini)["content"]
    assert [(one["url"], one["cited_text"]) for one in text["citations"]] == [("https://a.test", "")]
    (part,) = told("responses", gemini)["output"][0]["content"]
    assert [(note["start_index"], note["end_index"]) for note in part["annotations"]] == [(4, 13)]


@pytest.mark.parametrize("upstream", ["anthropic", "converse"])
def test_documents_that_have_no_address_are_sources_of_their_own_for_gemini(upstream: str) -> None:
    quotes = [("Lease", "Rent is due."), ("Letter", "Rent was paid."), ("Lease", "Rent is due.")]
    if upstream == "anthropic":
        cited = [
            {"type": "char_location", "document_title": title, "cited_text": quoted, "document_index": 0}
            for title, quoted in quotes
        ]
        text = {"type": "text", "text": "It was.", "citations": cited}
        events = whole("anthropic", {"type": "message", "content": [text], "stop_reason": "end_turn"})
    else:
        rows = [{"title": title, "sourceContent": [{"text": quoted}]} for title, quoted in quotes]
        block = {"citationsContent": {"content": [{"text": "It was."}], "citations": rows}}
        message = {"role": "assistant", "content": [block]}
        events = whole("converse", {"output": {"message": message}, "stopReason": "end_turn"})
    grounding = told("gemini", events)["candidates"][0]["groundingMetadata"]
    assert grounding["groundingChunks"] == [
        {"retrievedContext": {"title": "Lease", "text": "Rent is due."}},
        {"retrievedContext": {"title": "Letter", "text": "Rent was paid."}},
    ]
    (support,) = grounding["groundingSupports"]
    assert support["groundingChunkIndices"] == [0, 1]


# --- calls -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("absent", [{}, {"id": None}, {"id": ""}])
def test_a_call_that_its_upstream_gave_no_id_has_one_that_no_other_answer_of_the_conversation_has(
    absent: dict[str, Any],
) -> None:
    """As some servers of OpenAI's form answer; clients match results by it, over all of a conversation."""
    calls = [{"index": index, "function": {"name": "f", "arguments": "{}"}, **absent} for index in (0, 1)]
    seen = []
    for reply in ("chatcmpl-1", "chatcmpl-2"):
        choice = {"message": {"tool_calls": calls}, "finish_reason": "tool_calls"}
        chunk = {"id": reply, "choices": [{"index": 0, "delta": {"tool_calls": calls}}]}
        events = whole("chat", {"id": reply, "choices": [choice]}), streamed("chat", [chunk])
        told_ids = [[event.id for event in several if isinstance(event, ToolCallStart)] for several in events]
        assert told_ids[0] == told_ids[1]
        seen += told_ids[0]
    assert len(set(seen)) == 4
    assert all(len(one) <= 40 for one in seen)


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ('{"a":1}', {"a": 1}),
        ("", {}),
        ("null", {}),
        ('{"path": "/tmp/x", "text": "cut', {"arguments": '{"path": "/tmp/x", "text": "cut'}),
        ("[1]", {"arguments": "[1]"}),
    ],
)
def test_arguments_that_are_no_object_are_not_told_as_none(arguments: str, given: dict[str, Any]) -> None:
    """A tool would be run without them; as an object they fail its schema, and the model reads what it wrote."""
    call = {"id": "c", "type": "function", "function": {"name": "write", "arguments": arguments}}
    body = {"id": "r", "choices": [{"message": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]}
    (block,) = told("anthropic", whole("chat", body))["content"]
    assert block["input"] == given


# --- thoughts --------------------------------------------------------------------------------------------------------


def test_thoughts_of_several_parts_are_broken_between_them_streamed_and_whole() -> None:
    """As open models think in responses: in texts of their own, not in summaries."""
    texts = ["First.", "Second."]
    item = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text} for text in texts]}
    body = {"id": "r", "model": "m", "status": "completed", "output": [item]}
    rows: list[dict[str, Any]] = [
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "reasoning", "summary": []}}
    ]
    for index, text in enumerate(texts):
        place = {"output_index": 0, "content_index": index}
        rows.append({"type": "response.content_part.added", **place, "part": {"type": "reasoning_text", "text": ""}})
        rows += [{"type": "response.reasoning_text.delta", **place, "delta": piece} for piece in (text[:2], text[2:])]
    rows.append({"type": "response.output_item.done", "output_index": 0, "item": item})
    rows.append({"type": "response.completed", "response": body})
    for events in (streamed("responses", rows), whole("responses", body)):
        message = told("chat", events)["choices"][0]["message"]
        assert message["reasoning_content"] == "First.\n\nSecond."


def test_what_a_part_begins_with_does_not_matter() -> None:
    begun = {"type": "response.content_part.added", "part": {"type": "newer", "text": 7, "annotations": "odd"}}
    bare = {"type": "response.content_part.added"}
    assert streamed("responses", [begun, bare, {"type": "response.output_text.delta", "delta": "a"}]) == [
        TextDelta("a")
    ]


# --- why it ended ----------------------------------------------------------------------------------------------------


def test_why_claude_declined_is_told_to_every_caller() -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "This could do harm."}
    end = {"stop_reason": "refusal", "stop_sequence": None, "stop_details": details}
    rows: list[dict[str, Any]] = [*block(0, "Well, "), {"type": "message_delta", "delta": end, "usage": {}}]
    body = {"type": "message", "content": [{"type": "text", "text": "Well, "}], **end}
    for events in (streamed("anthropic", rows), whole("anthropic", body)):
        (choice,) = told("chat", events)["choices"]
        assert (choice["message"]["content"], choice["message"]["refusal"]) == ("Well, ", "This could do harm.")
        assert choice["finish_reason"] == "content_filter"
        for caller in ("responses", "anthropic", "gemini"):
            assert "This could do harm." in json.dumps(told(caller, events))
    writer = DIALECTS["chat"].writer(ReplyFacts("id", "m", 1, ChatRequest(model="m", messages=[])))
    stream = b"".join(map(writer.feed, streamed("anthropic", rows))) + writer.finish()
    assert b'"delta":{"refusal":"This could do harm."}' in stream


# --- limits ----------------------------------------------------------------------------------------------------------


def test_an_answer_that_google_would_continue_is_cut_off_for_others() -> None:
    """Its limit of one request was told as a stop, so that half an answer looked like a whole one."""
    body = {"candidates": [{"content": {"parts": [{"text": "Once"}]}, "finishReason": "CONTINUATION"}]}
    events = whole("gemini", body)
    assert told("chat", events)["choices"][0]["finish_reason"] == "length"
    assert told("anthropic", events)["stop_reason"] == "max_tokens"
    assert told("responses", events)["incomplete_details"] == {"reason": "max_output_tokens"}
