"""Read Gemini's answers into events. Chunks have the format of whole answers, so one reader handles both.

Contract: anthropic.md sections 6.2 and 6.3. The stream has no terminal event: it ends with the body, and was truncated
if no `Finish` came. Every chunk has cumulative usage.
"""

from __future__ import annotations

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.translate.dialect import Unreadable, made_up_id
from elkapi.translate.ir import (
    CONTENT,
    NO_ANSWER,
    Citation,
    End,
    Event,
    Failure,
    Finish,
    FinishReason,
    ImageOut,
    ServerToolPart,
    Start,
    TextDelta,
    ThinkingDelta,
    ThinkingSignature,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStart,
    UsageLost,
    UsageSeen,
)
from elkapi.translate.profiles import profile_for
from elkapi.translate.sse import Frame
from elkapi.translate.usage import GeminiUsage, read_gemini_usage
from elkapi.types import Usage

PROMPT_BLOCKED = "prompt_blocked"
# Failures that are answers in Gemini's own format, and their finish reasons.
ANSWERS_OF_GEMINI: dict[str, FinishReason] = {PROMPT_BLOCKED: "content_filter", NO_ANSWER: "other"}
# Finish reasons without an answer, unless the model has already given some content.
_GAVE_UP = frozenset(
    {
        "MALFORMED_FUNCTION_CALL",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
        "MALFORMED_RESPONSE",
        "MISSING_THOUGHT_SIGNATURE",
        "OTHER",
        "NO_IMAGE",
        "IMAGE_OTHER",
    }
)
_ANSWER = (TextDelta, ToolCallStart, ImageOut, ServerToolPart)
_FILTERED = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "ESCALATION",
        "PUP_LIMITED_DISABLED",
        "MODEL_ARMOR",
    }
)
_STATUS_WORDS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNKNOWN": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


# --- the wire --------------------------------------------------------------------------------------------------------


class _Blob(msgspec.Struct, gc=False):
    data: str = ""
    mimeType: str = ""


class _Call(msgspec.Struct, gc=False):
    """A call, or a piece of one with streamed arguments, of which only the first has a name."""

    name: str | None = None
    args: msgspec.Raw = msgspec.Raw()
    id: str | None = None
    partialArgs: msgspec.Raw = msgspec.Raw()
    willContinue: bool | None = None


class _Part(msgspec.Struct, gc=False):
    text: str | None = None
    thought: bool | None = None
    thoughtSignature: str | None = None
    functionCall: _Call | None = None
    inlineData: _Blob | None = None
    executableCode: msgspec.Raw = msgspec.Raw()
    codeExecutionResult: msgspec.Raw = msgspec.Raw()
    toolCall: msgspec.Raw = msgspec.Raw()
    toolResponse: msgspec.Raw = msgspec.Raw()


class _Content(msgspec.Struct, gc=False):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, gc=False):
    content: _Content | None = None
    finishReason: str | None = None
    finishMessage: str | None = None
    index: int = 0
    groundingMetadata: msgspec.Raw = msgspec.Raw()
    citationMetadata: msgspec.Raw = msgspec.Raw()
    logprobsResult: msgspec.Raw = msgspec.Raw()


class _Feedback(msgspec.Struct, gc=False):
    blockReason: str | None = None
    blockReasonMessage: str | None = None


class _Error(msgspec.Struct, gc=False):
    code: int | str | None = None
    message: str = ""
    status: str = ""


class _Chunk(msgspec.Struct, gc=False):
    candidates: list[_Candidate] | None = None
    usageMetadata: msgspec.Raw = msgspec.Raw()
    responseId: str | None = None
    modelVersion: str | None = None
    promptFeedback: _Feedback | None = None
    error: _Error | None = None


class _Web(msgspec.Struct):
    uri: str = ""
    title: str = ""


class _Source(msgspec.Struct):
    web: _Web | None = None


class _Segment(msgspec.Struct):
    text: str = ""


class _Support(msgspec.Struct):
    segment: _Segment | None = None
    groundingChunkIndices: list[int] | None = None


class _Grounding(msgspec.Struct):
    groundingChunks: list[_Source] | None = None
    groundingSupports: list[_Support] | None = None
    webSearchQueries: list[str] | None = None


class _Citations(msgspec.Struct):
    citations: list[_Web] | None = None
    citationSources: list[_Web] | None = None


class _Token(msgspec.Struct):
    token: str = ""
    logProbability: float = 0.0


class _Top(msgspec.Struct):
    candidates: list[_Token] | None = None


class _Logprobs(msgspec.Struct):
    chosenCandidates: list[_Token] | None = None
    topCandidates: list[_Top] | None = None


_chunk = msgspec.json.Decoder(_Chunk)
_usage = msgspec.json.Decoder(GeminiUsage)
_grounding = msgspec.json.Decoder(_Grounding)
_citations = msgspec.json.Decoder(_Citations)
_logprobs = msgspec.json.Decoder(_Logprobs)


# --- reading ---------------------------------------------------------------------------------------------------------


class Reader:
    """The `Reader` of the dialect. A later `Finish` replaces an earlier one."""

    __slots__ = (
        "_answered",
        "_calls",
        "_cited",
        "_queries",
        "_reply_id",
        "_searched_once",
        "_started",
        "_usage",
        "_usage_raw",
        "finished",
    )

    def __init__(self) -> None:
        self._started = False
        self._reply_id = ""
        self._answered = False
        self._calls = 0
        self._queries: set[str] = set()
        self._searched_once = False
        self._usage_raw = b""
        self._usage: Usage | None = None
        self._cited: set[Citation] = set()
        self.finished = False

    def feed(self, frame: Frame) -> list[Event]:
        """The events of one frame. Raises Unreadable."""
        if not frame.data:
            return []
        return self.chunk(frame.data)

    def chunk(self, data: bytes) -> list[Event]:
        """The events of one GenerateContentResponse. Raises Unreadable."""
        try:
            # Rare fields are decoded separately, so `_events` may raise for them.
            return self._events(_chunk.decode(data))
        except NOT_JSON as error:
            raise Unreadable(f"not a Gemini answer: {error}") from None

    def _events(self, chunk: _Chunk) -> list[Event]:
        if chunk.error is not None:
            return [_failure(chunk.error)]
        events: list[Event] = []
        if not self._started:
            self._started = True
            self._reply_id = chunk.responseId or ""
            self._searched_once = profile_for("gemini", chunk.modelVersion or "").searches_billed_once
            events.append(Start(chunk.responseId or "", chunk.modelVersion or ""))
        candidate = chunk.candidates[0] if chunk.candidates else None
        if candidate is not None and candidate.index == 0:
            self._content(candidate, events)
            self._answered = self._answered or any(isinstance(event, _ANSWER) for event in events)
        self._metered(bytes(chunk.usageMetadata), events)
        if candidate is None:
            feedback = chunk.promptFeedback
            if feedback is not None and feedback.blockReason:
                text = feedback.blockReasonMessage or f"The prompt was blocked ({feedback.blockReason})."
                events.append(Failure(400, PROMPT_BLOCKED, text))
        elif candidate.index == 0 and candidate.finishReason and candidate.finishReason != "FINISH_REASON_UNSPECIFIED":
            self.finished = True
            if candidate.finishReason in _GAVE_UP and not self._answered:
                events.append(Failure(502, NO_ANSWER, f"The model came to no answer ({candidate.finishReason})."))
            else:
                reason = _reason(candidate.finishReason, self._calls)
                events.append(Finish(reason, explanation=candidate.finishMessage))
        return events

    def _content(self, candidate: _Candidate, events: list[Event]) -> None:
        parts = candidate.content.parts if candidate.content is not None else None
        logprobs = _read_logprobs(candidate.logprobsResult) if candidate.logprobsResult else ()
        texts = sum(1 for part in parts or () if part.text and not part.thought) if logprobs else 0
        said = len(events)
        for part in parts or ():
            if part.text:
                if part.thought:
                    events.append(ThinkingDelta(part.text))
                else:
                    # Log probabilities cover the whole candidate. The last text gets the rest, such as an end token.
                    texts -= 1
                    count = _tokens_of(part.text, logprobs) if texts > 0 else len(logprobs)
                    events.append(TextDelta(part.text, logprobs[:count]))
                    logprobs = logprobs[count:]
                    said = len(events)
            elif part.functionCall is not None:
                self._call(part.functionCall, part.thoughtSignature, events)
                continue
            elif part.inlineData is not None:
                _inline(part.inlineData, events)
            elif part.text is None and _server_tool(part, events):
                continue
            if part.thoughtSignature:
                events.append(ThinkingSignature(part.thoughtSignature, "gemini"))
        # Sources directly follow their text, since a signature or call after it closes the text in other dialects.
        sources: list[Event] = []
        if candidate.groundingMetadata:
            self._grounded(candidate.groundingMetadata, sources)
        if candidate.citationMetadata:
            self._cite(_read_citations(candidate.citationMetadata), sources)
        events[said:said] = sources

    def _call(self, call: _Call, signature: str | None, events: list[Event]) -> None:
        """A call, which often has no id.

        Streamed pieces of arguments, which only callers of this dialect can request, are passed on unchanged.
        """
        piece = bytes(call.partialArgs).decode()
        if call.name is None:
            if piece and self._calls:
                events.append(ToolCallDelta(self._calls - 1, piece))
            return
        index, self._calls = self._calls, self._calls + 1
        id_ = call.id or made_up_id(self._reply_id, index)
        events.append(
            ToolCallStart(index, id_, call.name, signature=signature, signed_by="gemini" if signature else None)
        )
        arguments = piece or bytes(call.args).decode()
        if arguments or not call.willContinue:
            events.append(ToolCallDelta(index, "{}" if arguments in ("", "null") else arguments))

    def _grounded(self, raw: msgspec.Raw, events: list[Event]) -> None:
        try:
            view = _grounding.decode(raw)
        except NOT_JSON:
            return
        # Google bills each query once, however often it is listed, and empty ones not at all.
        self._queries.update(filter(None, view.webSearchQueries or ()))
        sources = [chunk.web for chunk in view.groundingChunks or ()]
        found: list[Citation] = []
        named: set[int] = set()
        for support in view.groundingSupports or ():
            passage = support.segment.text if support.segment is not None else ""
            for place in support.groundingChunkIndices or ():
                if 0 <= place < len(sources) and (web := sources[place]) is not None:
                    named.add(place)
                    found.append(Citation(web.uri, web.title, passage=passage))
        found += [Citation(web.uri, web.title) for place, web in enumerate(sources) if web and place not in named]
        self._cite(found, events)

    def _cite(self, found: list[Citation], events: list[Event]) -> None:
        """Append new sources: later chunks repeat the grounding, but each source is cited once per passage."""
        for citation in found:
            if citation.url and citation not in self._cited:
                self._cited.add(citation)
                events.append(citation)

    def _metered(self, raw: bytes, events: list[Event]) -> None:
        """Append the usage if it changed with this chunk, or UsageLost if it is impossible."""
        if raw and raw != self._usage_raw:
            self._usage_raw = raw
            try:
                self._usage = read_gemini_usage(_usage.decode(raw))
            except NOT_JSON:
                self._usage = None
            if self._usage is None:
                events.append(UsageLost())
        elif self._usage is None or self._usage.searches == self._searches():
            return
        if self._usage is None:
            return
        if searches := self._searches():
            self._usage = msgspec.structs.replace(self._usage, searches=searches)
        events.append(UsageSeen(self._usage))

    def _searches(self) -> int:
        """The searches that Google bills for the answer so far."""
        return min(len(self._queries), 1) if self._searched_once else len(self._queries)


def _reason(word: str, calls: int) -> FinishReason:
    """The finish reason; answers with calls end with STOP too, and unknown or failed ones with `other`."""
    if word == "STOP":
        return "tool_calls" if calls else "stop"
    # CONTINUATION is a limit too, and only callers of this dialect can send the token that continues the answer.
    if word in ("MAX_TOKENS", "CONTINUATION"):
        return "length"
    if word in _FILTERED:
        return "content_filter"
    return "other"


def _failure(error: _Error) -> Failure:
    code = error.code
    if isinstance(code, str):
        code = int(code) if code.isascii() and code.isdigit() else None
    if code is None or not 400 <= code <= 599:
        code = _STATUS_WORDS.get(error.status, 500)
    return Failure(code, error.status or "UNKNOWN", error.message)


def _inline(blob: _Blob, events: list[Event]) -> None:
    if blob.mimeType.startswith("image/"):
        events.append(ImageOut(blob.mimeType, blob.data))
    else:
        events.append(ServerToolPart("gemini", {"inlineData": {"mimeType": blob.mimeType, "data": blob.data}}))


def _server_tool(part: _Part, events: list[Event]) -> bool:
    """Append a part about the work of Google's own tools, with its signature; False for another part."""
    signed = {"thoughtSignature": part.thoughtSignature} if part.thoughtSignature else {}
    for name in ("executableCode", "codeExecutionResult", "toolCall", "toolResponse"):
        if raw := getattr(part, name):
            try:
                events.append(ServerToolPart("gemini", {name: msgspec.json.decode(raw), **signed}))
            except NOT_JSON:
                raise Unreadable(f"an unreadable {name}") from None
            return True
    return False


def _read_citations(raw: msgspec.Raw) -> list[Citation]:
    try:
        view = _citations.decode(raw)
    except NOT_JSON:
        return []
    return [Citation(item.uri, item.title) for item in (view.citations or view.citationSources or ())]


def _read_logprobs(raw: msgspec.Raw) -> tuple[TokenLogprob, ...]:
    try:
        view = _logprobs.decode(raw)
    except NOT_JSON:
        return ()
    tops = [[(item.token, item.logProbability) for item in top.candidates or ()] for top in view.topCandidates or ()]
    return tuple(
        TokenLogprob(token.token, token.logProbability, tuple(tops[place]) if place < len(tops) else ())
        for place, token in enumerate(view.chosenCandidates or ())
    )


def _tokens_of(text: str, tokens: tuple[TokenLogprob, ...]) -> int:
    """The number of leading tokens that make up a text."""
    chars = 0
    for place, row in enumerate(tokens):
        if chars >= len(text):
            return place
        chars += len(row.token)
    return len(tokens)


def read_reply(body: bytes) -> list[Event]:
    """The events of a whole body, ending in End or a Failure. Raises Unreadable."""
    reader = Reader()
    events = reader.chunk(body)
    if isinstance(events[-1], Failure):
        return events
    if not reader.finished:
        if not any(isinstance(event, CONTENT) for event in events):
            raise Unreadable("an answer without content or a reason")
        events.append(Finish("stop"))
    return [*events, End()]
