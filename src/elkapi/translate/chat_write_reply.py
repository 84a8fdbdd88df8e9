"""Write events as a chat caller's answer, whole or streamed.

Contract: openai.md (Chat completions, Stream); anthropic.md sections 3 and 7. Extensions: `reasoning_content`,
`thinking_blocks` (signed thinking, which the client sends back), `images`, and Google's `extra_content`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from elkapi.errors import BadRequest, ContentBlocked, RateLimited, UpstreamError, UpstreamOverloaded, UpstreamTimeout
from elkapi.translate.chat_write_request import image_row, thinking_block
from elkapi.translate.dialect import ReplyFacts
from elkapi.translate.ir import (
    Citation,
    Event,
    Failure,
    Finish,
    FinishReason,
    Image,
    ImageOut,
    RedactedThinking,
    RefusalDelta,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ThinkingSignature,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStart,
    UsageSeen,
)
from elkapi.translate.usage import chat_usage_object
from elkapi.types import Usage

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
_REASONS: dict[FinishReason, str] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "pause": "stop",
    "other": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
}
# Status -> (type, code) of an error inside a stream: those of the same error before one (docs/errors.md).
_ERRORS = {
    429: (RateLimited.type, "upstream_rate_limited"),
    503: (UpstreamOverloaded.type, UpstreamOverloaded.code),
    504: (UpstreamTimeout.type, UpstreamTimeout.code),
    529: (UpstreamOverloaded.type, UpstreamOverloaded.code),
}
_encode = msgspec.json.encode


class _Answer:
    """The state that whole and streamed answers share: finish reason, usage, sources, thinking and image counters."""

    def __init__(self, facts: ReplyFacts) -> None:
        self.facts = facts
        # A caller of the deprecated `functions` gets the deprecated `function_call`.
        self.legacy = facts.request.dialect == "chat" and bool(facts.request.extra.get("functions"))
        self.usage: Usage | None = None
        self.finish: Finish | None = None
        self.called = self.refused = False
        self.text_chars = 0
        self._cited_from = 0
        self._cited_to = 0
        self.annotations: list[dict[str, Any]] = []
        self._thought: list[str] = []
        self.blocks = 0
        self.images = 0
        self._drew = False

    def text(self, text: str) -> None:
        """Count text of the answer; a later signature does not cover unsigned thinking before this text."""
        self._drew = False
        self.text_chars += len(text)
        if self._thought:
            self._thought = []

    def think(self, text: str) -> None:
        self._drew = False
        self._thought.append(text)

    def signed(self, event: ThinkingSignature | RedactedThinking) -> dict[str, Any]:
        """The block of the passage that ends here, with its index, by which SDKs merge streamed pieces."""
        if isinstance(event, RedactedThinking):
            part = Thinking(redacted=event.data)
        else:
            part = Thinking("".join(self._thought), event.signature, event.signed_by)
            self._thought = []
        self.blocks += 1
        return {"index": self.blocks - 1} | thinking_block(part)

    def image_signature(self, event: ThinkingSignature | RedactedThinking) -> dict[str, Any] | None:
        """Gemini's signature of the preceding image, as a piece of that image; None for any other signature."""
        if not self._drew or isinstance(event, RedactedThinking) or event.signed_by != "gemini":
            return None
        self._drew = False
        return {"index": self.images - 1, "extra_content": _extra_content(event.signature)}

    def image(self, event: ImageOut) -> dict[str, Any]:
        self._drew = True
        self.images += 1
        return {"index": self.images - 1} | image_row(Image(data=event.data, media_type=event.media_type))

    def cite(self, event: Citation) -> None:
        """Record a source. Without a span it covers the text since the previous position with sources."""
        if self.text_chars != self._cited_to:
            self._cited_from, self._cited_to = self._cited_to, self.text_chars
        start, end = event.span or (self._cited_from, self._cited_to)
        row = {"url": event.url, "title": event.title, "start_index": start, "end_index": end}
        self.annotations.append({"type": "url_citation", "url_citation": row})

    def reason(self) -> str:
        if self.called and (self.finish is None or self.finish.reason in ("stop", "tool_calls", "pause", "other")):
            return "function_call" if self.legacy else "tool_calls"
        if self.finish is None or (self.finish.reason == "refusal" and self.refused):
            return "stop"
        # Some models of Bedrock end a mere text so.
        if self.finish.reason == "tool_calls":
            return "stop"
        return _REASONS[self.finish.reason]

    @property
    def why_declined(self) -> str | None:
        """The upstream's explanation of a refusal, if the model gave none itself."""
        finish = self.finish
        return finish.explanation if finish and finish.reason == "refusal" and not self.refused else None

    def note(self, event: Event) -> None:
        """Record events that are written only at the end."""
        if isinstance(event, UsageSeen):
            self.usage = event.usage
        elif isinstance(event, Finish):
            self.finish = event
        elif isinstance(event, Citation):
            self.cite(event)


def _call(event: ToolCallStart, arguments: str) -> dict[str, Any]:
    kind, body = ("custom", "input") if event.custom else ("function", "arguments")
    row: dict[str, Any] = {"id": event.id, "type": kind, kind: {"name": event.name, body: arguments}}
    if event.signature and event.signed_by == "gemini":
        row["extra_content"] = _extra_content(event.signature)
    return row


def _extra_content(signature: str) -> dict[str, Any]:
    return {"google": {"thought_signature": signature}}


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    if not tokens:
        return None
    content = [
        _logprob(row.token, row.logprob) | {"top_logprobs": [_logprob(token, value) for token, value in row.top]}
        for row in tokens
    ]
    return {"content": content, "refusal": None}


def _logprob(token: str, value: float) -> dict[str, Any]:
    """The bytes of a token that is only part of a character cannot be derived from its text and are null."""
    partial = "\ufffd" in token or "\\x" in token
    return {"token": token, "logprob": value, "bytes": None if partial else list(token.encode())}


class ChatWriter:
    """The `Writer` of the dialect. Calls may interleave, since their pieces have an index."""

    def __init__(self, facts: ReplyFacts) -> None:
        self._answer = _Answer(facts)
        self._custom: dict[int, bool] = {}
        self._begun = False
        head = {"id": facts.id, "object": "chat.completion.chunk", "created": facts.created_s, "model": facts.model}
        self._head = b"data: " + _encode(head)[:-1]
        self._before = self._head + b',"choices":[{"index":0,"delta":'
        usage = b',"usage":null}\n\n' if facts.include_usage else b"}\n\n"
        self._after = b',"logprobs":null,"finish_reason":null}]' + usage
        self._usage_null = usage

    def feed(self, event: Event) -> bytes:
        """The bytes of one event; the first content is preceded by the chunk with the role."""
        if isinstance(event, TextDelta):
            self._answer.text(event.text)
            if event.logprobs and self._answer.facts.request.logprobs:
                return self._open() + self._with_logprobs(event)
            return self._open() + self._before + b'{"content":' + _encode(event.text) + b"}" + self._after
        if isinstance(event, ToolCallDelta):
            return self._piece(event)
        if isinstance(event, ThinkingDelta):
            self._answer.think(event.text)
            return self._open() + self._before + b'{"reasoning_content":' + _encode(event.text) + b"}" + self._after
        if isinstance(event, ToolCallStart):
            return self._start(event)
        if isinstance(event, RefusalDelta):
            self._answer.refused = True
            return self._open() + self._delta({"refusal": event.text})
        if isinstance(event, ThinkingSignature | RedactedThinking):
            if piece := self._answer.image_signature(event):
                return self._delta({"images": [piece]})
            return self._open() + self._delta({"thinking_blocks": [self._answer.signed(event)]})
        if isinstance(event, ImageOut):
            return self._open() + self._delta({"images": [self._answer.image(event)]})
        self._answer.note(event)
        return b""

    def finish(self) -> bytes:
        """The sources, the chunk with the finish reason, the usage chunk if requested, and `[DONE]`."""
        answer = self._answer
        pieces = [self._open()]
        if answer.why_declined:
            pieces.append(self._delta({"refusal": answer.why_declined}))
        if answer.annotations:
            pieces.append(self._delta({"annotations": answer.annotations}))
        reason = _encode(answer.reason())
        pieces.append(self._before + b'{},"logprobs":null,"finish_reason":' + reason + b"}]" + self._usage_null)
        if answer.facts.include_usage and answer.usage is not None:
            usage = _encode(chat_usage_object(answer.usage))
            pieces.append(self._head + b',"choices":[],"usage":' + usage + b"}\n\n")
        pieces.append(DONE)
        return b"".join(pieces)

    def fail(self, failure: Failure) -> bytes:
        """A frame whose top-level `error` makes every SDK raise; nothing follows it, not even `[DONE]`."""
        return b"data: " + _encode(error_body(failure)) + b"\n\n"

    def ping(self) -> bytes:
        """An SSE comment: the only frame without data that the SDKs accept."""
        return PING

    def _open(self, content: str | None = "") -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return self._delta({"role": "assistant", "content": content})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return self._before + _encode(delta) + self._after

    def _with_logprobs(self, event: TextDelta) -> bytes:
        rows = _encode(_logprobs(event.logprobs))
        text = b'{"content":' + _encode(event.text) + b"}"
        return self._before + text + b',"logprobs":' + rows + b',"finish_reason":null}]' + self._usage_null

    def _start(self, event: ToolCallStart) -> bytes:
        first = self._open(None)
        self._answer.called = True
        self._custom[event.index] = event.custom
        if self._answer.legacy:
            # The format has one call per answer, but not every upstream can be limited to one.
            if event.index:
                return first
            return first + self._delta({"function_call": {"name": event.name, "arguments": ""}})
        return first + self._delta({"tool_calls": [{"index": event.index} | _call(event, "")]})

    def _piece(self, event: ToolCallDelta) -> bytes:
        if self._answer.legacy:
            return b"" if event.index else self._delta({"function_call": {"arguments": event.arguments}})
        kind, body = (b"custom", b"input") if self._custom.get(event.index) else (b"function", b"arguments")
        piece = b'{"tool_calls":[{"index":%d,"%b":{"%b":%b}}]}' % (event.index, kind, body, _encode(event.arguments))
        return self._before + piece + self._after


class _Whole:
    """Collects the events into one message."""

    def __init__(self, facts: ReplyFacts) -> None:
        self._answer = _Answer(facts)
        self._lists: dict[str, list[dict[str, Any]]] = {"thinking_blocks": [], "images": []}
        self._texts: dict[str, list[str]] = {"content": [], "refusal": [], "reasoning_content": []}
        self._tokens: list[TokenLogprob] = []
        self._calls: dict[int, tuple[ToolCallStart, list[str]]] = {}

    def add(self, event: Event) -> None:
        answer = self._answer
        if isinstance(event, TextDelta):
            answer.text(event.text)
            self._texts["content"].append(event.text)
            self._tokens += event.logprobs if answer.facts.request.logprobs else ()
        elif isinstance(event, ThinkingDelta):
            answer.think(event.text)
            self._texts["reasoning_content"].append(event.text)
        elif isinstance(event, RefusalDelta):
            answer.refused = True
            self._texts["refusal"].append(event.text)
        elif isinstance(event, ThinkingSignature | RedactedThinking):
            if piece := answer.image_signature(event):
                self._lists["images"][-1] |= piece
            else:
                self._lists["thinking_blocks"].append(answer.signed(event))
        elif isinstance(event, ImageOut):
            self._lists["images"].append(answer.image(event))
        elif isinstance(event, ToolCallStart):
            answer.called = True
            self._calls[event.index] = (event, [])
        elif isinstance(event, ToolCallDelta):
            self._calls[event.index][1].append(event.arguments)
        else:
            answer.note(event)

    def body(self) -> bytes:
        answer, facts = self._answer, self._answer.facts
        texts = {name: "".join(pieces) if pieces else None for name, pieces in self._texts.items()}
        content = "" if texts["content"] is None and not self._calls else texts["content"]
        refusal = texts["refusal"] or answer.why_declined
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": refusal}
        extras = {"reasoning_content": texts["reasoning_content"], **self._lists, "annotations": answer.annotations}
        message |= {name: value for name, value in extras.items() if value}
        calls = [self._calls[index] for index in sorted(self._calls)]
        if calls and answer.legacy:
            start, pieces = calls[0]
            message["function_call"] = {"name": start.name, "arguments": "".join(pieces)}
        elif calls:
            message["tool_calls"] = [_call(start, "".join(pieces)) for start, pieces in calls]
        rows = _logprobs(self._tokens)
        choice = {"index": 0, "message": message, "logprobs": rows, "finish_reason": answer.reason()}
        head = {"id": facts.id, "object": "chat.completion", "created": facts.created_s, "model": facts.model}
        usage = {"usage": chat_usage_object(answer.usage)} if answer.usage is not None else {}
        return _encode(head | {"choices": [choice]} | usage)


def write_reply(events: Sequence[Event], facts: ReplyFacts) -> bytes:
    """The body of a whole answer, equal to what a client accumulates from a stream of the same events."""
    whole = _Whole(facts)
    for event in events:
        whole.add(event)
    return whole.body()


def error_body(failure: Failure) -> dict[str, Any]:
    """OpenAI's error object for a failure, without the upstream's own error type."""
    refused = (BadRequest.type, ContentBlocked.code if failure.kind == ContentBlocked.code else "upstream_rejected")
    fallback = (UpstreamError.type, UpstreamError.code) if failure.status >= 500 else refused
    kind, code = _ERRORS.get(failure.status, fallback)
    return {"error": {"message": failure.message, "type": kind, "param": None, "code": code}}
