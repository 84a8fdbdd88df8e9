"""The wire format of chat answers as msgspec structs, and in-band errors; `chat_read_reply` interprets them.

Contract: openai.md (Chat completions, Stream). Fields that vary between providers are Raw or Any, so that an unexpected
value never makes the whole chunk unreadable.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.translate.ir import Failure
from elkapi.translate.usage import ChatUsage

T = TypeVar("T")

# The value of a Raw field that is absent or null.
NULL = msgspec.Raw(b"null")
# The HTTP status of an in-band error by a word in its type or code; the first match counts.
_STATUSES = (
    ("rate_limit", 429),
    ("insufficient_quota", 429),
    ("overloaded", 503),
    ("unavailable", 503),
    ("timeout", 504),
    ("authentication", 401),
    ("invalid_api_key", 401),
    ("permission", 403),
    ("not_found", 404),
    ("content_policy", 400),
    ("content_filter", 400),
    ("context_length", 400),
    ("invalid", 400),
)
# Finish reasons that report a failure of the provider, with the status of it: the answer is incomplete.
BROKEN = {"error": 502, "abort": 502, "insufficient_system_resource": 503, "network_error": 502}
_NO_ERRORS = (b"{}", b'""', b"false", b"0", b"[]")
ERROR_STATUS_DEFAULT = 500


class FunctionPiece(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class CustomPiece(msgspec.Struct, gc=False):
    name: str | None = None
    input: str | None = None


class ToolPiece(msgspec.Struct, gc=False):
    index: int | None = None
    id: Any = None
    function: FunctionPiece | None = None
    custom: CustomPiece | None = None
    extra_content: Any = None


class ContentPart(msgspec.Struct):
    """`thinking` is Mistral's, `summary` that of a part of Databricks' with the model's reasoning."""

    type: str = ""
    text: str | None = None
    thinking: Any = None
    summary: Any = None


class Delta(msgspec.Struct, gc=False):
    """A delta of a stream, or the message of a whole answer. Raw fields are rare and are decoded separately."""

    content: str | list[ContentPart] | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    tool_calls: list[ToolPiece] | None = None
    function_call: FunctionPiece | None = None
    refusal: str | None = None
    thinking_blocks: msgspec.Raw = NULL
    reasoning_details: msgspec.Raw = NULL
    annotations: msgspec.Raw = NULL
    images: msgspec.Raw = NULL
    audio: Any = None


class Choice(msgspec.Struct, gc=False):
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None
    index: int | None = None
    logprobs: msgspec.Raw = NULL
    stop_reason: Any = None
    usage: msgspec.Raw = NULL


class Chunk(msgspec.Struct, gc=False):
    choices: list[Choice] | None = None
    id: Any = None
    model: Any = None
    service_tier: Any = None
    usage: msgspec.Raw = NULL
    error: msgspec.Raw = NULL
    object: Any = None
    type: Any = None
    message: Any = None
    code: Any = None
    x_groq: Any = None
    citations: msgspec.Raw = NULL
    search_results: msgspec.Raw = NULL


class _ErrorView(msgspec.Struct):
    message: Any = None
    type: Any = None
    code: Any = None
    status: Any = None


class _Logprob(msgspec.Struct):
    token: str
    logprob: float


class _Logprobs(msgspec.Struct):
    token: str
    logprob: float
    top_logprobs: list[_Logprob] | None = None


class _LogprobsView(msgspec.Struct):
    content: list[_Logprobs] | None = None


class _Block(msgspec.Struct):
    type: str = ""
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    signed_by: str | None = None


class _ReasoningDetail(msgspec.Struct):
    """OpenRouter's piece of thinking. `format` says whose it is."""

    type: str = ""
    format: str | None = None
    text: str | None = None
    signature: str | None = None
    data: str | None = None


class _UrlCitation(msgspec.Struct):
    url: str
    title: str | None = None
    start_index: Any = None
    end_index: Any = None


class _Annotation(msgspec.Struct):
    type: str = ""
    url_citation: _UrlCitation | None = None


class _SearchResult(msgspec.Struct):
    url: str
    title: str | None = None


class _ImageUrl(msgspec.Struct):
    url: str


class _ImageRow(msgspec.Struct):
    image_url: _ImageUrl | None = None
    extra_content: Any = None


CHUNK = msgspec.json.Decoder(Chunk)
USAGE = msgspec.json.Decoder(ChatUsage)
LOGPROBS = msgspec.json.Decoder(_LogprobsView)
BLOCKS = msgspec.json.Decoder(list[_Block])
REASONING_DETAILS = msgspec.json.Decoder(list[_ReasoningDetail])
ANNOTATIONS = msgspec.json.Decoder(list[_Annotation])
ADDRESSES = msgspec.json.Decoder(list[str])
SEARCH_RESULTS = msgspec.json.Decoder(list[_SearchResult])
IMAGES = msgspec.json.Decoder(list[_ImageRow])
_error = msgspec.json.Decoder(_ErrorView | str)


def look(decoder: msgspec.json.Decoder[T], raw: msgspec.Raw) -> T | None:
    """Decode a rare field; None if it is absent, null or invalid."""
    if raw == NULL:
        return None
    try:
        return decoder.decode(raw)
    except NOT_JSON:
        return None


def in_band_error(view: Chunk, told: bool = False) -> Failure | None:
    """The error inside a chunk or a 200, if any; `told`: the event line declares it an error, whatever it contains."""
    if view.x_groq is not None and isinstance(view.x_groq, dict) and (said := view.x_groq.get("error")):
        # Groq says so in the last chunk of a stream that it stopped early.
        return Failure(502, "error", str(said))
    if view.error == NULL and not told and view.object != "error":
        return None
    error = look(_error, view.error)
    if error is None:
        if bytes(view.error) in _NO_ERRORS and view.object != "error" and not told:
            return None
        error = _ErrorView(message=view.message, type=view.type, code=view.code)
    if isinstance(error, str):
        error = _ErrorView(message=error)
    words = [word for word in (error.type, error.code) if isinstance(word, str) and word]
    message = error.message if isinstance(error.message, str) else ""
    # A code is more specific than a type.
    return Failure(_status(error, words), words[-1] if words else "error", message)


def gave_up(word: str) -> Failure:
    """The failure that a finish reason of `BROKEN` reports."""
    return Failure(BROKEN[word], word, "The upstream gave up before its answer was whole.")


def _status(error: _ErrorView, words: list[str]) -> int:
    for number in (error.status, error.code):
        if isinstance(number, int) and not isinstance(number, bool) and 400 <= number <= 599:
            return number
        if isinstance(number, str) and len(number) == 3 and number.isascii() and number.isdigit() and number >= "400":
            return min(int(number), 599)
    for word in words:
        for known, status in _STATUSES:
            if known in word.lower():
                return status
    return ERROR_STATUS_DEFAULT
