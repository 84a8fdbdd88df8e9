"""Answers of chat, Anthropic, Gemini and Responses upstreams member by member: what the recordings do not hold."""

from __future__ import annotations

import functools
from typing import Any

import msgspec
import pytest

from elkapi.translate import anthropic, chat, gemini, gemini_reply, responses
from elkapi.translate.claude import OUTPUT_TOOL
from elkapi.translate.dialect import Dialect, Unreadable
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
    Start,
    TextDelta,
    ThinkingDelta,
    ThinkingSignature,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStart,
    UsageLost,
    UsageSeen,
)
from elkapi.translate.sse import Frame
from elkapi.types import Usage

USAGE = UsageSeen(Usage(input_tokens=5, output_tokens=2, calls=1))
COUNTED = {"prompt_tokens": 5, "completion_tokens": 2}


def frame(value: object, event: bytes = b"") -> Frame:
    data = msgspec.json.encode(value)
    return Frame(data, event, data)


def events_after_start(dialect: Dialect, *chunks: dict[str, Any]) -> list[Event]:
    """The events of a stream, without its beginning."""
    reader = dialect.reader()
    events = [event for chunk in chunks for event in reader.feed(frame(chunk))]
    assert events[:1] == [Start("", "")]
    return events[1:]


chat_events = functools.partial(events_after_start, chat.DIALECT)
gemini_events = functools.partial(events_after_start, gemini.DIALECT)


def delta(index: int | None = None, **members: object) -> dict[str, Any]:
    return {"choices": [{"delta": members} | ({} if index is None else {"index": index})]}


def finished(word: str, **more: object) -> dict[str, Any]:
    return {"choices": [{"delta": {}, "finish_reason": word, **more}]}


def call(index: int | None, id: str | None, name: str | None, arguments: str | None) -> dict[str, Any]:
    piece: dict[str, Any] = {"function": {"name": name, "arguments": arguments}}
    return piece | ({} if index is None else {"index": index}) | ({} if id is None else {"id": id})


@pytest.mark.parametrize(
    ("members", "events"),
    [
        ({"content": ""}, []),
        ({"content": "a"}, [TextDelta("a")]),
        ({"content": None, "reasoning_content": "a"}, [ThinkingDelta("a")]),
        ({"reasoning": "a"}, [ThinkingDelta("a")]),
        ({"reasoning": {"no": "text"}}, []),
        ({"reasoning_content": "a", "reasoning": "a"}, [ThinkingDelta("a")]),
        ({"refusal": "no"}, [RefusalDelta("no")]),
        ({"audio": {"transcript": "said", "data": "aGk="}}, [TextDelta("said")]),
        ({"audio": {"transcript": None}}, []),
        ({"audio": {"data": "aGk="}}, []),
        ({"audio": "odd"}, []),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "b"}]},
                    {"type": "text", "text": "a"},
                ]
            },
            [ThinkingDelta("b"), TextDelta("a")],
        ),
        ({"content": [{"type": "text"}, {"type": "text", "text": ""}]}, []),
        (
            {
                "annotations": [
                    {"type": "odd"},
                    {"url_citation": {"url": "u", "title": "t"}},
                    {"url_citation": {"url": "v"}},
                ]
            },
            [Citation("u", "t"), Citation("v", "")],
        ),
        ({"images": [{}, {"image_url": {"url": "data:image/webp;base64,aGk="}}]}, [ImageOut("image/webp", "aGk=")]),
        ({"images": [{"image_url": {"url": "https://a.example/x.png"}}]}, []),
        (
            {"thinking_blocks": [{"type": "redacted_thinking", "data": "b"}, {"thinking": "c", "signature": "s"}]},
            [RedactedThinking("b"), ThinkingDelta("c"), ThinkingSignature("s", "anthropic")],
        ),
        ({"thinking_blocks": [{"type": "redacted_thinking"}, {"type": "thinking", "data": "x"}, {"thinking": ""}]}, []),
        (
            {"reasoning_content": "c", "thinking_blocks": [{"thinking": "c", "signature": "s"}, {"thinking": "d"}]},
            [ThinkingDelta("c"), ThinkingSignature("s", "anthropic"), ThinkingDelta("d")],
        ),
        ({"thinking_blocks": "odd", "images": "odd", "annotations": "odd"}, []),
    ],
)
def test_each_member_of_a_chat_delta_is_read(members: dict[str, Any], events: list[Event]) -> None:
    assert chat_events(delta(**members)) == events


def test_log_probabilities_of_a_chat_answer_are_read() -> None:
    rows = {
        "content": [
            {"token": "a", "logprob": -1.0, "top_logprobs": [{"token": "b", "logprob": -2.0}]},
            {"token": "c", "logprob": -3.0},
        ]
    }
    chunk = {"choices": [{"delta": {"content": "ac"}, "logprobs": rows}]}
    told = (TokenLogprob("a", -1.0, (("b", -2.0),)), TokenLogprob("c", -3.0, ()))
    assert chat_events(chunk) == [TextDelta("ac", told)]
    assert chat_events({"choices": [{"delta": {"content": "ac"}, "logprobs": {"content": None}}]}) == [TextDelta("ac")]


def test_pieces_of_a_call_are_told_apart_by_index_id_and_choice() -> None:
    first, second = call(0, "a", "f", "{"), call(0, "b", "g", "[")
    assert chat_events(
        delta(tool_calls=[first]),
        delta(tool_calls=[call(0, None, None, "}")]),
        delta(tool_calls=[call(0, "a", "f", "!")]),
        delta(tool_calls=[second]),
        delta(tool_calls=[call(0, None, None, "]")]),
        delta(tool_calls=[call(1, None, "h", None)]),
        delta(tool_calls=[call(1, None, None, "1")]),
        delta(1, tool_calls=[call(0, None, "i", "2")]),
        delta(tool_calls=[call(None, None, "j", "3")]),
        delta(tool_calls=[call(None, None, None, "4")]),
    ) == [
        ToolCallStart(0, "a", "f"),
        ToolCallDelta(0, "{"),
        ToolCallDelta(0, "}"),
        ToolCallDelta(0, "!"),
        ToolCallStart(1, "b", "g"),
        ToolCallDelta(1, "["),
        ToolCallDelta(1, "]"),
        ToolCallStart(2, "call_2", "h"),
        ToolCallDelta(2, "1"),
        ToolCallStart(3, "call_3", "i"),
        ToolCallDelta(3, "2"),
        ToolCallStart(4, "call_4", "j"),
        ToolCallDelta(4, "3"),
        ToolCallDelta(4, "4"),
    ]


def test_arguments_before_a_calls_name_wait_for_it() -> None:
    assert chat_events(
        delta(tool_calls=[call(0, "a", None, "{")]),
        delta(tool_calls=[call(0, None, None, '"x":')]),
        delta(tool_calls=[call(0, None, "f", "1}")]),
    ) == [ToolCallStart(0, "a", "f"), ToolCallDelta(0, '{"x":1}')]


def test_an_older_function_call_and_a_custom_tools_call_are_calls() -> None:
    assert chat_events(
        delta(function_call={"name": "f", "arguments": "{"}), delta(function_call={"arguments": "}"})
    ) == [ToolCallStart(0, "call_0", "f"), ToolCallDelta(0, "{"), ToolCallDelta(0, "}")]
    custom = {"index": 0, "id": "a", "custom": {"name": "f", "input": "free"}}
    assert chat_events(delta(tool_calls=[custom])) == [
        ToolCallStart(0, "a", "f", custom=True),
        ToolCallDelta(0, "free"),
    ]


@pytest.mark.parametrize(
    ("word", "before", "met", "finish"),
    [
        ("stop", {}, None, Finish("stop")),
        ("length", {}, None, Finish("length")),
        ("max_tokens", {}, None, Finish("length")),
        ("tool_calls", {}, None, Finish("tool_calls")),
        ("function_call", {}, None, Finish("tool_calls")),
        ("content_filter", {}, None, Finish("content_filter")),
        ("sensitive", {}, None, Finish("content_filter")),
        ("a newer word", {}, None, Finish("stop")),
        ("stop", {}, "END", Finish("stop_sequence", "END")),
        ("stop", {}, 128_001, Finish("stop")),
        ("length", {}, "END", Finish("length")),
        ("stop", {"refusal": "no"}, None, Finish("refusal")),
        ("length", {"refusal": "no"}, None, Finish("length")),
        ("stop", {"tool_calls": [call(0, "a", "f", "")]}, "END", Finish("tool_calls")),
        ("length", {"tool_calls": [call(0, "a", "f", "")]}, None, Finish("length")),
        ("stop", {"tool_calls": [call(0, "", "", "")]}, None, Finish("stop")),
        ("stop", {"function_call": {}}, None, Finish("stop")),
    ],
)
def test_why_a_chat_answer_ended(word: str, before: dict[str, Any], met: object, finish: Finish) -> None:
    assert chat_events(delta(**before), finished(word, stop_reason=met))[-1] == finish


@pytest.mark.parametrize(
    ("word", "status"), [("error", 502), ("network_error", 502), ("insufficient_system_resource", 503)]
)
def test_an_upstream_that_gave_up_is_a_failure_streamed_and_whole(word: str, status: int) -> None:
    (failure,) = chat_events(finished(word))
    assert isinstance(failure, Failure)
    assert (failure.status, failure.kind) == (status, word)
    body = {"choices": [{"message": {"content": "part"}, "finish_reason": word}]}
    assert chat.DIALECT.read_reply(msgspec.json.encode(body))[-1] == failure


@pytest.mark.parametrize(
    ("chunk", "events"),
    [
        ({"choices": [], "usage": COUNTED}, [USAGE]),
        ({"usage": COUNTED}, [USAGE]),
        ({"choices": [{"delta": {}, "usage": COUNTED}]}, [USAGE]),
        ({"choices": [], "x_groq": {"id": "r", "usage": COUNTED}}, [USAGE]),
        ({"choices": [], "x_groq": {"id": "r"}}, []),
        ({"choices": [], "x_groq": "odd"}, []),
        ({"choices": [], "usage": None}, []),
        ({"choices": [], "usage": {"prompt_tokens": -5}}, [UsageLost()]),
        ({"choices": [], "usage": {"prompt_tokens": 5}}, [UsageLost()]),
        ({"choices": [], "usage": "odd"}, [UsageLost()]),
        (finished("stop") | {"usage": COUNTED}, [USAGE, Finish("stop")]),
    ],
)
def test_usage_is_read_wherever_an_upstream_puts_it(chunk: dict[str, Any], events: list[Event]) -> None:
    assert chat_events(chunk) == events


def test_a_whole_chat_answer_ends_also_where_it_does_not_say_why() -> None:
    body = {"id": "c", "model": "m", "choices": [{"message": {"content": "a"}}], "usage": COUNTED}
    assert chat.DIALECT.read_reply(msgspec.json.encode(body)) == [
        Start("c", "m"),
        TextDelta("a"),
        USAGE,
        Finish("stop"),
        End(),
    ]
    body = {
        "choices": [{"message": {"reasoning_content": "t", "thinking_blocks": [{"thinking": "t"}], "content": "a"}}]
    }
    assert chat.DIALECT.read_reply(msgspec.json.encode(body))[1:3] == [ThinkingDelta("t"), TextDelta("a")]


def test_what_is_no_chat_chunk_has_no_events_or_is_unreadable() -> None:
    reader = chat.DIALECT.reader()
    for data in (None, b"", b"  "):
        assert reader.feed(Frame(b"x", b"", data)) == []
    assert reader.feed(Frame(b"x", b"", b"[DONE]")) == [End()]
    assert reader.feed(Frame(b"x", b"", b"[DONE] ")) == [End()]
    with pytest.raises(Unreadable):
        reader.feed(Frame(b"x", b"", b"odd"))


# --- Anthropic


def told(*several: dict[str, Any]) -> list[Event]:
    reader = anthropic.DIALECT.reader()
    return [event for one in several for event in reader.feed(frame(one, one["type"].encode()))]


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def json_delta(piece: str | None) -> dict[str, Any]:
    return {"type": "input_json_delta", "partial_json": piece}


@pytest.mark.parametrize(
    ("start", "deltas", "events"),
    [
        ({"type": "text", "text": ""}, [{"type": "text_delta", "text": ""}], []),
        ({"type": "text", "text": "a"}, [{"type": "text_delta", "text": "b"}], [TextDelta("a"), TextDelta("b")]),
        ({"type": "thinking", "thinking": ""}, [{"type": "thinking_delta", "thinking": ""}], []),
        ({"type": "thinking", "thinking": "a"}, [{"type": "signature_delta", "signature": ""}], [ThinkingDelta("a")]),
        (
            {"type": "thinking", "thinking": "a", "signature": "s"},
            [{"type": "signature_delta", "signature": "t"}],
            [ThinkingDelta("a"), ThinkingSignature("s", "anthropic"), ThinkingSignature("t", "anthropic")],
        ),
        ({"type": "thinking", "thinking": 7, "signature": 7}, [], []),
        ({"type": "redacted_thinking", "data": "b"}, [], [RedactedThinking("b")]),
        ({"type": "redacted_thinking"}, [], [RedactedThinking("")]),
        (
            {"type": "text", "text": ""},
            [
                {"type": "citations_delta", "citation": {"url": "u", "title": "t", "cited_text": "c"}},
                {"type": "citations_delta", "citation": {"source": "s", "document_title": "d"}},
                {"type": "citations_delta", "citation": "odd"},
                {"type": "citations_delta", "citation": {"url": None, "title": None, "cited_text": None}},
            ],
            [Citation(*said, span=(0, 0)) for said in (("u", "t", "c"), ("s", "d", ""), ("", "", ""))],
        ),
        (
            {"type": "tool_use", "id": "i", "name": "n", "input": {}},
            [json_delta(""), json_delta('{"a"'), json_delta(":1}")],
            [ToolCallStart(0, "i", "n"), ToolCallDelta(0, '{"a"'), ToolCallDelta(0, ":1}")],
        ),
        ({"type": "tool_use"}, [json_delta("")], [ToolCallStart(0, "", ""), ToolCallDelta(0, "{}")]),
        (
            {"type": "tool_use", "id": "i", "name": "n", "input": {"a": 1}},
            [],
            [ToolCallStart(0, "i", "n"), ToolCallDelta(0, '{"a":1}')],
        ),
        ({"type": "tool_use", "id": "i", "name": OUTPUT_TOOL, "input": {"a": 1}}, [], [TextDelta('{"a":1}')]),
        ({"type": "tool_use", "id": "i", "name": OUTPUT_TOOL}, [json_delta("{}")], [TextDelta("{}")]),
        (
            {"type": "server_tool_use", "id": "i", "name": "web_search", "input": {}},
            [json_delta('{"query"'), json_delta(':"q"}')],
            [
                ServerToolPart(
                    "anthropic",
                    {"type": "server_tool_use", "id": "i", "name": "web_search", "input": {"query": "q"}},
                )
            ],
        ),
        (
            {"type": "server_tool_use", "id": "i", "input": {"query": "q"}},
            [],
            [ServerToolPart("anthropic", {"type": "server_tool_use", "id": "i", "input": {"query": "q"}})],
        ),
        (
            {"type": "compaction", "content": None},
            [{"type": "compaction_delta", "content": "summary"}],
            [ServerToolPart("anthropic", {"type": "compaction", "content": "summary"})],
        ),
        (
            {"type": "newer"},
            [{"type": "newer_delta", "text": 7}],
            [ServerToolPart("anthropic", {"type": "newer", "text": 7})],
        ),
        (
            {"type": "thinking", "thinking": None, "signature": None},
            [{"type": "thinking_delta", "thinking": None}, {"type": "signature_delta", "signature": None}],
            [],
        ),
        ({"type": "text", "text": None}, [{"type": "text_delta", "text": None}], []),
        (
            {"type": "tool_use", "id": "i", "name": "n", "input": None},
            [json_delta(None)],
            [ToolCallStart(0, "i", "n"), ToolCallDelta(0, "{}")],
        ),
    ],
)
def test_each_block_of_an_anthropic_stream_is_read(
    start: dict[str, Any], deltas: list[dict[str, Any]], events: list[Event]
) -> None:
    assert told(*block(0, start, *deltas)) == events


def test_calls_are_numbered_without_the_stand_in_for_a_schema() -> None:
    tool = {"type": "tool_use", "id": "i", "name": "n"}
    stand_in = {"type": "tool_use", "id": "i", "name": OUTPUT_TOOL}
    ending = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 2}}
    events = told(*block(0, stand_in), *block(1, tool), *block(2, tool), ending)
    assert [event.index for event in events if isinstance(event, ToolCallStart)] == [0, 1]
    assert events[-1] == Finish("tool_calls")
    assert told(*block(0, stand_in), ending)[-1] == Finish("stop")
    assert told(*block(0, tool), ending)[-1] == Finish("tool_calls")
    assert told(ending)[-1] == Finish("tool_calls")
    whole = {"type": "message", "stop_reason": "tool_use"}
    for content, finish in (
        ([stand_in], Finish("stop")),
        ([stand_in, tool], Finish("tool_calls")),
        ([tool], Finish("tool_calls")),
        ([], Finish("tool_calls")),
    ):
        read = anthropic.DIALECT.read_reply(msgspec.json.encode(whole | {"content": content}))
        assert read[-2:] == [finish, End()]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("stop_sequence", "stop_sequence"),
        ("tool_use", "tool_calls"),
        ("pause_turn", "pause"),
        ("refusal", "refusal"),
        ("a newer word", "other"),
    ],
)
def test_why_an_anthropic_answer_ended(word: str, reason: Any) -> None:
    members = {"stop_reason": word, "stop_sequence": "END", "stop_details": {"explanation": "because"}}
    finish = told({"type": "message_delta", "delta": members, "usage": {}})[-1]
    assert finish == Finish(reason, "END", "because")
    said = {"type": "message", "content": [{"type": "text", "text": "a"}]}
    whole = anthropic.DIALECT.read_reply(msgspec.json.encode(said | members))
    assert whole == [Start("", ""), TextDelta("a"), finish, End()]


def test_a_stop_reason_that_is_null_is_no_finish_yet_and_the_end_of_a_whole_answer() -> None:
    assert told({"type": "message_delta", "delta": {"stop_reason": None}, "usage": {}}) == [UsageLost()]
    assert told({"type": "message_delta", "usage": {}}) == [UsageLost()]
    assert anthropic.DIALECT.read_reply(b'{"type":"message","stop_reason":null}')[-2] == Finish("stop")


def test_what_an_anthropic_answer_leaves_null_it_leaves_out() -> None:
    """Servers that imitate Anthropic's tell members they do not have so."""
    nothing = {"id": None, "model": None, "content": None, "stop_sequence": None, "usage": None}
    assert told({"type": "message_start", "message": nothing}) == [Start("", ""), UsageLost()]
    whole = {"type": "message", "stop_reason": "end_turn"} | nothing
    assert anthropic.DIALECT.read_reply(msgspec.json.encode(whole)) == [Start("", ""), Finish("stop"), End()]


def test_the_output_of_a_streams_start_is_not_that_of_its_end() -> None:
    start = {
        "type": "message_start",
        "message": {"id": "i", "model": "m", "usage": {"input_tokens": 5, "output_tokens": 1}},
    }
    late = {"type": "message_delta", "delta": {}, "usage": {"cache_read_input_tokens": 3}}
    last = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 2}}
    first = UsageSeen(Usage(input_tokens=5, output_tokens=1, calls=1))
    cached = UsageSeen(Usage(input_tokens=5, cached_tokens=3, output_tokens=2, calls=1))
    assert told(start, last) == [Start("i", "m"), first, USAGE]
    assert told(start, late) == [Start("i", "m"), first, UsageLost()]
    assert told(start, late, last)[-1] == cached


def test_an_error_and_an_unknown_event_of_an_anthropic_stream() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
    assert told(error) == [Failure(529, "overloaded_error", "busy")]
    assert told({"type": "error", "error": {"type": "newer_error", "message": "m"}}) == [
        Failure(500, "newer_error", "m")
    ]
    assert told({"type": "error", "error": "odd"}) == [Failure(500, "api_error", "")]
    assert told({"type": "ping"}, {"type": "newer", "delta": "odd"}, {"type": "content_block_delta"}) == []
    reader = anthropic.DIALECT.reader()
    for data in (None, b"[DONE]"):
        assert reader.feed(Frame(b"x", b"message_stop", data)) == []
    assert reader.feed(Frame(b"x", b"message_stop", b"{}")) == [End()]
    for member in ({"type": "content_block_delta", "delta": "odd"}, {"delta": "odd"}):
        with pytest.raises(Unreadable):
            reader.feed(frame(member, b"content_block_delta"))


def test_blocks_of_a_whole_anthropic_answer_are_read_like_those_of_a_stream() -> None:
    content = [
        {"type": "thinking", "thinking": "a", "signature": "s"},
        {"type": "thinking", "thinking": ""},
        {"type": "text", "text": "b", "citations": [{"url": "u", "title": "t", "cited_text": "c"}]},
        {"type": "text", "text": 7, "citations": "odd"},
        {"type": "tool_use"},
        {"type": "tool_use", "id": "i", "name": "n", "input": {"a": 1}},
        {"type": "newer", "x": 1},
    ]
    body = {"type": "message", "id": "i", "model": "m", "content": content, "stop_reason": "tool_use"}
    usage = {"input_tokens": 5, "output_tokens": 2}
    events = [
        Start("i", "m"),
        ThinkingDelta("a"),
        ThinkingSignature("s", "anthropic"),
        TextDelta("b"),
        Citation("u", "t", "c", span=(0, 1)),
        ToolCallStart(0, "", ""),
        ToolCallDelta(0, "{}"),
        ToolCallStart(1, "i", "n"),
        ToolCallDelta(1, '{"a":1}'),
        ServerToolPart("anthropic", {"type": "newer", "x": 1}),
    ]
    read = anthropic.DIALECT.read_reply
    assert read(msgspec.json.encode(body | {"usage": usage})) == [*events, USAGE, Finish("tool_calls"), End()]
    for odd in (
        {},
        {"usage": None},
        {"usage": {"input_tokens": 5}},
        {"usage": {"input_tokens": -5, "output_tokens": 2}},
    ):
        assert read(msgspec.json.encode(body | odd)) == [*events, Finish("tool_calls"), End()]


# --- Gemini


def candidate(text: str = "", **members: object) -> dict[str, Any]:
    parts = [{"text": text}] if text else []
    return {"candidates": [{"content": {"parts": parts}} | members]}


def test_a_finish_that_says_nothing_is_no_finish() -> None:
    unsaid = candidate("a", finishReason="FINISH_REASON_UNSPECIFIED")
    assert gemini_events(unsaid, candidate("b")) == [TextDelta("a"), TextDelta("b")]
    assert gemini_events(unsaid, candidate("b", finishReason="STOP"))[-1] == Finish("stop")


def test_another_candidate_is_neither_said_nor_the_end_of_the_first() -> None:
    assert gemini_events(
        candidate("a"),
        candidate("x", index=1, finishReason="STOP"),
        candidate("b", index=0),
        candidate("c", finishReason="MAX_TOKENS"),
        candidate("y", index=2, finishReason="SAFETY"),
    ) == [TextDelta("a"), TextDelta("b"), TextDelta("c"), Finish("length")]


def test_a_call_whose_arguments_are_streamed_is_one_call() -> None:
    """Vertex AI tells them so for `streamFunctionCallArguments`: the first piece names it, the last is empty."""
    piece = [{"jsonPath": "$.city", "stringValue": "Ul", "willContinue": True}]
    calls: list[dict[str, Any]] = [
        {"name": "f", "willContinue": True},
        {"partialArgs": piece, "willContinue": True},
        {},
        {"name": "g", "partialArgs": piece},
    ]
    assert gemini_events(*({"candidates": [{"content": {"parts": [{"functionCall": call}]}}]} for call in calls)) == [
        ToolCallStart(0, "call_0", "f"),
        ToolCallDelta(0, msgspec.json.encode(piece).decode()),
        ToolCallStart(1, "call_1", "g"),
        ToolCallDelta(1, msgspec.json.encode(piece).decode()),
    ]


def test_a_blocked_prompt_is_told_in_the_upstreams_words_where_it_has_any() -> None:
    told = {"promptFeedback": {"blockReason": "SAFETY", "blockReasonMessage": "not this"}}
    assert gemini_events(told) == [Failure(400, gemini_reply.PROMPT_BLOCKED, "not this")]
    (failure,) = gemini_events({"promptFeedback": {"blockReason": "SAFETY"}})
    assert isinstance(failure, Failure)
    assert "SAFETY" in failure.message
    assert gemini_events({"promptFeedback": {}}, {"candidates": []}, {}) == []


def test_a_part_without_text_may_still_carry_a_signature() -> None:
    parts = [
        {"text": "", "thoughtSignature": "s"},
        {"text": "t", "thought": True},
        {"inlineData": {"mimeType": "audio/wav"}},
    ]
    assert gemini_events({"candidates": [{"content": {"parts": parts}}]}) == [
        ThinkingSignature("s", "gemini"),
        ThinkingDelta("t"),
        ServerToolPart("gemini", {"inlineData": {"mimeType": "audio/wav", "data": ""}}),
    ]
    assert gemini_events({"candidates": [{"content": None}]}, {"candidates": [{"content": {}}]}) == []
    assert gemini.DIALECT.reader().feed(Frame(b": x\n\n", b"", None)) == []


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        ({"code": 429, "status": "RESOURCE_EXHAUSTED"}, 429, "RESOURCE_EXHAUSTED"),
        ({"code": "503"}, 503, "UNKNOWN"),
        ({"code": "odd", "status": "NOT_FOUND"}, 404, "NOT_FOUND"),
        ({"code": 8, "status": "RESOURCE_EXHAUSTED"}, 429, "RESOURCE_EXHAUSTED"),
        ({"code": 399}, 500, "UNKNOWN"),
        ({"code": 400}, 400, "UNKNOWN"),
        ({"code": 599}, 599, "UNKNOWN"),
        ({"code": 600}, 500, "UNKNOWN"),
    ],
)
def test_an_error_inside_a_gemini_answer_keeps_its_status(error: dict[str, Any], status: int, kind: str) -> None:
    (failure,) = gemini.DIALECT.read_reply(msgspec.json.encode({"error": error | {"message": "m"}}))
    assert failure == Failure(status, kind, "m")


def test_sources_are_told_once_for_each_passage_and_searches_are_counted() -> None:
    grounding = {
        "groundingChunks": [{"web": {"uri": "u", "title": "t"}}, {"web": {"uri": "v"}}, {}, {"web": {"uri": ""}}],
        "groundingSupports": [
            {"segment": {"text": "p"}, "groundingChunkIndices": [0, 2, 4, -1]},
            {"groundingChunkIndices": [0]},
            {},
        ],
        "webSearchQueries": ["one", "two"],
    }
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 2}
    first = candidate("a") | {"usageMetadata": usage}
    second = candidate(groundingMetadata=grounding, finishReason="STOP") | {"usageMetadata": usage}
    counted = UsageSeen(Usage(input_tokens=5, output_tokens=2, searches=2, calls=1))
    assert gemini_events(first, second, second) == [
        TextDelta("a"),
        USAGE,
        Citation("u", "t", passage="p"),
        Citation("u", "t", ""),
        Citation("v", "", ""),
        counted,
        Finish("stop"),
        Finish("stop"),
    ]
    for member in ("citations", "citationSources"):
        cited = candidate("a", citationMetadata={member: [{"uri": "u", "title": "t"}]})
        assert gemini_events(cited) == [TextDelta("a"), Citation("u", "t")]
    assert gemini_events(candidate("a", citationMetadata="odd", groundingMetadata="odd")) == [TextDelta("a")]


@pytest.mark.parametrize(
    ("model", "billed"), [("gemini-3-flash-preview", [2, 3]), ("gemini-2.5-flash", [1, 1]), ("", [2, 3])]
)
def test_searches_are_counted_as_google_bills_them(model: str, billed: list[int]) -> None:
    """Each distinct query that is not empty; for models before Gemini 3 the prompt, however many it took."""
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 2}
    first, second = ({"webSearchQueries": queries} for queries in (["", "one", "two", "one"], ["two", "", "three"]))
    chunks = (
        candidate("a", groundingMetadata=first) | {"usageMetadata": usage, "modelVersion": model},
        candidate("b", groundingMetadata=second, finishReason="STOP")
        | {"usageMetadata": {**usage, "promptTokenCount": 6}},
    )
    reader = gemini.DIALECT.reader()
    events = [event for chunk in chunks for event in reader.feed(frame(chunk))]
    assert [event.usage.searches for event in events if isinstance(event, UsageSeen)] == billed
    blank = candidate("a", groundingMetadata={"webSearchQueries": [""]}) | {"usageMetadata": usage}
    assert [event for event in gemini_events(blank) if isinstance(event, UsageSeen)] == [USAGE]


def test_a_whole_gemini_answer_ends_also_where_it_does_not_say_why_but_must_say_something() -> None:
    read = gemini.DIALECT.read_reply
    assert read(msgspec.json.encode(candidate("a"))) == [Start("", ""), TextDelta("a"), Finish("stop"), End()]
    assert read(msgspec.json.encode(candidate(finishReason="MAX_TOKENS"))) == [Start("", ""), Finish("length"), End()]
    with pytest.raises(Unreadable):
        read(msgspec.json.encode(candidate()))


# --- Responses


def response_end(**members: object) -> list[Event]:
    """What a whole response ends in, after its beginning."""
    events = responses.DIALECT.read_reply(msgspec.json.encode({"output": []} | members))
    assert isinstance(events[0], Start)
    return events[1:]


@pytest.mark.parametrize(
    ("members", "events"),
    [
        ({"status": "completed"}, [Finish("stop"), End()]),
        ({"status": "incomplete"}, [Finish("length"), End()]),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, [Finish("length"), End()]),
        (
            {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
            [Finish("content_filter"), End()],
        ),
        ({"status": "queued"}, []),
        ({"status": "in_progress"}, []),
        ({"status": "completed", "usage": {"input_tokens": 5, "output_tokens": 2}}, [USAGE, Finish("stop"), End()]),
        ({"status": "completed", "usage": {"input_tokens": -5, "output_tokens": 2}}, [Finish("stop"), End()]),
        ({"status": "completed", "usage": "odd"}, [Finish("stop"), End()]),
    ],
)
def test_why_a_response_ended(members: dict[str, object], events: list[Event]) -> None:
    assert response_end(**members) == events


@pytest.mark.parametrize(
    "members",
    [
        {"status": "failed"},
        {"status": "cancelled"},
        {"status": "failed", "error": {"code": "server_error", "message": "m"}},
        {"status": "completed", "error": {"code": "server_error", "message": "m"}},
    ],
)
def test_a_response_that_failed_or_was_cancelled_is_no_answer_whole_or_streamed(members: dict[str, Any]) -> None:
    (failure,) = response_end(**members)
    assert isinstance(failure, Failure)
    reader = responses.DIALECT.reader()
    event = {"type": "response.failed", "response": {"output": []} | members}
    assert reader.feed(frame(event, b"response.failed"))[1:] == [failure]


def test_a_failed_response_tells_its_own_error_and_what_it_used() -> None:
    error, usage = {"code": "rate_limit_exceeded", "message": "later"}, {"input_tokens": 5, "output_tokens": 2}
    counted, failure = response_end(status="failed", error=error, usage=usage)
    assert counted == USAGE
    assert isinstance(failure, Failure)
    assert (failure.status, failure.message) == (429, "later")
    assert response_end(output=None, error=error) == [failure]
    with pytest.raises(Unreadable):
        responses.DIALECT.read_reply(b'{"status":"completed"}')


def test_a_response_is_refused_or_ends_for_its_calls_as_its_items_say() -> None:
    said = {"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}
    asked = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    assert response_end(status="completed", output=[said]) == [RefusalDelta("no"), Finish("refusal"), End()]
    called = [ToolCallStart(0, "c", "f"), ToolCallDelta(0, "{}")]
    assert response_end(status="completed", output=[asked]) == [*called, Finish("tool_calls"), End()]
    assert response_end(status="incomplete", output=[asked])[-2] == Finish("length")


@pytest.mark.parametrize(
    "item",
    [
        {"type": "tool_search_call", "execution": "server", "call_id": None, "arguments": {"query": "weather"}},
        {"type": "newer_call", "name": {"of": "it"}, "content": "text", "result": [1], "summary": 7},
    ],
)
def test_an_item_that_only_the_upstream_knows_is_whatever_it_is(item: dict[str, Any]) -> None:
    part = ServerToolPart("responses", item)
    assert response_end(status="completed", output=[item]) == [part, Finish("stop"), End()]
    reader = responses.DIALECT.reader()
    told = [{"type": f"response.output_item.{word}", "output_index": 0, "item": item} for word in ("added", "done")]
    assert [reader.feed(frame(event, str(event["type"]).encode())) for event in told] == [[], [part]]


def test_a_known_item_of_a_response_must_be_one() -> None:
    with pytest.raises(Unreadable):
        response_end(status="completed", output=[{"type": "function_call", "name": "f", "arguments": {}}])


def test_a_likely_token_that_a_response_does_not_name_is_left_out() -> None:
    tops = [{"token": "b", "logprob": -2.0}, {"token": None, "logprob": -3.0}, {"token": "c", "logprob": None}]
    event: dict[str, Any] = {"type": "response.output_text.delta", "delta": "a"}
    event["logprobs"] = [{"token": "a", "logprob": -1.0, "top_logprobs": tops}]
    told = TextDelta("a", (TokenLogprob("a", -1.0, (("b", -2.0),)),))
    assert responses.DIALECT.reader().feed(frame(event, b"response.output_text.delta")) == [told]
