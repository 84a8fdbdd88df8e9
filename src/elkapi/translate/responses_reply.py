"""Read answers of the responses dialect, whole or streamed, into events; also used to meter relayed streams.

Contract: openai.md (response, Stream). `ResponsesReader._item` reads the output items of whole replies, and streamed
items that had no deltas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.translate.dialect import Unreadable
from elkapi.translate.ir import (
    Citation,
    End,
    Event,
    Failure,
    Finish,
    FinishReason,
    ImageOut,
    RedactedThinking,
    RefusalDelta,
    ServerToolPart,
    Start,
    TextDelta,
    ThinkingDelta,
    ThinkingSignature,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStart,
    UsageSeen,
    cited_span,
)
from elkapi.translate.responses_items import joined_name
from elkapi.translate.responses_views import (
    AnnotationView,
    ErrorView,
    ItemView,
    LogprobView,
    ResponseView,
    ToolUsage,
    decode_annotation,
    decode_any,
    decode_delta,
    decode_error,
    decode_indexed,
    decode_item,
    decode_item_event,
    decode_lifecycle,
    decode_part_added,
    decode_raw_item,
    decode_response,
    decode_summary_part,
    decode_text,
    decode_tool_usage,
    decode_usage,
)
from elkapi.translate.seal import Sealed, unseal
from elkapi.translate.sse import Frame
from elkapi.translate.usage import read_responses_usage, with_pictures_made

# Separates the parts of a reasoning summary, which `ir` treats as one passage.
SUMMARY_BREAK = "\n\n"
# Separates the messages of an answer, such as a commentary and the final answer, which other dialects join.
MESSAGE_BREAK = "\n\n"

# The HTTP status of a failure with this code; other codes count as upstream errors.
_STATUSES = {
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "server_is_overloaded": 503,
    "slow_down": 503,
    "overloaded_error": 503,
    "invalid_api_key": 401,
    "invalid_prompt": 400,
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "bio_policy": 400,
    "model_not_found": 404,
    "vector_store_timeout": 504,
}
_INCOMPLETE: dict[str | None, FinishReason] = {"max_output_tokens": "length", "content_filter": "content_filter"}


# --- whole -----------------------------------------------------------------------------------------------------------


def read_reply(body: bytes) -> list[Event]:
    """The events of a whole response object, without `End` if it is queued or in progress. Raises Unreadable."""
    try:
        response = decode_response(body)
        if response.output is None and response.error is None:
            raise Unreadable
        reader = ResponsesReader()
        return [*reader.start(response), *reader.items(response), *reader.end(response)]
    except NOT_JSON as error:
        raise Unreadable from error


# --- streamed --------------------------------------------------------------------------------------------------------


class ResponsesReader:
    """The `Reader` of the dialect. The event line selects the handler, so the data is decoded only once."""

    def __init__(self) -> None:
        self._started = False
        self._seen: set[int] = set()
        self._told: set[int] = set()
        self._kinds: dict[int, str] = {}
        self._calls: dict[int, int] = {}
        self._signatures: dict[str, Sealed] = {}
        self._refused = False
        self._searches = 0
        # The length of the answer's text, and the offset of its latest part, in characters.
        self._chars = 0
        self._part_from = 0
        # The latest piece of the text, and whether the next one begins another message.
        self._said = ""
        self._begins = False

    def feed(self, frame: Frame) -> list[Event]:
        data = frame.data
        if data is None:
            return []
        try:
            # The common event first.
            if frame.event == b"response.output_text.delta":
                view = decode_text(data)
                said = TextDelta(view.delta, _logprobs(view.logprobs) if view.logprobs else ())
                if self._begins and view.delta:
                    broken = self._break(view.delta)
                    self._chars, self._said = self._chars + len(view.delta), view.delta
                    return [*broken, said]
                self._chars += len(view.delta)
                self._said = view.delta or self._said
                return [said]
            handler = _HANDLERS.get(frame.event)
            if handler is None:
                return self._unnamed(frame.event, data)
            return handler(self, data)
        except NOT_JSON as error:
            raise Unreadable from error

    def _break(self, text: str) -> list[Event]:
        """The break before the first text of a further message, unless there is white space."""
        self._begins = False
        if self._said[-1:].isspace() or text[:1].isspace():
            return []
        self._chars += len(MESSAGE_BREAK)
        self._part_from = self._chars
        return [TextDelta(MESSAGE_BREAK)]

    def _unnamed(self, event: bytes, data: bytes) -> list[Event]:
        """A frame with an unknown event line or none: the data may name the event, or contain an error or usage."""
        if event in _SILENT or data.startswith(b"[DONE]"):
            return []
        view = decode_any(data)
        if view.error:
            return [_failure(_error_view(view.error))]
        name = (view.type or "").encode()
        if not event and name:
            if name == b"response.output_text.delta":
                return self.feed(Frame(b"", name, data))
            if handler := _HANDLERS.get(name):
                return handler(self, data)
        if b'"usage"' in data and name not in _SILENT:
            absent = bytes(view.response) == b"null"
            return self._usage(ResponseView(usage=view.usage) if absent else decode_response(view.response))
        return []

    # --- deltas

    def _refusal(self, data: bytes) -> list[Event]:
        self._refused = True
        return [RefusalDelta(decode_delta(data).delta)]

    def _summary(self, data: bytes) -> list[Event]:
        return self._thinking(data, "summary")

    def _thought(self, data: bytes) -> list[Event]:
        return self._thinking(data, "text")

    def _thinking(self, data: bytes, kind: str) -> list[Event]:
        """Some upstreams send both the reasoning and its summary; only the kind that comes first is used."""
        view = decode_indexed(data)
        self._told.add(view.output_index)
        known = self._kinds.setdefault(view.output_index, kind)
        return [ThinkingDelta(view.delta)] if known == kind else []

    def _summary_part(self, data: bytes) -> list[Event]:
        view = decode_summary_part(data)
        known = self._kinds.setdefault(view.output_index, "summary")
        return [ThinkingDelta(SUMMARY_BREAK)] if view.summary_index > 0 and known == "summary" else []

    def _part(self, data: bytes) -> list[Event]:
        view = decode_part_added(data)
        self._part_from = self._chars
        if view.part.type != "reasoning_text":
            return []
        known = self._kinds.setdefault(view.output_index, "text")
        return [ThinkingDelta(SUMMARY_BREAK)] if view.content_index > 0 and known == "text" else []

    def _arguments(self, data: bytes) -> list[Event]:
        view = decode_indexed(data)
        index = self._calls.get(view.output_index)
        if index is None or not view.delta:
            return []
        self._told.add(view.output_index)
        return [ToolCallDelta(index, view.delta)]

    def _annotation(self, data: bytes) -> list[Event]:
        found = decode_annotation(data).annotation
        return _citations([found], self._part_from) if found else []

    # --- items

    def _added(self, data: bytes) -> list[Event]:
        view = decode_item_event(data)
        self._seen.add(view.output_index)
        item = decode_item(view.item)
        self._part_from = self._chars
        if item.type == "message":
            self._begins = self._chars > 0
        if item.type in ("function_call", "custom_tool_call"):
            return [self._call(view.output_index, item)]
        return []

    def _call(self, output_index: int, item: ItemView) -> ToolCallStart:
        index = self._calls[output_index] = len(self._calls)
        call_id = item.call_id or f"call_{index}"
        signed = self._signatures.pop(call_id, None)
        return ToolCallStart(
            index,
            call_id,
            joined_name(item.name or "", item.namespace),
            custom=item.type == "custom_tool_call",
            signature=signed.signature if signed else None,
            signed_by=signed.dialect if signed else None,
        )

    def _done(self, data: bytes) -> list[Event]:
        """The events of an item that its deltas did not give."""
        view = decode_item_event(data)
        added = view.output_index in self._seen
        self._seen.add(view.output_index)
        item = decode_item(view.item)
        if item.type == "message":
            return [] if added else list(self._message(item))
        return list(self._item(view.output_index, item, view.item))

    def _item(self, output_index: int, item: ItemView, raw: msgspec.Raw) -> Iterable[Event]:
        told = output_index in self._told
        if item.type == "message":
            yield from self._message(item)
        elif item.type == "reasoning":
            yield from self._reasoning(item, told)
        elif item.type in ("function_call", "custom_tool_call"):
            if output_index not in self._calls:
                yield self._call(output_index, item)
            text = item.input if item.type == "custom_tool_call" else item.arguments
            if text and not told:
                yield ToolCallDelta(self._calls[output_index], text)
        elif item.type == "image_generation_call" and item.result:
            yield ImageOut(f"image/{item.output_format or 'png'}", item.result)
        elif item.type:
            self._searches += item.type == "web_search_call" and _is_search(item.action)
            yield ServerToolPart("responses", decode_raw_item(raw))

    def _message(self, item: ItemView) -> Iterable[Event]:
        self._begins = self._chars > 0
        for part in item.content or ():
            if part.refusal is not None:
                self._refused = True
                yield RefusalDelta(part.refusal)
            elif part.text:
                if self._begins:
                    yield from self._break(part.text)
                self._said = part.text
                yield TextDelta(part.text, _logprobs(part.logprobs) if part.logprobs else ())
                yield from _citations(part.annotations or [], self._chars)
                self._chars += len(part.text)

    def _reasoning(self, item: ItemView, told: bool) -> Iterable[Event]:
        sealed = unseal(item.encrypted_content)
        if sealed is not None and sealed.call_id is not None:
            self._signatures[sealed.call_id] = sealed
            return
        texts = [part.text for part in item.summary or item.content or () if part.text]
        if texts and not told:
            yield ThinkingDelta(SUMMARY_BREAK.join(texts))
        if sealed is None and item.encrypted_content:
            yield ThinkingSignature(item.encrypted_content, "responses")
        elif sealed is not None and sealed.redacted is not None:
            yield RedactedThinking(sealed.redacted)
        elif sealed is not None and sealed.signature is not None and sealed.dialect is not None:
            yield ThinkingSignature(sealed.signature, sealed.dialect)

    # --- the life of a response

    def _lifecycle(self, data: bytes) -> list[Event]:
        response = decode_lifecycle(data).response
        return [*self.start(response), *self._usage(response)]

    def _terminal(self, data: bytes) -> list[Event]:
        response = decode_lifecycle(data).response
        events = self.start(response)
        if not self._seen:
            events += self.items(response)
        return events + self.end(response)

    def _error(self, data: bytes) -> list[Event]:
        """The error's fields are at the top level, or in `error` on some compatible servers."""
        inner = decode_any(data).error
        return [_failure(_error_view(inner) if inner else decode_error(data))]

    def start(self, response: ResponseView) -> list[Event]:
        if self._started:
            return []
        self._started = True
        return [Start(response.id, response.model)]

    def items(self, response: ResponseView) -> list[Event]:
        """The events of the output items of a whole object."""
        events: list[Event] = []
        for index, raw in enumerate(response.output or ()):
            events += self._item(index, decode_item(raw), raw)
        return events

    def end(self, response: ResponseView) -> list[Event]:
        """Usage, then `Finish` and `End`, or the failure."""
        events = self._usage(response)
        if response.error is not None or response.status in ("failed", "cancelled"):
            error = response.error or ErrorView(code=response.status, message=f"The response is {response.status}.")
            return [*events, _failure(error)]
        if response.status in ("queued", "in_progress"):
            return events
        tier = response.service_tier if isinstance(response.service_tier, str) else ""
        return [*events, Finish(self._reason(response), tier=tier), End()]

    def _reason(self, response: ResponseView) -> FinishReason:
        if response.status == "incomplete":
            details = response.incomplete_details
            return _INCOMPLETE.get(details.reason if details else None, "length")
        if self._calls:
            return "tool_calls"
        return "refusal" if self._refused else "stop"

    def _usage(self, response: ResponseView) -> list[Event]:
        if bytes(response.usage) == b"null":
            return []
        try:
            view = decode_usage(response.usage)
        except NOT_JSON:
            return []
        usage, tools = read_responses_usage(view), _tool_usage(response.tool_usage)
        searches = self._searches
        if tools.web_search is not None:
            searches = tools.web_search.num_requests
        elif view.server_side_tool_usage_details is not None:
            searches = view.server_side_tool_usage_details.searches
        if usage is None or searches < 0:
            return []
        if searches:
            usage = msgspec.structs.replace(usage, searches=searches)
        if tools.image_gen is not None:
            usage = with_pictures_made(usage, tools.image_gen)
        return [] if usage is None else [UsageSeen(usage)]


def _is_search(action: object) -> bool:
    """Whether a web search call searched, rather than opening or scanning a page."""
    return not isinstance(action, dict) or action.get("type", "search") == "search"


def _tool_usage(raw: msgspec.Raw) -> ToolUsage:
    try:
        return decode_tool_usage(raw) or ToolUsage()
    except NOT_JSON:
        return ToolUsage()


def _error_view(value: Any) -> ErrorView:
    return msgspec.convert(value, ErrorView) if isinstance(value, dict) else ErrorView(message=value)


def _failure(error: ErrorView) -> Failure:
    kind = str(error.code or error.type or "server_error")
    known = _STATUSES.get(kind) or _STATUSES.get(str(error.type)) or (400 if "image" in kind else 500)
    said = (value for value in (error.status, error.code) if isinstance(value, int) and 400 <= value <= 599)
    status = next(said, known)
    return Failure(status, kind, str(error.message or "The upstream reported an error."))


def _logprobs(rows: list[LogprobView]) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(
            row.token,
            row.logprob,
            tuple(
                (top.token, top.logprob)
                for top in row.top_logprobs or ()
                if top.token is not None and top.logprob is not None
            ),
        )
        for row in rows
    )


def _citations(rows: list[AnnotationView], offset: int) -> list[Event]:
    """The sources of a text part that begins at `offset` in the answer's text."""
    return [
        Citation(row.url, row.title or "", span=cited_span(row.start_index, row.end_index, offset))
        for row in rows
        if row.type == "url_citation" and row.url
    ]


_HANDLERS: dict[bytes, Callable[[ResponsesReader, bytes], list[Event]]] = {
    b"response.function_call_arguments.delta": ResponsesReader._arguments,
    b"response.custom_tool_call_input.delta": ResponsesReader._arguments,
    b"response.reasoning_summary_text.delta": ResponsesReader._summary,
    b"response.reasoning_text.delta": ResponsesReader._thought,
    b"response.reasoning_summary_part.added": ResponsesReader._summary_part,
    b"response.content_part.added": ResponsesReader._part,
    b"response.refusal.delta": ResponsesReader._refusal,
    b"response.output_text.annotation.added": ResponsesReader._annotation,
    b"response.output_item.added": ResponsesReader._added,
    b"response.output_item.done": ResponsesReader._done,
    b"response.created": ResponsesReader._lifecycle,
    b"response.queued": ResponsesReader._lifecycle,
    b"response.in_progress": ResponsesReader._lifecycle,
    b"response.completed": ResponsesReader._terminal,
    b"response.incomplete": ResponsesReader._terminal,
    b"response.failed": ResponsesReader._terminal,
    b"response.cancelled": ResponsesReader._terminal,
    b"error": ResponsesReader._error,
}
# Events that repeat whole texts. They may be long, so they are not decoded.
_SILENT = frozenset(
    f"response.{name}".encode()
    for name in (
        "content_part.done",
        "output_text.done",
        "refusal.done",
        "function_call_arguments.done",
        "custom_tool_call_input.done",
        "reasoning_text.done",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
    )
)
