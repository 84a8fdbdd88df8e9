"""Read AWS Bedrock Converse answers, whole or streamed, into events.

Contract: the Bedrock runtime API's Converse and ConverseStream. A frame's `event` is its `:event-type`, `data` its JSON
payload (see `eventstream`). Answers have neither an id nor a model. Only Claude signs thinking, so every signature is
Anthropic's.
"""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.translate.claude import OUTPUT_TOOL
from elkapi.translate.dialect import Unreadable, view_of
from elkapi.translate.eventstream import failure_of_exception
from elkapi.translate.ir import (
    NO_ANSWER,
    Citation,
    End,
    Event,
    Failure,
    Finish,
    FinishReason,
    ImageOut,
    RedactedThinking,
    Start,
    TextDelta,
    ThinkingDelta,
    ThinkingSignature,
    ToolCallDelta,
    ToolCallStart,
    UsageSeen,
    placed,
    text_chars,
)
from elkapi.translate.sse import Frame
from elkapi.translate.usage import AnthropicUsage, read_anthropic_usage

Raw = dict[str, Any]

_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "stop_sequence": "stop_sequence",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
# Stop reasons without an answer, unless the model has already given some content.
_GAVE_UP = ("malformed_model_output", "malformed_tool_use")
_ANSWER = (TextDelta, ToolCallStart, ImageOut)


class _CacheDetail(msgspec.Struct):
    ttl: str
    inputTokens: int


class _Usage(msgspec.Struct):
    """`inputTokens` excludes tokens read from or written to a cache."""

    inputTokens: int
    outputTokens: int
    cacheReadInputTokens: int | None = None
    cacheWriteInputTokens: int | None = None
    cacheDetails: list[_CacheDetail] | None = None


class _ToolInput(msgspec.Struct, gc=False):
    input: str = ""


class _Reasoning(msgspec.Struct, gc=False):
    text: str = ""
    signature: str = ""
    redactedContent: str | None = None


class _Delta(msgspec.Struct, gc=False):
    text: str = ""
    toolUse: _ToolInput | None = None
    reasoningContent: _Reasoning | None = None
    citation: Any = None
    image: Any = None


class _BlockDelta(msgspec.Struct, gc=False):
    delta: _Delta
    contentBlockIndex: int = 0


class _ToolUse(msgspec.Struct):
    toolUseId: str
    name: str
    type: str | None = None


class _Image(msgspec.Struct):
    format: str


class _BlockStarted(msgspec.Struct):
    toolUse: _ToolUse | None = None
    image: _Image | None = None


class _BlockStart(msgspec.Struct):
    start: _BlockStarted
    contentBlockIndex: int = 0


class _BlockStop(msgspec.Struct):
    contentBlockIndex: int = 0


class _MessageStop(msgspec.Struct):
    stopReason: str


class _Metadata(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw()


class _Message(msgspec.Struct):
    content: list[Raw] = []


class _Output(msgspec.Struct):
    message: _Message


class _Reply(msgspec.Struct):
    output: _Output
    stopReason: str
    usage: msgspec.Raw = msgspec.Raw()


_block_delta = msgspec.json.Decoder(_BlockDelta)
_block_start = msgspec.json.Decoder(_BlockStart)
_block_stop = msgspec.json.Decoder(_BlockStop)
_message_stop = msgspec.json.Decoder(_MessageStop)
_metadata = msgspec.json.Decoder(_Metadata)
_reply = msgspec.json.Decoder(_Reply)
_usage = msgspec.json.Decoder(_Usage)
_object = msgspec.json.Decoder(Raw)


class Reader:
    """The `Reader` of the dialect."""

    def __init__(self) -> None:
        # Open calls by block: [index of the call, or -1 for the tool that replaces a schema; whether a piece came].
        self._open: dict[int, list[int]] = {}
        self._images: dict[int, str] = {}
        # The length of the answer's text and the offset of the latest block, in characters, and the block's sources.
        self._chars = 0
        self._block_from = 0
        self._cited: list[Event] = []
        self._calls = 0
        self._stand_in = False
        self._answered = False

    def feed(self, frame: Frame) -> list[Event]:
        """The events of one frame. Raises Unreadable."""
        events = self._read(frame)
        self._answered = self._answered or any(isinstance(event, _ANSWER) for event in events)
        return events

    def _read(self, frame: Frame) -> list[Event]:
        kind, data = frame.event, frame.data or b""
        if kind == b"contentBlockDelta":
            return self._delta(view_of(_block_delta, data))
        if kind == b"contentBlockStart":
            return self._start_block(view_of(_block_start, data))
        if kind == b"contentBlockStop":
            return self._stop_block(view_of(_block_stop, data).contentBlockIndex)
        if kind == b"messageStart":
            view_of(_object, data)
            return [Start("", "")]
        if kind == b"messageStop":
            reason = view_of(_message_stop, data).stopReason
            return [_finish(reason, self._stand_in and not self._calls, answered=self._answered)]
        if kind == b"metadata":
            return [*_see_usage(view_of(_metadata, data).usage), End()]
        return [failure_of_exception(frame)] if kind.endswith(b"Exception") else []

    def _delta(self, view: _BlockDelta) -> list[Event]:
        delta = view.delta
        if delta.text:
            self._chars += len(delta.text)
            return [TextDelta(delta.text)]
        if delta.toolUse is not None:
            call = self._open.get(view.contentBlockIndex)
            if call is None or not delta.toolUse.input:
                return []
            call[1] = 1
            return [_arguments(call[0], delta.toolUse.input)]
        if delta.reasoningContent is not None:
            return _thoughts(delta.reasoningContent)
        if delta.image is not None:
            return _image(self._images.get(view.contentBlockIndex, "png"), delta.image)
        self._cited += _citation(delta.citation)
        return []

    def _stop_block(self, index: int) -> list[Event]:
        call = self._open.pop(index, None)
        cited, self._cited = placed(self._cited, self._block_from, self._chars), []
        self._block_from = self._chars
        return cited if call is None or call[1] else [_arguments(call[0], "{}")]

    def _start_block(self, view: _BlockStart) -> list[Event]:
        if view.start.image is not None:
            self._images[view.contentBlockIndex] = view.start.image.format
        tool = view.start.toolUse
        if tool is None or tool.type is not None:
            return []
        if tool.name == OUTPUT_TOOL:
            self._stand_in = True
            self._open[view.contentBlockIndex] = [-1, 0]
            return []
        call = self._calls
        self._calls += 1
        self._open[view.contentBlockIndex] = [call, 0]
        return [ToolCallStart(call, tool.toolUseId, tool.name)]


def read_reply(body: bytes) -> list[Event]:
    """The events of a whole answer. Raises Unreadable."""
    reply: _Reply = view_of(_reply, body)
    events: list[Event] = [Start("", "")]
    calls, stand_in, chars = 0, False, 0
    for block in reply.output.message.content:
        tool = block.get("toolUse")
        if not isinstance(tool, dict):
            told = _events_of(block)
            begun, chars = chars, chars + text_chars(told)
            events += placed(told, begun, chars)
        elif tool.get("type") is None:
            arguments = msgspec.json.encode(tool.get("input") or {}).decode()
            if tool.get("name") == OUTPUT_TOOL:
                stand_in = True
                events.append(TextDelta(arguments))
                continue
            events.append(ToolCallStart(calls, str(tool.get("toolUseId", "")), str(tool.get("name", ""))))
            events.append(ToolCallDelta(calls, arguments))
            calls += 1
    answered = any(isinstance(event, _ANSWER) for event in events)
    finish = _finish(reply.stopReason, stand_in and not calls, answered=answered)
    return [*events, *_see_usage(reply.usage), finish, End()]


def _arguments(call: int, piece: str) -> Event:
    return TextDelta(piece) if call < 0 else ToolCallDelta(call, piece)


def _events_of(block: Raw) -> list[Event]:
    """The events of a whole block other than a tool call; none for an unknown block."""
    text = block.get("text")
    if isinstance(text, str):
        return [TextDelta(text)] if text else []
    reasoning = block.get("reasoningContent")
    if isinstance(reasoning, dict):
        try:
            return _thoughts(msgspec.convert(reasoning.get("reasoningText") or reasoning, _Reasoning))
        except msgspec.ValidationError:
            raise Unreadable from None
    image = block.get("image")
    if isinstance(image, dict):
        return _image(str(image.get("format", "png")), image)
    cited = block.get("citationsContent")
    if not isinstance(cited, dict):
        return []
    events = [event for piece in _list(cited.get("content")) if isinstance(piece, dict) for event in _events_of(piece)]
    return events + [event for citation in _list(cited.get("citations")) for event in _citation(citation)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _thoughts(reasoning: _Reasoning) -> list[Event]:
    events: list[Event] = []
    if reasoning.text:
        events.append(ThinkingDelta(reasoning.text))
    if reasoning.signature:
        events.append(ThinkingSignature(reasoning.signature, "anthropic"))
    if reasoning.redactedContent:
        events.append(RedactedThinking(reasoning.redactedContent))
    return events


def _image(format_: str, raw: Any) -> list[Event]:
    source = raw.get("source") if isinstance(raw, dict) else None
    data = source.get("bytes") if isinstance(source, dict) else None
    return [ImageOut(f"image/{format_}", data)] if isinstance(data, str) else []


def _citation(raw: Any) -> list[Event]:
    if not isinstance(raw, dict):
        return []
    location = raw.get("location")
    web = location.get("web") if isinstance(location, dict) else None
    url = web.get("url") if isinstance(web, dict) else raw.get("source")
    quotes = raw.get("sourceContent")
    pieces = [row.get("text") for row in quotes if isinstance(row, dict)] if isinstance(quotes, list) else []
    quoted = "".join(piece for piece in pieces if isinstance(piece, str))
    return [Citation(str(url or ""), str(raw.get("title") or ""), quoted)]


def _finish(reason: str, only_stand_in: bool, *, answered: bool) -> Event:
    if reason in _GAVE_UP and not answered:
        return Failure(502, NO_ANSWER, f"The model came to no answer ({reason}).")
    found = _REASONS.get(reason, "other")
    return Finish("stop" if found == "tool_calls" and only_stand_in else found)


def _see_usage(raw: msgspec.Raw) -> list[Event]:
    """The usage, which has Anthropic's classes under other names; nothing if a count is impossible."""
    try:
        view: _Usage = _usage.decode(raw)
        rows = {"5m": 0, "1h": 0}
        for row in view.cacheDetails or ():
            rows[row.ttl] = rows.get(row.ttl, 0) + row.inputTokens
        members: Raw = {
            "input_tokens": view.inputTokens,
            "output_tokens": view.outputTokens,
            "cache_read_input_tokens": view.cacheReadInputTokens,
            "cache_creation_input_tokens": view.cacheWriteInputTokens,
        }
        if view.cacheDetails:
            members["cache_creation"] = {f"ephemeral_{ttl}_input_tokens": count for ttl, count in rows.items()}
        found = read_anthropic_usage(msgspec.convert(members, AnthropicUsage))
    except NOT_JSON:
        return []
    return [UsageSeen(*found)] if found else []
