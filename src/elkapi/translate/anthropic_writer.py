"""Write events as Anthropic answers, whole or streamed. Contract: anthropic.md sections 1, 1.1 and 4.

Blocks form a queue, since only one may be open. The deltas of the first one are written as they come; the others wait
until it is complete: text and thinking as soon as another block begins, a tool call when its JSON is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.translate.claude import tool_input
from elkapi.translate.dialect import ReplyFacts
from elkapi.translate.estimate import estimated_tokens
from elkapi.translate.ir import (
    Citation,
    Event,
    Failure,
    Finish,
    FinishReason,
    ImageOut,
    RedactedThinking,
    RefusalDelta,
    ServerToolPart,
    TextDelta,
    ThinkingDelta,
    ThinkingSignature,
    ToolCall,
    ToolCallDelta,
    ToolCallStart,
    UsageSeen,
    texts_of,
)
from elkapi.translate.seal import Sealed, seal
from elkapi.translate.usage import anthropic_usage_object
from elkapi.types import Usage

Raw = dict[str, Any]

STOP_REASONS: dict[FinishReason, str] = {
    "stop": "end_turn",
    "stop_sequence": "stop_sequence",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "refusal": "refusal",
    "pause": "pause_turn",
    "other": "end_turn",
}
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_encode = msgspec.json.Encoder().encode


def error_type(status: int) -> str:
    """The dialect's error type for an HTTP status."""
    return _ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")


class _Block:
    """One content block to write. `start` is its initial form; `deltas` buffers until the block is open.

    `arguments` collects the JSON text of a call; None for other kinds.
    """

    __slots__ = ("arguments", "call", "deltas", "kind", "start", "whole")

    def __init__(self, kind: str, start: Raw, call: int | None = None) -> None:
        self.kind = kind
        self.start = start
        self.call = call
        self.deltas: list[Raw] = []
        self.arguments: list[str] | None = None if call is None else []
        # Nothing more is added: blocks of these kinds come in one event, and a signature ends a thought.
        self.whole = kind in ("redacted_thinking", "other")

    def is_complete(self) -> bool:
        """Whether the next block may begin; a call must have complete arguments."""
        if self.whole or self.arguments is None:
            return True
        text = "".join(self.arguments)
        self.arguments = [text]
        return text.rstrip().endswith("}") and _parsed(text) is not None

    def sign(self) -> None:
        """Buffer the last delta of a thought that no upstream signed: an empty signature (anthropic.md, `thinking`).

        Clients wait for one: without it the Vercel AI SDK drops the thought.
        """
        if self.kind == "thinking" and not self.whole:
            self.deltas.append({"type": "signature_delta", "signature": ""})
            self.whole = True

    def result(self) -> Raw:
        """The block of a whole answer, equal to what a client accumulates from its start and deltas."""
        block = dict(self.start)
        if self.arguments is not None:
            # Arguments that are not an object are wrapped, so that a client does not run the tool with empty input.
            arguments = "".join(self.arguments)
            call = ToolCall(block["id"], block["name"], "" if arguments.strip() == "null" else arguments)
            block["input"] = tool_input(call)
        for name in ("text", "thinking"):
            # Joined once: appending each delta is quadratic, which took hours for very many deltas.
            if said := [delta[name] for delta in self.deltas if delta["type"] == f"{name}_delta"]:
                block[name] += "".join(said)
        for delta in self.deltas:
            match delta["type"]:
                case "signature_delta":
                    block["signature"] = delta["signature"]
                case "citations_delta":
                    block.setdefault("citations", []).append(delta["citation"])
        return block


class _Layout:
    """Assigns events to blocks, for both streams and whole answers."""

    def __init__(self, facts: ReplyFacts) -> None:
        asked = facts.request.reasoning
        # Callers that did not ask for thinking do not expect its blocks, and may not send them back.
        self._signs = asked is not None and (asked.adaptive or asked.budget_tokens is not None)
        self.blocks: list[_Block] = []
        self.called = False
        self.refused = False
        self.usage: Usage = Usage()
        self.finish: Finish | None = None

    def place(self, event: Event) -> tuple[_Block, Raw | None] | None:
        """(block, new delta or None); None for an event without content in this dialect."""
        match event:
            case TextDelta(text=text):
                return (self._last("text"), {"type": "text_delta", "text": text}) if text else None
            case ToolCallDelta(index=index, arguments=arguments):
                return self._arguments(index, arguments)
            case ThinkingDelta(text=text):
                return (self._last("thinking"), {"type": "thinking_delta", "thinking": text}) if text else None
            case ToolCallStart():
                self.called = True
                if event.signature and event.signed_by == "gemini" and self._signs:
                    self._sign(Sealed("gemini", signature=event.signature, call_id=event.id))
                # Not called from Claude's code execution. Anthropic always sends this; its Java SDK requires it.
                direct = {"type": "direct"}
                start: Raw = {"type": "tool_use", "id": event.id, "name": event.name, "input": {}, "caller": direct}
                return self._new(_Block("tool_use", start, event.index)), None
            case ThinkingSignature(signature=signature, signed_by="anthropic"):
                block = self._last("thinking")
                block.whole = True
                return block, {"type": "signature_delta", "signature": signature}
            case ThinkingSignature(signature=signature, signed_by="responses") if self._signs:
                block = self._last("thinking")
                block.whole = True
                return block, {"type": "signature_delta", "signature": seal(Sealed("responses", signature=signature))}
            case RedactedThinking(data=data):
                return self._new(_Block("redacted_thinking", {"type": "redacted_thinking", "data": data})), None
            case RefusalDelta(text=text):
                self.refused = True
                return self._last("text"), {"type": "text_delta", "text": text}
            case ImageOut(media_type=media_type, data=data):
                markdown = f"![image](data:{media_type};base64,{data})"
                return self._last("text"), {"type": "text_delta", "text": markdown}
            case ServerToolPart(dialect="anthropic", raw=raw):
                return self._new(_Block("other", raw)), None
            case Citation():
                return self._citation(event)
            case UsageSeen(usage=usage):
                self.usage = usage
            case Finish():
                self.finish = event
        return None

    def _new(self, block: _Block) -> _Block:
        self.blocks.append(block)
        return block

    def _last(self, kind: str) -> _Block:
        """The last block, if it is of this kind and incomplete, otherwise a new one."""
        if self.blocks and self.blocks[-1].kind == kind and not self.blocks[-1].whole:
            return self.blocks[-1]
        if kind == "text":
            return self._new(_Block(kind, {"type": "text", "text": ""}))
        return self._new(_Block(kind, {"type": "thinking", "thinking": "", "signature": ""}))

    def _sign(self, content: Sealed) -> None:
        """Add an empty thinking block before a call, the only place in this dialect for the call's signature."""
        block = self._new(_Block("thinking", {"type": "thinking", "thinking": "", "signature": ""}))
        block.deltas.append({"type": "signature_delta", "signature": seal(content)})
        block.whole = True

    def _arguments(self, index: int, arguments: str) -> tuple[_Block, Raw | None] | None:
        for block in reversed(self.blocks):
            if block.call == index and block.arguments is not None:
                if not arguments:
                    return None
                block.arguments.append(arguments)
                return block, {"type": "input_json_delta", "partial_json": arguments}
        return None

    def _citation(self, event: Citation) -> tuple[_Block, Raw | None] | None:
        if not self.blocks or self.blocks[-1].kind != "text":
            return None
        citation = {
            "type": "web_search_result_location",
            "cited_text": event.quoted,
            "encrypted_index": "",
            "title": event.title or None,
            "url": event.url,
        }
        return self.blocks[-1], {"type": "citations_delta", "citation": citation}

    def ending(self) -> Raw:
        """`stop_reason`, `stop_sequence` and, for a refusal, `stop_details`."""
        reason = self.finish.reason if self.finish else "stop"
        if self.called and reason in ("stop", "stop_sequence", "other"):
            reason = "tool_calls"
        elif self.refused and reason == "stop":
            reason = "refusal"
        elif reason == "tool_calls" and not self.called:
            reason = "stop"
        sequence = self.finish.stop_sequence if self.finish and reason == "stop_sequence" else None
        ending: Raw = {"stop_reason": STOP_REASONS[reason], "stop_sequence": sequence}
        if STOP_REASONS[reason] == "refusal":
            explanation = self.finish.explanation if self.finish else None
            ending["stop_details"] = {"type": "refusal", "category": None, "explanation": explanation}
        return ending


class Writer:
    """The `Writer` of the dialect."""

    def __init__(self, facts: ReplyFacts) -> None:
        self._facts = facts
        self._layout = _Layout(facts)
        self._started = False
        # The open block and its index; -1 before the first.
        self._head: _Block | None = None
        self._index = -1

    def feed(self, event: Event) -> bytes:
        placed = self._layout.place(event)
        if placed is None:
            return b""
        block, delta = placed
        if block is self._head and delta is not None and len(self._layout.blocks) == 1:
            return _delta(self._index, delta)
        if block is not self._head and delta is not None:
            block.deltas.append(delta)
            delta = None
        out = [] if self._started else [self._start()]
        if delta is not None:
            out.append(_delta(self._index, delta))
        self._advance(out, all_of_it=False)
        return b"".join(out)

    def finish(self) -> bytes:
        out = [] if self._started else [self._start()]
        self._advance(out, all_of_it=True)
        usage = anthropic_usage_object(self._layout.usage)
        out.append(_frame("message_delta", {"delta": self._layout.ending(), "usage": usage}))
        out.append(_frame("message_stop", {}))
        return b"".join(out)

    def fail(self, failure: Failure) -> bytes:
        error = {"type": error_type(failure.status), "message": failure.message}
        return _frame("error", {"error": error})

    def ping(self) -> bytes:
        return _PING

    def _start(self) -> bytes:
        self._started = True
        message = _envelope(self._facts) | {"content": [], "stop_reason": None, "stop_sequence": None}
        usage = self._layout.usage
        if usage == Usage():
            # Most upstreams report usage only at the end of a stream; clients show this estimate until then.
            usage = Usage(input_tokens=estimated_tokens(texts_of(self._facts.request)))
        return _frame("message_start", {"message": message | {"usage": anthropic_usage_object(usage)}})

    def _advance(self, out: list[bytes], all_of_it: bool) -> None:
        """Close complete blocks, or all of them, and open the next one; closed blocks are dropped."""
        blocks = self._layout.blocks
        while blocks:
            if self._head is None:
                self._open(blocks[0], out)
            if not all_of_it and (len(blocks) == 1 or not blocks[0].is_complete()):
                return
            blocks[0].sign()
            out.extend(_delta(self._index, delta) for delta in blocks[0].deltas)
            out.append(_frame("content_block_stop", {"index": self._index}))
            self._head = None
            blocks.pop(0)

    def _open(self, block: _Block, out: list[bytes]) -> None:
        self._head = block
        self._index += 1
        out.append(_frame("content_block_start", {"index": self._index, "content_block": block.start}))
        out.extend(_delta(self._index, delta) for delta in block.deltas)
        block.deltas = []


def write_reply(events: Sequence[Event], facts: ReplyFacts) -> bytes:
    """The whole 200 body, equal to what a client accumulates from a stream of the same events."""
    layout = _Layout(facts)
    for event in events:
        placed = layout.place(event)
        if placed is not None and placed[1] is not None:
            placed[0].deltas.append(placed[1])
    content = [block.result() for block in layout.blocks]
    usage = anthropic_usage_object(layout.usage)
    return _encode(_envelope(facts) | {"content": content} | layout.ending() | {"usage": usage})


def _envelope(facts: ReplyFacts) -> Raw:
    id = facts.id if facts.id.startswith("msg_") else f"msg_{facts.id}"
    return {"id": id, "type": "message", "role": "assistant", "model": facts.model}


def _delta(index: int, delta: Raw) -> bytes:
    body = _encode({"type": "content_block_delta", "index": index, "delta": delta})
    return b"event: content_block_delta\ndata: " + body + b"\n\n"


def _frame(kind: str, members: Raw) -> bytes:
    return f"event: {kind}\ndata: ".encode() + _encode({"type": kind} | members) + b"\n\n"


def _parsed(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except NOT_JSON:
        return None
