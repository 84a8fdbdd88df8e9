"""Write a `ChatRequest` as a responses body.

Contract: openai.md (response). A request of this dialect is written with its `extra`; one of another dialect is
stateless (`store` false, encrypted reasoning).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

from elkapi.errors import BadRequest
from elkapi.translate.chat_parts import FILE_ID
from elkapi.translate.dialect import given, stop_member
from elkapi.translate.ir import (
    Audio,
    ChatRequest,
    File,
    Image,
    Loss,
    Message,
    OutputFormat,
    Part,
    Refusal,
    ServerTool,
    ServerToolPart,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from elkapi.translate.profiles import Profile, effort_for
from elkapi.translate.responses_request import ENCRYPTED, LOGPROBS
from elkapi.translate.server_tools import chosen_server_tool, place_of
from elkapi.translate.strict_schema import strict_of

LOSSES = (
    Loss("n", True, "a response has one answer"),
    Loss("stop", True, "there are no stop sequences"),
    Loss("logit_bias", True, "there is no token bias"),
    Loss("modalities: audio", True, "a response answers in text"),
    Loss("cachedContent", True, "cached content is known only to the provider that holds it"),
    Loss("tools the upstream runs", True, "other than web search, code execution and MCP servers"),
    Loss("top_k", False, "there is no such setting"),
    Loss("seed", False, "there is no such setting"),
    Loss("presence_penalty", False, "there is no such setting"),
    Loss("frequency_penalty", False, "there is no such setting"),
    Loss("name of a chat participant", False, "not accepted"),
    Loss("cache_control", False, "prefixes are cached without marks"),
    Loss("thinking signed elsewhere", False, "a signature is only valid where it was made"),
    Loss("results of tools the upstream ran", False, "only valid where they were made"),
    Loss("strict, of Anthropic's schemas with optional properties", False, "followed as well as the model can"),
    Loss("reasoning", False, "for models that do not reason"),
    Loss("temperature, top_p", False, "for models that refuse them"),
    Loss("a limit of fewer than 16 tokens", False, "16 is the minimum"),
)
_OUTPUT_TOKENS_MIN = 16

# Fields of `extra` that this dialect shares with chat.
_SHARED_WITH_CHAT = ("safety_identifier", "prompt_cache_options", "prompt_cache_retention", "moderation")
_NOT_WRITTEN = frozenset({"instructions", "namespaces", "reasoning", "text", "include", "tool_search"})
_FORMATS = {"text": "text", "json": "json_object", "schema": "json_schema"}
_TIERS = {"standard_only": "default"}
_TIERS_CARRIED = frozenset({"auto", "default", "flex", "scale", "priority", "fast"})
USER_CHARS_MAX = 64


def write_request(request: ChatRequest, profile: Profile) -> bytes:
    """The body for an upstream of this dialect. Raises BadRequest for what `LOSSES` lists as refused."""
    own = request.dialect == "responses"
    if not own:
        _refuse(request)
    body: dict[str, Any] = {"model": request.model}
    items: list[dict[str, Any]] = []
    system = request.system
    if system and (not own or "instructions" in request.extra):
        body["instructions"] = system[0].text
        system = system[1:]
    for text in system:
        items.append(_message(profile.system_role, [_text_part("input_text", text, own)]))
    for message in request.messages:
        items += _turn(message, profile.system_role, request)
    body["input"] = items
    body |= settings(request)
    if request.stream:
        body["stream"] = True
    if own or profile.sampling:
        body |= given(temperature=request.temperature, top_p=request.top_p)
    if reasoning := _reasoning(request, profile):
        body["reasoning"] = reasoning
    include = list(request.extra.get("include", ())) if own else []
    if own:
        body |= {name: value for name, value in request.extra.items() if name not in _NOT_WRITTEN}
    else:
        body["store"] = False
        if request.max_output_tokens is not None:
            body["max_output_tokens"] = max(request.max_output_tokens, _OUTPUT_TOKENS_MIN)
        if profile.reasoning == "effort":
            include.append(ENCRYPTED)
        body |= {name: request.extra[name] for name in _SHARED_WITH_CHAT if name in request.extra}
    if request.logprobs and LOGPROBS not in include:
        include.append(LOGPROBS)
    if include:
        body["include"] = include
    return msgspec.json.encode(body)


def settings(request: ChatRequest) -> dict[str, Any]:
    """The fields that a response also echoes, without those that the caller did not give."""
    own = request.dialect == "responses"
    body = given(
        parallel_tool_calls=request.parallel_tools,
        max_output_tokens=request.max_output_tokens,
        top_logprobs=request.top_logprobs,
        metadata=request.metadata if own or request.metadata else None,
        prompt_cache_key=request.cache_key,
    )
    if request.tools or request.server_tools:
        body["tools"] = write_tools(request)
    if request.tool_choice is not None:
        body["tool_choice"] = _tool_choice(request.tool_choice, request)
    text = dict(request.extra.get("text", ())) if own else {}
    if request.output is not None:
        text["format"] = _format(request.output, request)
    if request.verbosity is not None:
        text["verbosity"] = request.verbosity
    if text:
        body["text"] = text
    if request.user is not None:
        body["user"] = request.user if own else _user(request.user)
    tier = request.service_tier if own else _TIERS.get(request.service_tier or "", request.service_tier)
    if tier is not None and (own or tier in _TIERS_CARRIED):
        body["service_tier"] = tier
    return body


def _refuse(request: ChatRequest) -> None:
    if request.n > 1:
        raise BadRequest("`n` must be 1 for this model.", param="n")
    if request.stop:
        raise BadRequest("Stop sequences are not supported by this model.", param=stop_member(request))
    if request.logit_bias:
        raise BadRequest("`logit_bias` is not supported by this model.", param="logit_bias")
    modalities = request.extra.get("modalities")
    if isinstance(modalities, list) and "audio" in modalities:
        raise BadRequest("This model supports only text output.", param="modalities")
    if request.extra.get("cachedContent") is not None:
        raise BadRequest("`cachedContent` is not supported by this model.", param="cachedContent")


def _user(user: str) -> str:
    """The end user's id; its digest if it is too long, which is stable for the same user."""
    return user if len(user) <= USER_CHARS_MAX else hashlib.sha256(user.encode()).hexdigest()


# --- turns -----------------------------------------------------------------------------------------------------------


def _turn(message: Message, system_role: str, request: ChatRequest) -> Iterable[dict[str, Any]]:
    """One turn as items: adjacent text, images and files share a message, every other part is its own item."""
    own = request.dialect == "responses"
    role = system_role if message.role == "system" else message.role
    content: list[dict[str, Any]] = []
    passages: list[str] = []
    for part in message.parts:
        if not isinstance(part, Thinking):
            yield from _unsigned(passages, own)
        row = _content(part, message.role, own)
        if row is not None:
            content.append(row)
            continue
        if content:
            yield _message(role, content)
            content = []
        if isinstance(part, Thinking):
            yield from _thinking(part, passages)
        else:
            yield from _item(part, request)
    yield from _unsigned(passages, own)
    if content:
        yield _message(role, content)


def _message(role: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": content}


def _thinking(part: Thinking, passages: list[str]) -> Iterable[dict[str, Any]]:
    """Buffer passages until their signature. Thinking signed by another dialect is dropped: it is opaque here."""
    if part.redacted is not None or (part.signature is not None and part.signed_by != "responses"):
        return
    if part.text:
        passages.append(part.text)
    if part.signature is not None:
        yield _reasoning_item(passages) | {"encrypted_content": part.signature}
        passages.clear()


def _unsigned(passages: list[str], own: bool) -> Iterable[dict[str, Any]]:
    """Unsigned thinking, which is only sent if the caller speaks this dialect (`own`)."""
    if passages and own:
        yield _reasoning_item(passages)
    passages.clear()


def _reasoning_item(passages: list[str]) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [{"type": "summary_text", "text": text} for text in passages]}


def _item(part: Part, request: ChatRequest) -> Iterable[dict[str, Any]]:
    if isinstance(part, ToolCall):
        kind, member = ("custom_tool_call", "input") if part.custom else ("function_call", "arguments")
        yield {"type": kind, "call_id": part.id, **split_name(part.name, request), member: part.arguments}
    elif isinstance(part, ToolResult):
        kind = "custom_tool_call_output" if part.custom else "function_call_output"
        yield {"type": kind, "call_id": part.call_id, "output": _output(part, request.dialect == "responses")}
    elif isinstance(part, ServerToolPart) and part.dialect == "responses":
        yield part.raw


def _output(result: ToolResult, own: bool) -> str | list[dict[str, Any]]:
    """A single text as a string, otherwise a list. There is no flag for errors, so the text gets a prefix."""
    parts = result.parts
    if result.is_error:
        first = parts[0] if parts and isinstance(parts[0], Text) else Text("")
        parts = (Text(f"Error: {first.text}"), *(parts[1:] if parts and isinstance(parts[0], Text) else parts))
    if not parts:
        return ""
    if len(parts) == 1 and isinstance(parts[0], Text):
        return parts[0].text
    return [row for part in parts if (row := _content(part, "user", own)) is not None]


def _content(part: Part, role: str, own: bool) -> dict[str, Any] | None:
    """The part as message content, or None if it is an item of its own."""
    if isinstance(part, Text):
        return _text_part("output_text" if role == "assistant" else "input_text", part, own)
    if isinstance(part, Refusal):
        return {"type": "refusal", "refusal": part.text}
    if isinstance(part, Image):
        return _image(part, own)
    if isinstance(part, File):
        return _file(part, own)
    if isinstance(part, Audio):
        return {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
    return None


def _mark(ttl: str | None, own: bool) -> dict[str, Any]:
    if ttl is None or not own:
        return {}
    return {"prompt_cache_breakpoint": {"mode": "explicit"} | ({"ttl": "12h"} if ttl == "1h" else {})}


def _text_part(kind: str, text: Text, own: bool) -> dict[str, Any]:
    return {"type": kind, "text": text.text} | _mark(text.cache_ttl, own)


def _image(image: Image, own: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "input_image", "detail": image.detail or "auto"}
    if image.url is not None and image.url.startswith(FILE_ID):
        row["file_id"] = image.url.removeprefix(FILE_ID)
    else:
        row["image_url"] = image.url or f"data:{image.media_type};base64,{image.data}"
    return row | _mark(image.cache_ttl, own)


def _file(file: File, own: bool) -> dict[str, Any]:
    """A file. Plain text is written as a text part, which every model accepts."""
    if file.text is not None:
        return _text_part("input_text", Text(f"{file.name}\n\n{file.text}" if file.name else file.text), own)
    row: dict[str, Any] = {"type": "input_file"}
    if file.url is not None and file.url.startswith(FILE_ID):
        row["file_id"] = file.url.removeprefix(FILE_ID)
    elif file.url is not None:
        row["file_url"] = file.url
    else:
        row["file_data"] = f"data:{file.media_type};base64,{file.data}"
        row["filename"] = file.name or f"document.{file.media_type.rpartition('/')[2]}"
    if file.name is not None:
        row["filename"] = file.name
    return row | _mark(file.cache_ttl, own)


# --- tools -----------------------------------------------------------------------------------------------------------


def write_tools(request: ChatRequest) -> list[dict[str, Any]]:
    """The caller's tools, namespaced ones inside their namespace, then the server tools. Raises BadRequest."""
    own = request.dialect == "responses"
    spaces = request.extra.get("namespaces", {}) if own else {}
    rows: list[dict[str, Any]] = []
    opened: dict[str, dict[str, Any]] = {}
    for tool in request.tools:
        space = spaces.get(tool.name)
        if own and tool.name == "tool_search" and (declared := request.extra.get(tool.name)) is not None:
            rows.append(declared)
            continue
        if space is None:
            rows.append(_tool(tool, tool.name, request))
            continue
        name = space["namespace"]
        if name not in opened:
            described = given(description=space["description"])
            opened[name] = {"type": "namespace", "name": name, **described, "tools": []}
            rows.append(opened[name])
        opened[name]["tools"].append(_tool(tool, space["name"], request))
    return rows + [_server_tool(tool) for tool in request.server_tools]


def _tool(tool: Tool, name: str, request: ChatRequest) -> dict[str, Any]:
    row = {"type": "custom" if tool.custom else "function", "name": name, **given(description=tool.description)}
    if tool.custom:
        return row | given(format=tool.format)
    if request.dialect == "responses":
        return row | given(parameters=tool.schema, strict=tool.strict)
    # Always explicit, since schemas are strict by default in this dialect but not in the others.
    strict = bool(strict_of(request, tool.strict, tool.schema))
    return row | {"parameters": tool.schema or {"type": "object", "properties": {}}, "strict": strict}


def _server_tool(tool: ServerTool) -> dict[str, Any]:
    if tool.dialect == "responses":
        return tool.raw
    if tool.kind == "web_search" and not tool.raw.get("blocked_domains"):
        filters = {"filters": {"allowed_domains": domains}} if (domains := tool.raw.get("allowed_domains")) else {}
        place = place_of(tool)
        location = {"type": "approximate", **place} if place is not None else None
        size = tool.raw.get("search_context_size")
        return {"type": "web_search", **filters, **given(search_context_size=size, user_location=location)}
    if tool.kind == "code_execution":
        return {"type": "code_interpreter", "container": {"type": "auto"}}
    if tool.kind == "mcp" and isinstance(tool.raw.get("url"), str):
        limits = tool.raw.get("tool_configuration") or {}
        return {
            "type": "mcp",
            "server_label": tool.raw.get("name") or "mcp",
            "server_url": tool.raw["url"],
            "require_approval": "never",
            **given(authorization=tool.raw.get("authorization_token"), allowed_tools=limits.get("allowed_tools")),
        }
    raise BadRequest(f"This model does not support the `{tool.kind[:60]}` tool.", param="tools")


def _tool_choice(choice: ToolChoice, request: ChatRequest) -> str | dict[str, Any]:
    if not choice.names:
        return "auto" if choice.mode == "named" else choice.mode
    rows = [_chosen(name, request) for name in choice.names]
    if choice.mode == "named":
        served = chosen_server_tool(request) if request.dialect != "responses" else None
        if served is None:
            return rows[0]
        if not request.tools and len(request.server_tools) == 1:
            return "required"
        return {"type": "allowed_tools", "mode": "required", "tools": [{"type": _server_tool(served)["type"]}]}
    if choice.mode == "none":
        return "none"
    return {"type": "allowed_tools", "mode": choice.mode, "tools": rows}


def _chosen(name: str, request: ChatRequest) -> dict[str, Any]:
    custom = any(tool.custom for tool in request.tools if tool.name == name)
    return {"type": "custom" if custom else "function", **split_name(name, request)}


def split_name(name: str, request: ChatRequest) -> dict[str, str]:
    """`name` as the caller declared it, and its `namespace`, if any."""
    space = request.extra.get("namespaces", {}).get(name) if request.dialect == "responses" else None
    return {"name": space["name"], "namespace": space["namespace"]} if space is not None else {"name": name}


# --- the rest --------------------------------------------------------------------------------------------------------


def _format(output: OutputFormat, request: ChatRequest) -> dict[str, Any]:
    row: dict[str, Any] = {"type": _FORMATS[output.kind]}
    if output.kind == "schema":
        row |= {"name": output.name, "schema": output.schema or {}}
        row |= given(strict=strict_of(request, output.strict, output.schema), description=output.description)
    return row


def _reasoning(request: ChatRequest, profile: Profile) -> dict[str, Any]:
    asked = request.reasoning
    if request.dialect == "responses":
        kept = dict(request.extra.get("reasoning", ()))
        return kept | (given(effort=asked.effort, summary=asked.summary) if asked else {})
    if asked is None or profile.reasoning != "effort":
        return {}
    return given(effort=effort_for(asked, profile), summary="auto" if asked.visible else None)
