"""What is kept of an answer: chunks put together again, objects told as streams, turns as later inputs carry them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openai.types.responses.response_item_list import ResponseItemList

from elkapi.translate import kept
from elkapi.translate.chat import DIALECT as CHAT
from elkapi.translate.dialect import ReplyFacts
from elkapi.translate.ir import ChatRequest, Event, Finish, ImageOut, TextDelta, ThinkingSignature, UsageSeen
from elkapi.translate.kept_stream import KeptResponses, Ours, final_completion, final_response, with_ours
from elkapi.translate.responses import DIALECT
from elkapi.translate.responses_replay import ended, replayed
from elkapi.translate.sse import SseDecoder
from elkapi.types import Usage

RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "m",
    "output": [
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "Hi.", "annotations": []},
                {"type": "refusal", "refusal": "No."},
            ],
        },
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "c1",
            "name": "f",
            "arguments": '{"a":1}',
            "status": "completed",
        },
        {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c2", "name": "g", "input": "text"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
    ],
    "usage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
}


def chunk(index: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    row = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [row]}


def frames(*chunks: Any) -> list[bytes]:
    return [b"data: " + msgspec.json.encode(one) + b"\n\n" for one in chunks] + [b"data: [DONE]\n\n"]


def test_chunks_of_two_answers_with_calls_are_one_completion_again() -> None:
    calls: list[dict[str, Any]] = [
        {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "id": "c2", "type": "custom", "custom": {"name": "g", "input": "x"}}]},
        {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}, {"index": 1, "custom": {"input": "y"}}]},
    ]
    whole = json.loads(
        final_completion(
            frames(
                chunk(role="assistant", content=""),
                chunk(1, role="assistant", content=""),
                chunk(content="Hel"),
                chunk(1, content="Bye"),
                chunk(content="lo", reasoning_content="Hm."),
                *(chunk(**call) for call in calls),
                chunk(finish="tool_calls"),
                chunk(1, finish="stop"),
            ),
            Usage(input_tokens=3, output_tokens=4),
        )
        or b""
    )
    first, second = whole["choices"]
    assert first["message"]["content"] == "Hello"
    assert first["message"]["reasoning_content"] == "Hm."
    assert first["message"]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "c2", "type": "custom", "custom": {"name": "g", "input": "xy"}},
    ]
    assert (first["finish_reason"], second["finish_reason"], second["message"]["content"]) == (
        "tool_calls",
        "stop",
        "Bye",
    )
    assert whole["object"] == "chat.completion"
    assert whole["usage"]["total_tokens"] == 7


def test_what_signs_a_picture_is_kept_with_the_picture() -> None:
    """A Gemini that draws signs its pictures, for the next turn: whole answers were kept with one row a picture."""
    events: list[Event] = [
        TextDelta("Here."),
        ImageOut("image/png", "iVBO"),
        ThinkingSignature("c2ln", "gemini"),
        ImageOut("image/png", "iVBP"),
        Finish("stop"),
    ]
    facts = ReplyFacts("chatcmpl-1", "m", 1, ChatRequest(model="m", messages=[]))
    writer = CHAT.writer(facts)
    kept_answer = final_completion([*map(writer.feed, events), writer.finish()], None) or b""
    images = json.loads(kept_answer)["choices"][0]["message"]["images"]
    assert images == json.loads(CHAT.write_reply(events, facts))["choices"][0]["message"]["images"]
    assert len(images) == 2
    odd = ["odd", {"index": 0, "extra_content": {}}]
    told = json.loads(final_completion(frames(chunk(images=odd)), None) or b"")["choices"][0]["message"]["images"]
    assert told == odd


def test_chunks_that_say_nothing_are_no_completion() -> None:
    assert final_completion([b"data: [DONE]\n\n"], None) is None
    odd = {"choices": [{"delta": {"tool_calls": [{"index": 10**9}, {"index": -1}, {"index": "x"}]}}]}
    assert json.loads(final_completion(frames(odd), None) or b"")["choices"][0]["message"]["tool_calls"] == []


def test_an_object_told_as_a_stream_reads_as_the_object_does() -> None:
    body = msgspec.json.encode(RESPONSE)
    told = replayed(body)
    reader = DIALECT.reader()
    streamed = [event for raw in told for frame in SseDecoder().feed(raw) for event in reader.feed(frame)]
    assert streamed == DIALECT.read_reply(body)
    assert any(isinstance(event, UsageSeen) for event in streamed)
    assert replayed(body) == told
    datas = [json.loads(SseDecoder().feed(raw)[0].data or b"") for raw in told]
    assert [data["sequence_number"] for data in datas] == list(range(len(told)))
    assert final_response(b"".join(told)) == body


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("completed", "response.completed"),
        ("incomplete", "response.incomplete"),
        ("failed", "response.failed"),
        ("cancelled", "error"),
    ],
)
def test_a_stream_that_lost_its_end_gets_the_one_its_response_has(status: str, kind: str) -> None:
    (frame,) = SseDecoder().feed(ended(msgspec.json.encode(RESPONSE | {"status": status}), 9))
    assert json.loads(frame.data or b"")["type"] == kind
    assert json.loads(frame.data or b"")["sequence_number"] == 9


def test_a_turn_is_carried_without_ids_that_an_upstream_would_look_for() -> None:
    one = kept.Kept(
        msgspec.Raw(b'[{"role":"user","content":"q","id":"msg_0"}]'), msgspec.Raw(msgspec.json.encode(RESPONSE))
    )
    turn = kept.turn_of(one)
    assert [item.get("type", "message") for item in turn] == [
        "message",
        "message",
        "function_call",
        "custom_tool_call",
        "web_search_call",
    ]
    assert [item.get("id") for item in turn] == [None, None, None, None, "ws_1"]
    sealed = RESPONSE | {"output": [RESPONSE["output"][0] | {"encrypted_content": "abc"}]}
    (_, thought) = kept.turn_of(kept.Kept(msgspec.Raw(b'"q"'), msgspec.Raw(msgspec.json.encode(sealed))))
    assert thought["encrypted_content"] == "abc"
    assert "id" not in thought


@pytest.mark.parametrize("odd", ["text", None, {"type": ["message"]}])
def test_an_answer_with_an_odd_item_can_be_gone_on_from_and_shown(odd: Any) -> None:
    answer = msgspec.Raw(msgspec.json.encode({"output": [odd, {"type": "message", "id": "msg_1"}]}))
    turn = kept.turn_of(kept.Kept(msgspec.Raw(b"[]"), answer))
    assert turn == [*([odd] if isinstance(odd, dict) else []), {"type": "message"}]
    if isinstance(odd, dict):
        assert kept.own_items(kept.Kept(msgspec.Raw(msgspec.json.encode([odd])), answer), "resp_ab")


def test_a_relayed_stream_names_our_response_and_nothing_else_of_it_changes() -> None:
    unwritten: Any = None
    crossing = KeptResponses(DIALECT.reader(), unwritten, False)
    crossing.ours = Ours("resp_ours", "resp_before")
    told = replayed(msgspec.json.encode(RESPONSE | {"store": False, "extra": [1.50]}))
    out = b"".join(crossing.feed(frame) for raw in told for frame in SseDecoder().feed(raw)) + crossing.finish()
    assert b"resp_1" not in out
    response = json.loads(final_response(out) or b"")
    assert response == RESPONSE | {
        "store": True,
        "id": "resp_ours",
        "previous_response_id": "resp_before",
        "background": False,
        "extra": [1.5],
    }
    untouched = [raw for raw in told if b'"response":' not in raw]
    assert all(raw in out for raw in untouched)


def test_an_object_keeps_the_bytes_of_what_is_not_ours() -> None:
    body = b'{"id":"resp_1","odd":1.50,"store":false}'
    assert b'"odd":1.50' in with_ours(body, Ours("resp_2"))


def test_an_input_is_shown_as_the_sdks_types_have_it() -> None:
    given = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "b"}, {"type": "refusal", "refusal": "no"}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA=="}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "x"},
        {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": "i"},
        {"type": "custom_tool_call_output", "call_id": "d", "output": "y", "status": None},
        {"type": "reasoning", "summary": []},
    ]
    input_ = msgspec.Raw(msgspec.json.encode(given))
    items = kept.own_items(kept.Kept(input_, msgspec.Raw(b"{}")), "resp_ab")
    assert [item["id"] for item in items] == [f"item_ab_{n}" for n in range(len(given))]
    page = {"object": "list", "data": items, "first_id": items[0]["id"], "last_id": items[-1]["id"], "has_more": False}
    read = ResponseItemList.model_validate(page).data
    assert [type(item).__name__ for item in read] == [
        "ResponseInputMessageItem",
        "ResponseOutputMessage",
        "ResponseOutputMessage",
        "ResponseInputMessageItem",
        "ResponseFunctionToolCallItem",
        "ResponseFunctionToolCallOutputItem",
        "ResponseCustomToolCallItem",
        "ResponseCustomToolCallOutputItem",
        "ResponseReasoningItem",
    ]
    # The types let the status of a user's message be absent, but openai-php's InputMessage reads it unasked.
    assert {item["status"] for item in items if item["type"] != "reasoning"} == {"completed"}
    assert items[0]["content"] == [{"type": "input_text", "text": "q"}]
    assert items[1]["content"] == [{"type": "output_text", "text": "a", "annotations": []}]


def test_labels_have_the_providers_limits() -> None:
    assert kept.metadata_problem({"a": "b"}) is None
    assert kept.metadata_problem({f"{number:064}": "x" * 512 for number in range(16)}) is None
    for wrong in ({"": "x"}, {"k" * 65: "x"}, {"k": "v" * 513}, {f"k{n}": "" for n in range(17)}, {"k": "\0"}):
        assert kept.metadata_problem(wrong)


def test_only_names_that_every_database_keeps_are_names_of_items() -> None:
    items = [{"id": name} for name in ("msg_1", "rs_\0", "x" * 129, "", "msg_1", "resp0_2", "msg_2")]
    assert kept.output_ids(msgspec.json.encode({"output": items}), "resp_resp0") == ("msg_1", "msg_2")
