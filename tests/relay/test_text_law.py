"""The published law of streams (docs/money.md), at every event of recorded streams in every client dialect.

The law is computed here anew, from the recording's own JSON and with arithmetic of its own; nothing of the gateway's
readers, counts or prices is used. Nothing is timed: the upstream plays one frame, and the test waits until it passed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.scripted import NANO, PROMPT, frames_of, stage
from tests.text_calls import CLIENTS

RECORDINGS = {
    "compatible": ("chat-text", "chat-tool", "chat-thinking", "chat-no-usage"),
    "anthropic": ("anthropic-text", "anthropic-thinking", "anthropic-tool", "anthropic-cache"),
    "gemini": ("gemini-text", "gemini-thinking", "gemini-parallel", "gemini-usage-last"),
}
# Every recorded stream under every client; a response is relayed only to callers of its own dialect.
CASES = [(family, name, client) for family, names in RECORDINGS.items() for name in names for client in CLIENTS]
CASES += [("openai", name, "responses") for name in ("responses-text", "responses-thinking", "responses-tool")]

# A token for every four bytes, and four for what frames a message.
PROMPT_TOKENS = -(-len(PROMPT.encode()) // 4) + 4


class Seen:
    """What a caller has been shown, and what the upstream has reported, after some frames of a recording."""

    def __init__(self) -> None:
        self.text = self.thinking = ""
        self.content = self.finished = self.ended = False
        self.input: dict[str, int] | None = None
        self.output: dict[str, int] = {}

    def show(self, text: str | None, thinking: str | None = None) -> None:
        self.text += text or ""
        self.thinking += thinking or ""
        self.content = self.content or bool(text or thinking)

    def nano(self) -> int:
        """What these frames cost by the law, whoever pays it."""
        given = self.input if self.input is not None else {"input": PROMPT_TOKENS}
        made = self.output
        if not (self.finished and self.input is not None):
            made = {"output": -(-len(self.text.encode()) // 4), "reasoning": -(-len(self.thinking.encode()) // 4)}
        return sum(NANO[name] * tokens for name, tokens in {**given, **made}.items())


def read_chat(seen: Seen, data: bytes) -> None:
    if data == b"[DONE]":
        seen.ended = True
        return
    chunk = msgspec.json.decode(data)
    for choice in chunk["choices"]:
        delta = choice["delta"]
        seen.show(delta.get("content"), delta.get("reasoning_content"))
        for call in delta.get("tool_calls", ()):
            seen.show(call["function"].get("name"))
            seen.show(call["function"]["arguments"])
        seen.finished = seen.finished or bool(choice["finish_reason"])
    if usage := chunk.get("usage"):
        cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", usage.get("prompt_cache_hit_tokens", 0))
        reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
        seen.input = {"input": usage["prompt_tokens"] - cached, "cached": cached}
        seen.output = {"output": usage["completion_tokens"] - reasoning, "reasoning": reasoning}


def read_anthropic(seen: Seen, data: bytes) -> None:
    event = msgspec.json.decode(data)
    usage = event.get("usage") or event.get("message", {}).get("usage")
    match event["type"]:
        case "message_start":
            writes = usage.get("cache_creation", {})
            seen.input = {
                "input": usage["input_tokens"],
                "cached": usage["cache_read_input_tokens"],
                "write_5m": writes.get("ephemeral_5m_input_tokens", 0),
                "write_1h": writes.get("ephemeral_1h_input_tokens", 0),
            }
        case "content_block_start":
            seen.show(event["content_block"].get("name"))
            seen.content = seen.content or event["content_block"]["type"] == "redacted_thinking"
        case "content_block_delta":
            delta = event["delta"]
            seen.show(delta.get("text") or delta.get("partial_json"), delta.get("thinking"))
        case "message_delta":
            thinking = usage.get("output_tokens_details", {}).get("thinking_tokens", 0)
            seen.output = {"output": usage["output_tokens"] - thinking, "reasoning": thinking}
            seen.finished = True
        case "message_stop":
            seen.ended = True


class _GeminiCall(msgspec.Struct):
    name: str
    args: msgspec.Raw = msgspec.Raw(b"{}")


def read_gemini(seen: Seen, data: bytes) -> None:
    chunk = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    for candidate in msgspec.json.decode(chunk.get("candidates", b"[]"), type=list[dict[str, msgspec.Raw]]):
        for part in msgspec.json.decode(candidate["content"], type=dict[str, Any])["parts"]:
            seen.show(*(("", part["text"]) if part.get("thought") else (part.get("text"),)))
        # Arguments count as they were written.
        content = msgspec.json.decode(candidate["content"], type=dict[str, msgspec.Raw])
        for raw in msgspec.json.decode(content["parts"], type=list[dict[str, msgspec.Raw]]):
            if "functionCall" in raw:
                call = msgspec.json.decode(raw["functionCall"], type=_GeminiCall)
                seen.show(call.name + bytes(call.args).decode())
        seen.finished = seen.finished or "finishReason" in candidate
    if "usageMetadata" in chunk:
        usage = msgspec.json.decode(chunk["usageMetadata"], type=dict[str, Any])
        cached = usage.get("cachedContentTokenCount", 0)
        audio = sum(row["tokenCount"] for row in usage.get("promptTokensDetails", ()) if row["modality"] == "AUDIO")
        total = usage["promptTokenCount"] + usage.get("toolUsePromptTokenCount", 0)
        seen.input = {"input": total - cached - audio, "cached": cached, "audio": audio}
        seen.output = {"output": usage["candidatesTokenCount"], "reasoning": usage.get("thoughtsTokenCount", 0)}


def read_responses(seen: Seen, data: bytes) -> None:
    event = msgspec.json.decode(data)
    match event["type"]:
        case "response.output_text.delta" | "response.function_call_arguments.delta":
            seen.show(event["delta"])
        case "response.reasoning_summary_text.delta":
            seen.show(None, event["delta"])
        case "response.output_item.added":
            seen.show(event["item"].get("name"))
        case "response.completed":
            usage = event["response"]["usage"]
            cached = usage["input_tokens_details"]["cached_tokens"]
            reasoning = usage["output_tokens_details"]["reasoning_tokens"]
            seen.input = {"input": usage["input_tokens"] - cached, "cached": cached}
            seen.output = {"output": usage["output_tokens"] - reasoning, "reasoning": reasoning}
            seen.finished = seen.ended = True


READERS: dict[str, Callable[[Seen, bytes], None]] = {
    "compatible": read_chat,
    "anthropic": read_anthropic,
    "gemini": read_gemini,
    "openai": read_responses,
}


def law(family: str, frames: list[bytes]) -> Seen:
    seen = Seen()
    for frame in frames:
        for line in frame.split(b"\n"):
            if line.startswith(b"data:"):
                READERS[family](seen, line[5:].strip())
    return seen


def recorded(name: str) -> list[bytes]:
    """A recording's frames; `chat-no-usage` is the first one without the usage that was asked for (guarantee 48)."""
    if name == "chat-no-usage":
        return [frame for frame in frames_of("chat-text") if b'"choices":[]' not in frame]
    return frames_of(name)


@pytest.mark.parametrize(("family", "name", "client"), CASES)
async def test_g39_g40_g42_g43_g44_a_caller_who_leaves_after_any_event_pays_by_the_law(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, name: str, client: str
) -> None:
    frames, charged = recorded(name), 0
    async with stage(tmp_path, monkeypatch, family, client) as staged:
        for k in range(len(frames) + 1):
            expected = law(family, frames[:k])
            reader, writer, played = await staged.call()
            await staged.play(played, frames[:k])
            if expected.content:
                # The first content has reached the caller; before it nothing has.
                assert b" 200 " in await reader.readline()
            writer.close()
            record = await staged.watch.records.get()
            await played.given_up()
            cost = expected.nano() if expected.content else 0
            assert record.charge_nano == cost, (k, record)
            assert record.loss_nano == 0
            assert record.outcome == ("ok" if expected.ended else "client_gone")
            assert ("client_gone" in record.flags) is (expected.content and not expected.ended)
            charged += cost
        await staged.check_books(charged)


@pytest.mark.parametrize(("family", "name", "client"), CASES)
async def test_g41_g49_g56_an_upstream_that_dies_after_any_event_costs_the_caller_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, name: str, client: str
) -> None:
    frames = recorded(name)
    async with stage(tmp_path, monkeypatch, family, client) as staged:
        for k in range(len(frames) + 1):
            expected = law(family, frames[:k])
            if expected.ended:
                continue
            reader, writer, played = await staged.call()
            await staged.play(played, frames[:k])
            played.break_off()
            record = await staged.watch.records.get()
            answer = await reader.readuntil(b"\r\n\r\n")
            assert record.charge_nano == 0
            # What had passed is the operator's loss; before the first content nothing had.
            assert record.loss_nano == (expected.nano() if expected.content else 0), (k, record)
            assert answer.startswith(b"HTTP/1.1 200" if expected.content else b"HTTP/1.1 502")
            if expected.content:
                rest = await reader.readuntil(b"0\r\n\r\n")
                assert b"error" in rest or b"response.failed" in rest
            writer.close()
        await staged.check_books(0)
