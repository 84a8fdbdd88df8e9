"""Reads Anthropic's Messages body strictly into a neutral `Ask`; errors are worded like Anthropic's.

Bedrock and Vertex have the same body. The provider chooses the model and the price.
"""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.sandbox.messages import Problem
from elkapi.sandbox.providers.anthropic_blocks import Reader, Segment, fail, list_of, object_of, whole_of
from elkapi.sandbox.strict import strictly
from elkapi.sandbox.talk import Ask, Tool

THINKING_BUDGET_MIN = 1024
ENABLED_THOUGHT_TOKENS = 12
ADAPTIVE_THOUGHT_TOKENS = 6
KNOWN_FIELDS = {
    "model", "max_tokens", "messages", "system", "stream", "temperature", "top_p", "top_k", "stop_sequences",
    "tools", "tool_choice", "thinking", "output_config", "output_format", "metadata", "service_tier", "container",
    "cache_control", "inference_geo", "context_management", "mcp_servers", "fallbacks", "fallback_credit_token",
    "speed", "diagnostics", "thread", "anthropic_version", "anthropic_beta", "user_profile_id", "image_transformations",
}  # fmt: skip
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A valid Messages body. `shows_thinking` is False for `display: omitted`; `max_tokens` is None when counting."""

    model: str
    ask: Ask
    stream: bool
    shows_thinking: bool
    segments: tuple[Segment, ...]
    max_tokens: int | None


def json_object(body: bytes) -> dict[str, Any]:
    """The body as an object. Raises Problem if it is not one."""
    try:
        value = msgspec.json.decode(body)
    except NOT_JSON:
        raise Problem(400, "The request body is not valid JSON.") from None
    if not isinstance(value, dict):
        raise Problem(400, "The request body is not a JSON object.")
    return value


@strictly
def read(body: dict[str, Any], *, counting: bool = False) -> Asked:
    """Read a body; `counting` is for count_tokens, which needs no `max_tokens`. Raises Problem."""
    for name in body:
        if name not in KNOWN_FIELDS:
            raise fail(name, "Extra inputs are not permitted")
    if body.get("thread") is not None:
        # Conversations are not stored; on this code the SDKs' tool runners send the whole conversation.
        raise Problem(400, "Threads are not supported here.", code="thread_unsupported_request")
    for name in ("model", "messages") if counting else ("model", "max_tokens", "messages"):
        if name not in body:
            raise fail(name, "Field required")
    model, stream = body["model"], body.get("stream", False)
    if not isinstance(model, str) or not model:
        raise fail("model", "Input should be a valid string")
    if not isinstance(stream, bool):
        raise fail("stream", "Input should be a valid boolean")
    max_tokens = None if counting else whole_of(body, "max_tokens", 0)
    _check_sampling(body)
    thinks, shows = _thinking(body, max_tokens)
    reader = Reader()
    tools = reader.tools(body.get("tools"))
    choice, parallel = _choice(body.get("tool_choice"), tools, forced_ok=not (body.get("thinking") and thinks))
    system = reader.system(body.get("system"))
    turns, late_system = reader.messages(body["messages"], must_think=_is_enabled(body.get("thinking")))
    ask = Ask(
        turns=turns,
        system="\n".join(filter(None, (system, *late_system))),
        tools=reader.changed(tools),
        choice=choice,
        parallel=parallel,
        schema=_schema(body),
        thinks=thinks > 0,
        thinks_tokens=thinks,
        stops=_stops(body.get("stop_sequences")),
        output_tokens_max=max_tokens,
    )
    segments = reader.done(body.get("cache_control"))
    return Asked(model=model, ask=ask, stream=stream, shows_thinking=shows, segments=segments, max_tokens=max_tokens)


def _is_enabled(thinking: object) -> bool:
    return isinstance(thinking, dict) and thinking.get("type") == "enabled"


def _thinking(body: dict[str, Any], max_tokens: int | None) -> tuple[int, bool]:
    """(default thinking tokens, 0 for none; whether thinking is shown)."""
    thinking = body.get("thinking")
    if thinking is None:
        return 0, True
    kind = object_of(thinking, "thinking").get("type")
    if kind not in ("enabled", "adaptive", "disabled"):
        raise fail("thinking", "Input tag found using 'type' does not match: 'adaptive', 'disabled', 'enabled'")
    if kind == "disabled":
        return 0, True
    if kind == "enabled":
        budget = whole_of(thinking, "budget_tokens", THINKING_BUDGET_MIN, "thinking.enabled.")
        if max_tokens is not None and budget >= max_tokens:
            raise Problem(400, "`max_tokens` must be greater than `thinking.budget_tokens`.")
    if body.get("temperature", 1) != 1:
        raise Problem(400, "`temperature` may only be set to 1 when thinking is enabled.")
    if body.get("top_k") is not None:
        raise Problem(400, "`top_k` must be unset when thinking is enabled.")
    shown = thinking.get("display") or "summarized"
    # "updates" shows only notes between calls, which no answer here has.
    if shown not in ("summarized", "omitted", "updates"):
        raise fail("thinking.display", "Input should be 'summarized', 'omitted' or 'updates'")
    return (ENABLED_THOUGHT_TOKENS if kind == "enabled" else ADAPTIVE_THOUGHT_TOKENS), shown == "summarized"


def _choice(value: object, tools: tuple[Tool, ...], *, forced_ok: bool) -> tuple[str, bool]:
    if value is None:
        return "auto", True
    choice = object_of(value, "tool_choice")
    kind = choice.get("type")
    parallel = not choice.get("disable_parallel_tool_use", False)
    if kind in ("any", "tool") and not forced_ok:
        raise Problem(400, "Thinking may not be enabled when tool_choice forces tool use.")
    if kind in ("any", "auto") and not tools:
        raise Problem(400, "tool_choice: may only be specified while providing tools.")
    if kind == "tool":
        name = choice.get("name")
        if name not in {tool.name for tool in tools}:
            raise Problem(400, f"tool_choice: Tool '{name}' not found in provided tools")
        return f"tool:{name}", parallel
    if kind not in _CHOICES:
        raise fail("tool_choice", "Input tag found using 'type' does not match: 'auto', 'any', 'tool', 'none'")
    return _CHOICES[kind], parallel


def _schema(body: dict[str, Any]) -> dict[str, Any] | None:
    path = "output_config.format" if body.get("output_config") is not None else "output_format"
    wanted = body.get("output_format")
    if path == "output_config.format":
        config = object_of(body["output_config"], "output_config")
        if config.get("effort") not in (None, "low", "medium", "high", "xhigh", "max"):
            raise fail("output_config.effort", "Input should be 'low', 'medium', 'high', 'xhigh' or 'max'")
        wanted = config.get("format")
    if wanted is None:
        return None
    if object_of(wanted, path).get("type") != "json_schema" or not isinstance(wanted.get("schema"), dict):
        raise fail(f"{path}.schema", "Field required")
    schema: dict[str, Any] = wanted["schema"]
    _check_closed(schema, f"{path}.schema")
    return schema


def _check_closed(schema: object, path: str) -> None:
    """Structured output accepts only closed objects. Raises Problem."""
    if isinstance(schema, list):
        for entry in schema:
            _check_closed(entry, path)
    elif isinstance(schema, dict):
        if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
            raise fail(path, "For 'object' type, 'additionalProperties' must be explicitly set to false")
        for name, value in schema.items():
            if name in ("properties", "$defs", "definitions") and isinstance(value, dict):
                _check_closed(list(value.values()), path)
            elif name in ("items", "anyOf", "allOf", "oneOf", "prefixItems"):
                _check_closed(value, path)


def _stops(value: object) -> tuple[str, ...]:
    stops = list_of(value or [], "stop_sequences")
    for index, stop in enumerate(stops):
        if not isinstance(stop, str):
            raise fail(f"stop_sequences.{index}", "Input should be a valid string")
        if not stop.strip():
            raise fail("stop_sequences", "each stop sequence must contain non-whitespace")
    return tuple(stops)


def _check_sampling(body: dict[str, Any]) -> None:
    for name in ("temperature", "top_p"):
        value = body.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1):
            raise fail(name, "range: 0..1")
    if body.get("top_k") is not None:
        whole_of(body, "top_k", 0)
