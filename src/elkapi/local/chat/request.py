"""Chat requests to the bundled model: the fields, their bounds and the body for the runtime; pure.

A field is supported, known to have no effect, or refused by name: silently ignoring part of a request would look as if
the model had understood it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from elkapi.errors import NOT_JSON, BadRequest, NotFound
from elkapi.local.chat.rows import ChatRow
from elkapi.local.chat.schema import check_schema
from elkapi.local.serving import unfit

MESSAGES_MAX = 1_000
STOPS_MAX = 4
TOP_LOGPROBS_MAX = 20
LOGIT_BIAS_MAX = 300
SEEDS = 2**32 - 1  # The one above means "draw a seed" to the runtime.

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

# Fields of the dialect that have no effect on this model's answers.
IGNORED = frozenset(
    {"metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier", "store", "user"}
)
# Fields that request unsupported features, unless they have one of the listed values.
UNABLE: dict[str, tuple[str, tuple[Any, ...]]] = {
    "tools": ("calls no tools", (None, [])),
    "tool_choice": ("calls no tools", (None, "none", "auto")),
    "parallel_tool_calls": ("calls no tools", (None, True, False)),
    "functions": ("does not call functions", (None, [])),
    "function_call": ("does not call functions", (None, "none", "auto")),
    "n": ("gives one answer per call", (None, 1)),
    "modalities": ("writes text only", (None, ["text"])),
    "audio": ("writes text only", (None,)),
    "reasoning_effort": ("does not reason before it answers", (None, "none")),
    "verbosity": ("cannot be told how verbose to be", (None, "medium")),
    "web_search_options": ("does not search the web", (None,)),
    "prediction": ("does not support predicted outputs", (None,)),
    "moderation": ("does not moderate", (None,)),
}

_Number = Annotated[float, msgspec.Meta(ge=0, le=2)]
_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
_Tokens = Annotated[int, msgspec.Meta(ge=1)]


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class _View(msgspec.Struct):
    """The fields we read; `messages` and `response_format` are validated by hand, so errors can name the part."""

    model: str
    messages: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1, max_length=MESSAGES_MAX)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    temperature: _Number | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0, le=100_000)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: dict[str, Annotated[float, msgspec.Meta(ge=-100, le=100)]] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=TOP_LOGPROBS_MAX)] | None = None
    response_format: dict[str, Any] | None = None


class ChatRequest(msgspec.Struct, frozen=True):
    """A valid request: `body` is for the runtime, always streamed; the other fields determine the answer's format."""

    body: bytes
    stream: bool
    include_usage: bool
    top_logprobs: int = 0


_members = msgspec.json.Decoder(dict[str, Any])
_view_members = frozenset(_View.__struct_fields__)


def read_chat(body: bytes, row: ChatRow, window: int) -> ChatRequest:
    """The request in a JSON body, for a model that runs with `window` tokens. Raises BadRequest and NotFound."""
    view = _read(body, row)
    limit = view.max_completion_tokens or view.max_tokens or row.output_default
    asked: dict[str, Any] = {
        "messages": _messages(view.messages),
        "stream": True,
        "stream_options": {"include_usage": True},
        # Progress chunks during the prompt allow stopping there.
        "return_progress": True,
        # Callers must not share a prompt cache: the response time would reveal each other's prompts.
        "cache_prompt": False,
        "max_tokens": min(limit, window),
        "temperature": row.temperature if view.temperature is None else view.temperature,
        "top_p": row.top_p if view.top_p is None else view.top_p,
        "top_k": view.top_k or 0,
        "min_p": 0.0,
        **_given(view, "presence_penalty", "frequency_penalty", "logit_bias"),
        **_stops(view.stop),
        **_logprobs(view),
        **_format(view.response_format),
    }
    if view.logit_bias and len(view.logit_bias) > LOGIT_BIAS_MAX:
        raise BadRequest(f"`logit_bias` must have at most {LOGIT_BIAS_MAX} entries.", param="logit_bias")
    if view.seed is not None:
        asked["seed"] = view.seed % SEEDS
    include_usage = bool(view.stream_options and view.stream_options.include_usage)
    return ChatRequest(msgspec.json.encode(asked), bool(view.stream), include_usage, view.top_logprobs or 0)


def read_count(body: bytes, row: ChatRow) -> list[dict[str, str]]:
    """The messages of a chat body to count, in the runtime's format. Raises BadRequest, NotFound."""
    return _messages(_read(body, row).messages)


def _read(body: bytes, row: ChatRow) -> _View:
    try:
        members = _members.decode(body)
    except NOT_JSON as error:
        raise BadRequest(f"The body is not a JSON object: {error}") from None
    for name, value in members.items():
        if name in UNABLE:
            what, harmless = UNABLE[name]
            if not any(value == one and type(value) is type(one) for one in harmless):
                raise BadRequest(f"This value of `{name}` is not supported: {row.id} {what}.", param=name)
        elif name not in _view_members and name not in IGNORED:
            raise BadRequest(f"`{name[:64]}` is not supported by {row.id}.", param=name[:64])
    try:
        view = msgspec.convert(members, _View)
    except msgspec.ValidationError as error:
        raise unfit(error, _View) from None
    if view.model != row.id:
        raise NotFound(f"The local model {view.model!r} does not exist; use {row.id}.", code="model_not_found")
    return view


def _given(view: _View, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(view, name)) is not None}


def _stops(stop: str | list[str] | None) -> dict[str, list[str]]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > STOPS_MAX or not all(stops):
        raise BadRequest(f"`stop` must have at most {STOPS_MAX} sequences, none of them empty.", param="stop")
    return {"stop": stops} if stops else {}


def _logprobs(view: _View) -> dict[str, Any]:
    if view.top_logprobs and not view.logprobs:
        raise BadRequest("`top_logprobs` requires `logprobs` to be true.", param="top_logprobs")
    # The runtime omits log probabilities unless alternatives are requested; `answer` drops the surplus.
    return {"logprobs": True, "top_logprobs": view.top_logprobs or 1} if view.logprobs else {}


def _messages(given: list[dict[str, Any]]) -> list[dict[str, str]]:
    messages = [_message(index, one) for index, one in enumerate(given)]
    if [one["role"] for one in messages[-2:]] == ["assistant", "assistant"]:
        raise BadRequest("`messages` must not end with more than one assistant message.", param="messages")
    return messages


def _message(index: int, given: dict[str, Any]) -> dict[str, str]:
    where = f"messages[{index}]"
    role = given.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise BadRequest(f"`{where}.role` must be one of {', '.join(ROLES)}, not {str(role)[:64]!r}.", param="messages")
    for name, value in given.items():
        if name not in {"role", "content"} and value not in (None, [], ""):
            raise BadRequest(f"`{where}.{name[:64]}` is not supported by this model.", param="messages")
    return {"role": ROLES[role], "content": _content(where, given.get("content"))}


def _content(where: str, content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRequest(f"`{where}.content` must be a string or an array of text parts.", param="messages")
    texts = []
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise BadRequest(
                f"`{where}.content[{place}]` must be of type `text`, not {str(kind)[:64]!r}.",
                param="messages",
            )
        texts.append(part["text"])
    return "".join(texts)


def _format(given: dict[str, Any] | None) -> dict[str, Any]:
    kind = given.get("type") if given is not None else "text"
    read = _FORMATS.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise BadRequest("`response_format.type` must be text, json_object or json_schema.", param="response_format")
    return read(given or {})


def _schema(given: dict[str, Any]) -> dict[str, Any]:
    named = given.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    if not isinstance(schema, dict):
        raise BadRequest("`response_format.json_schema.schema` must be a JSON schema.", param="response_format")
    check_schema(schema)
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}


_FORMATS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "text": lambda _: {},
    "json_object": lambda _: {"response_format": {"type": "json_object"}},
    "json_schema": _schema,
}
