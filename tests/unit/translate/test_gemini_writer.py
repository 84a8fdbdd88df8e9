"""Gemini's answers as google-genai reads them: streamed equals whole, errors raise, pings pass unseen."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from google import genai
from google.genai import errors, types

from elkapi.translate import ir
from elkapi.translate.dialect import ReplyFacts
from elkapi.translate.dialect import Writer as AnyWriter
from elkapi.translate.gemini import DIALECT
from elkapi.translate.gemini_write import UNSIGNED_BYTES
from elkapi.translate.gemini_writer import ArrayWriter
from elkapi.translate.sse import SseDecoder
from elkapi.types import Usage

USAGE = ir.UsageSeen(Usage(input_tokens=10, cached_tokens=5, output_tokens=7, reasoning_tokens=3, calls=1))


def _facts(**members: Any) -> ReplyFacts:
    members.setdefault("reasoning", ir.Reasoning(visible=True))
    return ReplyFacts("reply-1", "my-model", 0, ir.ChatRequest(model="", messages=[], dialect="gemini", **members))


def _call(index: int, id_: str, name: str, *pieces: str) -> list[ir.Event]:
    return [ir.ToolCallStart(index, id_, name), *(ir.ToolCallDelta(index, piece) for piece in pieces)]


ANSWERS: dict[str, list[ir.Event]] = {
    "text": [ir.Start("x", "u"), ir.TextDelta("Hel"), ir.TextDelta("lo \u2028 wörld"), USAGE, ir.Finish("stop")],
    "thinking": [ir.ThinkingDelta("Let me"), ir.ThinkingDelta(" see"), ir.TextDelta("42"), USAGE, ir.Finish("stop")],
    "foreign signature": [
        ir.ThinkingDelta("hm"),
        ir.ThinkingSignature("c2ln", "anthropic"),
        ir.RedactedThinking("x"),
        ir.TextDelta("42"),
        ir.Finish("stop"),
    ],
    "tool": [*_call(0, "toolu_1", "f", '{"ci', 'ty":"Ulm"}'), USAGE, ir.Finish("tool_calls")],
    "parallel": [
        ir.TextDelta("Two."),
        *_call(0, "a", "f", '{"n":', "1}"),
        *_call(1, "b", "f"),
        *_call(2, "c", "g", "{}"),
        ir.Finish("tool_calls"),
    ],
    "interleaved": [
        ir.ToolCallStart(0, "a", "f"),
        ir.ToolCallStart(1, "b", "g"),
        ir.ToolCallDelta(0, '{"n"'),
        ir.ToolCallDelta(1, '{"m"'),
        ir.ToolCallDelta(0, ":1}"),
        ir.ToolCallDelta(1, ":2}"),
        ir.Finish("tool_calls"),
    ],
    "text after a call": [*_call(0, "a", "f", "{}"), ir.TextDelta("and"), ir.TextDelta(" so"), ir.Finish("tool_calls")],
    "refusal": [ir.RefusalDelta("I can"), ir.RefusalDelta("not."), ir.Finish("refusal", explanation="No.")],
    "length": [ir.TextDelta("One"), ir.Finish("length")],
    "cut call": [ir.TextDelta("One"), *_call(0, "a", "f", '{"n":'), ir.Finish("length")],
    "image": [ir.TextDelta("Here"), ir.ImageOut("image/png", "iVBORw0KGgo="), ir.Finish("stop")],
    "cited": [
        ir.TextDelta("Sunny."),
        ir.Citation("https://a.test/", "A", passage="Sunny."),
        ir.Citation("https://b.test/", "B"),
        ir.Finish("stop"),
    ],
    "code": [
        ir.ServerToolPart("gemini", {"executableCode": {"language": "PYTHON", "code": "1"}}),
        ir.ServerToolPart("anthropic", {"type": "server_tool_use"}),
        ir.TextDelta("1"),
        ir.Finish("stop"),
    ],
    "log probabilities": [
        ir.TextDelta("Hi", (ir.TokenLogprob("Hi", -0.5, (("Hi", -0.5),)),)),
        ir.TextDelta(" you", (ir.TokenLogprob(" you", -0.25, ()),)),
        ir.Finish("stop"),
    ],
    "empty": [ir.Start("x", "u"), ir.Finish("stop")],
    "nothing at all": [],
}


def _stream(events: list[ir.Event], facts: ReplyFacts) -> bytes:
    writer = DIALECT.writer(facts)
    fed = [writer.ping() + writer.feed(event) for event in events]
    return b"".join([*fed, writer.finish()])


def _client(body: bytes, content_type: str = "application/json") -> genai.Client:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=body, headers={"content-type": content_type})

    http = httpx.Client(transport=httpx.MockTransport(answer))
    return genai.Client(api_key="k", http_options=types.HttpOptions(base_url="http://127.0.0.1:9", httpx_client=http))


def _whole(body: bytes) -> types.GenerateContentResponse:
    with _client(body) as client:
        return client.models.generate_content(model="m", contents="hi")


def _streamed(body: bytes) -> list[types.GenerateContentResponse]:
    with _client(body, "text/event-stream") as client:
        return list(client.models.generate_content_stream(model="m", contents="hi"))


def _told(chunks: list[types.GenerateContentResponse]) -> dict[str, Any]:
    """What a client keeps of an answer: texts by kind, other parts in order, and the last words."""
    result: dict[str, Any] = {"text": "", "thoughts": "", "others": [], "logprobs": []}
    for chunk in chunks:
        assert chunk.candidates
        candidate = chunk.candidates[0]
        assert candidate.content is not None
        for part in candidate.content.parts or []:
            if part.text is not None:
                result["thoughts" if part.thought else "text"] += part.text
            else:
                result["others"].append(part.model_dump(exclude_none=True))
        result["finish"], result["message"] = candidate.finish_reason, candidate.finish_message
        result["usage"], result["grounding"] = chunk.usage_metadata, candidate.grounding_metadata
        result["names"] = (chunk.model_version, chunk.response_id)
        if candidate.logprobs_result:
            result["logprobs"] += candidate.logprobs_result.chosen_candidates or []
    return result


@pytest.mark.parametrize("name", ANSWERS)
def test_g58_the_sdk_reads_the_same_from_a_stream_and_from_a_whole_answer(name: str) -> None:
    facts = _facts(logprobs=True)
    streamed = _streamed(_stream(ANSWERS[name], facts))
    whole = _whole(DIALECT.write_reply(ANSWERS[name], facts))
    assert _told(streamed) == _told([whole])
    assert _told([whole])["finish"] is not None


@pytest.mark.parametrize("name", ANSWERS)
def test_what_was_written_is_read_as_the_same_answer(name: str) -> None:
    """Gemini to Gemini through the hub: what the reader makes of the writer's stream is what it makes of the whole."""
    facts = _facts()
    decoder, reader = SseDecoder(), DIALECT.reader()
    streamed = [event for frame in decoder.feed(_stream(ANSWERS[name], facts)) for event in reader.feed(frame)]
    whole = DIALECT.read_reply(DIALECT.write_reply(ANSWERS[name], facts))

    def joined(events: list[ir.Event]) -> list[Any]:
        texts = "".join(event.text for event in events if isinstance(event, ir.TextDelta))
        skipped = (ir.TextDelta, ir.ThinkingDelta, ir.UsageSeen, ir.End)
        return [texts, *(event for event in events if not isinstance(event, skipped))]

    assert joined(whole) == joined(streamed)


def test_calls_leave_whole_with_their_id_and_arguments() -> None:
    [*_, last] = _streamed(_stream(ANSWERS["interleaved"], _facts()))
    calls = [chunk.function_calls for chunk in _streamed(_stream(ANSWERS["interleaved"], _facts()))]
    found = [(call.id, call.name, call.args) for some in calls for call in some or []]
    assert found == [("a", "f", {"n": 1}), ("b", "g", {"m": 2})]
    assert last.candidates
    assert last.candidates[0].finish_reason == types.FinishReason.STOP


def test_a_call_cut_by_the_limit_is_not_made_up() -> None:
    whole = _whole(DIALECT.write_reply(ANSWERS["cut call"], _facts()))
    assert whole.function_calls is None
    assert whole.candidates
    assert whole.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS


def test_a_call_that_is_no_json_is_said_to_be_malformed() -> None:
    events = [*_call(0, "a", "f", "{nonsense"), ir.Finish("tool_calls")]
    whole = _whole(DIALECT.write_reply(events, _facts()))
    assert whole.candidates
    assert whole.candidates[0].finish_reason == types.FinishReason.MALFORMED_FUNCTION_CALL


def test_usage_stands_in_the_last_chunk() -> None:
    [*_, last] = _streamed(_stream(ANSWERS["text"], _facts()))
    assert last.usage_metadata is not None
    assert last.usage_metadata.prompt_token_count == 15
    assert last.usage_metadata.cached_content_token_count == 5
    assert last.usage_metadata.candidates_token_count == 7
    assert last.usage_metadata.thoughts_token_count == 3
    assert last.usage_metadata.total_token_count == 25


def test_every_chunk_has_a_usage_and_only_the_last_ones_counts() -> None:
    """BAML drops a chunk without one; LangChain adds up what each has more than the one before."""
    pieces: list[ir.Event] = [ir.TextDelta("Hello"), ir.TextDelta(" there", (ir.TokenLogprob(" there", -0.5),))]
    body = _stream([*pieces, USAGE, ir.Finish("stop")], _facts(logprobs=True))
    usages = [chunk.usage_metadata for chunk in _streamed(body)]
    assert [(u.prompt_token_count, u.candidates_token_count, u.total_token_count) for u in usages if u] == [
        *[(0, 0, 0)] * 2,
        (15, 7, 25),
    ]


def test_thoughts_are_shown_only_when_asked_for() -> None:
    shown = _told(_streamed(_stream(ANSWERS["thinking"], _facts())))
    hidden = _told(_streamed(_stream(ANSWERS["thinking"], _facts(reasoning=None))))
    assert (shown["thoughts"], hidden["thoughts"]) == ("Let me see", "")
    assert shown["text"] == hidden["text"] == "42"


def test_our_own_signatures_go_back_to_the_caller() -> None:
    events: list[ir.Event] = [
        ir.TextDelta("a"),
        ir.ThinkingSignature("c2ln", "gemini"),
        ir.TextDelta("b"),
        ir.Finish("stop"),
    ]
    parts = json.loads(DIALECT.write_reply(events, _facts()))["candidates"][0]["content"]["parts"]
    assert parts == [{"text": "a", "thoughtSignature": "c2ln"}, {"text": "b"}]


@pytest.mark.parametrize("before", [[], [ir.TextDelta("Half")]])
@pytest.mark.parametrize(("status", "code"), [(429, 429), (500, 500), (529, 503)])
def test_g56_a_failed_stream_makes_the_sdk_raise(before: list[ir.Event], status: int, code: int) -> None:
    writer = DIALECT.writer(_facts())
    body = b"".join(map(writer.feed, before)) + writer.fail(ir.Failure(status, "x", "It broke."))
    with pytest.raises(errors.APIError) as caught:
        _streamed(body)
    assert (caught.value.code, caught.value.message) == (code, "It broke.")


def _as_go_reads(body: bytes) -> list[bytes]:
    """The events that Google's SDK for Go sees: up to the next two line feeds, else up to the next two CRLF."""
    found = []
    while body:
        end = next((mark for mark in (b"\n\n", b"\r\n\r\n") if mark in body), b"")
        event, _, body = body.partition(end) if end else (body, b"", b"")
        found += [event] if event else []
    return found


@pytest.mark.parametrize("name", ANSWERS)
def test_the_sdk_for_go_sees_each_chunk_as_an_event_and_no_ping(name: str) -> None:
    # What does not begin with `data:` is an invalid chunk to iterateResponseStream, and ends the stream.
    events = _as_go_reads(_stream(ANSWERS[name], _facts()))
    assert all(json.loads(event.removeprefix(b"data:"))["candidates"] for event in events)


def test_the_sdk_for_go_sees_the_error_outside_of_the_events() -> None:
    # iterateResponseStream takes every event for an answer, and what is no event for an error.
    writer = DIALECT.writer(_facts())
    body = writer.feed(ir.TextDelta("Half")) + writer.ping() + writer.fail(ir.Failure(503, "x", "It broke."))
    _, event, bare = _as_go_reads(body)
    assert event == b"data: " + bare
    assert json.loads(bare) == {"error": {"code": 503, "message": "It broke.", "status": "UNAVAILABLE"}}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_array_holds_the_chunks_of_the_stream(name: str) -> None:
    facts = _facts()
    array: AnyWriter = ArrayWriter(facts)
    body = b"".join([array.ping(), *map(array.feed, ANSWERS[name]), array.ping(), array.finish()])
    chunks = [json.loads(frame.data) for frame in SseDecoder().feed(_stream(ANSWERS[name], facts)) if frame.data]
    assert json.loads(body) == chunks


@pytest.mark.parametrize("before", [[], [ir.TextDelta("Half")]])
def test_a_failed_array_ends_with_the_error(before: list[ir.Event]) -> None:
    array = ArrayWriter(_facts())
    body = b"".join(map(array.feed, before)) + array.fail(ir.Failure(503, "x", "It broke."))
    assert json.loads(body)[-1] == {"error": {"code": 503, "message": "It broke.", "status": "UNAVAILABLE"}}


def test_a_chat_of_the_sdk_keeps_its_history_and_answers_calls() -> None:
    seen: list[dict[str, Any]] = []
    replies = [
        _stream(ANSWERS["tool"], _facts()),
        _stream(ANSWERS["text"], _facts()),
    ]

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(json.loads(request.content))
        return httpx.Response(200, content=replies[len(seen) - 1], headers={"content-type": "text/event-stream"})

    http = httpx.Client(transport=httpx.MockTransport(answer))
    options = types.HttpOptions(base_url="http://127.0.0.1:9", httpx_client=http)
    with genai.Client(api_key="k", http_options=options) as client:
        chat = client.chats.create(model="m")
        [call] = [call for chunk in chat.send_message_stream("?") for call in chunk.function_calls or []]
        assert call.name is not None
        list(chat.send_message_stream(types.Part.from_function_response(name=call.name, response={"result": "x"})))
        assert len(chat.get_history(curated=True)) == 4 + 2
    request = DIALECT.read_request(json.dumps(seen[1]).encode())
    parts = [part for message in request.messages for part in message.parts]
    assert ir.ToolCall("toolu_1", "f", '{"city":"Ulm"}') in parts
    assert ir.ToolResult("toolu_1", (ir.Text("x"),), "f") in parts


def test_the_first_call_of_another_upstream_is_signed_by_googles_stand_in() -> None:
    events: list[ir.Event] = [
        ir.Start("up", "up"),
        ir.ToolCallStart(0, "a", "f"),
        ir.ToolCallDelta(0, "{}"),
        ir.ToolCallStart(1, "b", "g"),
        ir.ToolCallDelta(1, "{}"),
        ir.Finish("tool_calls"),
        ir.End(),
    ]
    parts = json.loads(DIALECT.write_reply(events, _facts()))["candidates"][0]["content"]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == [UNSIGNED_BYTES, None]


def _candidate(events: list[ir.Event], **members: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = json.loads(DIALECT.write_reply(events, _facts(**members)))["candidates"][0]
    return candidate


def test_sources_are_told_once_each_with_what_they_stand_behind() -> None:
    cited: list[ir.Event] = [
        ir.TextDelta("Sunny. Warm."),
        ir.Citation("https://a.test/", "A", passage="Sunny."),
        ir.Citation("https://b.test/", "B"),
        ir.Citation("https://a.test/", "A", passage="Warm."),
    ]
    assert _candidate(cited)["groundingMetadata"] == {
        "groundingChunks": [
            {"web": {"uri": "https://a.test/", "title": "A"}},
            {"web": {"uri": "https://b.test/", "title": "B"}},
        ],
        "groundingSupports": [
            {"segment": {"text": "Sunny."}, "groundingChunkIndices": [0]},
            {"segment": {"text": "Warm."}, "groundingChunkIndices": [0]},
        ],
    }
    assert _candidate([ir.TextDelta("a"), cited[2]])["groundingMetadata"].keys() == {"groundingChunks"}
    assert "groundingMetadata" not in _candidate([ir.TextDelta("a")])


def test_an_image_and_the_call_before_it_are_parts_in_their_order() -> None:
    events = [*_call(0, "a", "f", "{}"), ir.ImageOut("image/webp", "UklG"), ir.Finish("stop")]
    called, drawn = _candidate(events)["content"]["parts"]
    assert called["functionCall"] == {"id": "a", "name": "f", "args": {}}
    assert drawn == {"inlineData": {"mimeType": "image/webp", "data": "UklG"}}


def test_log_probabilities_are_told_token_by_token() -> None:
    tokens = (ir.TokenLogprob("Hi", -0.5, (("Hi", -0.5), ("Ho", -2.0))), ir.TokenLogprob("!", -0.25))
    assert _candidate([ir.TextDelta("Hi!", tokens)], logprobs=True)["logprobsResult"] == {
        "chosenCandidates": [{"token": "Hi", "logProbability": -0.5}, {"token": "!", "logProbability": -0.25}],
        "topCandidates": [
            {"candidates": [{"token": "Hi", "logProbability": -0.5}, {"token": "Ho", "logProbability": -2.0}]},
            {"candidates": []},
        ],
    }
    assert "logprobsResult" not in _candidate([ir.TextDelta("Hi!", tokens)])


@pytest.mark.parametrize("reasoning", [None, ir.Reasoning(), ir.Reasoning(visible=False), ir.Reasoning("high")])
def test_thoughts_that_nobody_asked_to_see_are_not_shown(reasoning: ir.Reasoning | None) -> None:
    events: list[ir.Event] = [ir.ThinkingDelta("hm"), ir.TextDelta("42"), ir.Finish("stop")]
    assert _candidate(events, reasoning=reasoning)["content"]["parts"] == [{"text": "42"}]
    shown = _candidate(events, reasoning=ir.Reasoning(visible=True))["content"]["parts"]
    assert shown == [{"text": "hm", "thought": True}, {"text": "42"}]


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        *(("stop", "STOP"), ("stop_sequence", "STOP"), ("tool_calls", "STOP"), ("pause", "STOP")),
        *(("length", "MAX_TOKENS"), ("content_filter", "SAFETY"), ("refusal", "SAFETY")),
    ],
)
def test_why_an_answer_ended_is_told_in_googles_words(reason: Any, word: str) -> None:
    assert _candidate([ir.TextDelta("a"), ir.Finish(reason)])["finishReason"] == word


@pytest.mark.parametrize(
    ("status", "code", "word"),
    [
        *((400, 400, "INVALID_ARGUMENT"), (401, 401, "UNAUTHENTICATED"), (403, 403, "PERMISSION_DENIED")),
        *((404, 404, "NOT_FOUND"), (409, 409, "ABORTED"), (413, 413, "INVALID_ARGUMENT")),
        *((429, 429, "RESOURCE_EXHAUSTED"), (499, 499, "CANCELLED"), (500, 500, "INTERNAL")),
        *((501, 501, "UNIMPLEMENTED"), (502, 502, "INTERNAL"), (503, 503, "UNAVAILABLE")),
        *((504, 504, "DEADLINE_EXCEEDED"), (529, 503, "UNAVAILABLE")),
    ],
)
def test_the_error_of_a_broken_stream_has_googles_word_for_its_status(status: int, code: int, word: str) -> None:
    written = DIALECT.writer(_facts()).fail(ir.Failure(status, "their_word", "It broke."))
    (frame,) = SseDecoder().feed(written)
    assert json.loads(frame.data or b"") == {"error": {"code": code, "message": "It broke.", "status": word}}
