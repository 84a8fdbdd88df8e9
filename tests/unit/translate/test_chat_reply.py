"""Chat answers: recordings read as events in any cut, events written for the official SDK, whole equal to streamed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

import httpx2
import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elkapi.translate import gemini
from elkapi.translate.chat import DIALECT
from elkapi.translate.dialect import ReplyFacts, Unreadable
from elkapi.translate.dialects import DIALECTS
from elkapi.translate.ir import (
    CONTENT,
    ChatRequest,
    Citation,
    End,
    Event,
    Failure,
    Finish,
    ImageOut,
    Message,
    RedactedThinking,
    RefusalDelta,
    ServerToolPart,
    Start,
    Text,
    TextDelta,
    ThinkingDelta,
    ThinkingSignature,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStart,
    UsageLost,
    UsageSeen,
)
from elkapi.translate.profiles import profile_for
from elkapi.translate.sse import Frame, SseDecoder
from elkapi.types import Usage
from tests.recordings import events_of, read_in_every_cut, recordings_of

RECORDINGS = recordings_of("chat")
START = Start("chatcmpl-1", "gpt-x")
USAGE = Usage(input_tokens=8, cached_tokens=4, output_tokens=3, reasoning_tokens=2, calls=1)

EXPECTED: dict[str, list[Event]] = {
    "text": [START, TextDelta("Hel"), TextDelta("lo é\n✓"), Finish("stop"), UsageSeen(USAGE), End()],
    "thinking": [
        START,
        ThinkingDelta("Let me"),
        ThinkingDelta(" think."),
        TextDelta("42"),
        UsageSeen(Usage(input_tokens=6, cached_tokens=3, output_tokens=10, reasoning_tokens=20, calls=1)),
        Finish("stop"),
        End(),
    ],
    "signed": [
        START,
        ThinkingDelta("Hm."),
        ThinkingSignature("c2ln", "anthropic"),
        RedactedThinking("b3Bh"),
        TextDelta("Yes."),
        Finish("stop"),
        End(),
    ],
    "tool": [
        START,
        ToolCallStart(0, "call_a", "weather"),
        ToolCallDelta(0, '{"city":'),
        ToolCallDelta(0, '"Rome"}'),
        Finish("tool_calls"),
        UsageSeen(USAGE),
        End(),
    ],
    "parallel": [
        START,
        TextDelta("Both."),
        ToolCallStart(0, "call_a", "f"),
        ToolCallStart(1, "call_b", "g", custom=True),
        ToolCallDelta(1, "free "),
        ToolCallDelta(0, '{"a"'),
        ToolCallDelta(0, ":1}"),
        ToolCallDelta(1, "text"),
        Finish("tool_calls"),
        End(),
    ],
    "odd-tools": [
        START,
        ToolCallStart(0, "call_a", "f", signature="dGhv", signed_by="gemini"),
        ToolCallDelta(0, "{}"),
        ToolCallStart(1, "call_b", "f"),
        ToolCallDelta(1, '{"x":2}'),
        UsageSeen(USAGE),
        Finish("tool_calls"),
        End(),
    ],
    "refusal": [START, RefusalDelta("I can"), RefusalDelta("not."), Finish("refusal"), End()],
    "length": [START, TextDelta("Once upon"), UsageSeen(USAGE), Finish("length"), End()],
    "empty": [START, Finish("stop"), UsageSeen(Usage(input_tokens=3, calls=1)), End()],
    "error-first": [Failure(429, "rate_limit_exceeded", "slow down")],
    "error-later": [START, TextDelta("Hal"), Failure(502, "error", "gone")],
    "gave-up": [
        START,
        TextDelta("Hal"),
        Failure(503, "insufficient_system_resource", "The upstream gave up before its answer was whole."),
    ],
    "usage-cumulative": [
        START,
        TextDelta("a"),
        UsageSeen(Usage(input_tokens=5, output_tokens=1, calls=1)),
        TextDelta("b"),
        UsageSeen(Usage(input_tokens=5, output_tokens=2, calls=1)),
        UsageLost(),
        Finish("stop"),
        End(),
    ],
    "usage-in-choice": [
        START,
        TextDelta("a"),
        UsageSeen(Usage(input_tokens=3, cached_tokens=2, output_tokens=1, calls=1)),
        Finish("stop"),
        End(),
    ],
    "logprobs": [
        START,
        TextDelta("Hi", (TokenLogprob("Hi", -0.5, (("Hi", -0.5), ("Yo", -1.5))),)),
        UsageSeen(Usage(input_tokens=2, output_tokens=1, calls=1)),
        Finish("stop"),
        End(),
    ],
    "rich": [
        START,
        TextDelta("Seen."),
        Citation("https://a.example/x", "A", span=(0, 5)),
        ImageOut("image/png", "iVBO"),
        ThinkingDelta("inner"),
        TextDelta(" Made."),
        Finish("content_filter"),
        End(),
    ],
}


def test_every_recording_has_its_events_listed() -> None:
    assert RECORDINGS.keys() == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_every_recording_cut_at_every_byte_gives_the_same_events(name: str) -> None:
    read_in_every_cut(DIALECT, RECORDINGS[name], EXPECTED[name])


def test_g47_usage_is_read_from_a_chunk_with_an_empty_delta() -> None:
    chunk = b'{"choices":[{"index":0,"delta":{}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
    events = DIALECT.reader().feed(Frame(b"", b"", chunk))
    assert events[-1] == UsageSeen(Usage(input_tokens=1, output_tokens=2, calls=1))


@pytest.mark.parametrize("usage", ['{"prompt_tokens":-1}', '{"prompt_tokens":"9"}', "[]", '"x"', "{}", "1"])
def test_g21_impossible_usage_is_no_usage_and_costs_no_text(usage: str) -> None:
    chunk = f'{{"choices":[{{"delta":{{"content":"a"}}}}],"usage":{usage}}}'.encode()
    assert DIALECT.reader().feed(Frame(b"", b"", chunk)) == [Start("", ""), TextDelta("a"), UsageLost()]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ('{"type":"invalid_request_error","code":"context_length_exceeded"}', 400),
        ('{"code":"invalid_api_key"}', 401),
        ('{"type":"insufficient_quota"}', 429),
        ('{"type":"overloaded_error"}', 503),
        ('{"type":"server_error","code":"500"}', 500),
        ('{"code":429}', 429),
        ('{"code":1302}', 500),
        ('"it broke"', 500),
        ("[1]", 500),
        ("true", 500),
    ],
)
def test_in_band_errors_get_the_status_they_would_have_had(error: str, status: int) -> None:
    for events in (
        DIALECT.reader().feed(Frame(b"", b"", f'{{"error":{error}}}'.encode())),
        DIALECT.read_reply(f'{{"error":{error},"choices":null}}'.encode()),
    ):
        assert len(events) == 1
        assert isinstance(events[0], Failure)
        assert events[0].status == status


def test_an_error_is_known_by_its_event_line_and_by_its_object() -> None:
    named = DIALECT.reader().feed(Frame(b"", b"error", b'{"message":"broke"}'))
    assert named == [Failure(500, "error", "broke")]
    listed = DIALECT.read_reply(b'{"object":"error","message":"too long","type":"BadRequestError","code":400}')
    assert listed == [Failure(400, "BadRequestError", "too long")]
    assert DIALECT.reader().feed(Frame(b"", b"", b'{"error":null,"choices":[]}')) == [Start("", "")]


@pytest.mark.parametrize("data", [b"<html>", b"[]", b"1", b'{"choices":3}', b'{"choices":[{"delta":{"content":1}}]}'])
def test_a_frame_that_is_not_of_the_dialect_is_unreadable(data: bytes) -> None:
    with pytest.raises(Unreadable):
        DIALECT.reader().feed(Frame(b"", b"", data))
    with pytest.raises(Unreadable):
        DIALECT.read_reply(data)


SOURCES: list[Event] = [Citation("https://a.example", "A"), Citation("https://b.example")]


def _of_chunks(*chunks: dict[str, Any]) -> list[Event]:
    reader = DIALECT.reader()
    return [event for chunk in chunks for event in reader.feed(Frame(b"", b"", json.dumps(chunk).encode()))]


def test_sources_beside_the_choices_are_citations_of_the_text_before_the_end() -> None:
    beside = {
        "citations": ["https://a.example", "https://b.example", "https://a.example"],
        "search_results": [{"title": "A", "url": "https://a.example", "date": None, "snippet": "..."}],
    }
    said, stopped = {"delta": {"content": "x"}}, {"delta": {}, "finish_reason": "stop"}
    # Perplexity repeats them beside each piece, xAI has them in the last chunk.
    repeated = _of_chunks({"choices": [said]} | beside, {"choices": [said]} | beside, {"choices": [stopped]} | beside)
    assert repeated[1:] == [TextDelta("x"), TextDelta("x"), *SOURCES, Finish("stop")]
    last = _of_chunks({"choices": [said]}, {"choices": [stopped]}, {"choices": [], "citations": beside["citations"]})
    assert last[1:] == [TextDelta("x"), Finish("stop"), Citation("https://a.example"), SOURCES[1]]
    message: dict[str, Any] = {"content": "x"}
    whole = {"choices": [{"message": message, "finish_reason": "stop"}]} | beside
    assert DIALECT.read_reply(json.dumps(whole).encode())[1:] == [TextDelta("x"), *SOURCES, Finish("stop"), End()]
    # What is an annotation already is no second one.
    told = {"type": "url_citation", "url_citation": {"url": "https://a.example", "title": "A"}}
    message["annotations"] = [told]
    assert DIALECT.read_reply(json.dumps(whole).encode())[1:] == [TextDelta("x"), *SOURCES, Finish("stop"), End()]
    odd = _of_chunks({"choices": [stopped], "citations": [1], "search_results": "odd"})
    assert odd[1:] == [Finish("stop")]


@pytest.mark.parametrize("name", ["chat", "responses", "anthropic", "gemini"])
@pytest.mark.parametrize("late", [False, True])
def test_sources_beside_the_choices_reach_callers_of_every_dialect(name: Any, late: bool) -> None:
    request = ChatRequest(model="m", messages=[Message("user", (Text("q"),))], stream=True)
    facts = ReplyFacts("id", "m", 1_700_000_000, request)
    tail: list[Event] = [Finish("stop"), SOURCES[0]] if late else [SOURCES[0], Finish("stop")]
    events: list[Event] = [START, TextDelta("x"), *tail, UsageSeen(USAGE), End()]
    writer = DIALECTS[name].writer(facts)
    streamed = b"".join(writer.feed(event) for event in events) + writer.finish()
    for answer in (streamed, DIALECTS[name].write_reply(events, facts)):
        assert b"https://a.example" in answer


@pytest.mark.parametrize("word", ["length", "max_tokens", "model_length", "model_context_window_exceeded"])
def test_an_answer_that_was_cut_is_not_told_as_whole(word: str) -> None:
    """Mistral's word for the end of the model's window is the last."""
    said = {"choices": [{"message": {"content": "x"}, "finish_reason": word}]}
    assert DIALECT.read_reply(json.dumps(said).encode())[1:] == [TextDelta("x"), Finish("length"), End()]


@pytest.mark.parametrize("body", [b"{}", b'{"choices":[]}', b'{"choices":[{"index":0}]}', b""])
def test_a_whole_answer_without_a_message_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        DIALECT.read_reply(body)


_MEMBERS = (
    *("choices", "delta", "message", "content", "tool_calls", "function", "index", "id", "name", "arguments", "usage"),
    *("error", "reasoning", "thinking_blocks", "annotations", "images", "x_groq", "finish_reason", "logprobs", "audio"),
    *("citations", "search_results", "annotations", "title"),
    *("prompt_tokens", "type", "code", "extra_content", "google", "image_url", "url"),
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_MEMBERS), inner, max_size=5),
    max_leaves=12,
)


@given(st.lists(_json, max_size=4))
def test_the_reader_raises_nothing_but_unreadable(values: list[Any]) -> None:
    reader = DIALECT.reader()
    for value in values:
        data = json.dumps(value).encode()
        with contextlib.suppress(Unreadable):
            reader.feed(Frame(b"", b"", data))
        with contextlib.suppress(Unreadable):
            DIALECT.read_reply(data)


@given(st.binary(max_size=60))
def test_bytes_that_are_no_json_are_unreadable(data: bytes) -> None:
    for frame in (Frame(b"", b"", data), Frame(b"", b"", b'{"choices":[{"delta":{"content":"' + data)):
        with contextlib.suppress(Unreadable):
            DIALECT.reader().feed(frame)


def _call(name: str | None, arguments: str, **more: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}, **more}


@pytest.mark.parametrize("error", ["over capacity", "", None])
def test_a_stream_that_groq_stopped_early_failed(error: str | None) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    last = {"id": "r", "choices": [], "x_groq": {"id": "req_1", "error": error, "usage": usage}}
    events = DIALECT.reader().feed(Frame(b"", b"", json.dumps(last).encode()))
    assert [event for event in events if isinstance(event, Failure)] == (
        [Failure(502, "error", "over capacity")] if error else []
    )
    assert any(isinstance(event, UsageSeen) for event in events) is (not error)


# The calls of a stream, chunk by chunk, and (id, name, arguments) of what they are; "r" is the answer's id.
ODD_CALLS: dict[str, tuple[list[list[dict[str, Any]]], list[tuple[str, str, str]]]] = {
    "no ids, no indexes": (
        [[_call("f", '{"a":'), _call("g", "{}")], [_call("f", '{"a":1}')]],
        [("call_r_0", "f", '{"a":'), ("call_r_1", "g", "{}"), ("call_r_2", "f", '{"a":1}')],
    ),
    "no ids, one index, one name": (
        [[_call("f", '{"a":1}', index=0, id="")], [_call("f", '{"a":2}', index=0, id=None)]],
        [("call_r_0", "f", '{"a":1}'), ("call_r_1", "f", '{"a":2}')],
    ),
    "no ids, the name in each piece": (
        [[_call("f", '{"a"', index=0)], [_call("f", ":1}", index=0)], [_call("f", "", index=0)]],
        [("call_r_0", "f", '{"a":1}')],
    ),
    "one id for all": (
        [[_call("f", "{}", index=0, id="f")], [_call("f", '{"a":1}', index=1, id="f")]],
        [("f", "f", "{}"), ("call_r_1", "f", '{"a":1}')],
    ),
    "an id for each piece": (
        [
            [_call("f", "", index=0, id="a")],
            [_call(None, '{"a"', index=0, id="b")],
            [_call("", ":1}", index=0, id="c")],
        ],
        [("a", "f", '{"a":1}')],
    ),
    "the id late": (
        [[_call(None, "", index=0)], [_call("f", '{"a"', index=0, id="a")], [_call(None, ":1}", index=0)]],
        [("a", "f", '{"a":1}')],
    ),
}


def _made(events: list[Event]) -> list[tuple[str, str, str]]:
    made: dict[int, tuple[str, str, str]] = {}
    for event in events:
        if isinstance(event, ToolCallStart):
            made[event.index] = (event.id, event.name, "")
        elif isinstance(event, ToolCallDelta):
            id_, name, text = made[event.index]
            made[event.index] = (id_, name, text + event.arguments)
    return list(made.values())


def _chunks(*deltas: dict[str, Any]) -> list[Event]:
    reader, events = DIALECT.reader(), []
    for delta in deltas:
        data = json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode()
        events += reader.feed(Frame(b"data: " + data + b"\n\n", b"", data))
    return events[1:]


def test_claudes_thinking_behind_openrouter_keeps_its_signatures() -> None:
    """`reasoning` repeats the text of the details, which alone say where each signed passage ends."""
    claude = {"format": "anthropic-claude-v1", "index": 0}
    text = {"type": "reasoning.text", "text": "Hm.", **claude}
    signed = {"type": "reasoning.text", "signature": "c2ln", **claude}
    hidden = {"type": "reasoning.encrypted", "data": "b3Bh", **claude}
    expected = [
        ThinkingDelta("Hm."),
        ThinkingSignature("c2ln", "anthropic"),
        RedactedThinking("b3Bh"),
        TextDelta("42"),
    ]
    streamed = _chunks(
        {"reasoning": "Hm.", "reasoning_details": [text]},
        {"reasoning": None, "reasoning_details": [signed]},
        {"reasoning_details": [hidden]},
        {"content": "42"},
    )
    assert streamed == expected
    message = {"content": "42", "reasoning": "Hm.", "reasoning_details": [text | signed, hidden]}
    whole = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    assert DIALECT.read_reply(json.dumps(whole).encode())[1:5] == expected
    # Other models' details are no Claude's, and what cannot be read, or has no text, changes nothing.
    summary = {"type": "reasoning.summary", "summary": "Hm.", **claude}
    google = {"type": "reasoning.encrypted", "data": "x", "format": "google-gemini-v1"}
    for details in ([google], [summary], "x", [1], None):
        assert _chunks({"reasoning": "Hm.", "reasoning_details": details}) == [ThinkingDelta("Hm.")]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm.", "signature": "c2ln"}]},
    ],
    ids=["mistral", "databricks"],
)
def test_thinking_in_the_parts_of_an_answer_is_read(part: dict[str, Any]) -> None:
    message = {"role": "assistant", "content": [part, {"type": "text", "text": "42"}]}
    answer = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    expected = [ThinkingDelta("Hm."), TextDelta("42"), Finish("stop"), End()]
    assert DIALECT.read_reply(json.dumps(answer).encode())[1:] == expected
    assert _chunks({"content": [part]}, {"content": [{"type": "text", "text": "42"}]}) == expected[:2]


@pytest.mark.parametrize("case", ODD_CALLS)
def test_calls_stay_apart_and_whole_whatever_ids_and_indexes_an_upstream_gives(case: str) -> None:
    chunks, made = ODD_CALLS[case]
    reader = DIALECT.reader()
    events: list[Event] = []
    for calls in chunks:
        data = json.dumps({"id": "r", "choices": [{"index": 0, "delta": {"tool_calls": calls}}]}).encode()
        events += reader.feed(Frame(b"", b"", data))
    assert _made(events) == made


@pytest.mark.parametrize("more", [{}, {"id": ""}, {"index": 0}, {"index": 0, "id": ""}], ids=str)
def test_each_call_of_a_whole_answer_is_a_call_of_its_own(more: dict[str, Any]) -> None:
    calls = [_call("f", '{"a":1}', **more), _call("f", "", **more), _call("g", '{"a":', **more)]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    answer = {"id": "r", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    expected = [("call_r_0", "f", '{"a":1}'), ("call_r_1", "f", ""), ("call_r_2", "g", '{"a":')]
    assert _made(DIALECT.read_reply(json.dumps(answer).encode())) == expected


# --- written ---------------------------------------------------------------------------------------------------------

THINKING: list[Event] = [
    Start("up-1", "claude-up"),
    ThinkingDelta("Let "),
    ThinkingDelta("me."),
    ThinkingSignature("c2ln", "anthropic"),
]
ANSWERS: dict[str, list[Event]] = {
    **{name: events for name, events in EXPECTED.items() if not isinstance(events[-1], Failure)},
    "anthropic thinking": [*THINKING, RedactedThinking("b3Bh"), TextDelta("Hi"), Finish("stop"), End()],
    "thinking then a tool": [
        *THINKING,
        ToolCallStart(0, "toolu_1", "f"),
        ToolCallDelta(0, ""),
        ToolCallDelta(0, '{"a":1}'),
        UsageSeen(USAGE),
        Finish("tool_calls"),
        End(),
    ],
    "converse signature": [
        ThinkingDelta("x"),
        ThinkingSignature("s", "converse"),
        TextDelta("y"),
        Finish("stop"),
        End(),
    ],
    "signed image": [
        TextDelta("One."),
        ImageOut("image/png", "iVBO"),
        ThinkingSignature("c2ln", "gemini"),
        TextDelta(" Two."),
        Finish("stop"),
        End(),
    ],
    "stop sequence": [TextDelta("a"), Finish("stop_sequence", "END"), End()],
    "refused without words": [Finish("refusal"), End()],
    "two sources": [
        TextDelta("One."),
        Citation("https://a.example", "A"),
        Citation("https://b.example", "B"),
        TextDelta(" Two."),
        Citation("https://c.example"),
        ServerToolPart("anthropic", {"type": "server_tool_use"}),
        Finish("pause"),
        End(),
    ],
    "nothing": [],
}


VISIBLE = tuple({*CONTENT, ThinkingSignature} - {ServerToolPart})


def _facts(include_usage: bool = True, **members: Any) -> ReplyFacts:
    request = ChatRequest(model="m", messages=[Message("user", (Text("q"),))], logprobs=True, **members)
    return ReplyFacts("chatcmpl-9", "m", 1_700_000_000, request, include_usage)


def _written(events: Sequence[Event], facts: ReplyFacts) -> bytes:
    writer = DIALECT.writer(facts)
    return b"".join(writer.feed(event) for event in events) + writer.ping() + writer.finish()


def _client(body: bytes, content_type: str) -> openai.OpenAI:
    transport = httpx2.MockTransport(
        lambda request: httpx2.Response(200, headers={"content-type": content_type}, content=body)
    )
    http = httpx2.Client(transport=transport)
    return openai.OpenAI(api_key="sk-x", base_url="http://gateway.test/v1", http_client=http, max_retries=0)


def _plain(completion: Any) -> Any:
    """A completion as the SDK dumps it, without what it adds (parsed values, absent members, indexes of calls)."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            drop = {"parsed", "parsed_arguments"}
            return {key: clean(one) for key, one in value.items() if one not in (None, []) and key not in drop}
        return [clean(one) for one in value] if isinstance(value, list) else value

    plain = clean(completion.model_dump())
    for call in plain["choices"][0]["message"].get("tool_calls", ()):
        call.pop("index", None)
    if plain["choices"][0]["message"].get("content") == "":
        del plain["choices"][0]["message"]["content"]
    return plain


# The SDK's helper cannot add up a streamed call of a custom tool (its own `custom` stays a dict): read back below.
@pytest.mark.parametrize("name", [name for name in ANSWERS if name != "parallel"])
def test_the_sdk_adds_the_stream_up_to_the_whole_answer(name: str) -> None:
    events, facts = ANSWERS[name], _facts()
    with (
        _client(_written(events, facts), "text/event-stream") as client,
        client.chat.completions.stream(
            model="m", messages=[{"role": "user", "content": "q"}], stream_options={"include_usage": True}
        ) as stream,
    ):
        try:
            streamed: object = stream.get_final_completion()
        except (openai.LengthFinishReasonError, openai.ContentFilterFinishReasonError):
            streamed = stream.current_completion_snapshot
    with _client(DIALECT.write_reply(events, facts), "application/json") as client:
        whole = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "q"}])
    assert _plain(streamed) == _plain(whole)


@pytest.mark.parametrize("name", ANSWERS)
def test_what_is_written_is_read_back_streamed_as_whole(name: str) -> None:
    events, facts = ANSWERS[name], _facts()
    whole = _summary(DIALECT.read_reply(DIALECT.write_reply(events, facts)))
    assert _summary(events_of(DIALECT, _written(events, facts))) == whole
    kept = [event for event in events if isinstance(event, CONTENT) and not isinstance(event, ServerToolPart)]
    assert whole["kinds"] == {type(event).__name__ for event in kept} - {"ToolCallDelta"}


def _summary(events: Sequence[Event]) -> dict[str, Any]:
    """What a caller knows at the end, however it came."""
    calls: dict[int, list[Any]] = {}
    for event in events:
        if isinstance(event, ToolCallStart):
            calls[event.index] = [event, ""]
        elif isinstance(event, ToolCallDelta):
            calls[event.index][1] += event.arguments
    kinds = {type(event).__name__ for event in events if isinstance(event, CONTENT)} - {"ToolCallDelta"}
    return {
        "text": "".join(event.text for event in events if isinstance(event, TextDelta)),
        "refusal": "".join(event.text for event in events if isinstance(event, RefusalDelta)),
        "thinking": "".join(event.text for event in events if isinstance(event, ThinkingDelta)),
        "tokens": [row for event in events if isinstance(event, TextDelta) for row in event.logprobs],
        "calls": calls,
        "kinds": kinds,
        "others": [
            event
            for event in events
            if isinstance(event, ThinkingSignature | RedactedThinking | ImageOut | Citation | Finish)
        ],
        "usage": [event for event in events if isinstance(event, UsageSeen)][-1:],
    }


def test_a_signed_image_goes_back_to_gemini_as_it_came() -> None:
    message = json.loads(DIALECT.write_reply(ANSWERS["signed image"], _facts()))["choices"][0]["message"]
    asked = {"model": "m", "messages": [{"role": "user", "content": "draw"}, message]}
    request = DIALECT.read_request(json.dumps(asked).encode())
    written = json.loads(gemini.DIALECT.write_request(request, profile_for("gemini", "gemini-3-pro-image")))
    image = {"inlineData": {"mimeType": "image/png", "data": "iVBO"}, "thoughtSignature": "c2ln"}
    assert written["contents"][1]["parts"] == [{"text": "One. Two."}, image]


def test_a_thought_after_an_image_is_signed_for_itself() -> None:
    drawn: list[Event] = [
        ImageOut("image/png", "iVBO"),
        ThinkingDelta("Hm."),
        ThinkingSignature("c2ln", "gemini"),
        TextDelta("a"),
    ]
    message = json.loads(DIALECT.write_reply([*drawn, Finish("stop"), End()], _facts()))["choices"][0]["message"]
    signed = {"index": 0, "type": "thinking", "thinking": "Hm.", "signature": "c2ln", "signed_by": "gemini"}
    assert message["thinking_blocks"] == [signed]
    assert "extra_content" not in message["images"][0]


def test_a_custom_tools_call_holds_its_input_as_it_is() -> None:
    called: list[Event] = [
        ToolCallStart(0, "call_1", "patch", custom=True),
        ToolCallDelta(0, "*** "),
        ToolCallDelta(0, "End"),
    ]
    message = json.loads(DIALECT.write_reply([*called, Finish("tool_calls"), End()], _facts()))["choices"][0]["message"]
    call = {"id": "call_1", "type": "custom", "custom": {"name": "patch", "input": "*** End"}}
    assert (message["tool_calls"], message["content"]) == ([call], None)


def test_a_part_of_a_character_has_no_bytes() -> None:
    tokens = (TokenLogprob("é", -0.5, (("\\xc3", -1.0), ("\ufffd", -2.0))),)
    choice = json.loads(DIALECT.write_reply([TextDelta("é", tokens), Finish("stop"), End()], _facts()))["choices"][0]
    (row,) = choice["logprobs"]["content"]
    assert row["bytes"] == [0xC3, 0xA9]
    assert [one["bytes"] for one in row["top_logprobs"]] == [None, None]


def test_stream_options_include_usage_is_obeyed_exactly() -> None:
    events = ANSWERS["text"]
    asked = [json.loads(frame.data or b"") for frame in _frames(_written(events, _facts()))]
    assert [chunk["usage"] for chunk in asked[:-1]] == [None] * (len(asked) - 1)
    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"]["total_tokens"] == 17
    silent = [json.loads(frame.data or b"") for frame in _frames(_written(events, _facts(include_usage=False)))]
    assert len(silent) == len(asked) - 1
    assert all("usage" not in chunk and chunk["choices"] for chunk in silent)


def _frames(stream: bytes) -> list[Frame]:
    frames = [frame for frame in SseDecoder().feed(stream) if frame.data is not None]
    assert frames[-1].data == b"[DONE]"
    return frames[:-1]


@pytest.mark.parametrize("name", ANSWERS)
def test_one_event_is_one_write_of_whole_frames(name: str) -> None:
    writer = DIALECT.writer(_facts())
    for event in ANSWERS[name]:
        written = writer.feed(event)
        assert b"".join(frame.raw for frame in SseDecoder().feed(written)) == written
        assert bool(written) == isinstance(event, VISIBLE)


def test_g56_a_failed_stream_makes_the_sdk_raise_and_never_ends_cleanly() -> None:
    writer = DIALECT.writer(_facts())
    stream = writer.feed(TextDelta("Hal")) + writer.fail(Failure(429, "their_word", "Too many."))
    assert b"[DONE]" not in stream
    assert b"their_word" not in stream
    texts: list[str | None] = []
    with _client(stream, "text/event-stream") as client:
        chunks = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "q"}], stream=True)
        with pytest.raises(openai.APIError, match="Too many") as caught:
            texts.extend(chunk.choices[0].delta.content for chunk in chunks)
    assert texts == ["", "Hal"]
    assert caught.value.type == "rate_limit_error"


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, "invalid_request_error", "upstream_rejected"),
        (429, "rate_limit_error", "upstream_rate_limited"),
        (500, "upstream_error", "upstream_error"),
        (503, "upstream_error", "upstream_overloaded"),
        (504, "upstream_error", "upstream_timeout"),
        (529, "upstream_error", "upstream_overloaded"),
    ],
)
@pytest.mark.parametrize("word", ["their_word", "content_blocked"])
def test_the_error_of_a_broken_stream_has_the_type_and_code_of_one_before_a_stream(
    status: int, kind: str, code: str, word: str
) -> None:
    (frame,) = SseDecoder().feed(DIALECT.writer(_facts()).fail(Failure(status, word, "No.")))
    if (status, word) == (400, "content_blocked"):
        code = word
    error = {"message": "No.", "type": kind, "param": None, "code": code}
    assert json.loads(frame.data or b"") == {"error": error}


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        *(("stop", "stop"), ("stop_sequence", "stop"), ("pause", "stop"), ("length", "length")),
        *(("content_filter", "content_filter"), ("refusal", "content_filter")),
        # An answer without a call.
        ("tool_calls", "stop"),
    ],
)
def test_why_an_answer_ended_is_told_in_chats_words(reason: Any, word: str) -> None:
    events: list[Event] = [TextDelta("a"), Finish(reason), End()]
    assert json.loads(DIALECT.write_reply(events, _facts()))["choices"][0]["finish_reason"] == word
    frames = [json.loads(frame.data or b"") for frame in _frames(_written(events, _facts(include_usage=False)))]
    assert frames[-1]["choices"][0]["finish_reason"] == word


def test_a_caller_of_functions_is_answered_in_kind() -> None:
    facts = _facts(extra={"functions": True})
    events = ANSWERS["tool"]
    message = json.loads(DIALECT.write_reply(events, facts))["choices"][0]
    assert message["message"]["function_call"] == {"name": "weather", "arguments": '{"city":"Rome"}'}
    assert message["finish_reason"] == "function_call"
    deltas = [json.loads(frame.data or b"") for frame in _frames(_written(events, facts))]
    pieces = [chunk["choices"][0]["delta"].get("function_call") for chunk in deltas if chunk["choices"]]
    assert "".join(piece["arguments"] for piece in pieces if piece) == '{"city":"Rome"}'
    assert _summary(events_of(DIALECT, _written(events, facts)))["calls"][0][0].name == "weather"


def test_a_caller_of_functions_gets_one_call_of_several_whole_and_streamed() -> None:
    """There is no place for a second one, and Gemini cannot be held to one."""
    first: list[Event] = [ToolCallStart(0, "a", "f"), ToolCallDelta(0, '{"a":1}')]
    second: list[Event] = [ToolCallStart(1, "b", "g"), ToolCallDelta(1, '{"b":2}')]
    events: list[Event] = [Start("i", "m"), *first, *second, Finish("tool_calls"), End()]
    facts = _facts(extra={"functions": True})
    whole = json.loads(DIALECT.write_reply(events, facts))["choices"][0]["message"]["function_call"]
    assert whole == {"name": "f", "arguments": '{"a":1}'}
    chunks = [json.loads(frame.data or b"") for frame in _frames(_written(events, facts))]
    deltas = [chunk["choices"][0]["delta"].get("function_call") or {} for chunk in chunks if chunk["choices"]]
    assert {name: "".join(piece.get(name, "") for piece in deltas) for name in ("name", "arguments")} == whole


def test_log_probabilities_are_written_only_when_they_were_asked_for() -> None:
    events = EXPECTED["logprobs"]
    facts = _facts()
    unasked = msgspec.structs.replace(facts, request=msgspec.structs.replace(facts.request, logprobs=False))
    for body in (DIALECT.write_reply(events, unasked), _written(events, unasked)):
        assert b"top_logprobs" not in body
    rows = json.loads(DIALECT.write_reply(events, facts))["choices"][0]["logprobs"]["content"]
    assert rows[0]["bytes"] == [72, 105]


def test_sources_span_the_text_they_stand_behind() -> None:
    message = json.loads(DIALECT.write_reply(ANSWERS["two sources"], _facts()))["choices"][0]["message"]
    spans = [(row["url_citation"]["start_index"], row["url_citation"]["end_index"]) for row in message["annotations"]]
    assert spans == [(0, 4), (0, 4), (4, 9)]
    assert {row["type"] for row in message["annotations"]} == {"url_citation"}
