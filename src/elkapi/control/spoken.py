"""The facts of a call's answer and, if enabled, its content in the conventions' message format.

Bodies are read by the dialects' readers; unreadable ones are omitted.
"""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.errors import NOT_JSON, BadRequest
from elkapi.observe.calls import CallFacts
from elkapi.translate.dialect import Unreadable
from elkapi.translate.dialects import DIALECTS
from elkapi.translate.ir import (
    Audio,
    ChatRequest,
    File,
    Finish,
    Image,
    Message,
    Part,
    Refusal,
    Start,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from elkapi.translate.said import said_in

Said = tuple[tuple[str, str, str], ...]


class Answer(msgspec.Struct, frozen=True):
    """The facts of an answer; `said` as in `CallFacts`."""

    id: str | None = None
    model: str | None = None
    finish_reason: str | None = None
    said: Said = ()


def read_answer(call: CallFacts) -> Answer:
    """The facts of an answer, from a stream's recorded facts or by reading a whole answer."""
    if call.answer is None or call.wire not in DIALECTS:
        return Answer(call.response_id, call.response_model, call.finish_reason, call.said or ())
    try:
        events = DIALECTS[call.wire].read_reply(call.answer)
    except Unreadable:
        return Answer()
    start = next((event for event in events if isinstance(event, Start)), None)
    finish = next((event for event in events if isinstance(event, Finish)), None)
    # If the upstream's model name differs, the answer contains the caller's name.
    mapped = call.upstream_model is not None and call.upstream_model != call.model
    return Answer(
        start.id if start is not None else None,
        start.model if start is not None and not mapped else None,
        finish.reason if finish is not None else None,
        said_in(events),
    )


def content_attributes(call: CallFacts, answer: Answer) -> dict[str, str]:
    """Input and output messages as JSON text; empty unless content is enabled."""
    if call.body is None or call.wire not in DIALECTS:
        return {}
    try:
        asked = DIALECTS[call.wire].read_request(call.body)
    except BadRequest:
        return {}
    found = {"gen_ai.input.messages": _json([_message(message) for message in asked.messages])}
    if asked.system:
        found["gen_ai.system_instructions"] = _json([_part(part) for part in asked.system])
    if asked.tools:
        found["gen_ai.tool.definitions"] = _json(_tools(asked))
    if answer.said:
        parts = [_said(*one) for one in answer.said]
        message = {"role": "assistant", "parts": parts, "finish_reason": answer.finish_reason or "error"}
        found["gen_ai.output.messages"] = _json([message])
    return found


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _tools(asked: ChatRequest) -> list[dict[str, Any]]:
    return [
        {"type": "function", "name": tool.name, "description": tool.description, "parameters": tool.schema}
        for tool in asked.tools
    ]


def _message(message: Message) -> dict[str, Any]:
    return {"role": message.role, "parts": [_part(part) for part in message.parts]}


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, Text | Refusal):
        return {"type": "text", "content": part.text}
    if isinstance(part, Thinking):
        return {"type": "reasoning", "content": part.text}
    if isinstance(part, ToolCall):
        return {"type": "tool_call", "id": part.id, "name": part.name, "arguments": _arguments(part.arguments)}
    if isinstance(part, ToolResult):
        result = "".join(inner.text for inner in part.parts if isinstance(inner, Text))
        return {"type": "tool_call_response", "id": part.call_id, "response": result}
    return _medium(part)


def _medium(part: object) -> dict[str, Any]:
    """A part that is not text, without its data."""
    if isinstance(part, Image):
        return {"type": "uri", "modality": "image", "uri": part.url or ""}
    if isinstance(part, File):
        return {"type": "uri", "modality": "document", "uri": part.url or part.name or ""}
    return {"type": "uri", "modality": "audio" if isinstance(part, Audio) else "other", "uri": ""}


def _said(kind: str, text: str, name: str) -> dict[str, Any]:
    if kind == "tool_call":
        return {"type": kind, "name": name, "arguments": _arguments(text)}
    return {"type": "reasoning" if kind == "reasoning" else "text", "content": text}


def _arguments(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except NOT_JSON:
        return text
