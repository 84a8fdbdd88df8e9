"""Responses answers: recordings read as events in any cut, events written for the official SDK, whole as streamed."""

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

from elkapi.clock import ManualClock
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
    Thinking,
    ThinkingDelta,
    ThinkingSignature,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolCallStart,
    UsageSeen,
)
from elkapi.translate.responses import DIALECT
from elkapi.translate.sse import Frame, SseDecoder
from elkapi.types import Usage
from tests.recordings import events_of, read_in_every_cut, recordings_of

RECORDINGS = recordings_of("responses")
START = Start("resp_1", "gpt-x")
SEEN = UsageSeen(Usage(input_tokens=8, cached_tokens=4, output_tokens=3, reasoning_tokens=2, calls=1))
SEARCHED = UsageSeen(Usage(input_tokens=8, cached_tokens=4, output_tokens=3, reasoning_tokens=2, searches=1, calls=1))
SEARCH = {"id": "ws_0", "type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}}

EXPECTED: dict[str, list[Event]] = {
    "text": [START, TextDelta("Hel"), TextDelta("lo é\n✓"), SEEN, Finish("stop"), End()],
    "data-only": [START, TextDelta("bare"), SEEN, Finish("stop"), End()],
    "terminal-only": [START, TextDelta("All at once"), SEEN, Finish("stop"), End()],
    "thinking": [
        START,
        ThinkingDelta("Let me"),
        ThinkingDelta(" think."),
        ThinkingDelta("\n\n"),
        ThinkingDelta("Done."),
        ThinkingSignature("gAAAenc", "responses"),
        TextDelta("42"),
        SEEN,
        Finish("stop"),
        End(),
    ],
    "reasoning-text": [START, ThinkingDelta("Hm."), TextDelta("Yes."), SEEN, Finish("stop"), End()],
    "tool": [
        START,
        ToolCallStart(0, "call_a", "weather"),
        ToolCallDelta(0, '{"city":'),
        ToolCallDelta(0, '"Rome"}'),
        SEEN,
        Finish("tool_calls"),
        End(),
    ],
    "parallel": [
        START,
        TextDelta("Both:"),
        ToolCallStart(0, "call_a", "weather"),
        ToolCallDelta(0, '{"city":"Rome"}'),
        ToolCallStart(1, "call_b", "weather"),
        ToolCallDelta(1, '{"city":'),
        ToolCallDelta(1, '"Oslo"}'),
        SEEN,
        Finish("tool_calls"),
        End(),
    ],
    "interleaved": [
        START,
        ToolCallStart(0, "call_a", "a"),
        ToolCallStart(1, "call_b", "b"),
        ToolCallDelta(0, '{"x"'),
        ToolCallDelta(1, '{"y"'),
        ToolCallDelta(0, ":1}"),
        ToolCallDelta(1, ":2}"),
        SEEN,
        Finish("tool_calls"),
        End(),
    ],
    "custom": [
        START,
        ToolCallStart(0, "call_p", "apply_patch", custom=True),
        ToolCallDelta(0, "*** Begin"),
        ToolCallDelta(0, " Patch\n"),
        SEEN,
        Finish("tool_calls"),
        End(),
    ],
    "whole-call": [
        START,
        ToolCallStart(0, "call_n", "files__read"),
        ToolCallDelta(0, '{"p":1}'),
        SEEN,
        Finish("tool_calls"),
        End(),
    ],
    "refusal": [START, RefusalDelta("I can"), RefusalDelta("not."), SEEN, Finish("refusal"), End()],
    "length": [START, TextDelta("Once upon"), SEEN, Finish("length"), End()],
    "filtered": [START, SEEN, Finish("content_filter"), End()],
    "empty": [START, SEEN, Finish("stop"), End()],
    "error-first": [Failure(429, "rate_limit_exceeded", "slow down")],
    "error-nested": [START, Failure(400, "context_length_exceeded", "too long")],
    "error-later": [START, TextDelta("par"), SEEN, Failure(500, "server_error", "it broke")],
    "usage-impossible": [START, TextDelta("x"), Finish("stop"), End()],
    "usage-elsewhere": [
        START,
        UsageSeen(Usage(input_tokens=3, calls=1)),
        TextDelta("x"),
        UsageSeen(Usage(input_tokens=3, output_tokens=1, calls=1)),
        Finish("stop"),
        End(),
    ],
    "tools-run": [
        START,
        ServerToolPart("responses", SEARCH),
        TextDelta("News.", (TokenLogprob("News", -0.5, (("Old", -1.5),)),)),
        Citation("https://example.org/a", "A", span=(0, 5)),
        ImageOut("image/webp", "aW1n"),
        SEARCHED,
        Finish("stop"),
        End(),
    ],
}


def _merged(events: Sequence[Event]) -> list[Event]:
    """Neighbouring deltas of one kind as one: what a whole answer can still tell."""
    merged: list[Event] = []
    calls: dict[int, str] = {}
    for event in events:
        last = merged[-1] if merged else None
        if isinstance(event, ToolCallDelta):
            calls[event.index] = calls.get(event.index, "") + event.arguments
            continue
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            merged[-1] = TextDelta(last.text + event.text, last.logprobs + event.logprobs)
        elif isinstance(event, ThinkingDelta) and isinstance(last, ThinkingDelta):
            merged[-1] = ThinkingDelta(last.text + event.text)
        elif isinstance(event, RefusalDelta) and isinstance(last, RefusalDelta):
            merged[-1] = RefusalDelta(last.text + event.text)
        else:
            merged.append(event)
    return merged + [ToolCallDelta(index, text) for index, text in sorted(calls.items())]


# --- read ------------------------------------------------------------------------------------------------------------


def test_every_recording_has_its_events_listed() -> None:
    assert RECORDINGS.keys() == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_every_recording_cut_at_every_byte_gives_the_same_events(name: str) -> None:
    read_in_every_cut(DIALECT, RECORDINGS[name], EXPECTED[name])


@pytest.mark.parametrize("name", [name for name in EXPECTED if not name.startswith(("error", "usage"))])
def test_the_object_of_the_terminal_event_reads_as_the_stream_did(name: str) -> None:
    frames = [frame for frame in SseDecoder().feed(RECORDINGS[name]) if frame.data and b'"usage":{' in frame.data]
    body = json.dumps(json.loads(frames[-1].data or b"")["response"]).encode()
    assert _merged(DIALECT.read_reply(body)) == _merged(EXPECTED[name])


def test_g47_usage_is_read_wherever_it_stands() -> None:
    usage = '"usage":{"input_tokens":1,"output_tokens":2}'
    seen = UsageSeen(Usage(input_tokens=1, output_tokens=2, calls=1))
    for data in (f'{{"type":"response.heartbeat",{usage}}}', f'{{"type":"new","response":{{{usage}}}}}'):
        assert DIALECT.reader().feed(Frame(b"", b"", data.encode()))[-1] == seen
        assert DIALECT.reader().feed(Frame(b"", b"response.new", data.encode()))[-1] == seen


@pytest.mark.parametrize("usage", ['{"input_tokens":-1,"output_tokens":1}', '{"input_tokens":"9"}', "[]", "{}", "1"])
def test_g21_impossible_usage_is_no_usage_and_costs_no_event(usage: str) -> None:
    data = f'{{"response":{{"id":"r","model":"m","status":"completed","output":[],"usage":{usage}}}}}'.encode()
    events = DIALECT.reader().feed(Frame(b"", b"response.completed", data))
    assert events == [Start("r", "m"), Finish("stop"), End()]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ('{"code":"context_length_exceeded"}', 400),
        ('{"type":"invalid_request_error","code":"odd"}', 400),
        ('{"code":"image_too_large"}', 400),
        ('{"code":"rate_limit_exceeded"}', 429),
        ('{"code":"server_error","status":502}', 502),
        ('{"code":529}', 529),
        ('{"code":17}', 500),
        ('"it broke"', 500),
        ("[1]", 500),
    ],
)
def test_in_band_errors_get_the_status_they_would_have_had(error: str, status: int) -> None:
    events = DIALECT.reader().feed(Frame(b"", b"error", f'{{"type":"error","error":{error}}}'.encode()))
    assert [event.status for event in events if isinstance(event, Failure)] == [status]
    if error.startswith("{"):
        body = f'{{"id":"r","status":"failed","output":[],"error":{error}}}'.encode()
        found = DIALECT.read_reply(body)[-1]
        assert isinstance(found, Failure)
        assert found.status == status


# The texts of an answer's messages, and the answer's text, with the place of a source of the last one.
MESSAGES: dict[str, tuple[list[str], str, tuple[int, int]]] = {
    "one": (["It is 4."], "It is 4.", (0, 8)),
    "a commentary": (["I add.", "It is 4."], "I add.\n\nIt is 4.", (8, 16)),
    "a blank line": (["I add.\n", "It is 4."], "I add.\nIt is 4.", (7, 15)),
    "a space": (["I add.", " It is 4."], "I add. It is 4.", (6, 14)),
    "none between": (["I add.", "", "It is 4."], "I add.\n\nIt is 4.", (8, 16)),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_the_messages_of_an_answer_are_paragraphs(case: str) -> None:
    """Later GPT models comment on their work before the final answer, and other dialects have one text."""
    texts, whole, span = MESSAGES[case]
    source = {"type": "url_citation", "url": "https://a.example", "start_index": 0, "end_index": 8}
    output: list[dict[str, Any]] = []
    frames: list[tuple[str, dict[str, Any]]] = []
    for index, text in enumerate(texts):
        sources = [source] if index == len(texts) - 1 else []
        part = {"type": "output_text", "text": text, "annotations": sources}
        item = {"type": "message", "id": f"m{index}", "role": "assistant", "content": [part]}
        output.append(item)
        at = {"output_index": index, "content_index": 0}
        frames += [
            ("output_item.added", {"output_index": index, "item": {**item, "content": []}}),
            ("content_part.added", {**at, "part": {**part, "text": "", "annotations": []}}),
            *(("output_text.delta", {**at, "delta": piece}) for piece in (text[:3], text[3:])),
            *(("output_text.annotation.added", {**at, "annotation": one}) for one in sources),
            ("output_item.done", {"output_index": index, "item": item}),
        ]
    response = {"id": "r", "status": "completed", "model": "m", "output": output}
    reader = DIALECT.reader()
    streamed = [
        event
        for kind, members in [*frames, ("completed", {"response": response})]
        for event in reader.feed(Frame(b"", f"response.{kind}".encode(), json.dumps(members).encode()))
    ]
    for events in (streamed, DIALECT.read_reply(json.dumps(response).encode())):
        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == whole
        assert [event.span for event in events if isinstance(event, Citation)] == [span]


def test_a_background_response_that_is_not_done_has_no_end() -> None:
    assert DIALECT.read_reply(b'{"id":"r","model":"m","status":"queued","output":[]}') == [Start("r", "m")]


@pytest.mark.parametrize("data", [b"<html>", b"[]", b"1", b"", b'{"delta":1}', b'{"response":3}', b"\xff"])
def test_a_frame_that_is_not_of_the_dialect_is_unreadable(data: bytes) -> None:
    for event in (b"response.output_text.delta", b"response.completed", b"response.output_item.done"):
        with pytest.raises(Unreadable):
            DIALECT.reader().feed(Frame(b"", event, data))
    with pytest.raises(Unreadable):
        DIALECT.read_reply(data)


_MEMBERS = (
    *("type", "response", "item", "output", "output_index", "delta", "usage", "error", "status", "code", "message"),
    *("input_tokens", "output_tokens", "content", "summary", "encrypted_content", "text", "call_id", "name"),
    *("arguments", "annotations", "annotation", "tool_usage", "web_search", "num_requests", "logprobs", "token"),
)
_TYPES = (
    *("response.created", "response.output_item.added", "response.output_item.done", "response.completed", "error"),
    *("response.output_text.delta", "response.function_call_arguments.delta", "message", "reasoning", "function_call"),
    *("response.reasoning_summary_part.added", "response.output_text.annotation.added", "failed", "web_search_call"),
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(_TYPES) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_MEMBERS), inner, max_size=5),
    max_leaves=12,
)


@given(st.lists(st.tuples(st.sampled_from(("", *_TYPES)), _json), max_size=4))
def test_the_reader_raises_nothing_but_unreadable(frames: list[tuple[str, Any]]) -> None:
    reader = DIALECT.reader()
    for event, value in frames:
        data = json.dumps(value).encode()
        with contextlib.suppress(Unreadable):
            reader.feed(Frame(b"", event.encode(), data))
        with contextlib.suppress(Unreadable):
            DIALECT.read_reply(data)


# --- written ---------------------------------------------------------------------------------------------------------

PATCH = Tool("apply_patch", custom=True, format={"type": "grammar", "syntax": "lark", "definition": "start: x"})
REQUEST = ChatRequest(
    model="m",
    messages=[Message("user", (Text("hi"),))],
    tools=(Tool("weather", schema={"type": "object", "properties": {}}), PATCH, Tool("files__read")),
    logprobs=True,
    dialect="responses",
    extra={
        "instructions": "Be brief.",
        "store": False,
        "namespaces": {"files__read": {"namespace": "files", "name": "read", "description": "d"}},
    },
    system=(Text("An operator's own words"), Text("Be brief.")),
)
FACTS = ReplyFacts("resp_ab", "m", 1_700_000_000, REQUEST)

WRITTEN: dict[str, list[Event]] = {
    **{
        name: events
        for name, events in EXPECTED.items()
        if not isinstance(events[-1], Failure) and name not in ("length", "filtered")
    },
    "anthropic thinking": [
        Start("msg_1", "claude"),
        ThinkingDelta("Let "),
        ThinkingDelta("me."),
        ThinkingSignature("c2ln", "anthropic"),
        RedactedThinking("b3Bh"),
        TextDelta("Hi"),
        ToolCallStart(0, "toolu_1", "weather"),
        ToolCallDelta(0, "{}"),
        SEEN,
        Finish("tool_calls"),
        End(),
    ],
    "gemini signatures": [
        Start("g", "gemini"),
        ToolCallStart(0, "call_0", "weather", signature="dGhv", signed_by="gemini"),
        ToolCallDelta(0, '{"a":1}'),
        ToolCallStart(1, "call_1", "files__read"),
        Finish("tool_calls"),
        End(),
    ],
    "a custom tool as a function": [
        Start("x", "y"),
        ToolCallStart(0, "call_0", "apply_patch"),
        ToolCallDelta(0, '{"input":"*** Begin'),
        ToolCallDelta(0, '\\n"}'),
        Finish("tool_calls"),
        End(),
    ],
    "text between calls": [
        TextDelta("a"),
        ToolCallStart(0, "call_0", "weather"),
        ToolCallDelta(0, '{"a":'),
        TextDelta("b"),
        ToolCallDelta(0, "1}"),
        ThinkingDelta("c"),
        TextDelta("d"),
        Finish("tool_calls"),
        End(),
    ],
    "refused without words": [Start("x", "y"), Finish("refusal", explanation="Not that."), End()],
    "nothing": [],
}


def _written(events: Sequence[Event], facts: ReplyFacts = FACTS) -> tuple[bytes, list[dict[str, Any]]]:
    writer = DIALECT.writer(facts)
    stream = b"".join(writer.feed(event) for event in events) + writer.finish()
    return stream, [json.loads(frame.data) for frame in SseDecoder().feed(stream) if frame.data]


def _sdk(stream: bytes) -> openai.OpenAI:
    reply = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream)
    http = httpx2.Client(transport=httpx2.MockTransport(lambda _request: reply))
    return openai.OpenAI(api_key="sk-test", base_url="http://gateway/v1", http_client=http, max_retries=0)


def _without_parsed(value: Any) -> Any:
    """The SDK adds what it made of texts and arguments."""
    if isinstance(value, list):
        return [_without_parsed(row) for row in value]
    if not isinstance(value, dict):
        return value
    return {name: _without_parsed(row) for name, row in value.items() if name not in ("parsed", "parsed_arguments")}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_the_official_sdk_accumulates_is_the_whole_answer(name: str) -> None:
    stream, _ = _written(WRITTEN[name])
    whole = json.loads(DIALECT.write_reply(WRITTEN[name], FACTS))
    with _sdk(stream) as client, client.responses.stream(model="m", input="hi") as streamed:
        types = [event.type for event in streamed]
        final = streamed.get_final_response()
    assert types[:2] == ["response.created", "response.in_progress"]
    assert final.to_dict(exclude_unset=True, mode="json")["usage"] == whole["usage"]
    assert _without_parsed([item.to_dict() for item in final.output]) == whole["output"]
    assert final.status == whole["status"] == "completed"


@pytest.mark.parametrize("name", [*WRITTEN, "length", "filtered"])
def test_the_terminal_event_holds_the_whole_answer(name: str) -> None:
    events = WRITTEN.get(name, EXPECTED.get(name, []))
    _, frames = _written(events)
    assert frames[-1]["response"] == json.loads(DIALECT.write_reply(events, FACTS))
    assert all(frame["response"]["usage"] is None for frame in frames[:-1] if "response" in frame)


@pytest.mark.parametrize(("name", "seconds"), [("anthropic thinking", 5), ("length", None), ("filtered", None)])
def test_only_a_completed_response_tells_when_it_was_completed(name: str, seconds: int | None) -> None:
    clock = ManualClock()
    begun_s = clock.now_ns() // 1_000_000_000
    writer = DIALECT.writer(msgspec.structs.replace(FACTS, created_s=begun_s, clock=clock))
    stream = b"".join(writer.feed(event) for event in WRITTEN.get(name, EXPECTED.get(name, [])))
    clock.advance(5)
    frames = [json.loads(frame.data) for frame in SseDecoder().feed(stream + writer.finish()) if frame.data]
    told = [frame["response"]["completed_at"] for frame in frames if "response" in frame]
    assert told == [None, None, None if seconds is None else begun_s + seconds]


@pytest.mark.parametrize("name", [*WRITTEN, "length"])
def test_g59_the_stream_obeys_the_grammar(name: str) -> None:
    events = WRITTEN.get(name, EXPECTED.get(name, []))
    stream, frames = _written(events)
    assert [frame["sequence_number"] for frame in frames] == list(range(len(frames)))
    assert [frame.event.decode() for frame in SseDecoder().feed(stream)] == [frame["type"] for frame in frames]
    added: list[int] = []
    done: set[int] = set()
    parts: set[tuple[int, int]] = set()
    texts: dict[tuple[int, int], str] = {}
    for frame in frames:
        kind, index = frame["type"], frame.get("output_index")
        if kind == "response.output_item.added":
            assert index == len(added)
            added.append(index)
        elif index is not None:
            assert index in added
            assert index not in done
        if kind == "response.output_item.done":
            done.add(frame["output_index"])
        if kind == "response.content_part.added":
            parts.add((frame["output_index"], frame["content_index"]))
        if kind in ("response.output_text.delta", "response.refusal.delta"):
            place = (frame["output_index"], frame["content_index"])
            assert place in parts
            texts[place] = texts.get(place, "") + frame["delta"]
        if kind == "response.content_part.done":
            place = (frame["output_index"], frame["content_index"])
            assert texts.get(place, "") == frame["part"].get("text", frame["part"].get("refusal"))
    assert done == set(added)
    finished = {
        frame["output_index"]: frame["item"] for frame in frames if frame["type"] == "response.output_item.done"
    }
    output = frames[-1]["response"]["output"]
    assert [finished[index] for index in added] == output
    for index, item in enumerate(output):
        if item["type"] in ("function_call", "custom_tool_call"):
            deltas = [frame for frame in frames if frame.get("output_index") == index and "delta" in frame]
            assert "".join(frame["delta"] for frame in deltas) == item.get("arguments", item.get("input"))


@pytest.mark.parametrize("name", [name for name in WRITTEN if name not in ("nothing", "text between calls")])
def test_what_is_written_reads_back_as_the_same_answer(name: str) -> None:
    stream, _ = _written(WRITTEN[name])
    back = events_of(DIALECT, stream)
    again, _ = _written(back)
    assert again == stream or _merged(events_of(DIALECT, again)) == _merged(back)
    kinds = (ThinkingSignature, RedactedThinking, ToolCallStart, ImageOut, ServerToolPart)
    wanted = [event for event in WRITTEN[name] if isinstance(event, kinds)]
    got = [event for event in back if isinstance(event, kinds)]
    if name != "a custom tool as a function":
        assert got == wanted


def test_a_custom_tool_that_was_called_as_a_function_gives_its_free_text() -> None:
    whole = json.loads(DIALECT.write_reply(WRITTEN["a custom tool as a function"], FACTS))
    (call,) = whole["output"]
    assert (call["type"], call["name"], call["input"]) == ("custom_tool_call", "apply_patch", "*** Begin\n")


def test_a_call_of_a_namespaced_tool_names_its_namespace_and_has_arguments() -> None:
    whole = json.loads(DIALECT.write_reply(WRITTEN["gemini signatures"], FACTS))
    call = whole["output"][-1]
    assert (call["namespace"], call["name"], call["arguments"]) == ("files", "read", "{}")


def test_g58_interleaved_arguments_stay_with_their_calls() -> None:
    whole = json.loads(DIALECT.write_reply(WRITTEN["text between calls"], FACTS))
    assert [item["type"] for item in whole["output"]] == ["message", "function_call", "message", "reasoning", "message"]
    assert whole["output"][1]["arguments"] == '{"a":1}'


@pytest.mark.parametrize(
    ("reason", "status", "details"),
    [
        ("stop", "completed", None),
        ("stop_sequence", "completed", None),
        ("tool_calls", "completed", None),
        ("pause", "completed", None),
        ("refusal", "completed", None),
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "incomplete", {"reason": "content_filter"}),
    ],
)
def test_every_reason_to_stop_has_its_status(reason: Any, status: str, details: Any) -> None:
    _, frames = _written([Start("a", "b"), TextDelta("x"), Finish(reason), End()])
    assert frames[-1]["type"] == f"response.{status}"
    assert (frames[-1]["response"]["status"], frames[-1]["response"]["incomplete_details"]) == (status, details)


def test_a_refusal_without_words_is_still_a_refusal_to_the_caller() -> None:
    whole = json.loads(DIALECT.write_reply(WRITTEN["refused without words"], FACTS))
    assert whole["output"][0]["content"] == [{"type": "refusal", "refusal": "Not that."}]


def test_an_answer_cut_in_a_call_leaves_its_arguments_incomplete() -> None:
    events: list[Event] = [
        Start("a", "b"),
        ToolCallStart(0, "c", "weather"),
        ToolCallDelta(0, '{"a"'),
        Finish("length"),
        End(),
    ]
    (call,) = json.loads(DIALECT.write_reply(events, FACTS))["output"]
    assert (call["status"], call["arguments"]) == ("incomplete", '{"a"')


def test_g56_a_failure_ends_in_an_event_on_which_the_sdk_raises() -> None:
    failure = Failure(503, "their_word", "The upstream broke off.")
    begun: list[Event] = [Start("a", "b"), ThinkingDelta("h"), TextDelta("par")]
    for events in ([], begun):
        writer = DIALECT.writer(FACTS)
        stream = b"".join(writer.feed(event) for event in events) + writer.fail(failure)
        assert b"their_word" not in stream
        assert b"response.completed" not in stream
        with _sdk(stream) as client, client.responses.create(model="m", input="hi", stream=True) as streamed:
            with pytest.raises(openai.APIError, match=r"The upstream broke off\."):
                list(streamed)
    assert b'"type":"response.failed"' in stream


def test_log_probabilities_are_told_with_every_piece_of_the_text() -> None:
    pieces = [TextDelta(word, (TokenLogprob(word, -0.5),)) for word in ("a", "b")]
    writer = DIALECT.writer(FACTS)
    frames = SseDecoder().feed(b"".join([*(writer.feed(piece) for piece in pieces), writer.finish()]))
    events = [json.loads(frame.data or b"") for frame in frames]
    told = [event["logprobs"] for event in events if event["type"] == "response.output_text.delta"]
    assert [[row["token"] for row in rows] for rows in told] == [["a"], ["b"]]
    (message,) = events[-1]["response"]["output"]
    assert [row["token"] for row in message["content"][0]["logprobs"]] == ["a", "b"]


def test_a_token_has_its_bytes_and_the_likeliest_ones_at_its_place() -> None:
    row = TokenLogprob("é", -0.5, (("é", -0.5), ("e", -1.0)))
    (message,) = json.loads(DIALECT.write_reply([TextDelta("é", (row,))], FACTS))["output"]
    shown = {"token": "é", "bytes": [0xC3, 0xA9], "logprob": -0.5}
    assert message["content"][0]["logprobs"] == [
        {**shown, "top_logprobs": [shown, {"token": "e", "bytes": [0x65], "logprob": -1.0}]}
    ]


@pytest.mark.parametrize(("passage", "place"), [("b", (4, 5)), ("b a", (0, 3)), ("x", (5, 5)), ("", (5, 5))])
def test_a_source_stands_where_its_words_were_last_said(passage: str, place: tuple[int, int]) -> None:
    events: list[Event] = [TextDelta("b a b"), Citation("https://x.example", "t", passage=passage), TextDelta(" b")]
    (message,) = json.loads(DIALECT.write_reply(events, FACTS))["output"]
    (source,) = message["content"][0]["annotations"]
    assert (source["start_index"], source["end_index"]) == place


def test_a_ping_is_a_comment_that_the_sdk_passes_over() -> None:
    writer = DIALECT.writer(FACTS)
    stream = writer.feed(Start("a", "b")) + writer.ping() + writer.feed(TextDelta("x")) + writer.ping()
    with _sdk(stream + writer.finish()) as client, client.responses.stream(model="m", input="hi") as streamed:
        assert streamed.get_final_response().output_text == "x"


def test_the_echo_is_what_the_caller_said_and_nothing_an_operator_added() -> None:
    whole = json.loads(DIALECT.write_reply(WRITTEN["nothing"], FACTS))
    assert whole["instructions"] == "Be brief."
    assert whole["store"] is False
    assert [tool["type"] for tool in whole["tools"]] == ["function", "custom", "namespace"]
    assert b"operator" not in DIALECT.write_reply([], FACTS)


def test_a_response_repeats_every_setting_that_it_was_asked_with() -> None:
    asked: dict[str, Any] = {
        "background": True,
        "conversation": {"id": "conv_1"},
        "instructions": "Be brief.",
        "max_output_tokens": 9,
        "max_tool_calls": 3,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "previous_response_id": "resp_0",
        "prompt": {"id": "p"},
        "prompt_cache_key": "k",
        "prompt_cache_options": {"ttl": "30m"},
        "prompt_cache_retention": "24h",
        "reasoning": {"effort": "low", "summary": "auto"},
        "safety_identifier": "s",
        "store": False,
        "temperature": 0.0,
        "text": {"format": {"type": "json_object"}, "verbosity": "low"},
        "tool_choice": {"type": "web_search"},
        "tools": [{"type": "function", "name": "f", "description": "d", "parameters": {}, "strict": True}],
        "top_logprobs": 2,
        "top_p": 0.0,
        "truncation": "auto",
        "user": "u",
    }
    for more in ({}, {"conversation": "conv_1"}, {"include": ["message.output_text.logprobs"]}):
        request = DIALECT.read_request(json.dumps({"model": "m", "input": "hi", **asked, **more}).encode())
        whole = json.loads(DIALECT.write_reply([], msgspec.structs.replace(FACTS, request=request)))
        assert {name: whole[name] for name in asked} == asked
    for told, shown in (("priority", "priority"), ("on_demand", "default"), ("", "default")):
        request = DIALECT.read_request(b'{"model":"m","input":"hi","service_tier":"flex"}')
        facts = msgspec.structs.replace(FACTS, request=request)
        whole = json.loads(DIALECT.write_reply([Finish("stop", tier=told)], facts))
        assert whole["service_tier"] == shown
    for choice in ("none", {"type": "function", "name": "f"}):
        request = DIALECT.read_request(json.dumps({"model": "m", "input": "hi", "tool_choice": choice}).encode())
        whole = json.loads(DIALECT.write_reply([], msgspec.structs.replace(FACTS, request=request)))
        unasked = [whole[name] for name in ("text", "metadata", "tools", "temperature", "top_p", "truncation")]
        assert (whole["tool_choice"], unasked) == (choice, [{"format": {"type": "text"}}, {}, [], 1.0, 1.0, "disabled"])


@pytest.mark.parametrize(
    ("status", "code"), [(400, "invalid_prompt"), (429, "rate_limit_exceeded"), (503, "server_error")]
)
def test_a_failed_response_has_a_code_that_the_dialect_knows(status: int, code: str) -> None:
    writer = DIALECT.writer(FACTS)
    writer.feed(TextDelta("par"))
    frames = SseDecoder().feed(writer.fail(Failure(status, "their_word", "The upstream broke off.")))
    failed, raised = (json.loads(frame.data or b"") for frame in frames)
    assert (failed["response"]["status"], failed["response"]["error"]["code"], raised["code"]) == ("failed", code, code)


def test_thinking_signed_elsewhere_comes_back_to_its_signer_through_a_stateless_client() -> None:
    output = json.loads(DIALECT.write_reply(WRITTEN["anthropic thinking"], FACTS))["output"]
    body = {"model": "m", "store": False, "input": [{"role": "user", "content": "hi"}, *output]}
    message = DIALECT.read_request(json.dumps(body).encode()).messages[1]
    assert message.parts == (
        Thinking("Let me.", "c2ln", "anthropic"),
        Thinking(redacted="b3Bh", signed_by="anthropic"),
        Text("Hi"),
        ToolCall("toolu_1", "weather", "{}"),
    )


def test_a_thought_signature_comes_back_on_its_call() -> None:
    output = json.loads(DIALECT.write_reply(WRITTEN["gemini signatures"], FACTS))["output"]
    body = {"model": "m", "input": [{"role": "user", "content": "hi"}, *output]}
    message = DIALECT.read_request(json.dumps(body).encode()).messages[1]
    assert message.parts == (
        ToolCall("call_0", "weather", '{"a":1}', signature="dGhv", signed_by="gemini"),
        ToolCall("call_1", "files__read", "{}"),
    )
