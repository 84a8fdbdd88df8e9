"""Gemini's answers as events: recordings in every cut, usage from any chunk, failures inside a stream."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elkapi.translate import ir
from elkapi.translate.dialect import Unreadable
from elkapi.translate.gemini import DIALECT
from elkapi.translate.sse import Frame
from elkapi.types import Usage
from tests.recordings import events_of, read_in_every_cut, recordings_of

RECORDINGS = recordings_of("gemini")
_events = partial(events_of, DIALECT)


def _usage(events: list[ir.Event]) -> Usage | None:
    return next((event.usage for event in reversed(events) if isinstance(event, ir.UsageSeen)), None)


def _call(index: int, id_: str, name: str, arguments: str, signature: str | None = None) -> list[ir.Event]:
    start = ir.ToolCallStart(index, id_, name, signature=signature, signed_by="gemini" if signature else None)
    return [start, ir.ToolCallDelta(index, arguments)]


def _searched(**raw: Any) -> ir.ServerToolPart:
    return ir.ServerToolPart("gemini", raw)


START = ir.Start("r1", "gemini-x")
EXPECTED: dict[str, tuple[list[ir.Event], Usage | None]] = {
    "text": (
        [START, ir.TextDelta("Hel"), ir.TextDelta("lo, wörld\u2028!"), ir.Finish("stop")],
        Usage(input_tokens=5, output_tokens=4, calls=1),
    ),
    "thinking": (
        [
            START,
            ir.ThinkingDelta("Let me "),
            ir.ThinkingDelta("see."),
            ir.TextDelta("42"),
            ir.ThinkingSignature("c2ln", "gemini"),
            ir.Finish("stop"),
        ],
        Usage(input_tokens=9, output_tokens=1, reasoning_tokens=20, calls=1),
    ),
    "tool": (
        [
            START,
            *_call(0, "call_r1_0", "weather", '{"city": "Zürich", "days": 3}', "YWJj"),
            ir.Finish("tool_calls"),
        ],
        Usage(input_tokens=20, output_tokens=9, calls=1),
    ),
    "parallel": (
        [
            START,
            ir.TextDelta("Two."),
            *_call(0, "call_r1_0", "weather", '{"city": "Ulm"}', "YWJj"),
            *_call(1, "call_r1_1", "weather", '{"city": "Bern"}'),
            *_call(2, "theirs", "now", "{}"),
            ir.Finish("tool_calls"),
        ],
        Usage(input_tokens=20, output_tokens=12, calls=1),
    ),
    "usage-last": (
        [START, ir.TextDelta("Hi"), ir.Finish("stop")],
        Usage(input_tokens=4, cached_tokens=2, audio_input_tokens=1, output_tokens=1, calls=1),
    ),
    "usage-impossible": ([START, ir.TextDelta("Hi"), ir.UsageLost(), ir.Finish("stop")], None),
    "refusal": (
        [START, ir.TextDelta("I can"), ir.Finish("content_filter", explanation="Blocked.")],
        Usage(input_tokens=4, output_tokens=2, calls=1),
    ),
    "length": (
        [START, ir.TextDelta("One two"), ir.TextDelta(" three"), ir.Finish("length")],
        Usage(input_tokens=4, output_tokens=3, calls=1),
    ),
    "blocked": (
        [START, ir.Failure(400, "prompt_blocked", "The prompt was blocked (PROHIBITED_CONTENT).")],
        Usage(input_tokens=7, calls=1),
    ),
    "error-first": ([ir.Failure(503, "UNAVAILABLE", "The model is overloaded.")], None),
    "error-later": (
        [START, ir.TextDelta("Half"), ir.Failure(429, "RESOURCE_EXHAUSTED", "Quota.")],
        Usage(input_tokens=4, output_tokens=2, calls=1),
    ),
    "empty": ([START, ir.Finish("stop")], Usage(input_tokens=4, calls=1)),
    "grounded": (
        [
            START,
            ir.TextDelta("Sunny."),
            ir.TextDelta(" Warm."),
            ir.Citation("https://a.test/", "A", passage="Sunny."),
            ir.Citation("https://b.test/", "B"),
            ir.Finish("stop"),
        ],
        Usage(input_tokens=4, output_tokens=4, searches=2, calls=1),
    ),
    "code": (
        [
            START,
            _searched(executableCode={"language": "PYTHON", "code": "print(6*7)"}),
            _searched(codeExecutionResult={"outcome": "OUTCOME_OK", "output": "42\n"}),
            ir.TextDelta("42"),
            ir.Finish("stop"),
        ],
        Usage(input_tokens=4, output_tokens=10, calls=1),
    ),
    "image": (
        [START, ir.TextDelta("Here."), ir.ImageOut("image/png", "iVBORw0KGgo="), ir.Finish("stop")],
        Usage(input_tokens=4, output_tokens=1, image_output_tokens=1290, calls=1),
    ),
}


def test_every_recording_is_expected() -> None:
    assert RECORDINGS.keys() == EXPECTED.keys()


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_gives_its_events_and_its_usage(name: str) -> None:
    events = _events(RECORDINGS[name])
    expected, usage = EXPECTED[name]
    assert [event for event in events if not isinstance(event, ir.UsageSeen)] == expected
    assert _usage(events) == usage


@pytest.mark.parametrize("name", RECORDINGS)
def test_every_cut_gives_the_same_events(name: str) -> None:
    read_in_every_cut(DIALECT, RECORDINGS[name], _events(RECORDINGS[name]))


def test_g47_usage_is_read_from_a_chunk_without_candidates() -> None:
    assert _usage(_events(RECORDINGS["usage-last"])) is not None


def test_g21_impossible_usage_is_not_told() -> None:
    assert _usage(_events(RECORDINGS["usage-impossible"])) is None
    assert _usage(_events(b'data: {"candidates":[],"usageMetadata":{"promptTokenCount":"many"}}\n\n')) is None


def test_usage_is_told_only_when_it_changes() -> None:
    chunk = b'data: {"usageMetadata":{"promptTokenCount":5,"totalTokenCount":5}}\n\n'
    events = _events(chunk * 3)
    assert len([event for event in events if isinstance(event, ir.UsageSeen)]) == 1


def test_g58_a_whole_answer_gives_the_events_of_its_stream() -> None:
    parts: list[dict[str, Any]] = [
        {"text": "hm", "thought": True},
        {"text": "Two."},
        {"functionCall": {"name": "weather", "args": {"city": "Ulm"}}},
        {"functionCall": {"name": "weather", "args": {}}},
    ]
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 9, "thoughtsTokenCount": 2, "totalTokenCount": 16}

    def chunk(*some: dict[str, Any], **more: Any) -> dict[str, Any]:
        candidate = {"content": {"parts": list(some), "role": "model"}, **more}
        return {"candidates": [candidate], "usageMetadata": usage, "responseId": "r1"}

    streamed = _events(
        *(f"data: {json.dumps(chunk(part))}\n\n".encode() for part in parts[:-1]),
        f"data: {json.dumps(chunk(parts[-1], finishReason='STOP'))}\n\n".encode(),
    )
    whole = DIALECT.read_reply(json.dumps(chunk(*parts, finishReason="STOP")).encode())

    def told(events: list[ir.Event]) -> list[ir.Event]:
        return [event for event in events if not isinstance(event, ir.UsageSeen | ir.End)]

    assert told(whole) == told(streamed)
    assert _usage(whole) == _usage(streamed)
    assert whole[-1] == ir.End()


@pytest.mark.parametrize("streamed", [False, True])
def test_sources_stand_before_the_signature_or_call_that_ends_their_text(streamed: bool) -> None:
    """Else the text's block is closed in other dialects, and the sources are lost to their callers."""
    texts = [{"text": "Rain."}]
    ends = [{"text": "", "thoughtSignature": "c2ln"}, {"functionCall": {"name": "f", "args": {}}}]
    found = {
        "groundingChunks": [{"web": {"uri": "https://a.test/", "title": "A"}}],
        "groundingSupports": [{"segment": {"text": "Rain."}, "groundingChunkIndices": [0]}],
    }
    chunks = [
        {"candidates": [{"content": {"parts": parts}, **more}], "responseId": "r1"}
        for parts, more in (
            ((texts, {}), (ends, {"groundingMetadata": found, "finishReason": "STOP"}))
            if streamed
            else ((texts + ends, {"groundingMetadata": found, "finishReason": "STOP"}),)
        )
    ]
    if streamed:
        events = _events(*(f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks))
    else:
        events = DIALECT.read_reply(json.dumps(chunks[0]).encode())
    assert events[1:4] == [
        ir.TextDelta("Rain."),
        ir.Citation("https://a.test/", "A", passage="Rain."),
        ir.ThinkingSignature("c2ln", "gemini"),
    ]


def test_ids_that_we_make_differ_between_answers_and_fit_openai() -> None:
    body = {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f"}}]}, "finishReason": "STOP"}]}
    ids = set()
    for reply_id in ("a" * 60, "b/+=" * 20, ""):
        events = DIALECT.read_reply(json.dumps({**body, "responseId": reply_id}).encode())
        ids.add(next(event.id for event in events if isinstance(event, ir.ToolCallStart)))
    assert len(ids) == 3
    assert all(len(id_) <= 40 for id_ in ids)


def test_log_probabilities_come_with_their_text() -> None:
    result = {
        "chosenCandidates": [{"token": "Hi", "logProbability": -0.5}],
        "topCandidates": [{"candidates": [{"token": "Hi", "logProbability": -0.5}, {"token": "Yo"}]}],
    }
    candidate = {"content": {"parts": [{"text": "Hi"}]}, "logprobsResult": result, "finishReason": "STOP"}
    events = DIALECT.read_reply(json.dumps({"candidates": [candidate]}).encode())
    assert events[1] == ir.TextDelta("Hi", (ir.TokenLogprob("Hi", -0.5, (("Hi", -0.5), ("Yo", 0.0))),))


def test_each_text_of_a_whole_answer_has_the_log_probabilities_of_its_own_tokens() -> None:
    words = ["I ", "look", ".", "It ", "is.", "<end>"]
    parts = [{"text": "I look."}, {"text": "hm", "thought": True}, {"functionCall": {"name": "f"}}, {"text": "It is."}]
    result = {"chosenCandidates": [{"token": word, "logProbability": -0.5} for word in words]}
    candidate = {"content": {"parts": parts}, "logprobsResult": result, "finishReason": "STOP"}
    events = DIALECT.read_reply(json.dumps({"candidates": [candidate]}).encode())
    told = [[row.token for row in event.logprobs] for event in events if isinstance(event, ir.TextDelta)]
    assert told == [["I ", "look", "."], ["It ", "is.", "<end>"]]


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"[]", b"", b"{}", b'{"candidates":[]}', b'{"candidates":[{"content":{"parts":[{"text":1}]}}]}'],
)
def test_what_is_no_answer_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        DIALECT.read_reply(body)


@pytest.mark.parametrize("name", ["blocked", "error-first"])
def test_a_failure_inside_a_200_is_the_last_event(name: str) -> None:
    body = RECORDINGS[name].removeprefix(b"data: ").strip()
    assert DIALECT.read_reply(body)[-1] == EXPECTED[name][0][-1]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("CONTINUATION", "length"),
        ("A_NEW_WORD", "other"),
    ],
)
def test_finish_reasons_have_our_word(word: str, reason: Any) -> None:
    events = DIALECT.read_reply(json.dumps({"candidates": [{"finishReason": word}]}).encode())
    assert ir.Finish(reason) in events


@pytest.mark.parametrize("word", ["MALFORMED_FUNCTION_CALL", "OTHER", "NO_IMAGE"])
def test_a_model_that_gave_up_without_a_word_failed(word: str) -> None:
    thought = {"parts": [{"text": "hm", "thought": True}, {"text": "", "thoughtSignature": "c2ln"}]}
    for candidate in ({"finishReason": word}, {"finishReason": word, "content": thought}):
        last = DIALECT.read_reply(json.dumps({"candidates": [candidate]}).encode())[-1]
        assert last == ir.Failure(502, ir.NO_ANSWER, f"The model came to no answer ({word}).")
    said = {"finishReason": word, "content": {"parts": [{"text": "Let me look."}]}}
    assert ir.Finish("other") in DIALECT.read_reply(json.dumps({"candidates": [said]}).encode())


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "candidates",
                    "content",
                    "parts",
                    "text",
                    "functionCall",
                    "name",
                    "args",
                    "usageMetadata",
                    "error",
                    "finishReason",
                    "code",
                    "groundingMetadata",
                    "groundingChunks",
                    "executableCode",
                    "promptFeedback",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)


def test_the_signature_of_a_part_about_a_tool_of_googles_stays_with_it() -> None:
    """Other dialects leave such parts out, so it would sign the next text there."""
    call = {"toolCall": {"toolType": "GOOGLE_SEARCH_WEB", "id": "t1"}, "thoughtSignature": "YQ=="}
    answer = {"toolResponse": {"id": "t1"}, "thoughtSignature": "Yg=="}
    parts = [call, answer, {"text": "Sunny.", "thoughtSignature": "Yw=="}]
    whole = {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}
    assert DIALECT.read_reply(json.dumps(whole).encode())[1:] == [
        ir.ServerToolPart("gemini", call),
        ir.ServerToolPart("gemini", answer),
        ir.TextDelta("Sunny."),
        ir.ThinkingSignature("Yw==", "gemini"),
        ir.Finish("stop"),
        ir.End(),
    ]


@given(st.binary() | _json_values.map(lambda value: json.dumps(value).encode()))
def test_the_reader_raises_nothing_but_unreadable(data: bytes) -> None:
    reader = DIALECT.reader()
    try:
        reader.feed(Frame(data, b"", data))
        DIALECT.read_reply(data)
    except Unreadable:
        return


@pytest.mark.parametrize(
    "part",
    [
        b'"content":{"parts":[{"functionCall":{"name":"f","args":{"\xff":1}}}]}',
        b'"content":{"parts":[{"codeExecutionResult":{"output":"\xff"}}]}',
    ],
)
def test_bytes_that_are_no_text_are_unreadable_in_what_was_asked_for(part: bytes) -> None:
    with pytest.raises(Unreadable):
        DIALECT.read_reply(b'{"candidates":[{' + part + b',"finishReason":"STOP"}]}')


@pytest.mark.parametrize(
    "beside",
    [
        b'"groundingMetadata":{"groundingChunks":[{"web":{"uri":"u","title":"\xff"}}]}',
        b'"citationMetadata":{"citations":[{"uri":"\xff"}]}',
        b'"logprobsResult":{"chosenCandidates":[{"token":"\xff"}]}',
    ],
)
def test_bytes_that_are_no_text_beside_an_answer_are_left_out(beside: bytes) -> None:
    candidate = b'{"content":{"parts":[{"text":"hi"}]},' + beside + b',"finishReason":"STOP"}'
    events = DIALECT.read_reply(b'{"candidates":[' + candidate + b"]}")
    assert [event for event in events if isinstance(event, ir.TextDelta | ir.Citation)] == [ir.TextDelta("hi")]
