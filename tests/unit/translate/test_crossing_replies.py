"""What upstreams answer, streamed and whole, and what callers of every other dialect are told of it."""

from __future__ import annotations

import json
from typing import Any

from elkapi.translate.dialect import ReplyFacts
from elkapi.translate.dialects import DIALECTS, UPSTREAM_DIALECTS
from elkapi.translate.ir import ChatRequest, End, Event
from elkapi.translate.sse import Frame


def streamed(upstream: str, rows: list[dict[str, Any]]) -> list[Event]:
    """The events of a stream of these objects."""
    reader = UPSTREAM_DIALECTS[upstream].reader()
    frames = [Frame(b"", str(row.get("type", "")).encode(), json.dumps(row).encode()) for row in rows]
    return [event for frame in frames for event in reader.feed(frame)]


def whole(upstream: str, body: dict[str, Any]) -> list[Event]:
    """The events of a whole answer."""
    return UPSTREAM_DIALECTS[upstream].read_reply(json.dumps(body).encode())


def told(caller: str, events: list[Event], **asked: Any) -> dict[str, Any]:
    """The whole answer that a caller gets."""
    request = ChatRequest(model="m", messages=[], dialect=caller, **asked)  # type: ignore[arg-type]
    body: dict[str, Any] = json.loads(DIALECTS[caller].write_reply(events, ReplyFacts("id", "m", 1, request)))
    return body


# --- sources ---------------------------------------------------------------------------------------------------------


def block(index: int, text: str, *sources: str) -> list[dict[str, Any]]:
    """A text block of a stream of Claude's, which tells its sources first."""
    start = {"type": "text", "text": ""} | ({"citations": []} if sources else {})
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
    assert places == [(0, 9), (9, 21), (9, 21)]
    (item,) = told("responses", stream)["output"]
    assert [row["end_index"] for row in item["content"][0]["annotations"]] == [9, 21, 21]
