"""Anthropic answers: read in any cut, written so that the official SDK accumulates the same message."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import anthropic
import httpx2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elkapi.translate.anthropic import DIALECT
from elkapi.translate.anthropic_writer import error_type
from elkapi.translate.claude import OUTPUT_TOOL
from elkapi.translate.dialect import ReplyFacts, Unreadable
from elkapi.translate.ir import (
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
    ToolCallDelta,
    ToolCallStart,
    UsageLost,
    UsageSeen,
)
from elkapi.translate.sse import Frame
from elkapi.types import Usage
from tests.recordings import events_of, read_in_every_cut, recordings_of
from tests.translate_anthropic import facts, streamed


def _usage(output: int, **members: int) -> UsageSeen:
    return UsageSeen(Usage(input_tokens=members.pop("input_tokens", 12), output_tokens=output, calls=1, **members))


RECORDINGS = recordings_of("anthropic")
START: list[Event] = [Start("msg_01", "claude-x"), _usage(1)]
SEARCH = {
    "type": "web_search_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": [
        {"type": "web_search_result", "url": "https://example.org/a", "title": "A", "encrypted_content": "ZW5j"}
    ],
}
CACHED = {"input_tokens": 3, "cached_tokens": 2000, "cache_write_5m_tokens": 40, "cache_write_1h_tokens": 60}
EXPECTED: dict[str, list[Event]] = {
    "text": [*START, TextDelta("Hel"), TextDelta("lo, 世界."), _usage(4), Finish("stop"), End()],
    "thinking": [
        *START,
        ThinkingDelta("Let me "),
        ThinkingDelta("see."),
        ThinkingSignature("c2ln", "anthropic"),
        RedactedThinking("b3BhcXVl"),
        TextDelta("Four."),
        _usage(5, reasoning_tokens=15),
        Finish("stop"),
        End(),
    ],
    "tool": [
        *START,
        TextDelta("I look it up."),
        ToolCallStart(0, "toolu_1", "weather"),
        ToolCallDelta(0, '{"city": "Pa'),
        ToolCallDelta(0, 'ris"}'),
        _usage(30),
        Finish("tool_calls"),
        End(),
    ],
    "parallel": [
        *START,
        ToolCallStart(0, "toolu_1", "weather"),
        ToolCallDelta(0, '{"city":"Paris"}'),
        ToolCallStart(1, "toolu_2", "now"),
        ToolCallDelta(1, "{}"),
        _usage(40),
        Finish("tool_calls"),
        End(),
    ],
    "cache": [
        START[0],
        _usage(1, **CACHED),
        TextDelta("Hi"),
        _usage(7, **CACHED),
        Finish("stop"),
        End(),
    ],
    "length": [*START, TextDelta("Once upon"), _usage(64), Finish("length"), End()],
    "stop-sequence": [*START, TextDelta("One two "), _usage(5), Finish("stop_sequence", "three"), End()],
    "refusal": [*START, TextDelta("I can"), _usage(3), Finish("refusal", None, "Not this."), End()],
    "search": [
        *START,
        ServerToolPart(
            "anthropic",
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "news"}},
        ),
        ServerToolPart("anthropic", SEARCH),
        TextDelta("It rained."),
        Citation("https://example.org/a", "A", "rain", span=(0, 10)),
        _usage(50, searches=1),
        Finish("stop"),
        End(),
    ],
    "empty": [*START, _usage(0), Finish("stop"), End()],
    "error-first": [*START, Failure(529, "overloaded_error", "Overloaded")],
    "error-later": [*START, TextDelta("Hel"), Failure(500, "api_error", "Internal")],
    "unknown": [
        *START,
        ServerToolPart("anthropic", {"type": "compaction", "content": "short"}),
        TextDelta("Hi"),
        _usage(4),
        Finish("stop"),
        End(),
    ],
}


def test_every_recording_has_its_events_written_down() -> None:
    assert RECORDINGS.keys() == EXPECTED.keys()


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_gives_the_same_events_in_every_cut(name: str) -> None:
    read_in_every_cut(DIALECT, RECORDINGS[name], EXPECTED[name])


def test_frames_without_an_event_line_are_read_by_their_type() -> None:
    stream = b"".join(line + b"\n\n" for line in RECORDINGS["tool"].split(b"\n") if line.startswith(b"data:"))
    assert events_of(DIALECT, stream) == EXPECTED["tool"]


def _delta(members: dict[str, Any], kind: str = "message_delta") -> list[Event]:
    return DIALECT.reader().feed(Frame(b"", b"", msgspec.json.encode({"type": kind} | members)))


def test_g47_usage_is_read_from_a_delta_that_is_empty() -> None:
    assert _delta({"delta": {}, "usage": {"input_tokens": 4, "output_tokens": 9}}) == [_usage(9, input_tokens=4)]


@pytest.mark.parametrize("usage", [{"output_tokens": -1}, {"output_tokens": "4"}, {"output_tokens": 1.5}, 7, None])
def test_g21_usage_that_is_impossible_is_lost(usage: Any) -> None:
    assert _delta({"delta": {"stop_reason": "end_turn"}, "usage": usage}) == [UsageLost(), Finish("stop")]


def test_g26_cache_writes_without_their_lifetimes_are_marked() -> None:
    usage = {"input_tokens": 1, "cache_creation_input_tokens": 10, "output_tokens": 1}
    seen = _delta({"message": {"id": "m", "usage": usage}}, "message_start")[1]
    assert isinstance(seen, UsageSeen)
    assert (seen.unsplit, seen.usage.cache_write_5m_tokens) == (True, 10)


def test_later_figures_replace_earlier_ones_and_the_others_stay() -> None:
    reader = DIALECT.reader()
    first = {"type": "message_start", "message": {"usage": {"input_tokens": 5, "cache_read_input_tokens": 7}}}
    later = {"type": "message_delta", "delta": {}, "usage": {"input_tokens": 6, "output_tokens": 3}}
    reader.feed(Frame(b"", b"", msgspec.json.encode(first)))
    assert reader.feed(Frame(b"", b"", msgspec.json.encode(later))) == [_usage(3, input_tokens=6, cached_tokens=7)]


NO_INPUT = {"input_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}


@pytest.mark.parametrize(
    "later",
    [
        {"input_tokens": 0},
        NO_INPUT,
        NO_INPUT | {"cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}},
    ],
    ids=["input", "all", "lifetimes"],
)
def test_an_input_that_was_reported_does_not_become_zero(later: dict[str, Any]) -> None:
    """Some servers that are like Anthropic's end a stream with zeros, and only the answer would be charged."""
    reader = DIALECT.reader()
    lives = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 9}
    begun = {"input_tokens": 5, "cache_read_input_tokens": 7, "cache_creation_input_tokens": 9, "cache_creation": lives}
    for usage, kind in (
        (begun | {"output_tokens": 1}, "message_start"),
        (later | {"output_tokens": 3}, "message_delta"),
    ):
        members = {"message": {"usage": usage}} if kind == "message_start" else {"delta": {}, "usage": usage}
        seen = reader.feed(Frame(b"", b"", msgspec.json.encode({"type": kind} | members)))[-1]
    assert seen == _usage(3, input_tokens=5, cached_tokens=7, cache_write_1h_tokens=9)


def test_an_input_that_is_reported_only_at_the_end_counts() -> None:
    reader = DIALECT.reader()
    begun = {"type": "message_start", "message": {"usage": NO_INPUT | {"output_tokens": 0}}}
    later = {"type": "message_delta", "delta": {}, "usage": {"cache_read_input_tokens": 7, "output_tokens": 3}}
    reader.feed(Frame(b"", b"", msgspec.json.encode(begun)))
    assert reader.feed(Frame(b"", b"", msgspec.json.encode(later))) == [_usage(3, input_tokens=0, cached_tokens=7)]


@pytest.mark.parametrize("data", [b"<html>", b"[]", b'{"type":"content_block_delta","delta":5}', b'{"type":', b"\xff"])
def test_a_frame_of_no_anthropic_stream_is_unreadable(data: bytes) -> None:
    with pytest.raises(Unreadable):
        DIALECT.reader().feed(Frame(data, b"", data))


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"type":"message","content":5}', b""])
def test_a_body_of_no_anthropic_answer_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        DIALECT.read_reply(body)


def test_an_error_inside_a_200_is_a_failure() -> None:
    body = b'{"type":"error","error":{"type":"rate_limit_error","message":"slow"}}'
    assert DIALECT.read_reply(body) == [Failure(429, "rate_limit_error", "slow")]


def test_an_exception_of_the_stream_that_carries_the_events_is_a_failure() -> None:
    frame = Frame(b"", b"throttlingException", b'{"message":"slow"}')
    assert DIALECT.reader().feed(frame) == [Failure(429, "throttlingException", "slow")]


@given(st.lists(st.tuples(st.sampled_from(sorted(RECORDINGS)), st.integers(0, 400), st.binary(max_size=3)), max_size=3))
def test_the_reader_raises_nothing_but_unreadable(cuts: list[tuple[str, int, bytes]]) -> None:
    for name, at, bytes_ in cuts:
        stream = RECORDINGS[name]
        try:
            events_of(DIALECT, stream[:at] + bytes_ + stream[at + len(bytes_) :])
        except Unreadable:
            continue


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
MEMBERS = ["type", "index", "delta", "content_block", "message", "usage", "error", "content", "stop_reason", "text"]
KINDS = ["message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "error"]


@given(st.dictionaries(st.sampled_from(MEMBERS), JSON), st.sampled_from(KINDS))
def test_odd_members_raise_nothing_but_unreadable(members: dict[str, Any], kind: str) -> None:
    for body in (members, members | {"type": kind}, members | {"type": "message"}):
        data = msgspec.json.encode(body)
        with contextlib.suppress(Unreadable):
            DIALECT.reader().feed(Frame(data, b"", data))
        with contextlib.suppress(Unreadable):
            DIALECT.read_reply(data)


# --- written ---------------------------------------------------------------------------------------------------------

START_EVENTS: list[Event] = [Start("x", "upstream-model"), _usage(1)]
WRITTEN: dict[str, list[Event]] = {
    name: events for name, events in EXPECTED.items() if not any(isinstance(event, Failure) for event in events)
} | {
    "interleaved": [
        *START_EVENTS,
        TextDelta("Both."),
        ToolCallStart(0, "a", "one"),
        ToolCallStart(1, "b", "two"),
        ToolCallDelta(1, '{"y"'),
        ToolCallDelta(0, '{"x":'),
        ToolCallDelta(1, ":2}"),
        ToolCallDelta(0, "1}"),
        TextDelta("After."),
        _usage(9),
        Finish("stop"),
        End(),
    ],
    "usage late": [Start("x", "m"), TextDelta("Hi"), _usage(3), Finish("length"), End()],
    "no usage": [Start("x", "m"), TextDelta("Hi"), Finish("content_filter"), End()],
    "nothing": [],
    "refused": [*START_EVENTS, RefusalDelta("No."), Finish("stop"), End()],
    "image": [*START_EVENTS, ImageOut("image/png", "aWs="), Finish("stop"), End()],
    "foreign": [
        *START_EVENTS,
        ThinkingDelta("hm"),
        ThinkingSignature("x", "gemini"),
        ServerToolPart("gemini", {"a": 1}),
        TextDelta("Hi"),
        ToolCallStart(0, "a", "one"),
        _usage(2),
        Finish("tool_calls"),
        End(),
    ],
    "two thoughts": [
        *START_EVENTS,
        ThinkingDelta("a"),
        ThinkingSignature("s", "anthropic"),
        ThinkingSignature("t", "anthropic"),
        ThinkingDelta("b"),
        Finish("pause"),
        End(),
    ],
}


def _accumulated(stream: bytes) -> dict[str, Any]:
    """What the official SDK makes of a stream."""

    def answer(_request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream)

    with httpx2.Client(transport=httpx2.MockTransport(answer)) as http:
        client = anthropic.Anthropic(api_key="k", base_url="http://gateway", http_client=http, max_retries=0)
        messages: Any = [{"role": "user", "content": "hi"}]
        with client.messages.stream(model="m", max_tokens=5, messages=messages) as accumulating:
            plain: dict[str, Any] = _plain(accumulating.get_final_message().to_dict(warnings=False))
            return plain


def _plain(message: Any) -> Any:
    """A message without absent members, which the SDK spells as null, and without what it parsed itself."""
    if isinstance(message, dict):
        return {k: _plain(v) for k, v in message.items() if v is not None and k not in ("parsed_output",)}
    if isinstance(message, list):
        return [_plain(item) for item in message]
    return message


@pytest.mark.parametrize("name", WRITTEN)
def test_g58_a_whole_answer_is_what_the_sdk_accumulates_from_the_stream(name: str) -> None:
    events = WRITTEN[name]
    whole = _plain(json.loads(DIALECT.write_reply(events, facts())))
    found = _accumulated(streamed(events))
    # The SDK takes the lifetimes of cache writes from the first event only.
    for message in (whole, found):
        message["usage"].pop("cache_creation", None)
    assert found == whole
    assert whole["id"] == "msg_1"
    assert whole["model"] == "my-model"


@pytest.mark.parametrize("name", WRITTEN)
def test_g59_a_written_stream_obeys_the_grammar(name: str) -> None:
    frames = [frame.split("\n") for frame in streamed(WRITTEN[name]).decode().split("\n\n")[:-1]]
    events = [json.loads(lines[1].removeprefix("data: ")) for lines in frames]
    assert [lines[0] for lines in frames] == [f"event: {event['type']}" for event in events]
    kinds = [event["type"] for event in events]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("message_delta") == kinds.count("message_start") == kinds.count("message_stop") == 1
    assert "output_tokens" in events[-2]["usage"]
    opened, index = None, -1
    for event in events[1:-2]:
        if event["type"] == "content_block_start":
            assert opened is None
            opened, index = event["content_block"]["type"], index + 1
        assert event["index"] == index
        if event["type"] == "content_block_delta":
            assert event["delta"]["type"] in {
                "text": ("text_delta", "citations_delta"),
                "thinking": ("thinking_delta", "signature_delta"),
                "tool_use": ("input_json_delta",),
            }.get(str(opened), ())
        if event["type"] == "content_block_stop":
            opened = None
    assert opened is None


@pytest.mark.parametrize("name", [name for name in WRITTEN if name in EXPECTED and name != "search"])
def test_what_is_written_reads_back_to_the_same_answer(name: str) -> None:
    events = WRITTEN[name]
    assert _joined(events_of(DIALECT, streamed(events)))[1:] == _joined(events)[1:]
    whole = DIALECT.read_reply(DIALECT.write_reply(events, facts()))
    assert _joined(whole) == _joined(events_of(DIALECT, streamed(events)))


def _joined(events: list[Event]) -> list[Event]:
    """Neighbouring pieces as one, and only the last usage: how a whole answer differs from a stream."""
    last = max((index for index, event in enumerate(events) if isinstance(event, UsageSeen)), default=-1)
    result: list[Any] = []
    for index, event in enumerate(events):
        before = result[-1] if result else None
        if isinstance(event, UsageSeen) and index != last:
            continue
        if isinstance(event, TextDelta) and isinstance(before, TextDelta):
            result[-1] = TextDelta(before.text + event.text)
        elif isinstance(event, ThinkingDelta) and isinstance(before, ThinkingDelta):
            result[-1] = ThinkingDelta(before.text + event.text)
        elif isinstance(event, ToolCallDelta) and isinstance(before, ToolCallDelta):
            result[-1] = ToolCallDelta(event.index, (before.arguments + event.arguments).replace(" ", ""))
        else:
            result.append(event)
    return result


def test_one_event_is_one_write_and_only_the_ending_waits() -> None:
    writer = DIALECT.writer(facts())
    assert writer.feed(START_EVENTS[0]) == b""
    assert writer.feed(START_EVENTS[1]) == b""
    first = writer.feed(TextDelta("a"))
    assert first.count(b"event: ") == 3
    assert b'"input_tokens":12' in first
    assert writer.feed(TextDelta("b")).count(b"event: ") == 1
    assert writer.feed(Finish("stop")) == b""
    assert writer.finish().count(b"event: ") == 3


def test_a_stream_whose_usage_comes_last_begins_with_an_estimate_of_its_input() -> None:
    """anthropic.md, section 4: message_start has the estimated input."""
    asked = ChatRequest(model="claude", messages=[Message("user", (Text("a" * 400),))])
    writer = DIALECT.writer(ReplyFacts(id="msg_1", model="claude", created_s=0, request=asked))
    started = writer.feed(TextDelta("b"))
    assert b'"input_tokens":104' in started
    assert b'"output_tokens":0' in started
    writer.feed(UsageSeen(Usage(input_tokens=90, output_tokens=1, calls=1)))
    writer.feed(Finish("stop"))
    assert b'"input_tokens":90' in writer.finish()


def test_sequential_parallel_tools_stream_live() -> None:
    writer = DIALECT.writer(facts())
    writer.feed(ToolCallStart(0, "a", "one"))
    writer.feed(ToolCallDelta(0, "{}"))
    assert b'"name":"two"' in writer.feed(ToolCallStart(1, "b", "two"))
    assert b"partial_json" in writer.feed(ToolCallDelta(1, '{"x":'))


def test_a_call_names_its_caller() -> None:
    # ToolUseBlock.caller is required in Anthropic's SDKs for Java, Go and TypeScript; Java's raises without it.
    events: list[Event] = [ToolCallStart(0, "toolu_1", "f"), ToolCallDelta(0, "{}"), Finish("tool_calls")]
    [block] = json.loads(DIALECT.write_reply(events, facts()))["content"]
    assert block["caller"] == {"type": "direct"}
    assert _accumulated(streamed(events))["content"][0]["caller"] == {"type": "direct"}


def test_a_call_with_an_object_inside_is_not_over_before_its_own_end() -> None:
    writer = DIALECT.writer(facts())
    writer.feed(ToolCallStart(0, "a", "one"))
    writer.feed(ToolCallDelta(0, '{"x":{}'))
    assert b'"name":"two"' not in writer.feed(ToolCallStart(1, "b", "two"))
    assert b'"name":"two"' in writer.feed(ToolCallDelta(0, "}")) + writer.finish()


def test_every_signed_thought_is_a_block_of_its_own() -> None:
    thoughts: list[Event] = [
        *(ThinkingDelta("a"), ThinkingDelta("b"), ThinkingSignature("s", "anthropic")),
        *(ThinkingDelta("c"), ThinkingSignature("t", "anthropic")),
    ]
    written = json.loads(DIALECT.write_reply([*thoughts, TextDelta("d"), Finish("stop"), End()], facts()))
    assert written["content"] == [
        {"type": "thinking", "thinking": "ab", "signature": "s"},
        {"type": "thinking", "thinking": "c", "signature": "t"},
        {"type": "text", "text": "d"},
    ]


def test_a_source_stands_with_the_text_before_it_and_with_nothing_else() -> None:
    source = Citation("https://a.test", "A", "Sunny")
    said = json.loads(DIALECT.write_reply([TextDelta("Sunny."), source, Finish("stop"), End()], facts()))
    (text,) = said["content"]
    assert [one["url"] for one in text["citations"]] == ["https://a.test"]
    for before in ([], [ThinkingDelta("hm")]):
        unsaid = json.loads(DIALECT.write_reply([*before, source, TextDelta("a"), Finish("stop"), End()], facts()))
        assert not any("citations" in block for block in unsaid["content"])


def test_a_refusal_that_ran_into_its_limit_was_cut_by_it() -> None:
    for finish, word in ((Finish("stop"), "refusal"), (Finish("length"), "max_tokens")):
        assert (
            json.loads(DIALECT.write_reply([RefusalDelta("I cannot"), finish, End()], facts()))["stop_reason"] == word
        )


@pytest.mark.parametrize(
    ("finish", "word", "sequence"),
    [
        *((Finish("stop"), "end_turn", None), (Finish("stop_sequence", "END"), "stop_sequence", "END")),
        *((Finish("length"), "max_tokens", None), (Finish("content_filter"), "refusal", None)),
        *((Finish("refusal"), "refusal", None), (Finish("pause"), "pause_turn", None)),
    ],
)
def test_why_an_answer_ended_is_told_in_anthropics_words(finish: Finish, word: str, sequence: str | None) -> None:
    written = json.loads(DIALECT.write_reply([TextDelta("a"), finish, End()], facts()))
    assert (written["stop_reason"], written["stop_sequence"]) == (word, sequence)


def test_g56_a_failure_is_an_error_the_sdk_raises() -> None:
    writer = DIALECT.writer(facts())
    stream = writer.feed(TextDelta("Hi")) + writer.ping() + writer.fail(Failure(429, "weird_word", "Slow down."))
    with pytest.raises(anthropic.APIStatusError) as caught:
        _accumulated(stream)
    assert caught.value.body == {"type": "error", "error": {"type": "rate_limit_error", "message": "Slow down."}}


@pytest.mark.parametrize(
    ("status", "word"),
    [
        *((400, "invalid_request_error"), (401, "authentication_error"), (402, "billing_error")),
        *((403, "permission_error"), (404, "not_found_error"), (408, "timeout_error"), (413, "request_too_large")),
        *((418, "invalid_request_error"), (429, "rate_limit_error"), (500, "api_error"), (502, "api_error")),
        *((503, "overloaded_error"), (504, "timeout_error"), (529, "overloaded_error")),
    ],
)
def test_every_status_has_a_word(status: int, word: str) -> None:
    assert error_type(status) == word


def test_the_arguments_of_the_stand_in_for_a_schema_are_the_text() -> None:
    block = {"type": "tool_use", "id": "t", "name": OUTPUT_TOOL, "input": {"a": 1}}
    body = {"type": "message", "id": "m", "model": "c", "content": [block], "stop_reason": "tool_use"}
    assert DIALECT.read_reply(msgspec.json.encode(body))[1:] == [TextDelta('{"a":1}'), Finish("stop"), End()]
    stream = RECORDINGS["tool"].replace(b'"weather"', f'"{OUTPUT_TOOL}"'.encode())
    assert events_of(DIALECT, stream)[3:] == [
        TextDelta('{"city": "Pa'),
        TextDelta('ris"}'),
        _usage(30),
        Finish("stop"),
        End(),
    ]
