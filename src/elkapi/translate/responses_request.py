"""Read a responses body into `ChatRequest`; `responses_items` reads the input items.

Contract: openai.md (response). Fields that `ChatRequest` does not have are kept in `extra` by name, so that
`responses_write` can put them back; `check_crossing` refuses what no other dialect can carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeGuard, get_args

import msgspec

from elkapi.errors import BadRequest
from elkapi.translate.chat_parts import at, is_stored_file
from elkapi.translate.decode import convert, decode
from elkapi.translate.ir import (
    ChatRequest,
    Effort,
    Message,
    OutputFormat,
    Reasoning,
    ServerTool,
    ServerToolPart,
    Text,
    Tool,
    ToolChoice,
)
from elkapi.translate.responses_items import joined_name, read_items, tools_in_input
from elkapi.translate.server_tools import RESPONSES

# Values of `include`.
LOGPROBS = "message.output_text.logprobs"
ENCRYPTED = "reasoning.encrypted_content"

_Positive = Annotated[int, msgspec.Meta(ge=1)]


class _Text(msgspec.Struct):
    format: dict[str, Any] | None = None
    verbosity: str | None = None


class _Body(msgspec.Struct):
    """The fields that `ChatRequest` can express, by their names in the format."""

    model: str
    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: _Positive | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    text: _Text | None = None
    reasoning: dict[str, Any] | None = None
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    stream: bool | None = None


class _Function(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Custom(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    description: str | None = None
    format: Any = None


class _Namespace(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    tools: list[dict[str, Any]]
    description: str | None = None


class _Choice(msgspec.Struct):
    type: str
    name: str | None = None
    namespace: str | None = None


class _Allowed(msgspec.Struct):
    mode: Literal["auto", "required"]
    tools: list[_Choice]


class _Schema(msgspec.Struct):
    name: str = "output"
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class _Reasoning(msgspec.Struct):
    effort: Effort | None = None
    summary: str | None = None
    generate_summary: str | None = None


class _Update(msgspec.Struct):
    """An item that changes settings for the answers from there on."""

    reasoning: _Reasoning | None = None
    text: _Text | None = None


_members = msgspec.json.Decoder(dict[str, Any])
# `include` is read and also kept, since `ChatRequest` can express only one of its values.
_KNOWN = frozenset(_Body.__struct_fields__) - {"include"}
_OUTPUT_KINDS = {"text": "text", "json_object": "json", "json_schema": "schema"}
# Fields that refer to content or rules that only the provider knows: without them the answer would differ.
_REFUSED = ("previous_response_id", "conversation", "prompt", "moderation", "tool_choice", "text")
# Suffixes of the types of items about the work of tools and approvals, which other dialects leave out.
_TOLD = ("_call", "_output", "_request", "_response", "_list_tools", "program")
_CONFIGURES = "configuration_update"


def read_request(body: bytes) -> ChatRequest:
    """The `ChatRequest` of a responses body. Raises BadRequest naming the field."""
    return read_members(decode(_members, body))


def read_members(members: dict[str, Any], *, model_needed: bool = True) -> ChatRequest:
    """`read_request` of a decoded body; requests to `input_tokens` need no model."""
    view = convert(members if model_needed else {"model": "", **members}, _Body)
    if model_needed and not view.model:
        raise BadRequest("`model` must be the name of a model.", param="model")
    extra = _extra(members)
    leading, messages = read_items(view.input)
    if not messages and not extra.keys() & {"previous_response_id", "conversation", "prompt"}:
        if not leading:
            raise BadRequest("`input` must contain at least one item with content.", param="input")
        # As in chat completions: OpenAI's models answer instructions alone, other models require a turn.
        leading, messages = (), [Message("user", leading)]
    spaces: dict[str, dict[str, Any]] = {}
    tools, server_tools = read_tools([*(view.tools or ()), *tools_in_input(view.input)], spaces)
    if spaces:
        extra["namespaces"] = spaces
    logprobs = LOGPROBS in (view.include or ())
    if view.top_logprobs is not None and not logprobs:
        # Without the value in `include` it has no effect here, but would be an error in other dialects.
        extra["top_logprobs"] = view.top_logprobs
    text = view.text or _Text()
    return ChatRequest(
        model=view.model,
        messages=messages,
        system=_system(view.instructions, leading, extra),
        tools=tools,
        server_tools=server_tools,
        tool_choice=_tool_choice(view.tool_choice, extra),
        parallel_tools=view.parallel_tool_calls,
        max_output_tokens=view.max_output_tokens,
        temperature=view.temperature,
        top_p=view.top_p,
        logprobs=logprobs,
        top_logprobs=view.top_logprobs if logprobs else None,
        output=_output(text.format, extra),
        reasoning=_reasoning(view.reasoning, extra),
        verbosity=text.verbosity,
        user=view.user,
        metadata=view.metadata,
        service_tier=view.service_tier,
        cache_key=view.prompt_cache_key,
        stream=bool(view.stream),
        dialect="responses",
        extra=extra,
    )


def check_crossing(request: ChatRequest) -> None:
    """Raise BadRequest for content of a request that every other dialect would lose silently."""
    for name in _REFUSED:
        if request.extra.get(name) is not None:
            raise BadRequest(f"This value of `{name}` is not supported by this model.", param=name)
    cache = request.extra.get("prompt_cache_options")
    if isinstance(cache, dict) and cache.get("prewarm"):
        raise BadRequest("`prompt_cache_options.prewarm` is not supported by this model.", param="prompt_cache_options")
    for tool in request.server_tools:
        container = tool.raw.get("container")
        if isinstance(container, str) or (isinstance(container, dict) and container.get("file_ids")):
            raise BadRequest(
                "This model does not support an existing container or files by id; use a container of type `auto`.",
                param="tools",
            )
    for message in request.messages:
        for part in message.parts:
            if is_stored_file(part):
                raise BadRequest(
                    "This model does not support files by id; send the file's data instead.", param="input"
                )
            if not isinstance(part, ServerToolPart):
                continue
            kind = part.raw.get("type")
            if kind in (None, "item_reference", "compaction"):
                raise BadRequest(
                    "Item references and compactions are not supported by this model; send the items themselves.",
                    param="input",
                )
            if not str(kind).endswith(_TOLD):
                # Otherwise content from the caller would be dropped silently.
                raise BadRequest(f"This model does not support items of type `{str(kind)[:60]}`.", param="input")


def configured(request: ChatRequest) -> ChatRequest:
    """The request with the effort and output format that its `configuration_update` items set. Raises BadRequest.

    A web search without access to the web is removed, since other providers' searches always have it.
    """
    if request.dialect != "responses":
        return request
    if any(map(_stays_inside, request.server_tools)):
        tools = tuple(tool for tool in request.server_tools if not _stays_inside(tool))
        request = msgspec.structs.replace(request, server_tools=tools)
    updates = [part.raw for message in request.messages for part in message.parts if _configures(part)]
    if not updates:
        return request
    reasoning, output, extra = request.reasoning, request.output, dict(request.extra)
    for update in updates:
        view = at("input", update, _Update)
        if view.reasoning is not None and view.reasoning.effort is not None:
            reasoning = msgspec.structs.replace(reasoning or Reasoning(), effort=view.reasoning.effort)
        if view.text is not None:
            extra.pop("text", None)
            output = _output(view.text.format, extra)
    messages = [
        Message(message.role, kept)
        for message in request.messages
        if (kept := tuple(part for part in message.parts if not _configures(part)))
    ]
    return msgspec.structs.replace(request, reasoning=reasoning, output=output, messages=messages, extra=extra)


def _stays_inside(tool: ServerTool) -> bool:
    return tool.kind == "web_search" and tool.raw.get("external_web_access") is False


def _configures(part: Any) -> TypeGuard[ServerToolPart]:
    return isinstance(part, ServerToolPart) and part.raw.get("type") == _CONFIGURES


def _extra(members: dict[str, Any]) -> dict[str, Any]:
    """The unknown fields. `Model` for `model` is refused, since some upstreams would treat it as `model`."""
    extra = {}
    for name, value in members.items():
        if name in _KNOWN or value is None:
            continue
        if name.lower() in _KNOWN:
            raise BadRequest(f"`{name[:64]}` must be written in lower case: `{name.lower()}`.", param=name)
        extra[name] = value
    return extra


def _system(instructions: str | None, leading: tuple[Text, ...], extra: dict[str, Any]) -> tuple[Text, ...]:
    """`instructions`, then the leading developer messages; `extra` keeps `instructions` to tell them apart."""
    if not instructions:
        return leading
    extra["instructions"] = instructions
    return (Text(instructions), *leading)


# --- tools -----------------------------------------------------------------------------------------------------------


def read_tools(
    rows: Sequence[dict[str, Any]], spaces: dict[str, dict[str, Any]]
) -> tuple[tuple[Tool, ...], tuple[ServerTool, ...]]:
    """(tools, server tools). Namespaced tools get a joined name, which `spaces` maps back. Raises BadRequest."""
    tools: list[Tool] = []
    served: list[ServerTool] = []
    for index, row in enumerate(rows):
        path = f"tools[{index}]"
        kind = row.get("type")
        if not isinstance(kind, str):
            raise BadRequest(f"`{path}.type` is missing.", param=f"{path}.type")
        if kind == "namespace":
            space = at(path, row, _Namespace)
            for inner in space.tools:
                tool = _tool(inner, path, space.name)
                spaces[tool.name] = {"namespace": space.name, "description": space.description, "name": inner["name"]}
                tools.append(tool)
        elif kind in ("function", "custom"):
            tools.append(_tool(row, path))
        else:
            served.append(ServerTool(RESPONSES.get(kind, kind), "responses", row))
    return tuple(tools), tuple(served)


def _tool(row: dict[str, Any], path: str, namespace: str | None = None) -> Tool:
    if row.get("type") == "custom":
        custom = at(path, row, _Custom)
        return Tool(joined_name(custom.name, namespace), custom.description, custom=True, format=custom.format)
    function = at(path, row, _Function)
    return Tool(joined_name(function.name, namespace), function.description, function.parameters, function.strict)


def _tool_choice(value: str | dict[str, Any] | None, extra: dict[str, Any]) -> ToolChoice | None:
    """The tool choice; the choice of a built-in tool has no equivalent and stays in `extra`."""
    if value is None:
        return None
    if isinstance(value, str):
        if value not in ("auto", "none", "required"):
            raise BadRequest("`tool_choice` must be none, auto, required or an object.", param="tool_choice")
        return ToolChoice(value)  # type: ignore[arg-type]
    choice = at("tool_choice", value, _Choice)
    if choice.type in ("function", "custom") and choice.name:
        return ToolChoice("named", (joined_name(choice.name, choice.namespace),))
    if choice.type == "allowed_tools":
        allowed = at("tool_choice", value, _Allowed)
        if all(tool.name and tool.type in ("function", "custom") for tool in allowed.tools):
            return ToolChoice(allowed.mode, tuple(joined_name(str(t.name), t.namespace) for t in allowed.tools))
    extra["tool_choice"] = value
    return None


# --- the rest --------------------------------------------------------------------------------------------------------


def _output(value: dict[str, Any] | None, extra: dict[str, Any]) -> OutputFormat | None:
    if value is None:
        return None
    kind = _OUTPUT_KINDS.get(str(value.get("type")))
    if kind == "schema":
        schema = at("text.format", value, _Schema)
        return OutputFormat(
            "schema", schema.name, schema.schema or {"type": "object"}, schema.strict, schema.description
        )
    if kind is None:
        if not isinstance(value.get("type"), str):
            raise BadRequest("`text.format.type` is missing.", param="text.format.type")
        extra["text"] = {"format": value}
        return None
    return OutputFormat("json" if kind == "json" else "text")


def _reasoning(value: dict[str, Any] | None, extra: dict[str, Any]) -> Reasoning | None:
    """Effort and summary; other fields of the object stay in `extra["reasoning"]`."""
    if value is None:
        return None
    if value.get("effort") not in (None, *get_args(Effort)):
        message = f"`reasoning.effort` must be one of {', '.join(get_args(Effort))}."
        raise BadRequest(message, param="reasoning.effort")
    view = at("reasoning", value, _Reasoning)
    if rest := {name: member for name, member in value.items() if name not in _Reasoning.__struct_fields__}:
        extra["reasoning"] = rest
    summary = view.summary or view.generate_summary
    if summary is None and view.effort is None:
        return None
    return Reasoning(effort=view.effort, visible=True if summary else None, summary=summary)
