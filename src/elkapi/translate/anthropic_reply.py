"""Read Anthropic answers, whole or streamed, into events; `anthropic_writer` does the reverse.

Contract: anthropic.md sections 1, 1.1 and 3.
"""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.translate.claude import OUTPUT_TOOL
from elkapi.translate.dialect import Unreadable, view_of
from elkapi.translate.eventstream import failure_of_exception
from elkapi.translate.ir import (
    Citation,
    End,
    Event,
    Failure,
    Finish,
    FinishReason,
    RedactedThinking,
    ServerToolPart,
    Start,
    TextDelta,
    ThinkingDelta,
    ThinkingSignature,
    ToolCallDelta,
    ToolCallStart,
    UsageLost,
    UsageSeen,
    placed,
    text_chars,
)
from elkapi.translate.sse import Frame
from elkapi.translate.usage import AnthropicUsage, read_anthropic_usage
from elkapi.types import Usage

Raw = dict[str, Any]

# The HTTP status of each `error.type`; see also `anthropic_writer.error_type`.
STATUS: dict[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
# The categories in which Anthropic bills a refusal before any output ("How refusals are billed"). For the
# others, the usage has tokens too.
_BILLED_REFUSALS = frozenset({"bio", "frontier_llm", "reasoning_extraction"})
REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "stop_sequence": "stop_sequence",
    "tool_use": "tool_calls",
    "pause_turn": "pause",
    "refusal": "refusal",
}


class _StopDetails(msgspec.Struct):
    explanation: str | None = None
    category: str | None = None


class _Delta(msgspec.Struct, gc=False):
    type: str = ""
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    citation: Any = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: _StopDetails | None = None


class _Error(msgspec.Struct):
    type: str = "api_error"
    message: str = ""


class _Message(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    content: list[Raw] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: _StopDetails | None = None
    usage: msgspec.Raw = msgspec.Raw()


class _Event(msgspec.Struct, gc=False):
    """Any event of a stream; raw fields are decoded only if needed."""

    type: str = ""
    index: int = 0
    delta: _Delta | None = None
    content_block: msgspec.Raw = msgspec.Raw()
    message: msgspec.Raw = msgspec.Raw()
    usage: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


class _Type(msgspec.Struct):
    type: str = ""


class _Newer(msgspec.Struct):
    """A delta of an unknown type, whose fields may have any type."""

    delta: _Type
    index: int = 0


class _RawDelta(msgspec.Struct):
    delta: Raw = {}


class _Whole(msgspec.Struct):
    type: str = ""
    error: msgspec.Raw = msgspec.Raw()


_event = msgspec.json.Decoder(_Event)
_type = msgspec.json.Decoder(_Type)
_newer = msgspec.json.Decoder(_Newer)
_raw_delta = msgspec.json.Decoder(_RawDelta)
_whole = msgspec.json.Decoder(_Whole)
_message = msgspec.json.Decoder(_Message)
_error = msgspec.json.Decoder(_Error)
_block = msgspec.json.Decoder(Raw)
_usage = msgspec.json.Decoder(AnthropicUsage)
_KNOWN = frozenset(
    {"message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "error"}
)
_INPUTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_DELTAS = frozenset({"text_delta", "input_json_delta", "thinking_delta", "signature_delta", "citations_delta"})


class _Open:
    """A block between its start and its stop. `call` is the tool call's index, or None for other blocks."""

    __slots__ = ("call", "pieces", "raw")

    def __init__(self, raw: Raw, call: int | None) -> None:
        self.raw = raw
        self.call = call
        # The pieces of the block's JSON. Those of a call are passed on at once, so a call only notes that some came.
        self.pieces: list[str] = []


class Reader:
    """The `Reader` of the dialect."""

    def __init__(self) -> None:
        self._open: dict[int, _Open] = {}
        # The sources of the open text block: Claude sends them before its text, `ir` has them after it.
        self._cited: list[Event] = []
        # The length of the answer's text, and the offset of the latest block, in characters.
        self._chars = 0
        self._block_from = 0
        self._calls = 0
        self._stand_in = False
        self._begun = False
        self._usage = AnthropicUsage()

    def feed(self, frame: Frame) -> list[Event]:
        """The events of one frame. Raises Unreadable."""
        if frame.data is None or frame.data == b"[DONE]":
            return []
        if frame.event.endswith(b"Exception"):
            return [failure_of_exception(frame)]
        event = _decode_event(frame)
        kind = event.type or frame.event.decode("utf-8", "replace")
        if kind == "content_block_delta":
            return self._delta(event, frame)
        if kind == "content_block_start":
            return self._start_block(event)
        if kind == "content_block_stop":
            return self._stop_block(event.index)
        if kind == "message_delta":
            return self._message_delta(event)
        if kind == "message_start":
            message = view_of(_message, event.message)
            return [Start(message.id or "", message.model or ""), *self._see_usage(message.usage)]
        if kind == "message_stop":
            return [End()]
        return [_failure(event.error)] if kind == "error" else []

    def _delta(self, event: _Event, frame: Frame) -> list[Event]:
        delta = event.delta
        if delta is None:
            return []
        kind = delta.type
        if kind == "text_delta":
            if not delta.text:
                return []
            self._chars += len(delta.text)
            return [TextDelta(delta.text)]
        if kind == "input_json_delta":
            return self._arguments(event.index, delta.partial_json)
        if kind == "thinking_delta":
            return [ThinkingDelta(delta.thinking)] if delta.thinking else []
        if kind == "signature_delta":
            return [ThinkingSignature(delta.signature, "anthropic")] if delta.signature else []
        if kind == "citations_delta":
            self._cited += _citation(delta.citation)
            return []
        # A delta of a newer type (such as compaction): its fields belong to the block.
        block = self._open.get(event.index)
        if block is not None:
            members = view_of(_raw_delta, frame.data or b"").delta
            block.raw.update({name: value for name, value in members.items() if name != "type"})
        return []

    def _arguments(self, index: int, piece: str | None) -> list[Event]:
        block = self._open.get(index)
        if block is None or not piece:
            return []
        if block.raw.get("type") != "tool_use":
            block.pieces.append(piece)
            return []
        block.pieces = [""]
        return [ToolCallDelta(block.call, piece) if block.call is not None else TextDelta(piece)]

    def _start_block(self, event: _Event) -> list[Event]:
        raw = view_of(_block, event.content_block)
        kind = raw.get("type")
        self._begun = True
        if kind == "text":
            begun = _events_of(raw)
            self._cited = [event for event in begun if isinstance(event, Citation)]
            self._block_from = self._chars
            self._chars += text_chars(begun)
            return begun[: len(begun) - len(self._cited)]
        if kind in ("thinking", "redacted_thinking"):
            return _events_of(raw)
        call: int | None = None
        events: list[Event] = []
        if kind == "tool_use":
            if raw.get("name") == OUTPUT_TOOL:
                self._stand_in = True
            else:
                call = self._calls
                self._calls += 1
                events = [ToolCallStart(call, str(raw.get("id", "")), str(raw.get("name", "")))]
        self._open[event.index] = _Open(raw, call)
        return events

    def _stop_block(self, index: int) -> list[Event]:
        block = self._open.pop(index, None)
        if block is None:
            cited, self._cited = self._cited, []
            return placed(cited, self._block_from, self._chars)
        if block.raw.get("type") != "tool_use":
            if block.pieces:
                block.raw["input"] = _object("".join(block.pieces))
            return [ServerToolPart("anthropic", block.raw)]
        if block.pieces:
            return []
        # No piece came: the call has no arguments, or they were in the start event.
        whole = _text_of(block.raw.get("input"))
        return [ToolCallDelta(block.call, whole) if block.call is not None else TextDelta(whole)]

    def _message_delta(self, event: _Event) -> list[Event]:
        events: list[Event] = [*self._see_usage(event.usage)]
        if event.delta is not None and not self._begun and _is_unbilled(event.delta):
            events = [UsageSeen(Usage())]
        if event.delta is not None and event.delta.stop_reason is not None:
            events.append(_finish(event.delta, self._stand_in and not self._calls))
        return events

    def _see_usage(self, raw: msgspec.Raw) -> list[Event]:
        """Counts are cumulative, so the latest one applies; a missing one keeps its value.

        So do those of the input if all are zero: some compatible servers report it only at the start of a stream. The
        output count is required in each event: that of the stream's start says nothing about its end.
        """
        seen = _read_usage(raw)
        if seen is None:
            return [UsageLost()]
        latest = {name: value for name in seen.__struct_fields__ if (value := getattr(seen, name)) is not None}
        if not any(map(latest.get, _INPUTS)) and any(getattr(self._usage, name) for name in _INPUTS):
            latest = {name: value for name, value in latest.items() if name not in (*_INPUTS, "cache_creation")}
        self._usage = msgspec.structs.replace(self._usage, **latest)
        found = read_anthropic_usage(self._usage)
        return [UsageSeen(*found)] if found and seen.output_tokens is not None else [UsageLost()]


def read_reply(body: bytes) -> list[Event]:
    """The events of a whole answer. Raises Unreadable."""
    whole = view_of(_whole, body)
    if whole.type == "error":
        return [_failure(whole.error)]
    if whole.type != "message":
        raise Unreadable
    message = view_of(_message, body)
    events: list[Event] = [Start(message.id or "", message.model or "")]
    calls, stand_in, chars = 0, False, 0
    for raw in message.content or ():
        if raw.get("type") != "tool_use":
            told = _events_of(raw)
            begun, chars = chars, chars + text_chars(told)
            events += placed(told, begun, chars)
            continue
        arguments = _text_of(raw.get("input"))
        if raw.get("name") == OUTPUT_TOOL:
            stand_in = True
            events.append(TextDelta(arguments))
        else:
            events.append(ToolCallStart(calls, str(raw.get("id", "")), str(raw.get("name", ""))))
            events.append(ToolCallDelta(calls, arguments))
            calls += 1
    seen = _read_usage(message.usage)
    if not message.content and _is_unbilled(message):
        events.append(UsageSeen(Usage()))
    elif seen is not None and (found := read_anthropic_usage(seen)):
        events.append(UsageSeen(*found))
    return [*events, _finish(message, stand_in and not calls), End()]


def is_unbilled(body: bytes) -> bool:
    """Whether a whole answer is a refusal that Anthropic does not bill, whatever usage it reports."""
    if b'"refusal"' not in body:
        return False
    try:
        message = _message.decode(body)
    except NOT_JSON:
        return False
    return not message.content and _is_unbilled(message)


def _is_unbilled(ending: _Delta | _Message) -> bool:
    """Whether a refusal without content is not billed."""
    details = ending.stop_details
    return ending.stop_reason == "refusal" and (details is None or details.category not in _BILLED_REFUSALS)


def _decode_event(frame: Frame) -> _Event:
    data = frame.data or b""
    try:
        return _event.decode(data)
    except NOT_JSON:
        # Newer events may use the name of a known field for something else.
        kind = view_of(_type, data).type or frame.event.decode("utf-8", "replace")
        if kind not in _KNOWN:
            return _Event(type=kind)
        newer = view_of(_newer, data) if kind == "content_block_delta" else None
        if newer is None or newer.delta.type in _DELTAS:
            raise Unreadable from None
        return _Event(type=kind, index=newer.index, delta=_Delta(type=newer.delta.type))


def _read_usage(raw: msgspec.Raw) -> AnthropicUsage | None:
    """The usage object; None if it is missing or invalid."""
    try:
        return _usage.decode(raw)
    except NOT_JSON:
        return None


def _events_of(raw: Raw) -> list[Event]:
    """The events of a whole block, or of one that starts empty, other than a tool call."""
    kind = raw.get("type")
    if kind == "text":
        text = raw.get("text")
        events: list[Event] = [TextDelta(text)] if isinstance(text, str) and text else []
        citations = raw.get("citations")
        for citation in citations if isinstance(citations, list) else []:
            events += _citation(citation)
        return events
    if kind == "thinking":
        text, signature = raw.get("thinking"), raw.get("signature")
        events = [ThinkingDelta(text)] if isinstance(text, str) and text else []
        if isinstance(signature, str) and signature:
            events.append(ThinkingSignature(signature, "anthropic"))
        return events
    if kind == "redacted_thinking":
        return [RedactedThinking(str(raw.get("data", "")))]
    return [ServerToolPart("anthropic", raw)]


def _citation(raw: Any) -> list[Event]:
    """A source on the web, or one of the caller's documents, which has no URL."""
    if not isinstance(raw, dict):
        return []
    title = raw.get("title") or raw.get("document_title") or ""
    url = raw.get("url") or raw.get("source") or ""
    return [Citation(str(url), str(title), str(raw.get("cited_text") or ""))]


def _finish(said: _Delta | _Message, only_stand_in: bool) -> Finish:
    reason = REASONS.get(said.stop_reason or "end_turn", "other")
    if reason == "tool_calls" and only_stand_in:
        reason = "stop"
    return Finish(reason, said.stop_sequence, said.stop_details.explanation if said.stop_details else None)


def _failure(raw: msgspec.Raw) -> Failure:
    try:
        error = _error.decode(raw)
    except NOT_JSON:
        error = _Error()
    return Failure(STATUS.get(error.type, 500), error.type, error.message)


def _text_of(value: Any) -> str:
    return msgspec.json.encode(value).decode() if value else "{}"


def _object(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except NOT_JSON:
        return {}
