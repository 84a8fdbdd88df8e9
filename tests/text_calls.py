"""Makes one call in any client dialect and reads the text of its answer; shared by the suites of text calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tests.grammar import check_stream

CLIENTS = ("chat", "responses", "anthropic", "gemini")
UPSTREAMS = {
    "openai": ("sk-upstream", {}),
    "deepseek": ("sk-upstream", {}),
    "anthropic": ("sk-ant-upstream", {}),
    "gemini": ("AIzaUpstream", {}),
    "azure": ("azure-upstream", {}),
    "bedrock": ("AKIDSANDBOX:sandbox-secret", {"region": "us-east-1"}),
}


class Asked(msgspec.Struct, frozen=True):
    """A call: path, body and extra headers."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str] = {}


def ask(client: str, model: str, prompt: str, *, stream: bool = False, max_tokens: int = 200, **more: Any) -> Asked:
    """A call with one user message in a client's dialect; `more` are further fields of the body."""
    if client == "chat":
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
        return Asked("/v1/chat/completions", {**body, "stream": stream, "max_tokens": max_tokens, **more})
    if client == "responses":
        body = {"model": model, "input": prompt, "stream": stream, "max_output_tokens": max_tokens}
        return Asked("/v1/responses", {**body, **more})
    if client == "anthropic":
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens}
        return Asked("/v1/messages", {**body, "stream": stream, **more}, {"anthropic-version": "2023-06-01"})
    verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
    body = {
        "contents": [{"role": "user", "parts": [{"text": prompt}]}],
        "generationConfig": {"maxOutputTokens": max_tokens},
    }
    return Asked(f"/v1beta/models/{model}:{verb}", {**body, **more})


def text_of(client: str, reply: dict[str, Any]) -> str:
    """The answer's text."""
    match client:
        case "chat":
            return reply["choices"][0]["message"]["content"] or ""
        case "responses":
            return "".join(
                part["text"] for item in reply["output"] if item["type"] == "message" for part in item["content"]
            )
        case "anthropic":
            return "".join(block["text"] for block in reply["content"] if block["type"] == "text")
    parts = reply["candidates"][0]["content"]["parts"]
    return "".join(part.get("text", "") for part in parts if not part.get("thought"))


def events(stream: str) -> list[dict[str, Any]]:
    """The JSON frames of a stream."""
    frames = []
    for frame in stream.replace("\r\n", "\n").split("\n\n"):
        data = "".join(line[5:].strip() for line in frame.split("\n") if line.startswith("data:"))
        if data and data != "[DONE]":
            frames.append(msgspec.json.decode(data))
    return frames


_DELTAS: dict[str, Callable[[dict[str, Any]], str]] = {
    "chat": lambda e: (e["choices"][0]["delta"].get("content") or "") if e.get("choices") else "",
    "responses": lambda e: e["delta"] if e.get("type") == "response.output_text.delta" else "",
    "anthropic": lambda e: e["delta"].get("text", "") if e.get("type") == "content_block_delta" else "",
    "gemini": lambda e: text_of("gemini", e) if e.get("candidates", [{}])[0].get("content", {}).get("parts") else "",
}


def streamed_text(client: str, stream: str) -> str:
    """The joined text of a stream's deltas."""
    return "".join(_DELTAS[client](event) for event in events(stream))


def is_whole(client: str, stream: str) -> bool:
    """Whether the stream ended like a complete answer of its dialect; if so, all of it must be valid."""
    whole = _ends_well(client, stream)
    if whole:
        check_stream(client, stream)
    return whole


def _ends_well(client: str, stream: str) -> bool:
    frames = events(stream)
    match client:
        case "chat":
            return stream.rstrip().endswith("data: [DONE]")
        case "responses":
            return bool(frames) and frames[-1].get("type") in ("response.completed", "response.incomplete")
        case "anthropic":
            return bool(frames) and frames[-1].get("type") == "message_stop"
    return any(candidate.get("finishReason") for frame in frames[-1:] for candidate in frame.get("candidates", []))


def has_error(client: str, stream: str) -> bool:
    """Whether the stream has an explicit error; if so, it must be a valid broken stream of its dialect."""
    failed = any(frame.get("error") or frame.get("type") in ("error", "response.failed") for frame in events(stream))
    if failed:
        check_stream(client, stream, broken=True)
    return failed
