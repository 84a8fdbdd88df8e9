"""What Gemini signs of its calls and OpenAI seals of its thoughts, through a caller of Anthropic's form.

It comes back to whoever made it, never to Claude.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from elkapi.translate.anthropic_history import has_foreign_turns, with_own_thoughts
from elkapi.translate.dialect import ReplyFacts
from elkapi.translate.dialects import DIALECTS
from elkapi.translate.ir import Event
from elkapi.translate.profiles import profile_for
from elkapi.translate.responses_state import without_envelopes
from elkapi.translate.seal import PREFIX, UNSIGNED
from elkapi.translate.sse import SseDecoder

CALLER, UPSTREAM = DIALECTS["anthropic"], DIALECTS["gemini"]
GEMINI_3 = profile_for("gemini", "gemini-3-pro-preview")
ADAPTIVE = {"type": "adaptive"}
SIGNED = "c2lnbmVk" * 200
ANSWER = {
    "candidates": [
        {
            "content": {
                "role": "model",
                "parts": [
                    {"text": "I shall look.", "thought": True},
                    {"text": "Wait."},
                    {"functionCall": {"id": "fc1", "name": "f", "args": {"n": 1}}, "thoughtSignature": SIGNED},
                    {"functionCall": {"id": "fc2", "name": "f", "args": {"n": 2}}},
                ],
            },
            "finishReason": "STOP",
        }
    ],
    "responseId": "r",
}


def asked(thinking: dict[str, Any] | None, *messages: Any) -> bytes:
    tool = {"name": "f", "input_schema": {"type": "object", "properties": {"n": {"type": "integer"}}}}
    turns = [{"role": "user", "content": "go"}, *messages]
    body = {"model": "m", "max_tokens": 4000, "tools": [tool], "messages": turns}
    return json.dumps(body | ({"thinking": thinking} if thinking else {})).encode()


def answered(events: list[Event], thinking: dict[str, Any] | None, stream: bool) -> list[dict[str, Any]]:
    """The content that the caller is answered with."""
    facts = ReplyFacts("a", "m", 1_700_000_000, CALLER.read_request(asked(thinking)))
    if not stream:
        whole: list[dict[str, Any]] = msgspec.json.decode(CALLER.write_reply(events, facts))["content"]
        return whole
    writer = CALLER.writer(facts)
    data = b"".join([*(writer.feed(event) for event in events), writer.finish()])
    blocks: list[dict[str, Any]] = []
    for event in (json.loads(frame.data) for frame in SseDecoder().feed(data) if frame.data):
        if event["type"] == "content_block_start":
            blocks.append(event["content_block"] | ({"input": ""} if "input" in event["content_block"] else {}))
        elif event["type"] == "content_block_delta":
            for name, piece in event["delta"].items():
                if name != "type":
                    blocks[event["index"]]["input" if name == "partial_json" else name] += piece
    return [block | ({"input": json.loads(block["input"])} if "input" in block else {}) for block in blocks]


def looped(said: list[dict[str, Any]]) -> tuple[Any, Any]:
    results = [{"type": "tool_result", "tool_use_id": id_, "content": "5"} for id_ in ("fc1", "fc2")]
    return {"role": "assistant", "content": said}, {"role": "user", "content": results}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("thinking", [ADAPTIVE, {"type": "enabled", "budget_tokens": 1024}], ids=str)
def test_what_gemini_signed_of_a_call_comes_back_to_it(stream: bool, thinking: dict[str, Any]) -> None:
    said = answered(UPSTREAM.read_reply(json.dumps(ANSWER).encode()), thinking, stream)
    assert [block["type"] for block in said] == ["thinking", "text", "thinking", "tool_use", "tool_use"]
    assert (said[0]["thinking"], said[2]["thinking"]) == ("I shall look.", "")
    written = json.loads(UPSTREAM.write_request(CALLER.read_request(asked(thinking, *looped(said))), GEMINI_3))
    text, first, second = written["contents"][1]["parts"]
    assert text == {"text": "Wait."}
    assert (first["functionCall"]["args"], first["thoughtSignature"]) == ({"n": 1}, SIGNED)
    assert (second["functionCall"]["args"], "thoughtSignature" in second) == ({"n": 2}, False)
    assert PREFIX not in json.dumps(written)


@pytest.mark.parametrize("thinking", [None, {"type": "disabled"}], ids=str)
def test_who_asked_for_no_thinking_is_shown_no_thought_of_a_call(thinking: dict[str, Any] | None) -> None:
    events = UPSTREAM.read_reply(json.dumps(ANSWER).encode())
    said = answered(events, thinking, stream=False)
    assert [block["type"] for block in said] == ["thinking", "text", "tool_use", "tool_use"]
    assert said[0]["signature"] == ""
    written = json.loads(UPSTREAM.write_request(CALLER.read_request(asked(thinking, *looped(said))), GEMINI_3))
    assert written["contents"][1]["parts"][1]["thoughtSignature"] == "skip_thought_signature_validator"


def test_claude_is_sent_none_of_it() -> None:
    said = answered(UPSTREAM.read_reply(json.dumps(ANSWER).encode()), ADAPTIVE, stream=False)
    body = asked(ADAPTIVE, *looped(said))
    assert has_foreign_turns(body)
    kept = json.loads(with_own_thoughts(body))["messages"][1]["content"]
    assert [block["type"] for block in kept] == ["text", "tool_use", "tool_use"]
    for other in ("chat", "responses", "anthropic"):
        written = DIALECTS[other].write_request(CALLER.read_request(body), profile_for("", "m"))
        assert PREFIX.encode() not in written, other
        assert SIGNED.encode() not in written, other


OPENAI = {
    "id": "resp_1",
    "model": "m",
    "status": "completed",
    "output": [
        {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "I shall look."}],
            "encrypted_content": "gAAAfirst",
        },
        {"type": "reasoning", "summary": [], "encrypted_content": "gAAAsecond"},
        {"type": "function_call", "call_id": "fc1", "name": "f", "arguments": '{"n":1}'},
        {"type": "function_call", "call_id": "fc2", "name": "f", "arguments": '{"n":2}'},
    ],
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_what_openai_sealed_of_its_thoughts_comes_back_to_it(stream: bool) -> None:
    """So a tool loop of Claude Code's over a model of OpenAI's goes on with its train of thought."""
    responses = DIALECTS["responses"]
    said = answered(responses.read_reply(json.dumps(OPENAI).encode()), ADAPTIVE, stream)
    assert [block["type"] for block in said] == ["thinking", "thinking", "tool_use", "tool_use"]
    assert [block["thinking"] for block in said[:2]] == ["I shall look.", ""]
    body = asked(ADAPTIVE, *looped(said))
    written = json.loads(responses.write_request(CALLER.read_request(body), profile_for("openai", "gpt-5.3-codex")))
    thoughts = [item for item in written["input"] if item["type"] == "reasoning"]
    assert thoughts == OPENAI["output"][:2]
    assert has_foreign_turns(body)
    kept = json.loads(with_own_thoughts(body))["messages"][1]["content"]
    assert [block["type"] for block in kept] == ["tool_use", "tool_use"]
    for other in ("chat", "gemini", "anthropic"):
        sent = DIALECTS[other].write_request(CALLER.read_request(body), profile_for("", "m"))
        assert PREFIX.encode() not in sent, other
        assert b"gAAA" not in sent, other


def test_who_asked_for_no_thinking_is_shown_none_that_openai_sealed() -> None:
    events = DIALECTS["responses"].read_reply(json.dumps(OPENAI).encode())
    said = answered(events, None, stream=False)
    assert [block["type"] for block in said] == ["thinking", "tool_use", "tool_use"]
    assert said[0]["signature"] == ""


DEEPSEEK = {
    "id": "c",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": None,
                "reasoning_content": "I shall look.",
                "tool_calls": [
                    {"id": id_, "type": "function", "function": {"name": "f", "arguments": "{}"}}
                    for id_ in ("fc1", "fc2")
                ],
            },
        }
    ],
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("thinking", [ADAPTIVE, None], ids=str)
def test_a_thought_that_nobody_signed_comes_back_to_its_model(stream: bool, thinking: dict[str, Any] | None) -> None:
    """The Vercel AI SDK drops a thought that has no signature, not even an empty one."""
    chat = DIALECTS["chat"]
    said = answered(chat.read_reply(json.dumps(DEEPSEEK).encode()), thinking, stream)
    assert said[0] == {"type": "thinking", "thinking": "I shall look.", "signature": ""}
    body = asked(thinking, *looped(said))
    written = json.loads(chat.write_request(CALLER.read_request(body), profile_for("deepseek", "deepseek-reasoner")))
    assert written["messages"][1]["reasoning_content"] == "I shall look."
    assert has_foreign_turns(body)
    kept = json.loads(with_own_thoughts(body))["messages"][1]["content"]
    assert [block["type"] for block in kept] == ["tool_use", "tool_use"]
    for other in ("chat", "responses", "gemini", "anthropic"):
        sent = DIALECTS[other].write_request(CALLER.read_request(body), profile_for("", "m"))
        assert PREFIX.encode() not in sent, other


def test_a_streamed_thought_ends_with_its_signature() -> None:
    facts = ReplyFacts("a", "m", 1_700_000_000, CALLER.read_request(asked(None)))
    writer = CALLER.writer(facts)
    events = DIALECTS["chat"].read_reply(json.dumps(DEEPSEEK).encode())
    data = b"".join([*(writer.feed(event) for event in events), writer.finish()])
    frames = [json.loads(frame.data) for frame in SseDecoder().feed(data) if frame.data]
    of_thought = [frame.get("delta", frame)["type"] for frame in frames if frame.get("index") == 0]
    assert of_thought == ["content_block_start", "thinking_delta", "signature_delta", "content_block_stop"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_caller_of_responses_who_asks_for_sealed_thoughts_gets_those_that_nobody_signed(stream: bool) -> None:
    """The Vercel AI SDK drops reasoning without `encrypted_content` where nothing is stored."""
    chat, responses = DIALECTS["chat"], DIALECTS["responses"]
    turn: dict[str, Any] = {"role": "user", "content": "go"}
    body = {"model": "m", "store": False, "include": ["reasoning.encrypted_content"], "input": [turn]}
    facts = ReplyFacts("resp_a", "m", 1_700_000_000, responses.read_request(json.dumps(body).encode()))
    events = chat.read_reply(json.dumps(DEEPSEEK).encode())
    if stream:
        writer = responses.writer(facts)
        data = b"".join([*(writer.feed(event) for event in events), writer.finish()])
        frames = [json.loads(frame.data) for frame in SseDecoder().feed(data) if frame.data]
        output = frames[-1]["response"]["output"]
        assert frames[-1]["type"] == "response.completed"
    else:
        output = json.loads(responses.write_reply(events, facts))["output"]
    assert output[0]["summary"] == [{"type": "summary_text", "text": "I shall look."}]
    assert output[0]["encrypted_content"] == UNSIGNED
    results = [{"type": "function_call_output", "call_id": id_, "output": "5"} for id_ in ("fc1", "fc2")]
    again = json.dumps(body | {"input": [turn, *output, *results]}).encode()
    written = chat.write_request(responses.read_request(again), profile_for("deepseek", "deepseek-reasoner"))
    assert json.loads(written)["messages"][1]["reasoning_content"] == "I shall look."
    assert [item.get("type") for item in json.loads(without_envelopes(again))["input"]][:2] == [None, "function_call"]
