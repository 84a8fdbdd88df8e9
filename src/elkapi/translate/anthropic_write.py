"""Write a `ChatRequest` as an Anthropic message body. Contract: anthropic.md sections 1 and 2."""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.errors import BadRequest
from elkapi.translate.chat_parts import FILE_ID
from elkapi.translate.claude import (
    FORCED_REFUSED,
    IMAGE_TYPES,
    closed,
    effort_of,
    is_signed,
    output_tool,
    refuse_foreign,
    sampling_of,
    schema_told,
    stops_of,
    system_of,
    takes_schema,
    text_of_file,
    thinking_of,
    tool_id,
    tool_input,
    tool_schema,
    tools_of,
    turns,
)
from elkapi.translate.ir import (
    Audio,
    ChatRequest,
    File,
    Image,
    Part,
    Refusal,
    ServerTool,
    ServerToolPart,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    image_type,
)
from elkapi.translate.profiles import Profile
from elkapi.translate.server_tools import place_of

Raw = dict[str, Any]

# The number of searches for the search context sizes of other dialects.
SEARCHES_MAX = {"low": 1, "medium": 5, "high": 10}
_POSITIONAL = frozenset({"messages", "system", "tools", "tool_choice", "thinking", "output_config", "metadata"})
_TYPES = {"auto": "auto", "none": "none", "required": "any", "named": "tool"}
_encode = msgspec.json.Encoder().encode


def write_request(request: ChatRequest, profile: Profile) -> bytes:
    """The body of `POST /v1/messages`. Raises BadRequest for what it cannot carry."""
    own = request.extra if request.dialect == "anthropic" else {}
    if request.dialect != "anthropic":
        refuse_foreign(request)
    limit = request.max_output_tokens
    max_tokens = profile.max_output_tokens if limit is None else limit
    body: Raw = {"model": request.model, "max_tokens": max_tokens}
    if system := _system(request, profile, own.get("system", {})):
        body["system"] = system
    body["messages"] = _own_messages(request) if request.dialect == "anthropic" else _messages(request, profile)
    stand_in = output_tool(request, profile)
    if tools := _tools(request, profile, stand_in, own.get("tools", {})):
        body["tools"] = tools
        if choice := _choice(request, profile, stand_in) | own.get("tool_choice", {}):
            body["tool_choice"] = choice
    forced = body.get("tool_choice", {}).get("type") in ("any", "tool")
    thinking = thinking_of(request, profile, max_tokens, forced)
    if thinking is not None or "thinking" in own:
        body["thinking"] = (thinking or {}) | own.get("thinking", {})
    thinks = thinking is not None and thinking["type"] != "disabled"
    body |= sampling_of(request, profile, thinks)
    body |= _rest(request, profile, own)
    return _encode(body)


def _rest(request: ChatRequest, profile: Profile, own: Raw) -> Raw:
    """The output format, stop sequences, metadata, tier and the fields that only Anthropic knows."""
    rest: Raw = {name: value for name, value in own.items() if name not in _POSITIONAL}
    config: Raw = {}
    if effort := effort_of(request, profile):
        config["effort"] = effort
    output = request.output
    if output and output.kind == "schema" and takes_schema(output, profile) and "output_format" not in own:
        foreign = request.dialect != "anthropic"
        config["format"] = {"type": "json_schema", "schema": closed(output.described) if foreign else output.schema}
    if config := config | own.get("output_config", {}):
        rest["output_config"] = config
    if not profile.json_schema:
        rest.pop("output_format", None)
    if stops := stops_of(request):
        rest["stop_sequences"] = stops
    if metadata := ({"user_id": request.user} if request.user else {}) | own.get("metadata", {}):
        rest["metadata"] = metadata
    if request.service_tier in ("auto", "default"):
        rest["service_tier"] = "auto" if request.service_tier == "auto" else "standard_only"
    if request.stream:
        rest["stream"] = True
    return rest


# --- the conversation ------------------------------------------------------------------------------------------------


def _system(request: ChatRequest, profile: Profile, kept: Raw) -> str | list[Raw]:
    own = request.dialect == "anthropic"
    texts = list(request.system) if own else system_of(request, later=not profile.later_system)
    output = request.output
    if output and output.kind == "schema" and not (takes_schema(output, profile) or profile.forced_tools):
        texts.append(Text(schema_told(output)))
    blocks = [_block(text) | kept.get(str(index), {}) for index, text in enumerate(texts) if text.text.strip()]
    return _short(blocks)


def _messages(request: ChatRequest, profile: Profile) -> list[Raw]:
    written = turns(request, profile, later=profile.later_system)
    return [{"role": turn.role, "content": _short([_block(part) for part in turn.parts])} for turn in written]


def _own_messages(request: ChatRequest) -> list[Raw]:
    """An Anthropic caller's messages in the original order, with their left-over fields and without empty text."""
    kept = request.extra.get("messages", {})
    messages: list[Raw] = []
    for index, message in enumerate(request.messages):
        blocks = []
        for number, part in enumerate(message.parts):
            left = kept.get(f"{index}.{number}", {})
            if isinstance(part, Text) and not part.text.strip() and "type" not in left:
                continue
            if isinstance(part, Thinking) and not is_signed(part):
                continue
            if isinstance(part, Image) and message.role == "assistant":
                continue
            blocks.append(left if "type" in left else _block(part) | left)
        settings = kept.get(str(index), {})
        if blocks or settings:
            messages.append({"role": message.role} | ({"content": _short(blocks)} if blocks else {}) | settings)
    return messages


def _short(blocks: list[Raw]) -> str | list[Raw]:
    """The blocks, or a string if they are a single plain text."""
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"} and blocks[0]["type"] == "text":
        text: str = blocks[0]["text"]
        return text
    return blocks


def _block(part: Part) -> Raw:
    """One content block. Raises BadRequest for audio and for file types that Claude does not accept."""
    block: Raw
    match part:
        case Text() | Refusal():
            block = {"type": "text", "text": part.text}
        case Image():
            block = {"type": "image", "source": _image_source(part)}
        case File():
            block = _document(part)
        case Thinking():
            if part.redacted is not None:
                return {"type": "redacted_thinking", "data": part.redacted}
            return {"type": "thinking", "thinking": part.text, "signature": part.signature or ""}
        case ToolCall():
            block = {"type": "tool_use", "id": tool_id(part.id), "name": part.name, "input": tool_input(part)}
        case ToolResult():
            block = {"type": "tool_result", "tool_use_id": tool_id(part.call_id)}
            if content := [_block(inner) for inner in part.parts if not isinstance(inner, Text) or inner.text.strip()]:
                block["content"] = _short(content)
            if part.is_error:
                block["is_error"] = True
        case ServerToolPart():
            return part.raw
        case Audio():
            raise BadRequest("This model does not support audio input.", param="messages")
    ttl = getattr(part, "cache_ttl", None)
    if ttl:
        block["cache_control"] = _cache(ttl)
    return block


def _cache(ttl: str) -> Raw:
    return {"type": "ephemeral", "ttl": "1h"} if ttl == "1h" else {"type": "ephemeral"}


def _image_source(part: Image) -> Raw:
    if part.data is None:
        return _url_source(part.url or "")
    kind = image_type(part.data, part.media_type)
    if kind not in IMAGE_TYPES:
        raise BadRequest(
            f"Images must be {', '.join(sorted(IMAGE_TYPES))}; `{kind}` is not supported by this model.",
            param="messages",
        )
    return {"type": "base64", "media_type": kind, "data": part.data}


def _url_source(url: str) -> Raw:
    if url.startswith(FILE_ID):
        return {"type": "file", "file_id": url.removeprefix(FILE_ID)}
    if not url.startswith(("https://", "http://")):
        raise BadRequest("The URL of an image or file must start with https:// or http://.", param="messages")
    return {"type": "url", "url": url}


# A file by URL without a media type may be a PDF.
_BY_URL = frozenset({"application/pdf", "application/octet-stream"})


def _document(part: File) -> Raw:
    if part.media_type in IMAGE_TYPES:
        return {"type": "image", "source": _image_source(Image(part.url, part.data, part.media_type))}
    text = text_of_file(part)
    if text is not None:
        source: Raw = {"type": "text", "media_type": "text/plain", "data": text}
    elif part.data is None:
        source = _url_source(part.url or "")
        if source["type"] == "url" and part.media_type not in _BY_URL:
            raise BadRequest(
                f"Files by URL must be PDF; `{part.media_type}` is not supported by this model.", param="messages"
            )
    elif part.media_type == "application/pdf":
        source = {"type": "base64", "media_type": "application/pdf", "data": part.data}
    else:
        raise BadRequest(
            f"Files must be PDF or text; `{part.media_type}` is not supported by this model.", param="messages"
        )
    return {"type": "document", "source": source} | ({"title": part.name} if part.name else {})


# --- tools -----------------------------------------------------------------------------------------------------------


def _tools(request: ChatRequest, profile: Profile, stand_in: Tool | None, kept: Raw) -> list[Raw]:
    foreign = request.dialect != "anthropic"
    tools = [_tool(tool, profile, foreign) | kept.get(tool.name, {}) for tool in tools_of(request, invent=foreign)]
    calls = request.extra.get("max_tool_calls") if request.dialect == "responses" else None
    tools += [_server_tool(tool, calls) for tool in request.server_tools]
    return [*tools, _tool(stand_in, profile, foreign)] if stand_in else tools


def _tool(tool: Tool, profile: Profile, foreign: bool) -> Raw:
    schema = tool_schema(tool)
    if foreign and tool.strict and profile.json_schema:
        schema = closed(schema)
    result: Raw = {"name": tool.name, "input_schema": schema}
    if tool.description:
        result["description"] = tool.description
    if tool.strict is not None and profile.json_schema:
        result["strict"] = tool.strict
    if tool.cache_ttl:
        result["cache_control"] = _cache(tool.cache_ttl)
    return result


def _server_tool(tool: ServerTool, calls: Any) -> Raw:
    """Anthropic's own declaration, or its web search for another dialect's, with at most `calls` uses.

    Raises BadRequest for any other tool.
    """
    if tool.dialect == "anthropic":
        return tool.raw
    if tool.kind != "web_search":
        raise BadRequest(f"This model does not support the `{tool.kind}` tool.", param="tools")
    result: Raw = {"type": "web_search_20250305", "name": "web_search"}
    size = tool.raw.get("search_context_size")
    if isinstance(size, str) and size in SEARCHES_MAX:
        result["max_uses"] = SEARCHES_MAX[size]
    if isinstance(calls, int) and calls > 0:
        result["max_uses"] = min(calls, result.get("max_uses", calls))
    filters = tool.raw.get("filters")
    for name in ("allowed_domains", "blocked_domains"):
        if isinstance(filters, dict) and filters.get(name):
            result[name] = filters[name]
    if (place := place_of(tool)) is not None:
        result["user_location"] = {"type": "approximate", **place}
    return result


def _choice(request: ChatRequest, profile: Profile, stand_in: Tool | None) -> Raw:
    """The tool choice. If a tool stands in for a schema, the model must call exactly one tool.

    Raises BadRequest if the model does not support the choice.
    """
    choice, tools = request.tool_choice, bool(request.tools or request.server_tools)
    if stand_in is not None:
        free = tools and (choice is None or choice.mode in ("auto", "required"))
        if free:
            return {"type": "any", "disable_parallel_tool_use": True}
        if choice is None or choice.mode != "named":
            return {"type": "tool", "name": stand_in.name, "disable_parallel_tool_use": True}
    if not tools:
        return {"type": "none"}
    result: Raw = {"type": _TYPES[choice.mode]} if choice else {}
    if result.get("type") in ("any", "tool") and not profile.forced_tools:
        raise BadRequest(FORCED_REFUSED, param="tool_choice")
    if choice and choice.mode == "named":
        result["name"] = choice.names[0]
    if request.parallel_tools is False and result.get("type") != "none":
        result = {"type": "auto", **result, "disable_parallel_tool_use": True}
    elif request.parallel_tools is True and request.dialect == "anthropic" and result:
        result["disable_parallel_tool_use"] = False
    return result
