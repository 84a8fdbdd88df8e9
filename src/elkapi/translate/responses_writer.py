"""Write events as answers of the responses dialect, whole or streamed.

Contract: openai.md (response, Stream, Order rules). One reasoning item or message is open at a time; calls stay open
until their arguments are complete, since their deltas may interleave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from elkapi.errors import RateLimited
from elkapi.translate.dialect import ReplyFacts
from elkapi.translate.ir import (
    Citation,
    DialectName,
    Event,
    Failure,
    Finish,
    ImageOut,
    RedactedThinking,
    RefusalDelta,
    ServerToolPart,
    Start,
    TextDelta,
    ThinkingDelta,
    ThinkingSignature,
    ToolCallDelta,
    ToolCallStart,
    UsageSeen,
)
from elkapi.translate.responses_object import (
    OpenCall,
    OpenPart,
    annotation,
    as_object,
    blank_response,
    error_object,
    logprob_rows,
    unwrapped,
)
from elkapi.translate.responses_request import ENCRYPTED
from elkapi.translate.responses_write import split_name
from elkapi.translate.seal import UNSIGNED, Sealed, seal
from elkapi.translate.usage import responses_usage_object

REFUSED = "The model declined to answer."
# The service tiers of answers in this dialect.
_TIERS = frozenset({"default", "flex", "scale", "priority", "fast", "ultrafast"})
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}

_encode = msgspec.json.encode


def write_reply(events: Sequence[Event], facts: ReplyFacts) -> bytes:
    """The whole response object, equal to that of a stream's terminal event."""
    writer = ResponsesWriter(facts)
    for event in events:
        writer.feed(event)
    writer.finish()
    return _encode(writer.response)


class ResponsesWriter:
    """The `Writer` of the dialect. `response` is the object so far, and that of the terminal event after `finish`.

    `sequence` is the number of the next event.
    """

    def __init__(self, facts: ReplyFacts) -> None:
        # Created with the first event: a relayed stream also has a writer, which is used only if the stream fails.
        self.response: dict[str, Any] = {}
        self._facts = facts
        self._request = facts.request
        self._base = facts.id.removeprefix("resp_")
        self._custom = frozenset(tool.name for tool in facts.request.tools if tool.custom)
        # Whoever asks for sealed reasoning gets it for every thought: clients drop one that is not sealed.
        self._seals = ENCRYPTED in (facts.request.extra.get("include") or ())
        self.sequence = 0
        self._output: list[dict[str, Any]] = []
        self._part: OpenPart | None = None
        # Characters of text in closed parts.
        self._chars_before = 0
        # The output index of the open message or reasoning item.
        self._index = 0
        self._message: dict[str, Any] | None = None
        self._reasoning: dict[str, Any] | None = None
        self._thoughts: list[str] = []
        self._calls: dict[int, OpenCall] = {}
        self._refused = False
        self._usage: UsageSeen | None = None
        self._finish: Finish | None = None

    def feed(self, event: Event) -> bytes:
        # The common event first.
        if type(event) is TextDelta:
            part = self._part
            if part is not None and part.kind == "output_text" and not event.logprobs:
                return self._delta(part, event.text)
        elif isinstance(event, UsageSeen):
            self._usage = event
            return b""
        elif isinstance(event, Finish):
            self._finish = event
            return b""
        handler = _HANDLERS.get(type(event))
        return self.begin() + handler(self, event) if handler is not None else b""

    def ping(self) -> bytes:
        return b": ping\n\n"

    # --- frames

    def _frame(self, kind: str, **members: Any) -> bytes:
        data = _encode({"type": kind, **members, "sequence_number": self.sequence})
        self.sequence += 1
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"

    def _delta(self, part: OpenPart, text: str) -> bytes:
        if not text:
            return b""
        part.pieces.append(text)
        number = self.sequence
        self.sequence += 1
        return b'%b%b,"sequence_number":%d}\n\n' % (part.head, _encode(text), number)

    def begin(self) -> bytes:
        """The two events that open every stream, written once."""
        if self.response:
            return b""
        self.response = blank_response(self._facts) | {"output": self._output}
        return self._frame("response.created", response=self.response) + self._frame(
            "response.in_progress", response=self.response
        )

    def _start(self, _event: Start) -> bytes:
        return b""

    # --- items

    def _add(self, prefix: str, item: dict[str, Any]) -> tuple[int, dict[str, Any], bytes]:
        """(index, item, frame) of a new item. `_output` holds the same object, which is filled later."""
        index = len(self._output)
        item = {"id": f"{prefix}_{self._base}_{index}", **item}
        self._output.append(item)
        return index, item, self._frame("response.output_item.added", output_index=index, item=item)

    def _done(self, index: int, item: dict[str, Any]) -> bytes:
        return self._frame("response.output_item.done", output_index=index, item=item)

    def _whole_item(self, prefix: str, early: dict[str, Any], late: dict[str, Any]) -> bytes:
        """The frames of an item without deltas: added as `early`, done with `late` merged in."""
        closed = self._close()
        index, item, out = self._add(prefix, early)
        item |= late
        return closed + out + self._done(index, item)

    def _close(self, status: str = "completed") -> bytes:
        """Close the open message or reasoning item, and the calls that are complete."""
        out = self._close_reasoning() if self._reasoning is not None else b""
        if self._message is not None:
            item = self._message
            out += self._close_part(item)
            item["status"] = status
            out += self._done(self._index, item)
            self._message = None
        for number in [number for number, call in self._calls.items() if call.whole]:
            out += self._close_call(self._calls.pop(number), "completed")
        return out

    # --- messages

    def _open_part(self, kind: str) -> tuple[OpenPart, bytes]:
        """The open part of that kind, opened with its message if necessary, and the frames of that."""
        if self._part is not None and self._part.kind == kind:
            return self._part, b""
        out = b""
        if self._message is None:
            out = self._close()
            early = {"type": "message", "status": "in_progress", "role": "assistant", "content": []}
            self._index, self._message, added = self._add("msg", early)
            out += added
        out += self._close_part(self._message)
        part = self._part = OpenPart(kind, self._message["id"], len(self._message["content"]))
        where = {"item_id": part.item_id, "output_index": self._index, "content_index": part.content_index}
        out += self._frame("response.content_part.added", **where, part=part.written())
        # The part of a delta's frame before its text, encoded once.
        name = f"response.{kind}.delta"
        rest: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
        fields = _encode({"type": name, **where, **rest})[:-1]
        part.head = b"event: " + name.encode() + b"\ndata: " + fields + b',"delta":'
        return part, out

    def _close_part(self, item: dict[str, Any]) -> bytes:
        part, self._part = self._part, None
        if part is None:
            return b""
        written = part.written()
        item["content"].append(written)
        where = {"item_id": item["id"], "output_index": self._index, "content_index": part.content_index}
        if part.kind == "output_text":
            self._chars_before += len(written["text"])
        if part.kind == "refusal":
            out = self._frame("response.refusal.done", **where, refusal=written["refusal"])
        else:
            out = self._frame("response.output_text.done", **where, text=written["text"], logprobs=part.logprobs)
        return out + self._frame("response.content_part.done", **where, part=written)

    def _text(self, event: TextDelta) -> bytes:
        if not event.text and not event.logprobs:
            return b""
        part, out = self._open_part("output_text")
        if not event.logprobs or not self._request.logprobs:
            return out + self._delta(part, event.text)
        rows = logprob_rows(event.logprobs)
        part.pieces.append(event.text)
        part.logprobs += rows
        where = {"item_id": part.item_id, "output_index": self._index, "content_index": part.content_index}
        return out + self._frame("response.output_text.delta", **where, delta=event.text, logprobs=rows)

    def _refusal(self, event: RefusalDelta) -> bytes:
        self._refused = True
        part, out = self._open_part("refusal")
        return out + self._delta(part, event.text)

    def _citation(self, event: Citation) -> bytes:
        part = self._part
        if part is None or part.kind != "output_text":
            return b""
        row = annotation(event, "".join(part.pieces), self._chars_before)
        part.annotations.append(row)
        return self._frame(
            "response.output_text.annotation.added",
            item_id=part.item_id,
            output_index=self._index,
            content_index=part.content_index,
            annotation_index=len(part.annotations) - 1,
            annotation=row,
        )

    # --- reasoning

    def _thinking(self, event: ThinkingDelta) -> bytes:
        out = b""
        if not event.text:
            return out
        if self._reasoning is None:
            out = self._close()
            self._index, self._reasoning, added = self._add("rs", {"type": "reasoning", "summary": []})
            self._thoughts = []
            out += added + self._summary("part.added", part={"type": "summary_text", "text": ""})
        self._thoughts.append(event.text)
        return out + self._summary("text.delta", delta=event.text)

    def _summary(self, kind: str, **members: Any) -> bytes:
        item = self._reasoning or {}
        where = {"item_id": item.get("id"), "output_index": self._index, "summary_index": 0}
        return self._frame(f"response.reasoning_summary_{kind}", **where, **members)

    def _close_reasoning(self, signature: str | None = None) -> bytes:
        item = self._reasoning or {}
        text = "".join(self._thoughts)
        part = {"type": "summary_text", "text": text}
        out = self._summary("text.done", text=text) + self._summary("part.done", part=part)
        item["summary"].append(part)
        if signature is None and self._seals:
            signature = UNSIGNED
        if signature is not None:
            item["encrypted_content"] = signature
        self._reasoning = None
        return out + self._done(self._index, item)

    def _signature(self, event: ThinkingSignature) -> bytes:
        text = "".join(self._thoughts) if self._reasoning is not None else ""
        signature = _sealed(event.signature, event.signed_by, text)
        if self._reasoning is not None:
            return self._close_reasoning(signature)
        item = {"type": "reasoning", "summary": []}
        return self._whole_item("rs", item, {"encrypted_content": signature})

    def _redacted(self, event: RedactedThinking) -> bytes:
        sealed = seal(Sealed("anthropic", redacted=event.data))
        return self._whole_item("rs", {"type": "reasoning", "summary": []}, {"encrypted_content": sealed})

    # --- calls

    def _call_start(self, event: ToolCallStart) -> bytes:
        out = b""
        if event.signature is not None and event.signed_by not in (None, "responses"):
            sealed = seal(Sealed(event.signed_by, signature=event.signature, call_id=event.id))
            out = self._whole_item("rs", {"type": "reasoning", "summary": []}, {"encrypted_content": sealed})
        out += self._close()
        if event.name == "tool_search" and event.name in self._request.extra:
            search = {"type": "tool_search_call", "execution": "client", "call_id": event.id, "arguments": {}}
            index, item, added = self._add("tsc", {"status": "in_progress", **search})
            self._calls[event.index] = OpenCall(index, item, wrapped=True)
            return out + added
        custom = event.custom or event.name in self._custom
        name = {"call_id": event.id, **split_name(event.name, self._request)}
        if custom:
            item = {"type": "custom_tool_call", "status": "in_progress", **name, "input": ""}
        else:
            item = {"type": "function_call", "status": "in_progress", **name, "arguments": ""}
        index, item, added = self._add("ctc" if custom else "fc", item)
        self._calls[event.index] = OpenCall(index, item, wrapped=custom and not event.custom)
        return out + added

    def _call_delta(self, event: ToolCallDelta) -> bytes:
        call = self._calls.get(event.index)
        if call is None or not event.arguments:
            return b""
        call.pieces.append(event.arguments)
        return b"" if call.wrapped else self._arguments(call, event.arguments)

    def _arguments(self, call: OpenCall, delta: str) -> bytes:
        kind = "custom_tool_call_input" if call.custom else "function_call_arguments"
        where = {"item_id": call.item["id"], "output_index": call.output_index}
        return self._frame(f"response.{kind}.delta", **where, delta=delta)

    def _close_call(self, call: OpenCall, status: str) -> bytes:
        text, out = "".join(call.pieces), b""
        if call.item["type"] == "tool_search_call":
            call.item |= {"arguments": as_object(text) or {}, "status": status}
            return self._done(call.output_index, call.item)
        if call.wrapped:
            text = unwrapped(text)
            out = self._arguments(call, text) if text else b""
        elif not text and not call.custom:
            # A call without arguments: clients parse them as JSON.
            text = "{}"
            out = self._arguments(call, text)
        where = {"item_id": call.item["id"], "output_index": call.output_index}
        call.item["status"] = status
        if call.custom:
            call.item["input"] = text
            out += self._frame("response.custom_tool_call_input.done", **where, input=text)
        else:
            call.item["arguments"] = text
            name = call.item["name"]
            out += self._frame("response.function_call_arguments.done", **where, name=name, arguments=text)
        return out + self._done(call.output_index, call.item)

    # --- the rest

    def _image(self, event: ImageOut) -> bytes:
        early = {"type": "image_generation_call", "status": "in_progress", "result": None}
        made = {"status": "completed", "result": event.data, "output_format": event.media_type.rpartition("/")[2]}
        return self._whole_item("ig", early, made)

    def _server_tool(self, event: ServerToolPart) -> bytes:
        if event.dialect != "responses":
            return b""
        return self._whole_item("st", dict(event.raw), {})

    def finish(self) -> bytes:
        out = self.begin()
        reason = self._finish.reason if self._finish is not None else "stop"
        if reason == "refusal" and not self._refused:
            explanation = self._finish.explanation if self._finish is not None else None
            out += self._refusal(RefusalDelta(explanation or REFUSED))
        cut = _INCOMPLETE.get(reason)
        out += self._close("incomplete" if cut else "completed")
        for call in self._calls.values():
            out += self._close_call(call, "incomplete" if cut else "completed")
        self._calls.clear()
        self.response["status"] = "incomplete" if cut else "completed"
        self.response["incomplete_details"] = {"reason": cut} if cut else None
        self.response["completed_at"] = None if cut else self._facts.completed_s
        # The tier that served the answer replaces the requested one.
        told = self._finish.tier if self._finish is not None else ""
        self.response["service_tier"] = told if told in _TIERS else "default"
        self._add_usage()
        return out + self._frame(f"response.{self.response['status']}", response=self.response)

    def fail(self, failure: Failure) -> bytes:
        """`response.failed` for clients that read events, then the `error` frame on which the official SDK raises.

        Only the `error` frame if there was no response yet.
        """
        error = error_object(failure)
        fallback = "server_error" if failure.status >= 500 else "invalid_request_error"
        kind = RateLimited.type if failure.status == RateLimited.status else fallback
        raised = {"type": kind, "param": None, **error}
        last = {**error, "param": None, "error": raised}
        if not self.response:
            return self._frame("error", **last)
        self.response |= {"status": "failed", "error": error}
        self._add_usage()
        return self._frame("response.failed", response=self.response) + self._frame("error", **last)

    def _add_usage(self) -> None:
        if self._usage is not None:
            self.response["usage"] = responses_usage_object(self._usage.usage)


def _sealed(signature: str, signed_by: DialectName, text: str) -> str:
    """This dialect's own signature unchanged, another's in an envelope."""
    return signature if signed_by == "responses" else seal(Sealed(signed_by, signature=signature, text=text))


_HANDLERS: dict[type[Any], Callable[[ResponsesWriter, Any], bytes]] = {
    Start: ResponsesWriter._start,
    TextDelta: ResponsesWriter._text,
    RefusalDelta: ResponsesWriter._refusal,
    ThinkingDelta: ResponsesWriter._thinking,
    ThinkingSignature: ResponsesWriter._signature,
    RedactedThinking: ResponsesWriter._redacted,
    ToolCallStart: ResponsesWriter._call_start,
    ToolCallDelta: ResponsesWriter._call_delta,
    ImageOut: ResponsesWriter._image,
    Citation: ResponsesWriter._citation,
    ServerToolPart: ResponsesWriter._server_tool,
}
