"""Write events as Gemini's answers: whole, as server-sent events, or as a JSON array for callers without `alt=sse`.

Contract: anthropic.md sections 6.2, 6.3 and 7. One delta is one chunk; a function call is sent whole; the last chunk
has finishReason and usage, earlier ones a usage of zero. google-genai parses any line without `data: ` as JSON, so a
ping is an empty event.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.translate.dialect import ReplyFacts
from elkapi.translate.gemini_write import UNSIGNED_BYTES
from elkapi.translate.ir import (
    Citation,
    Event,
    Failure,
    Finish,
    FinishReason,
    ImageOut,
    RefusalDelta,
    ServerToolPart,
    TextDelta,
    ThinkingDelta,
    ThinkingSignature,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStart,
    UsageSeen,
)
from elkapi.translate.usage import gemini_usage_object
from elkapi.types import Usage

_Wire = dict[str, Any]

_WORDS: dict[FinishReason, str] = {
    "stop": "STOP",
    "stop_sequence": "STOP",
    "tool_calls": "STOP",
    "pause": "STOP",
    "other": "OTHER",
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
    "refusal": "SAFETY",
}
_STATUS_WORDS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
# Anthropic's "overloaded", which is 503 at Google.
_OVERLOADED = 529
# The end of Google's events, which are relayed unchanged. The Go SDK splits at two line feeds before it looks for this,
# and rejects a chunk that does not begin with `data:`, so all events must end the same way.
_END = b"\r\n\r\n"
# Each of Google's chunks has the usage so far, and some clients (BAML) drop chunks without it. Most upstreams report it
# at the end; an estimate until then would break clients that subtract one chunk's usage from the next's (LangChain).
_UNCOUNTED = {"usageMetadata": gemini_usage_object(Usage())}
_json = msgspec.json.Encoder()
_object: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Call(msgspec.Struct):
    start: ToolCallStart
    pieces: list[str] = []

    def wire(self) -> _Wire | None:
        """The part; None if the arguments are not, or not yet, a JSON object."""
        text = "".join(self.pieces).strip() or "{}"
        try:
            _object.decode(text)
        except NOT_JSON:
            return None
        call = {"id": self.start.id, "name": self.start.name, "args": msgspec.Raw(text.encode())}
        part: _Wire = {"functionCall": call}
        if self.start.signature and self.start.signed_by == "gemini":
            part["thoughtSignature"] = self.start.signature
        elif self.start.index == 0:
            # Gemini 3 requires a signature on the first call of each answer in a conversation.
            part["thoughtSignature"] = UNSIGNED_BYTES
        return part


class _Answer:
    """Turns events into complete parts, and keeps what belongs in the last chunk."""

    def __init__(self, facts: ReplyFacts) -> None:
        reasoning = facts.request.reasoning
        self._thoughts_shown = reasoning is not None and bool(reasoning.visible)
        self._calls: dict[int, _Call] = {}
        self._citations: list[tuple[Citation, tuple[int, int]]] = []
        # The length of the answer's text, and the (start, end) of the text of the latest sources, in bytes.
        self._bytes = 0
        self._cited = (0, 0)
        self._finish = Finish("stop")
        self.usage: Usage | None = None

    def parts(self, event: Event) -> list[_Wire]:
        """The parts that an event completes, in order."""
        match event:
            case TextDelta(text=text) | RefusalDelta(text=text):
                self._bytes += len(text.encode())
                return [*self._complete_calls(), {"text": text}] if text else []
            case ThinkingDelta(text=text):
                return [*self._complete_calls(), {"text": text, "thought": True}] if self._thoughts_shown else []
            case ToolCallStart(index=index):
                done = self._complete_calls()
                self._calls[index] = _Call(event, [])
                return done
            case ToolCallDelta(index=index, arguments=arguments):
                if index in self._calls:
                    self._calls[index].pieces.append(arguments)
            case ThinkingSignature(signature=signature, signed_by="gemini"):
                return [{"text": "", "thoughtSignature": signature}]
            case ImageOut(media_type=media_type, data=data):
                return [*self._complete_calls(), {"inlineData": {"mimeType": media_type, "data": data}}]
            case ServerToolPart(dialect="gemini", raw=raw):
                return [*self._complete_calls(), raw]
            case Citation():
                if self._bytes != self._cited[1]:
                    self._cited = (self._cited[1], self._bytes)
                self._citations.append((event, self._cited))
            case UsageSeen(usage=usage):
                self.usage = usage
            case Finish():
                self._finish = event
        return []

    def _complete_calls(self) -> list[_Wire]:
        """Remove and return the leading calls whose arguments are a complete JSON object.

        A call without any arguments may still get some, so it and later calls wait.
        """
        done: list[_Wire] = []
        for index, call in list(self._calls.items()):
            if not call.pieces or (wire := call.wire()) is None:
                break
            done.append(wire)
            del self._calls[index]
        return done

    def rest(self) -> tuple[list[_Wire], _Wire]:
        """(parts of the last chunk, other fields of its candidate)."""
        wires = [call.wire() for call in self._calls.values()]
        parts = [wire for wire in wires if wire is not None]
        candidate: _Wire = {"finishReason": _WORDS[self._finish.reason]}
        if len(parts) < len(wires) and candidate["finishReason"] == "STOP":
            candidate["finishReason"] = "MALFORMED_FUNCTION_CALL"
            candidate["finishMessage"] = "The arguments of a function call are not a JSON object."
        elif self._finish.explanation:
            candidate["finishMessage"] = self._finish.explanation
        if self._citations:
            candidate["groundingMetadata"] = _grounding(self._citations)
        return parts or [{"text": ""}], candidate


def _grounding(citations: list[tuple[Citation, tuple[int, int]]]) -> _Wire:
    """The sources, and the segments of the answer that they support, by text or by position in bytes."""
    places: dict[tuple[str, str, str], int] = {}
    chunks: list[_Wire] = []
    supports: list[_Wire] = []
    for citation, (start, end) in citations:
        # A document without a URL is identified by the quoted text.
        known = (citation.url, citation.title, "" if citation.url else citation.quoted)
        place = places.setdefault(known, len(chunks))
        if place == len(chunks):
            chunks.append(_source(citation))
        if citation.passage:
            segment: _Wire = {"text": citation.passage}
        elif citation.quoted:
            segment = {"startIndex": start, "endIndex": end}
        else:
            continue
        if not supports or supports[-1]["segment"] != segment:
            supports.append({"segment": segment, "groundingChunkIndices": []})
        if place not in supports[-1]["groundingChunkIndices"]:
            supports[-1]["groundingChunkIndices"].append(place)
    return {"groundingChunks": chunks, **({"groundingSupports": supports} if supports else {})}


def _source(citation: Citation) -> _Wire:
    """A web page, or a passage of the caller's own documents."""
    if citation.url:
        return {"web": {"uri": citation.url, "title": citation.title}}
    return {"retrievedContext": {"title": citation.title, "text": citation.quoted}}


def _logprobs(tokens: Sequence[TokenLogprob]) -> _Wire:
    return {
        "chosenCandidates": [{"token": token.token, "logProbability": token.logprob} for token in tokens],
        "topCandidates": [
            {"candidates": [{"token": name, "logProbability": value} for name, value in token.top]} for token in tokens
        ],
    }


class Writer:
    """Server-sent events: `data: {GenerateContentResponse}`, without event names or a terminal event."""

    def __init__(self, facts: ReplyFacts) -> None:
        self._answer = _Answer(facts)
        self._named = {"modelVersion": facts.model, "responseId": facts.id}
        self._logprobs = facts.request.logprobs
        self._before = b'{"candidates":[{"content":{"parts":'
        self._after = b',"role":"model"},"index":0}],' + _json.encode(_UNCOUNTED | self._named)[1:]

    def feed(self, event: Event) -> bytes:
        parts = self._answer.parts(event)
        if not parts:
            return b""
        if self._logprobs and isinstance(event, TextDelta) and event.logprobs:
            return self._chunk(parts, {"logprobsResult": _logprobs(event.logprobs)}, _UNCOUNTED)
        return self._framed(self._before + _json.encode(parts) + self._after)

    def finish(self) -> bytes:
        parts, candidate = self._answer.rest()
        usage = self._answer.usage
        return self._chunk(parts, candidate, {"usageMetadata": gemini_usage_object(usage)} if usage else {})

    def fail(self, failure: Failure) -> bytes:
        error = _json.encode(error_object(failure))
        # Repeated outside an event, where SSE parsers ignore it: Google's Go SDK finds errors only there, and treats an
        # error event as an answer without content, so a broken stream would look complete.
        return self._framed(error) + error

    def ping(self) -> bytes:
        return _END

    def _chunk(self, parts: list[_Wire], candidate: _Wire, members: _Wire) -> bytes:
        return self._framed(_json.encode(_whole(parts, candidate, {**members, **self._named})))

    def _framed(self, chunk: bytes) -> bytes:
        return b"data: " + chunk + _END


class ArrayWriter(Writer):
    """The same chunks as one JSON array, for `streamGenerateContent` without `alt=sse` (application/json)."""

    def __init__(self, facts: ReplyFacts) -> None:
        super().__init__(facts)
        self._open = b"["

    def finish(self) -> bytes:
        return super().finish() + b"]"

    def fail(self, failure: Failure) -> bytes:
        return self._framed(_json.encode(error_object(failure))) + b"]"

    def _framed(self, chunk: bytes) -> bytes:
        before, self._open = self._open, b",\r\n"
        return before + chunk


def _whole(parts: list[_Wire], candidate: _Wire, members: _Wire) -> _Wire:
    return {"candidates": [{"content": {"parts": parts, "role": "model"}, "index": 0, **candidate}], **members}


def error_object(failure: Failure) -> _Wire:
    """Google's error body. The SDK raises on a chunk that starts with it."""
    code = 503 if failure.status == _OVERLOADED else failure.status
    word = _STATUS_WORDS.get(code, "INVALID_ARGUMENT" if code < 500 else "INTERNAL")
    return {"error": {"code": code, "message": failure.message, "status": word}}


def write_reply(events: Sequence[Event], facts: ReplyFacts) -> bytes:
    """A whole GenerateContentResponse: the parts of the stream, with adjacent texts of one kind joined."""
    answer = _Answer(facts)
    parts: list[_Wire] = []
    tokens: list[TokenLogprob] = []
    for event in events:
        for part in answer.parts(event):
            _join(parts, part)
        if isinstance(event, TextDelta):
            tokens.extend(event.logprobs)
    rest, candidate = answer.rest()
    for part in rest:
        if part != {"text": ""} or not parts:
            _join(parts, part)
    for part in parts:
        if "text" in part:
            part["text"] = "".join(part["text"])
    if tokens and facts.request.logprobs:
        candidate["logprobsResult"] = _logprobs(tokens)
    members: _Wire = {"usageMetadata": gemini_usage_object(answer.usage)} if answer.usage else {}
    return _json.encode(_whole(parts, candidate, {**members, "modelVersion": facts.model, "responseId": facts.id}))


def _join(parts: list[_Wire], part: _Wire) -> None:
    """Append a part. A text extends a preceding text of its kind; a bare signature is added to the preceding part.

    Texts are lists of pieces here, since appending each piece to a string is quadratic.
    """
    before = parts[-1] if parts else None
    whole = part | {"text": [part["text"]]} if "text" in part else part
    if before is None or "thoughtSignature" in before:
        parts.append(whole)
    elif part.get("text") == "" and "thoughtSignature" in part:
        before["thoughtSignature"] = part["thoughtSignature"]
    elif "text" in part and "text" in before and part.get("thought") == before.get("thought"):
        before["text"].append(part["text"])
    else:
        parts.append(whole)
