"""The hub every text dialect is read into and written from: requests, and answers as a list of events.

It owns the neutral structs and leaves every wire spelling to the dialect files beside it. An answer is a sequence of
events whether it was streamed or not, so a streamed answer and a whole one cannot differ: `read_reply` of a whole body
and the `Reader` of a stream give the same events, `write_reply` and the `Writer` take them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from elkapi.types import Usage

DialectName = Literal["chat", "responses", "anthropic", "gemini", "converse"]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
# How long the prefix that a mark ends is wanted cached; None where the caller marked none.
Ttl = Literal["5m", "1h"] | None
FinishReason = Literal["stop", "stop_sequence", "length", "tool_calls", "content_filter", "refusal", "pause", "other"]


# --- the parts of a message ------------------------------------------------------------------------------------------


class Text(msgspec.Struct, frozen=True, gc=False):
    """`cache_ttl` marks the end of a prefix the caller wants cached."""

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
    """The type of base64 data by its first bytes, else as it was told.

    OpenAI looks for itself, so that its callers may say image/jpg or another type; others refuse what does not fit.
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
    """A reasoning passage. A signature is only valid in the dialect it came from; `redacted` is opaque data."""

    text: str = ""
    signature: str | None = None
    signed_by: DialectName | None = None
    redacted: str | None = None


class Refusal(msgspec.Struct, frozen=True, gc=False):
    text: str


class ToolCall(msgspec.Struct, frozen=True, gc=False):
    """`arguments` is JSON text of an object; for a `custom` tool it is free text. `signature`: Gemini's thought."""

    id: str
    name: str
    arguments: str
    custom: bool = False
    signature: str | None = None
    signed_by: DialectName | None = None
    cache_ttl: Ttl = None


def unreadable_input(call: ToolCall) -> dict[str, str]:
    """Arguments that are no JSON object, as one for upstreams whose calls carry objects.

    A model may write such a call, or a limit cut it off; the conversation has it, and goes on from there.
    """
    return {"arguments": call.arguments}


class ToolResult(msgspec.Struct, frozen=True):
    """The answer to a `ToolCall`. `name` is the tool's, looked up by the reader where the wire has only ids."""

    call_id: str
    parts: tuple[Text | Image | File | Audio, ...]
    name: str = ""
    is_error: bool = False
    custom: bool = False
    cache_ttl: Ttl = None


class ServerToolPart(msgspec.Struct, frozen=True):
    """A block of a tool that the upstream ran itself, as it came: of an answer, or of an earlier turn sent back.

    Only its own dialect can write it; a writer of another one leaves it out.
    """

    dialect: DialectName
    raw: dict[str, Any]


Part = Text | Image | File | Audio | Thinking | Refusal | ToolCall | ToolResult | ServerToolPart


Role = Literal["user", "assistant", "system"]


class Message(msgspec.Struct, frozen=True):
    """`system` appears here only for instructions after the first turn; leading ones are `ChatRequest.system`.

    Tool results are parts of a `user` message; readers merge neighbours of one role.
    """

    role: Role
    parts: tuple[Part, ...]


# --- what is asked ---------------------------------------------------------------------------------------------------


class Tool(msgspec.Struct, frozen=True):
    """A tool the caller runs. `schema` is a JSON schema object; a `custom` tool has `format` (or None) instead.

    `format` is spelled as in responses: `{"type": "grammar", "syntax": ..., "definition": ...}`.
    """

    name: str
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    custom: bool = False
    format: Any = None
    cache_ttl: Ttl = None


class ServerTool(msgspec.Struct, frozen=True):
    """A tool the upstream runs itself. `kind` is neutral ("web_search", "code_execution", "mcp", ...), or the wire's
    own type; `raw` is the declaration as it came, only valid in `dialect`."""

    kind: str
    dialect: DialectName
    raw: dict[str, Any]


class ToolChoice(msgspec.Struct, frozen=True):
    """`names`: the one tool of mode `named`, or the tools a mode is limited to (empty: all)."""

    mode: Literal["auto", "none", "required", "named"]
    names: tuple[str, ...] = ()


class OutputFormat(msgspec.Struct, frozen=True):
    """What the text must be; `schema` is a JSON schema object for kind `schema`."""

    kind: Literal["text", "json", "schema"]
    name: str = "output"
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None

    @property
    def described(self) -> dict[str, Any] | None:
        """The schema for wires with no other place for the description; nothing may stand beside a reference."""
        if not self.schema or not self.description or self.schema.keys() & {"description", "$ref"}:
            return self.schema
        return {**self.schema, "description": self.description}


class Reasoning(msgspec.Struct, frozen=True):
    """How much to think, as an effort or a token budget (whichever the caller spoke), and whether to show it.

    `adaptive`: the model decides (Anthropic adaptive, Gemini budget -1).
    """

    effort: Effort | None = None
    budget_tokens: int | None = None
    adaptive: bool = False
    visible: bool | None = None
    summary: str | None = None


class ChatRequest(msgspec.Struct, kw_only=True):
    """One text request, in no dialect. None means the caller did not say.

    `extra` holds members that only the caller's own dialect knows, by name: a writer of another dialect drops them when
    they cannot change the meaning and refuses them otherwise (its `LOSSES` say which).
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


# --- what comes back -------------------------------------------------------------------------------------------------


class TokenLogprob(msgspec.Struct, frozen=True):
    """Of one output token; `top` are the likeliest ones at its place, as (token, logprob)."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


class Start(msgspec.Struct, frozen=True, gc=False):
    """The upstream accepted the call. Not content: failover is still possible after it."""

    id: str
    model: str


class TextDelta(msgspec.Struct, frozen=True):
    """A piece of the answer's text; `logprobs` of its tokens where both sides have them."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class RefusalDelta(msgspec.Struct, frozen=True, gc=False):
    text: str


class ThinkingDelta(msgspec.Struct, frozen=True, gc=False):
    text: str


class ThinkingSignature(msgspec.Struct, frozen=True, gc=False):
    """Ends the thinking passage before it."""

    signature: str
    signed_by: DialectName


class RedactedThinking(msgspec.Struct, frozen=True, gc=False):
    data: str


class ToolCallStart(msgspec.Struct, frozen=True, gc=False):
    """`index` counts the tool calls of the answer from 0; their deltas may interleave."""

    index: int
    id: str
    name: str
    custom: bool = False
    signature: str | None = None
    signed_by: DialectName | None = None


class ToolCallDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the JSON text (or, for a custom tool, of the free text) of call `index`."""

    index: int
    arguments: str


class ImageOut(msgspec.Struct, frozen=True, gc=False):
    """An image the model made, base64."""

    media_type: str
    data: str


class Citation(msgspec.Struct, frozen=True):
    """A source of the text before it.

    `quoted` are the source's own words. Of which words of the answer it is one, some say: `passage` are these words,
    `span` is their place in all of its text, from and to, in characters.
    """

    url: str
    title: str = ""
    quoted: str = ""
    passage: str = ""
    span: tuple[int, int] | None = None


class UsageSeen(msgspec.Struct, frozen=True):
    """Usage so far, cumulative: the latest one counts. `unsplit` cache writes did not say how long they live."""

    usage: Usage
    unsplit: bool = False


class UsageLost(msgspec.Struct, frozen=True, gc=False):
    """The latest usage is missing or impossible; what was reported before says nothing of the whole answer."""


class Finish(msgspec.Struct, frozen=True, gc=False):
    """Why the model stopped. `stop_sequence` is the one it met, where the dialect says so.

    `other` is a reason that no other dialect has a word for, such as a call of a tool that the upstream could not read:
    callers are told a stop, yet nobody says that the answer is whole.

    `tier` is the service tier that the answer tells in OpenAI's words, "" where it tells none.
    """

    reason: FinishReason
    stop_sequence: str | None = None
    explanation: str | None = None
    tier: str = ""


# The kind of a failure that is the model's own: who serves it is well.
NO_ANSWER = "no_answer"


class Failure(msgspec.Struct, frozen=True, gc=False):
    """An error reported inside the stream (or inside a 200). `status` is what it would have been as a reply.

    `kind` is one of the upstream's own words and never shown to a caller of another dialect as it is.
    """

    status: int
    kind: str
    message: str


class End(msgspec.Struct, frozen=True, gc=False):
    """The dialect's terminal event was seen: the answer is whole. Without it a stream was cut."""


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

# What a caller can see of the answer: the first of these is the point after which no other channel is tried.
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


# Reasons to stop with which a model, or a filter around it, declined to answer.
DECLINED: tuple[FinishReason, ...] = ("refusal", "content_filter")


def is_refusal(events: Sequence[Event]) -> bool:
    """Whether a whole answer is one that was declined."""
    return any(
        isinstance(event, RefusalDelta) or (isinstance(event, Finish) and event.reason in DECLINED) for event in events
    )


class Loss(msgspec.Struct, frozen=True):
    """What a dialect cannot carry: `refused` with a 400 because dropping it would change the meaning, or dropped."""

    field: str
    refused: bool
    why: str


def text_chars(events: list[Event]) -> int:
    """How long their text is, in characters."""
    return sum(len(event.text) for event in events if isinstance(event, TextDelta))


def placed(events: list[Event], start: int, end: int) -> list[Event]:
    """The events of a block, its sources with the place of its text."""
    return [
        msgspec.structs.replace(event, span=(start, end)) if isinstance(event, Citation) else event for event in events
    ]


def cited_span(start: Any, end: Any, offset: int = 0) -> tuple[int, int] | None:
    """Where a source's words stand in a text that begins at `offset`; None where it is not said, as by zeros."""
    told = isinstance(start, int) and isinstance(end, int) and 0 <= start <= end > 0
    return (start + offset, end + offset) if told else None


def texts_of(request: ChatRequest) -> list[str]:
    """Every text a tokenizer would see: the instructions, each message's parts joined, each tool's declaration."""
    texts = ["\n".join(part.text for part in request.system)] if request.system else []
    for message in request.messages:
        texts.append("".join(_text_of(part) for part in message.parts))
    for tool in request.tools:
        texts.append(f"{tool.name} {tool.description or ''} {msgspec.json.encode(tool.schema or {}).decode()}")
    return texts


def is_all_text(request: ChatRequest) -> bool:
    """Whether the model is given nothing but `texts_of`.

    Pictures and files come to tokens that nobody here can count, and so may tools that the upstream runs itself, a
    schema for the answer, and whatever only the caller's dialect knows.
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
