"""Legacy completions: bounds of relayed calls, the meter, and serving them from a chat model."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elkapi.errors import BadRequest
from elkapi.translate import completions
from elkapi.translate.completions import CompletionsReader, CompletionsWriter, read_request, write_reply
from elkapi.translate.dialect import ReplyFacts, Unreadable
from elkapi.translate.ir import (
    ChatRequest,
    End,
    Event,
    Failure,
    Finish,
    Message,
    Start,
    Text,
    TextDelta,
    ThinkingDelta,
    TokenLogprob,
    UsageSeen,
)
from elkapi.translate.sse import Frame, SseDecoder
from elkapi.types import Usage

STREAM = (
    b'data: {"id":"cmpl-1","object":"text_completion","model":"x","choices":[{"text":"Hel","index":0,'
    b'"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
    b'data: {"id":"cmpl-1","object":"text_completion","model":"x","choices":[{"text":"lo","index":1,'
    b'"finish_reason":"length"}]}\n\n'
    b'data: {"id":"cmpl-1","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\n'
    b"data: [DONE]\n\n"
)
EVENTS = [
    Start("cmpl-1", "x"),
    TextDelta("Hel"),
    TextDelta("lo"),
    Finish("length"),
    UsageSeen(Usage(input_tokens=3, output_tokens=2, calls=1)),
    End(),
]


def _body(**members: Any) -> bytes:
    return json.dumps({"model": "m", "prompt": "héy", **members}).encode()


def test_every_cut_of_a_stream_gives_the_same_events() -> None:
    for cut in range(len(STREAM)):
        decoder, reader = SseDecoder(), CompletionsReader()
        frames = decoder.feed(STREAM[:cut]) + decoder.feed(STREAM[cut:])
        assert [event for frame in frames for event in reader.feed(frame)] == EVENTS


def test_a_whole_completion_is_metered_and_errors_inside_are_failures() -> None:
    body = b'{"choices":[{"text":"a","finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
    usage = UsageSeen(Usage(input_tokens=1, output_tokens=1, calls=1))
    assert completions.read_reply(body) == [Start("", ""), TextDelta("a"), usage, Finish("stop"), End()]
    failed = b'{"error":{"message":"no","type":"rate_limit_error"}}'
    assert completions.read_reply(failed) == [Failure(429, "rate_limit_error", "no")]
    assert CompletionsReader().feed(Frame(b"", b"", failed)) == [Failure(429, "rate_limit_error", "no")]
    for bad in (b"{}", b"<html>", b'{"choices":[{"text":3}]}'):
        with pytest.raises(Unreadable):
            completions.read_reply(bad)


@given(st.binary(max_size=40))
def test_the_reader_raises_nothing_but_unreadable(data: bytes) -> None:
    for frame in (data, b'{"choices":[{"text":"' + data + b'"}]}'):
        with contextlib.suppress(Unreadable):
            CompletionsReader().feed(Frame(b"", b"", frame))


def test_a_prompt_becomes_one_message_of_the_user() -> None:
    request = read_request(_body(max_tokens=9, temperature=0.5, stop="x", logprobs=2, user="u"))
    assert request.messages == [Message("user", (Text("héy"),))]
    assert (request.max_output_tokens, request.temperature, request.stop, request.user) == (9, 0.5, ("x",), "u")
    assert (request.logprobs, request.top_logprobs) == (True, 2)
    assert read_request(_body()).max_output_tokens == 16


def test_a_list_of_one_prompt_is_that_prompt() -> None:
    """So asks LangChain's `OpenAI`, whatever its caller gave it."""
    assert read_request(_body(prompt=["héy"])) == read_request(_body())


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1]}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"echo": True}, "echo"),
        ({"n": 2}, "n"),
        ({"best_of": 2}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_what_a_chat_model_cannot_complete_is_refused(members: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_request(_body(**members))
    assert refused.value.param == param


ANSWER: list[Event] = [
    Start("up", "up"),
    ThinkingDelta("hm"),
    TextDelta("Hi", (TokenLogprob("Hi", -0.5, (("Hi", -0.5),)),)),
    TextDelta(" you", (TokenLogprob(" you", -0.25),)),
    UsageSeen(Usage(input_tokens=3, output_tokens=2, calls=1)),
    Finish("length"),
    End(),
]


def _facts(include_usage: bool = True) -> ReplyFacts:
    return ReplyFacts("cmpl-9", "m", 1_700_000_000, ChatRequest(model="m", messages=[], logprobs=True), include_usage)


def _client(body: bytes, kind: str) -> openai.OpenAI:
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers={"content-type": kind}, content=body))
    http = httpx2.Client(transport=transport)
    return openai.OpenAI(api_key="sk-x", base_url="http://gateway.test/v1", http_client=http, max_retries=0)


def _stream(events: Sequence[Event], facts: ReplyFacts) -> bytes:
    writer = CompletionsWriter(facts)
    return b"".join(writer.feed(event) for event in events) + writer.ping() + writer.finish()


def test_the_sdk_reads_the_stream_as_the_whole_answer() -> None:
    with _client(_stream(ANSWER, _facts()), "text/event-stream") as client:
        chunks = list(client.completions.create(model="m", prompt="q", stream=True))
    with _client(write_reply(ANSWER, _facts()), "application/json") as client:
        whole = client.completions.create(model="m", prompt="q")
    assert whole.choices[0].text == "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == "Hi you"
    assert whole.usage == chunks[-1].usage
    assert whole.choices[0].finish_reason == chunks[-2].choices[0].finish_reason == "length"
    assert whole.choices[0].logprobs is not None
    assert whole.choices[0].logprobs.text_offset == [0, 2]
    second = chunks[1].choices[0].logprobs
    assert second is not None
    assert second.text_offset == [2]


def test_usage_is_sent_only_when_it_was_asked_for() -> None:
    assert b'"usage"' not in _stream(ANSWER, _facts(include_usage=False))
    assert _stream(ANSWER, _facts()).endswith(b"data: [DONE]\n\n")


def test_g56_a_failed_completion_makes_the_sdk_raise() -> None:
    writer = CompletionsWriter(_facts())
    stream = writer.feed(TextDelta("Hal")) + writer.fail(Failure(502, "their_word", "The answer was cut."))
    assert b"their_word" not in stream
    with _client(stream, "text/event-stream") as client, pytest.raises(openai.APIError, match="was cut"):
        list(client.completions.create(model="m", prompt="q", stream=True))


def test_an_answer_without_content_is_a_valid_answer() -> None:
    assert json.loads(write_reply([], _facts()))["choices"][0] == {
        "text": "",
        "index": 0,
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert b'"finish_reason":"stop"' in _stream([], _facts())


@pytest.mark.parametrize(
    ("members", "repeated"),
    [
        ({"prompt": "a"}, ([], 0, 0)),
        ({"prompt": "a", "echo": False}, ([], 0, 0)),
        ({"prompt": "a", "echo": True}, (["a"], 0, 1)),
        ({"prompt": ["a", "b"], "echo": True, "n": 3}, (["a", "b"], 0, 3)),
        ({"prompt": [1, 2, 3], "echo": True}, ([], 3, 1)),
        ({"prompt": [[1, 2], [3]], "echo": True, "n": 2}, ([], 3, 2)),
    ],
)
def test_what_an_answer_repeats_of_its_prompts_is_known(
    members: dict[str, Any], repeated: tuple[list[str], int, int]
) -> None:
    """It is output too, where the gateway itself has to count."""
    assert completions.echoed(json.dumps({"model": "m", **members}).encode()) == repeated


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        *(("stop", "stop"), ("stop_sequence", "stop"), ("pause", "stop"), ("tool_calls", "stop")),
        *(("length", "length"), ("content_filter", "content_filter"), ("refusal", "content_filter")),
    ],
)
def test_why_a_completion_ended_is_told_in_its_words(reason: Any, word: str) -> None:
    written = json.loads(write_reply([TextDelta("a"), Finish(reason)], _facts()))
    assert written["choices"][0]["finish_reason"] == word
    writer = CompletionsWriter(_facts())
    assert writer.feed(Finish(reason)) == b""
    assert f'"finish_reason":"{word}"'.encode() in writer.finish()


def test_a_completion_says_what_it_is() -> None:
    head = {"id": "cmpl-9", "object": "text_completion", "created": 1_700_000_000, "model": "m"}
    whole = json.loads(write_reply(ANSWER, _facts()))
    chunk = json.loads(CompletionsWriter(_facts()).feed(TextDelta("a")).removeprefix(b"data: "))
    assert [{name: said.get(name) for name in head} for said in (whole, chunk)] == [head, head]


def test_the_places_of_tokens_go_on_through_a_stream() -> None:
    pieces = [TextDelta("Hé", (TokenLogprob("Hé", -0.5, (("Hé", -0.5),)),)), TextDelta("!", (TokenLogprob("!", -1.0),))]
    whole = json.loads(write_reply(pieces, _facts()))["choices"][0]["logprobs"]
    assert whole == {
        "tokens": ["Hé", "!"],
        "token_logprobs": [-0.5, -1.0],
        "top_logprobs": [{"Hé": -0.5}, {}],
        "text_offset": [0, 2],
    }
    writer = CompletionsWriter(_facts())
    chunks = [json.loads(writer.feed(piece).removeprefix(b"data: ")) for piece in pieces]
    assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks] == [[0], [2]]
