"""Read a chat upstream's answer, whole or streamed, into events; also used to meter relayed chat streams.

Contract: openai.md (Chat completions, Stream). It tolerates the variants of OpenAI-compatible providers: usage in any
chunk, reasoning under two names, tool call pieces without an index, content as a list of parts.
"""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.translate.chat_parts import (
    CLAUDES_FORMAT,
    arguments_text,
    signer,
    split_data_url,
    thinking_text,
    thought_signature,
)
from elkapi.translate.chat_views import (
    ADDRESSES,
    ANNOTATIONS,
    BLOCKS,
    BROKEN,
    CHUNK,
    IMAGES,
    LOGPROBS,
    NULL,
    REASONING_DETAILS,
    SEARCH_RESULTS,
    USAGE,
    Choice,
    Chunk,
    ContentPart,
    Delta,
    ToolPiece,
    gave_up,
    in_band_error,
    look,
)
from elkapi.translate.dialect import Unreadable, made_up_id, view_of
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
    Start,
    TextDelta,
    ThinkingDelta,
    ThinkingSignature,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStart,
    UsageLost,
    UsageSeen,
    cited_span,
)
from elkapi.translate.sse import Frame
from elkapi.translate.usage import read_written_usage

_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "sensitive": "content_filter",
}
_END = End()


class _Call:
    """One tool call while its pieces arrive. `waiting` buffers the arguments until its `name` is known.

    `told` is the upstream's id, which another call may have too. `said`: the arguments of a call without one, which
    alone show where it ends.
    """

    __slots__ = ("index", "name", "said", "told", "waiting")

    def __init__(self, index: int) -> None:
        self.index, self.told, self.name, self.waiting, self.said = index, "", "", "", ""

    def ends_before(self, id: str, name: str, text: str) -> bool:
        """Whether a piece in the same place begins another call. Every call begins with its name, which some servers
        repeat in each piece, and some give each piece an id of its own."""
        if not self.name or not name:
            return False
        if id:
            return id != self.told
        return name != self.name or bool(text.strip() and self.said and _is_whole(self.said))


class ChatReader:
    """The `Reader` of the dialect."""

    def __init__(self) -> None:
        self._started = False
        self._reply_id = ""
        self._calls: dict[tuple[int, int], _Call] = {}
        self._ids: set[str] = set()
        self._count = 0
        self._refused = False
        self._thought = False
        self._cited: set[str] = set()
        self._sources: tuple[msgspec.Raw, msgspec.Raw] | None = None
        self._finished = False
        self._tier = ""

    def feed(self, frame: Frame) -> list[Event]:
        """The events of one chunk. Raises Unreadable for a frame that is not a JSON object."""
        data = frame.data
        if data is None or not data.strip():
            return []
        if data[:6] == b"[DONE]":
            return [_END]
        view = view_of(CHUNK, data)
        failure = in_band_error(view, frame.event == b"error")
        return [failure] if failure is not None else self.read(view)

    def read(self, view: Chunk) -> list[Event]:
        """The events of a decoded chunk or whole answer, without `End`."""
        events: list[Event] = []
        ends: list[Event] = []
        if not self._started:
            self._started = True
            self._reply_id = _text(view.id)
            events.append(Start(self._reply_id, _text(view.model)))
        if view.service_tier is not None:
            self._tier = _text(view.service_tier)
        for choice in view.choices or ():
            if choice.delta is not None:
                self._delta(choice.delta, choice, events)
            elif choice.message is not None:
                self._delta(_whole(choice.message), choice, events)
                self._finished = True
            if choice.usage is not NULL:
                see_usage(choice.usage, events)
            if choice.finish_reason:
                ends.append(self._finish(choice.finish_reason, choice.stop_reason))
        if view.usage != NULL:
            see_usage(view.usage, events)
        elif view.x_groq is not None:
            _see_groq(view.x_groq, events)
        if view.citations != NULL or view.search_results != NULL:
            # Some upstreams repeat the growing list in every chunk, so it is read once, at the end of the text.
            self._sources = view.citations, view.search_results
        self._finished = self._finished or bool(ends)
        if self._finished and self._sources is not None:
            self._cite(*self._sources, events)
            self._sources = None
        return events + ends if ends else events

    def _cite(self, addresses: msgspec.Raw, results: msgspec.Raw, events: list[Event]) -> None:
        """The sources of Perplexity and xAI, which are beside the choices: URLs, or search results with titles."""
        titles = {result.url: result.title or "" for result in look(SEARCH_RESULTS, results) or ()}
        for url in dict.fromkeys((*(look(ADDRESSES, addresses) or ()), *titles)):
            if url and url not in self._cited:
                self._cited.add(url)
                events.append(Citation(url, titles.get(url, "")))

    def _delta(self, part: Delta, choice: Choice, events: list[Event]) -> None:
        thought = part.reasoning_content or part.reasoning
        if part.reasoning_details is not NULL and self._details(part.reasoning_details, events):
            thought = None
        if thought and (thought := _text(thought)):
            self._thought = True
            events.append(ThinkingDelta(thought))
        if part.thinking_blocks is not NULL:
            self._blocks(part.thinking_blocks, events)
        content = part.content
        if content:
            if isinstance(content, str):
                rows = _read_logprobs(choice.logprobs) if choice.logprobs != NULL else ()
                events.append(TextDelta(content, rows))
            else:
                _read_parts(content, events)
        if part.refusal:
            self._refused = True
            events.append(RefusalDelta(part.refusal))
        if part.images is not NULL:
            _read_images(part.images, events)
        if part.annotations is not NULL:
            self._annotations(part.annotations, events)
        if part.audio is not None and isinstance(part.audio, dict) and (said := _text(part.audio.get("transcript"))):
            events.append(TextDelta(said))
        if part.tool_calls:
            for piece in part.tool_calls:
                self._piece(piece, choice.index or 0, events)
        elif part.function_call is not None:
            self._piece(ToolPiece(function=part.function_call), choice.index or 0, events)

    def _annotations(self, raw: msgspec.Raw, events: list[Event]) -> None:
        for row in look(ANNOTATIONS, raw) or ():
            if (found := row.url_citation) is not None:
                self._cited.add(found.url)
                span = cited_span(found.start_index, found.end_index)
                events.append(Citation(found.url, found.title or "", span=span))

    def _blocks(self, raw: msgspec.Raw, events: list[Event]) -> None:
        """Signatures and redacted passages; the text is taken from `reasoning_content` if there is one."""
        several = look(BLOCKS, raw) or []
        for block in several:
            if block.type == "redacted_thinking" and block.data:
                events.append(RedactedThinking(block.data))
                continue
            if block.thinking and not self._thought:
                events.append(ThinkingDelta(block.thinking))
            if block.signature:
                events.append(ThinkingSignature(block.signature, signer(block.signed_by)))
                self._thought = False

    def _details(self, raw: msgspec.Raw, events: list[Event]) -> bool:
        """The thinking of a Claude model behind OpenRouter, with its signatures; whether its text was there."""
        several = [row for row in look(REASONING_DETAILS, raw) or () if (row.format or "").startswith(CLAUDES_FORMAT)]
        for row in several:
            if row.data:
                events.append(RedactedThinking(row.data))
                continue
            if row.text:
                self._thought = True
                events.append(ThinkingDelta(row.text))
            if row.signature:
                events.append(ThinkingSignature(row.signature, "anthropic"))
        return any(row.text for row in several)

    def _piece(self, piece: ToolPiece, choice: int, events: list[Event]) -> None:
        """One piece of a call. Some providers use one index for all calls, or none, and some give no ids."""
        key = (choice, piece.index if piece.index is not None else -1)
        id = _text(piece.id)
        if piece.custom is not None:
            name, text = piece.custom.name or "", piece.custom.input or ""
        elif piece.function is not None:
            name, text = piece.function.name or "", arguments_text(piece.function.arguments)
        else:
            name, text = "", ""
        call = self._calls.get(key)
        if call is None or call.ends_before(id, name, text):
            call = self._calls[key] = _Call(self._count)
            self._count += 1
        if not call.name and not call.told:
            call.told = id
        if not call.told:
            call.said += text
        if not call.name and not name:
            call.waiting += text
            return
        if not call.name and name:
            call.name = name
            call_id = call.told if call.told not in self._ids else ""
            call_id = call_id or made_up_id(self._reply_id, call.index)
            self._ids.add(call_id)
            signature = thought_signature(piece.extra_content)
            events.append(
                ToolCallStart(
                    call.index,
                    call_id,
                    name,
                    custom=piece.custom is not None,
                    signature=signature,
                    signed_by="gemini" if signature else None,
                )
            )
            text, call.waiting = call.waiting + text, ""
        if text:
            events.append(ToolCallDelta(call.index, text))

    def _finish(self, word: str, met: Any) -> Event:
        if word in BROKEN:
            return gave_up(word)
        reason = _REASONS.get(word, "stop")
        if reason == "stop" and self._ids:
            # Only calls with a name: some upstreams have an empty one in every chunk.
            reason = "tool_calls"
        elif reason == "stop" and self._refused:
            reason = "refusal"
        elif reason == "stop" and isinstance(met, str):
            # vLLM and similar servers report the matched stop sequence.
            return Finish("stop_sequence", met, tier=self._tier)
        return Finish(reason, tier=self._tier)


def read_reply(body: bytes) -> list[Event]:
    """The events of a whole answer. Raises Unreadable."""
    view = view_of(CHUNK, body)
    if failure := in_band_error(view):
        return [failure]
    if not view.choices or all(choice.message is None for choice in view.choices):
        raise Unreadable("no choices")
    events = ChatReader().read(view)
    if any(isinstance(event, Failure) for event in events):
        return events
    if not any(isinstance(event, Finish) for event in events):
        events.append(Finish("stop"))
    events.append(_END)
    return events


def _is_whole(arguments: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(arguments), dict)
    except NOT_JSON:
        return False


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _whole(message: Delta) -> Delta:
    """Drop `reasoning_content` if the thinking blocks of a whole answer already contain its text, and number its calls:
    each of them is whole, and few upstreams give them an index."""
    for place, piece in enumerate(message.tool_calls or ()):
        piece.index = place
    blocks = look(BLOCKS, message.thinking_blocks) or ()
    if any(block.thinking for block in blocks):
        message.reasoning_content = message.reasoning = None
    return message


def see_usage(raw: msgspec.Raw, events: list[Event]) -> None:
    """Append the usage that an upstream reports for generated text, or UsageLost if it is not credible."""
    view = look(USAGE, raw)
    found = read_written_usage(view) if view is not None else None
    events.append(UsageLost() if found is None else UsageSeen(*found))


def _see_groq(member: Any, events: list[Event]) -> None:
    """Groq reports usage in `x_groq` of the last chunk."""
    if isinstance(member, dict) and "usage" in member:
        see_usage(msgspec.Raw(msgspec.json.encode(member["usage"])), events)


def _read_parts(parts: list[ContentPart], events: list[Event]) -> None:
    """List content: text, and the thinking of Mistral's and Databricks' models."""
    for part in parts:
        told = part.thinking if part.thinking is not None else part.summary
        if told is not None and (thought := thinking_text(told)):
            events.append(ThinkingDelta(thought))
        if part.text:
            events.append(TextDelta(part.text))


def _read_logprobs(raw: msgspec.Raw) -> tuple[TokenLogprob, ...]:
    view = look(LOGPROBS, raw)
    return tuple(
        TokenLogprob(row.token, row.logprob, tuple((top.token, top.logprob) for top in row.top_logprobs or ()))
        for row in (view.content if view else None) or ()
    )


def _read_images(raw: msgspec.Raw, events: list[Event]) -> None:
    for row in look(IMAGES, raw) or ():
        if row.image_url is not None and (found := split_data_url(row.image_url.url)):
            events.append(ImageOut(found[0] or "image/png", found[1]))
        if signature := thought_signature(row.extra_content):
            events.append(ThinkingSignature(signature, "gemini"))
