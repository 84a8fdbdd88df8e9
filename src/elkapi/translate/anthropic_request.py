"""Read Anthropic message bodies into `ChatRequest`; `anthropic_write` does the reverse.

Contract: anthropic.md sections 1 and 1.2. What `ChatRequest` cannot express stays in its `extra` under the name of the
top-level field: unknown fields unchanged; for `messages` and `system` a dict from position ("message.part", "message"
or "part", as counted in the `ChatRequest`) to the left-over fields; for `tools` a dict by the tool's name; for other
objects their left-over fields.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from elkapi.errors import BadRequest
from elkapi.translate.anthropic_history import DRAWN
from elkapi.translate.chat_parts import FILE_ID
from elkapi.translate.decode import convert, decode
from elkapi.translate.ir import (
    ChatRequest,
    Effort,
    File,
    Image,
    Message,
    OutputFormat,
    Part,
    Reasoning,
    ServerTool,
    ServerToolPart,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Ttl,
)
from elkapi.translate.seal import Sealed, unseal

T = TypeVar("T", bound=msgspec.Struct)
Raw = dict[str, Any]
Unit = Annotated[float, msgspec.Meta(ge=0, le=1)]

_MODES: dict[str, Literal["auto", "none", "required", "named"]] = {
    "auto": "auto",
    "any": "required",
    "none": "none",
    "tool": "named",
}


class _Cache(msgspec.Struct):
    type: Literal["ephemeral"]
    ttl: Ttl = None


class _Message(msgspec.Struct):
    """`content` may be missing only in a later instruction that only sets an effort."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Raw] | None = None


class _Text(msgspec.Struct):
    text: str
    cache_control: _Cache | None = None


class _Source(msgspec.Struct):
    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    content: str | list[Raw] | None = None


class _Media(msgspec.Struct):
    source: _Source
    title: str | None = None
    cache_control: _Cache | None = None


class _Inside(msgspec.Struct):
    """Blocks that only this dialect has; other dialects get the text inside."""

    content: str | list[Raw]
    source: str | None = None


class _Thinking(msgspec.Struct):
    thinking: str
    signature: str | None = None


class _Redacted(msgspec.Struct):
    data: str


class _ToolUse(msgspec.Struct):
    id: str
    name: str
    input: Raw
    cache_control: _Cache | None = None


class _ToolResult(msgspec.Struct):
    tool_use_id: str
    content: str | list[Raw] | None = None
    is_error: bool | None = None
    cache_control: _Cache | None = None


class _Tool(msgspec.Struct):
    name: str
    input_schema: Raw
    description: str | None = None
    strict: bool | None = None
    cache_control: _Cache | None = None


class _Choice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Think(msgspec.Struct):
    type: str
    budget_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    display: str | None = None


class _Format(msgspec.Struct):
    type: Literal["json_schema"]
    schema: Raw


class _Output(msgspec.Struct):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: _Format | None = None


class _Metadata(msgspec.Struct):
    user_id: str | None = None


class _Count(msgspec.Struct):
    """A count_tokens body; also the part of a messages body that it shares."""

    model: Annotated[str, msgspec.Meta(min_length=1)]
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    system: str | list[Raw] | None = None
    tools: list[Raw] | None = None
    tool_choice: _Choice | None = None
    thinking: _Think | None = None
    output_config: _Output | None = None
    output_format: _Format | None = None


class _Limits(msgspec.Struct):
    max_tokens: Annotated[int, msgspec.Meta(ge=0)]
    stream: bool | None = None
    temperature: Unit | None = None
    top_p: Unit | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0)] | None = None
    stop_sequences: list[str] | None = None
    metadata: _Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None


_KNOWN = frozenset(_Count.__struct_fields__ + _Limits.__struct_fields__) - {"output_format"}
_body = msgspec.json.Decoder(Raw)


def read_request(body: bytes) -> ChatRequest:
    """The `ChatRequest` of a `POST /v1/messages` body. Raises BadRequest naming the field."""
    raw = decode(_body, body)
    request = _read(raw)
    limits = convert(raw, _Limits)
    request.max_output_tokens = limits.max_tokens
    request.stream = bool(limits.stream)
    request.temperature, request.top_p, request.top_k = limits.temperature, limits.top_p, limits.top_k
    request.stop = tuple(limits.stop_sequences or ())
    request.user = limits.metadata.user_id if limits.metadata else None
    if limits.service_tier:
        request.service_tier = "default" if limits.service_tier == "standard_only" else "auto"
    _keep(request.extra, "metadata", raw.get("metadata"), _Metadata)
    return request


def read_count_request(body: bytes) -> ChatRequest:
    """The `ChatRequest` of a `POST /v1/messages/count_tokens` body. Raises BadRequest naming the field."""
    return _read(decode(_body, body))


def _read(raw: Raw) -> ChatRequest:
    view = convert(raw, _Count)
    extra: Raw = {name: value for name, value in raw.items() if name not in _KNOWN}
    system, messages = _read_conversation(view, raw, extra)
    tools, server_tools = _read_tools(view.tools or [], extra)
    for name, type_ in (("tool_choice", _Choice), ("thinking", _Think)):
        _keep(extra, name, raw.get(name), type_)
    return ChatRequest(
        model=view.model,
        messages=messages,
        system=system,
        tools=tools,
        server_tools=server_tools,
        tool_choice=_read_choice(view.tool_choice),
        parallel_tools=_read_parallel(view.tool_choice),
        output=_read_output(view),
        reasoning=_read_reasoning(view, raw, extra),
        dialect="anthropic",
        extra=extra,
    )


def _left_over(raw: Raw, type_: type[msgspec.Struct]) -> Raw:
    """The fields that the view does not know; a cache control with more than a lifetime is kept whole."""
    known = type_.__struct_fields__
    left = {name: value for name, value in raw.items() if name not in known and name != "type"}
    cache = raw.get("cache_control")
    if isinstance(cache, dict) and cache.keys() - {"type", "ttl"}:
        left["cache_control"] = cache
    return left


def _keep(extra: Raw, name: str, raw: Any, type_: type[msgspec.Struct]) -> None:
    if isinstance(raw, dict) and (left := _left_over(raw, type_)):
        extra[name] = left


def _view(raw: Any, type_: type[T], at: str) -> T:
    try:
        return convert(raw, type_)
    except BadRequest as error:
        param = f"{at}.{error.param}" if error.param else at
        raise BadRequest(f"In `{at}`: {error.message}", param=param) from None


# --- the conversation ------------------------------------------------------------------------------------------------


def _read_conversation(view: _Count, raw: Raw, extra: Raw) -> tuple[tuple[Text, ...], list[Message]]:
    """(system, messages). Adjacent messages of one role are merged; instructions before the first turn are system."""
    system: list[Text] = []
    kept: dict[str, Raw] = {}
    _read_texts(view.system or [], "system", system, kept)
    names: dict[str, str] = {}
    signed: dict[str, Sealed] = {}
    merged: list[tuple[Literal["user", "assistant", "system"], list[Part]]] = []
    places: dict[str, Raw] = {}
    for index, message in enumerate(view.messages):
        at = f"messages[{index}]"
        left = _left_over(raw["messages"][index], _Message)
        content = message.content
        if content is None:
            if message.role != "system" or not left.get("output_config"):
                raise BadRequest("`content` is missing from a message.", param=at + ".content")
            content = []
        if message.role == "system" and not merged:
            _read_texts(content, at + ".content", system, kept)
            continue
        # An instruction with its own settings is not merged.
        apart = message.role == "system" and (left or str(len(merged) - 1) in places)
        if not merged or merged[-1][0] != message.role or apart:
            merged.append((message.role, []))
        if left:
            places.setdefault(str(len(merged) - 1), {}).update(left)
        parts = merged[-1][1]
        for number, block in enumerate(_blocks(content)):
            read, left = _read_block(block, names, f"{at}.content[{number}]")
            part = _unsealed(read, signed)
            if part is None:
                continue
            if left:
                places[f"{len(merged) - 1}.{len(parts)}"] = left
            parts += _drawn(part) if message.role == "assistant" and isinstance(part, Text) else [part]
    if kept:
        extra["system"] = kept
    if places:
        extra["messages"] = places
    return tuple(system), [Message(role, tuple(parts)) for role, parts in merged]


def _unsealed(part: Part, signed: dict[str, Sealed]) -> Part | None:
    """The part with the signature from the gateway's envelope, if any; None for an envelope that is not thinking.

    `signed` collects the envelopes of calls by call id: each comes as a thinking block before its call.
    """
    if isinstance(part, Thinking) and (found := unseal(part.signature)) is not None:
        if found.call_id is not None:
            signed[found.call_id] = found
            return None
        # No upstream accepts unsigned thinking.
        return Thinking(part.text, found.signature, found.dialect) if found.signature is not None else None
    if isinstance(part, ToolCall) and (sealed := signed.get(part.id)) is not None:
        return msgspec.structs.replace(part, signature=sealed.signature, signed_by=sealed.dialect)
    return part


def _drawn(said: Text) -> list[Part]:
    """The text, split at the generated images that the writer put into it as Markdown."""
    if not DRAWN.search(said.text):
        return [said]
    # Text, then the type, data and following text of each image.
    words = DRAWN.split(said.text)
    parts: list[Part] = []
    for place in range(0, len(words), 3):
        if words[place].strip():
            parts.append(Text(words[place]))
        if place + 2 < len(words):
            parts.append(Image(data=words[place + 2], media_type=words[place + 1]))
    return parts


def _blocks(content: str | list[Raw]) -> list[Raw]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _read_texts(content: str | list[Raw], at: str, texts: list[Text], kept: dict[str, Raw]) -> None:
    for number, block in enumerate(_blocks(content)):
        if block.get("type") != "text":
            raise BadRequest("System instructions must be text blocks.", param=f"{at}[{number}].type")
        view = _view(block, _Text, f"{at}[{number}]")
        if left := _left_over(block, _Text):
            kept[str(len(texts))] = left
        texts.append(Text(view.text, _ttl(view.cache_control)))


def _read_block(raw: Raw, names: dict[str, str], at: str) -> tuple[Part, Raw]:
    """(part, left-over fields). Left-overs with a `type` are the whole block."""
    kind = raw.get("type")
    if not isinstance(kind, str):
        raise BadRequest("`type` is missing from a content block.", param=f"{at}.type")
    if kind == "text":
        text = _view(raw, _Text, at)
        return Text(text.text, _ttl(text.cache_control)), _left_over(raw, _Text)
    if kind in ("image", "document"):
        return _read_media(raw, kind, at)
    if kind == "thinking":
        thought = _view(raw, _Thinking, at)
        signed: Literal["anthropic"] | None = "anthropic" if thought.signature else None
        return Thinking(thought.thinking, thought.signature or None, signed), _left_over(raw, _Thinking)
    if kind == "redacted_thinking":
        redacted = _view(raw, _Redacted, at)
        return Thinking(redacted=redacted.data, signed_by="anthropic"), _left_over(raw, _Redacted)
    if kind == "tool_use":
        call = _view(raw, _ToolUse, at)
        names[call.id] = call.name
        arguments = msgspec.json.encode(call.input).decode()
        part = ToolCall(call.id, call.name, arguments, cache_ttl=_ttl(call.cache_control))
        return part, _left_over(raw, _ToolUse)
    if kind == "tool_result":
        return _read_result(raw, names, at)
    if kind in ("search_result", "mid_conv_system"):
        _view(raw, _Inside, at)
        return Text(_plain(raw)), raw
    if kind == "compaction" and isinstance(raw.get("content"), str):
        return Text(raw["content"]), raw
    if kind == "tool_reference" and isinstance(raw.get("tool_name"), str):
        # A tool found by a tool search. Other dialects do not defer tools, so the model is just told about it.
        return Text(f"The tool `{raw['tool_name']}` can be called now."), raw
    return ServerToolPart("anthropic", raw), {}


def _read_media(raw: Raw, kind: str, at: str) -> tuple[Part, Raw]:
    """An image or document, given as base64, URL, text, or the id of a stored file."""
    view = _view(raw, _Media, at)
    source, ttl, left = view.source, _ttl(view.cache_control), _left_over(raw, _Media)
    if source.type == "content":
        left["source"] = raw["source"]
        return File("text/plain", text=_plain(raw["source"]), name=view.title, cache_ttl=ttl), left
    member = {"base64": "data", "text": "data", "url": "url", "file": "file_id"}.get(source.type)
    value = getattr(source, member) if member else None
    if value is None:
        raise BadRequest("`source` must contain the data or a URL.", param=f"{at}.source")
    url = value if source.type == "url" else FILE_ID + value if source.type == "file" else None
    data = value if source.type == "base64" else None
    if data is not None and source.media_type is None:
        raise BadRequest("`media_type` is missing from a source.", param=f"{at}.source.media_type")
    if kind == "image":
        return Image(url=url, data=data, media_type=source.media_type, cache_ttl=ttl), left
    text = value if source.type == "text" else None
    media_type = source.media_type or ("text/plain" if text is not None else "application/pdf")
    return File(media_type, url=url, data=data, text=text, name=view.title, cache_ttl=ttl), left


def _read_result(raw: Raw, names: dict[str, str], at: str) -> tuple[Part, Raw]:
    view, left = _view(raw, _ToolResult, at), _left_over(raw, _ToolResult)
    parts: list[Text | Image | File] = []
    for number, block in enumerate(_blocks([] if view.content is None else view.content)):
        part, beyond = _read_block(block, names, f"{at}.content[{number}]")
        if beyond or not isinstance(part, Text | Image | File) or part.cache_ttl:
            left["content"] = raw["content"]
        if isinstance(part, File) and isinstance(context := beyond.get("context"), str) and context:
            parts.append(Text(context))
        if isinstance(part, Text | Image | File):
            parts.append(part)
    name, ttl = names.get(view.tool_use_id, ""), _ttl(view.cache_control)
    return ToolResult(view.tool_use_id, tuple(parts), name, bool(view.is_error), cache_ttl=ttl), left


def _plain(raw: Raw) -> str:
    """The text inside a nested block, for dialects without such blocks."""
    content = raw.get("content")
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    texts = [raw.get("title"), raw.get("source")] if raw.get("type") == "search_result" else []
    texts += [block.get("text") for block in blocks if isinstance(block, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))


def _ttl(cache: _Cache | None) -> Ttl:
    return (cache.ttl or "5m") if cache else None


# --- tools and the rest ----------------------------------------------------------------------------------------------


def _read_tools(raws: list[Raw], extra: Raw) -> tuple[tuple[Tool, ...], tuple[ServerTool, ...]]:
    """(tools, server tools); the order between the two is not kept."""
    tools: list[Tool] = []
    server_tools: list[ServerTool] = []
    kept: dict[str, Raw] = {}
    for index, raw in enumerate(raws):
        tool = read_tool(raw, f"tools[{index}]")
        if isinstance(tool, ServerTool):
            server_tools.append(tool)
            continue
        if left := _left_over(raw, _Tool):
            kept[tool.name] = left
        tools.append(tool)
    if kept:
        extra["tools"] = kept
    return tuple(tools), tuple(server_tools)


def read_tool(raw: Raw, at: str) -> Tool | ServerTool:
    """A tool of the caller or one of Anthropic's. Raises BadRequest naming its path `at`."""
    kind = raw.get("type")
    if kind in (None, "custom"):
        view = _view(raw, _Tool, at)
        ttl = _ttl(view.cache_control)
        return Tool(view.name, view.description, view.input_schema, view.strict, cache_ttl=ttl)
    if not isinstance(kind, str):
        raise BadRequest("The `type` of a tool must be a string.", param=f"{at}.type")
    return ServerTool(re.sub(r"_\d{8}$", "", kind), "anthropic", raw)


def _read_choice(view: _Choice | None) -> ToolChoice | None:
    if view is None:
        return None
    if view.type == "tool" and not view.name:
        raise BadRequest("`tool_choice.name` is required when `tool_choice.type` is `tool`.", param="tool_choice.name")
    return ToolChoice(_MODES[view.type], (view.name,) if view.type == "tool" and view.name else ())


def _read_parallel(view: _Choice | None) -> bool | None:
    if view is None or view.disable_parallel_tool_use is None:
        return None
    return not view.disable_parallel_tool_use


def _read_output(view: _Count) -> OutputFormat | None:
    """The schema of the answer; `output_format` is the older name from the beta."""
    wanted = (view.output_config.format if view.output_config else None) or view.output_format
    return OutputFormat("schema", schema=wanted.schema, strict=True) if wanted else None


def _read_reasoning(view: _Count, raw: Raw, extra: Raw) -> Reasoning | None:
    """Thinking and effort together; only Anthropic allows an effort without thinking, so that stays in `extra`."""
    thinking = view.thinking
    effort: Effort | None = view.output_config.effort if view.output_config else None
    left = _left_over(raw["output_config"], _Output) if view.output_config else {}
    # With "between_tools", Claude only writes short notes between calls.
    off = thinking is not None and thinking.type in ("disabled", "between_tools")
    if off and effort:
        left["effort"] = effort
    if left:
        extra["output_config"] = left
    if thinking is None:
        return Reasoning(effort=effort) if effort else None
    if off:
        return Reasoning(effort="none")
    if thinking.type not in ("enabled", "adaptive"):
        extra["thinking"] = raw["thinking"]
        return Reasoning(effort=effort)
    if thinking.type == "enabled" and thinking.budget_tokens is None:
        raise BadRequest(
            "`thinking.budget_tokens` is required when thinking is enabled.", param="thinking.budget_tokens"
        )
    return Reasoning(
        effort=effort,
        budget_tokens=thinking.budget_tokens if thinking.type == "enabled" else None,
        adaptive=thinking.type == "adaptive",
        visible={"summarized": True, "omitted": False}.get(thinking.display or ""),
    )
