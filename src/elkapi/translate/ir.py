"""The intermediate representation between text dialects: neutral requests, and answers as sequences of events.

The dialect modules own all wire formats. Streamed and whole answers use the same events, so they cannot differ:
`read_reply` and `Reader` produce them, `write_reply` and `Writer` consume them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from elkapi.types import Usage

DialectName = Literal["chat", "responses", "anthropic", "gemini", "converse"]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
# The requested cache lifetime of the prefix that ends at a part; None without a cache mark.
Ttl = Literal["5m", "1h"] | None
FinishReason = Literal["stop", "stop_sequence", "length", "tool_calls", "content_filter", "refusal", "pause", "other"]


# --- the parts of a message ------------------------------------------------------------------------------------------


class Text(msgspec.Struct, frozen=True, gc=False):
    """`cache_ttl` marks the end of a prefix that the caller wants cached."""

    text: str
    cache_ttl: Ttl = None


class Image(msgspec.Struct, frozen=True, gc=False):
    """Exactly one of `url` and `data` (base64); `media_type` is known for data, optional for a URL."""

    url: str | None = None
    data: str | None = None
    media_type: str | None = None
    detail: str | None = None
    cache_ttl: Ttl = None


_IMAGES_BEGIN = {"iVBORw0KGgo": "image/png", "/9j/": "image/jpeg", "R0lGOD": "image/gif", "UklGR": "image/webp"}


def image_type(data: str, told: str | None) -> str | None:
    """The media type of base64 data by its first bytes, otherwise the declared type.

    OpenAI detects the type itself, so its callers may declare image/jpg or a wrong type; other providers refuse those.
    """
    return next((kind for begin, kind in _IMAGES_BEGIN.items() if data.startswith(begin)), told)


class File(msgspec.Struct, frozen=True, gc=False):
    """A document: exactly one of `url`, `data` (base64) and `text`."""

    media_type: str
    url: str | None = None
    data: str | None = None
    text: str | None = None
    name: str | None = None
    cache_ttl: Ttl = None


class Audio(msgspec.Struct, frozen=True, gc=False):
    """Base64 audio; `format` is `wav` or `mp3`."""

    data: str
    format: str


class Thinking(msgspec.Struct, frozen=True, gc=False):
    """A reasoning passage. A signature is valid only in the dialect `signed_by`; `redacted` is opaque data."""

    text: str = ""
    signature: str | None = None
    signed_by: DialectName | None = None
    redacted: str | None = None


class Refusal(msgspec.Struct, frozen=True, gc=False):
    text: str


class ToolCall(msgspec.Struct, frozen=True, gc=False):
    """`arguments` is the JSON text of an object, or free text for a `custom` tool. `signature` is Gemini's."""

    id: str
    name: str
    arguments: str
    custom: bool = False
    signature: str | None = None
    signed_by: DialectName | None = None
    cache_ttl: Ttl = None


def unreadable_input(call: ToolCall) -> dict[str, str]:
    """Wrap arguments that are not a JSON object, for upstreams whose calls carry objects.

    A model may write such arguments, or a token limit may truncate them; the conversation must still continue.
    """
    return {"arguments": call.arguments}


class ToolResult(msgspec.Struct, frozen=True):
    """The answer to a `ToolCall`. `name` is the tool's; the reader looks it up if the wire format has only ids."""

    call_id: str
    parts: tuple[Text | Image | File | Audio, ...]
    name: str = ""
    is_error: bool = False
    custom: bool = False
    cache_ttl: Ttl = None


class ServerToolPart(msgspec.Struct, frozen=True):
    """An unchanged block of a tool that the upstream ran, from an answer or from an earlier turn.

    Only a writer of the same dialect can write it; other writers omit it.
    """

    dialect: DialectName
    raw: dict[str, Any]


Part = Text | Image | File | Audio | Thinking | Refusal | ToolCall | ToolResult | ServerToolPart


Role = Literal["user", "assistant", "system"]


class Message(msgspec.Struct, frozen=True):
    """The role `system` is only for instructions after the first turn; leading ones are in `ChatRequest.system`.

    Tool results are parts of a `user` message; readers merge adjacent messages of the same role.
    """

    role: Role
    parts: tuple[Part, ...]


# --- requests --------------------------------------------------------------------------------------------------------


class Tool(msgspec.Struct, frozen=True):
    """A tool that the caller runs. `schema` is a JSON schema object; a `custom` tool has an optional `format` instead.

    `format` has the shape of the Responses API: `{"type": "grammar", "syntax": ..., "definition": ...}`.
    """

    name: str
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    custom: bool = False
    format: Any = None
    cache_ttl: Ttl = None


class ServerTool(msgspec.Struct, frozen=True):
    """A tool that the upstream runs. `kind` is a neutral name ("web_search", "code_execution", "mcp", ...) or the
    dialect's own type; `raw` is the unchanged declaration, valid only in `dialect`."""

    kind: str
    dialect: DialectName
    raw: dict[str, Any]


class ToolChoice(msgspec.Struct, frozen=True):
    """`names` holds the one tool of mode `named`, or the tools that another mode is limited to (empty: all)."""

    mode: Literal["auto", "none", "required", "named"]
    names: tuple[str, ...] = ()


class OutputFormat(msgspec.Struct, frozen=True):
    """The required format of the text; `schema` is a JSON schema object for kind `schema`."""

    kind: Literal["text", "json", "schema"]
    name: str = "output"
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None

    @property
    def described(self) -> dict[str, Any] | None:
        """The schema with the description inside, for formats without a field for it; `$ref` allows no siblings."""
        if not self.schema or not self.description or self.schema.keys() & {"description", "$ref"}:
            return self.schema
        return {**self.schema, "description": self.description}


class Reasoning(msgspec.Struct, frozen=True):
    """How much to think, as an effort or a token budget (whichever the caller gave), and whether to show it.

    `adaptive`: the model decides (Anthropic's adaptive thinking, Gemini's budget -1).
    """

    effort: Effort | None = None
    budget_tokens: int | None = None
    adaptive: bool = False
    visible: bool | None = None
    summary: str | None = None


class ChatRequest(msgspec.Struct, kw_only=True):
    """One text request, independent of a dialect. None means that the caller gave no value.

    `extra` holds fields that only the caller's dialect knows, by name. A writer of another dialect drops those that
    cannot change the meaning and refuses the others (its `LOSSES` list both).
    """

    model: str
    messages: list[Message]
    system: tuple[Text, ...] = ()
    tools: tuple[Tool, ...] = ()
    server_tools: tuple[ServerTool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tools: bool | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    output: OutputFormat | None = None
    reasoning: Reasoning | None = None
    verbosity: str | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    cache_key: str | None = None
    stream: bool = False
    dialect: DialectName = "chat"
    extra: dict[str, Any] = {}


# --- answers ---------------------------------------------------------------------------------------------------------


class TokenLogprob(msgspec.Struct, frozen=True):
    """The log probability of one output token; `top` lists the likeliest alternatives as (token, logprob)."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


class Start(msgspec.Struct, frozen=True, gc=False):
    """The upstream accepted the call. This is not content: failover is still possible after it."""

    id: str
    model: str


class TextDelta(msgspec.Struct, frozen=True):
    """A piece of the answer's text, with the `logprobs` of its tokens if the upstream reports them."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class RefusalDelta(msgspec.Struct, frozen=True, gc=False):
    text: str


class ThinkingDelta(msgspec.Struct, frozen=True, gc=False):
    text: str


class ThinkingSignature(msgspec.Struct, frozen=True, gc=False):
    """The signature of the preceding thinking passage, which it ends."""

    signature: str
    signed_by: DialectName


class RedactedThinking(msgspec.Struct, frozen=True, gc=False):
    data: str


class ToolCallStart(msgspec.Struct, frozen=True, gc=False):
    """`index` counts the tool calls of an answer from 0; their deltas may interleave."""

    index: int
    id: str
    name: str
    custom: bool = False
    signature: str | None = None
    signed_by: DialectName | None = None


class ToolCallDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the arguments of call `index`: JSON text, or free text for a custom tool."""

    index: int
    arguments: str


class ImageOut(msgspec.Struct, frozen=True, gc=False):
    """An image made by the model; `data` is base64."""

    media_type: str
    data: str


class Citation(msgspec.Struct, frozen=True):
    """A source of the text before it.

    `quoted` is the source's text. Some dialects say which part of the answer it supports: `passage` is that text and
    `span` its (start, end) in the whole text, in characters.
    """

    url: str
    title: str = ""
    quoted: str = ""
    passage: str = ""
    span: tuple[int, int] | None = None


class UsageSeen(msgspec.Struct, frozen=True):
    """Cumulative usage; the latest event counts. `unsplit`: the lifetimes of cache writes are not reported."""

    usage: Usage
    unsplit: bool = False


class UsageLost(msgspec.Struct, frozen=True, gc=False):
    """The latest usage is missing or impossible, so earlier reports cannot stand for the whole answer."""


class Finish(msgspec.Struct, frozen=True, gc=False):
    """Why the model stopped. `stop_sequence` is the matched sequence, if the dialect reports it.

    The reason `other` has no equivalent in another dialect, such as a tool call that the upstream could not parse.
    Callers see a stop, but the answer is not treated as complete.

    `tier` is the reported service tier in OpenAI's terms, "" if there is none.
    """

    reason: FinishReason
    stop_sequence: str | None = None
    explanation: str | None = None
    tier: str = ""


# The `kind` of a failure of the model itself: the upstream that serves it is healthy.
NO_ANSWER = "no_answer"


class Failure(msgspec.Struct, frozen=True, gc=False):
    """An error reported inside a stream or a 200. `status` is the equivalent HTTP status.

    `kind` is the upstream's own error type; callers of another dialect never see it unchanged.
    """

    status: int
    kind: str
    message: str


class End(msgspec.Struct, frozen=True, gc=False):
    """The dialect's terminal event: the answer is complete. A stream without it was truncated."""


Event = (
    Start
    | TextDelta
    | RefusalDelta
    | ThinkingDelta
    | ThinkingSignature
    | RedactedThinking
    | ToolCallStart
    | ToolCallDelta
    | ImageOut
    | Citation
    | ServerToolPart
    | UsageSeen
    | UsageLost
    | Finish
    | Failure
    | End
)

# Events that a caller can see. After the first of them no other channel is tried.
CONTENT = (
    TextDelta,
    RefusalDelta,
    ThinkingDelta,
    RedactedThinking,
    ToolCallStart,
    ToolCallDelta,
    ImageOut,
    ServerToolPart,
)


# Stop reasons with which a model, or a filter around it, declined to answer.
DECLINED: tuple[FinishReason, ...] = ("refusal", "content_filter")


def is_refusal(events: Sequence[Event]) -> bool:
    """Whether the model, or a filter, declined to answer."""
    return any(
        isinstance(event, RefusalDelta) or (isinstance(event, Finish) and event.reason in DECLINED) for event in events
    )


class Loss(msgspec.Struct, frozen=True):
    """Something that a dialect cannot carry: `refused` with a 400 if dropping it would change the meaning."""

    field: str
    refused: bool
    why: str


def text_chars(events: list[Event]) -> int:
    """The length of the text of the events, in characters."""
    return sum(len(event.text) for event in events if isinstance(event, TextDelta))


def placed(events: list[Event], start: int, end: int) -> list[Event]:
    """The events of a block, with its citations spanning the text from `start` to `end`."""
    return [
        msgspec.structs.replace(event, span=(start, end)) if isinstance(event, Citation) else event for event in events
    ]


def cited_span(start: Any, end: Any, offset: int = 0) -> tuple[int, int] | None:
    """The span of a citation in a text that begins at `offset`; None if it is missing, invalid or all zeros."""
    told = isinstance(start, int) and isinstance(end, int) and 0 <= start <= end > 0
    return (start + offset, end + offset) if told else None


def texts_of(request: ChatRequest) -> list[str]:
    """All text that a tokenizer would see: the instructions, each message's joined parts, each tool's declaration."""
    texts = ["\n".join(part.text for part in request.system)] if request.system else []
    for message in request.messages:
        texts.append("".join(_text_of(part) for part in message.parts))
    for tool in request.tools:
        texts.append(f"{tool.name} {tool.description or ''} {msgspec.json.encode(tool.schema or {}).decode()}")
    return texts


def is_all_text(request: ChatRequest) -> bool:
    """Whether `texts_of` is everything that the model gets.

    The gateway cannot count the tokens of images and files, nor those that server tools, an output schema and unknown
    fields may add.
    """
    if request.server_tools or request.output or request.extra:
        return False
    return all(_is_text(part) for message in request.messages for part in message.parts)


def _is_text(part: object) -> bool:
    if isinstance(part, ToolResult):
        return all(map(_is_text, part.parts))
    if isinstance(part, Thinking):
        return part.redacted is None
    return isinstance(part, Text | Refusal | ToolCall) or (isinstance(part, File) and part.text is not None)


def _text_of(part: object) -> str:
    if isinstance(part, Text | Thinking | Refusal):
        return part.text
    if isinstance(part, ToolCall):
        return part.name + part.arguments
    if isinstance(part, ToolResult):
        return "".join(_text_of(inner) for inner in part.parts)
    return part.text or "" if isinstance(part, File) else ""
