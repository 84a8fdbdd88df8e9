"""Read a chat completions body into `ChatRequest`; `chat_write_request` does the reverse.

Contract: openai.md (Chat completions). Fields that `ir` does not have are kept, so that `chat_write_request` can put
them back: top-level fields in `extra` by name, those of messages and parts in `extra["messages"]` by position.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast, get_args

import msgspec

from elkapi.errors import BadRequest
from elkapi.translate.chat_parts import (
    Calls,
    Places,
    at,
    lifetime,
    members_beside,
    read_assistant,
    read_content,
    read_result,
    read_text,
)
from elkapi.translate.decode import decode
from elkapi.translate.ir import (
    ChatRequest,
    Effort,
    Message,
    OutputFormat,
    Part,
    Reasoning,
    Role,
    ServerTool,
    Text,
    Thinking,
    Tool,
    ToolChoice,
)
from elkapi.translate.server_tools import CHAT

_Positive = Annotated[int, msgspec.Meta(ge=1)]


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Body(msgspec.Struct):
    """The fields that `ChatRequest` can express, by their names in the format."""

    model: Annotated[str, msgspec.Meta(min_length=1)]
    messages: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: _Positive | None = None
    max_completion_tokens: _Positive | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    n: _Positive | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: list[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None
    response_format: str | dict[str, Any] | None = None
    reasoning_effort: str | None = None
    web_search_options: dict[str, Any] | None = None
    verbosity: str | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class _Function(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: dict[str, Any] | None = None


class _Marked(msgspec.Struct):
    """The field beside `function` in a tool."""

    cache_control: dict[str, Any] | None = None


class _Custom(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    description: str | None = None
    format: Any = None


class _Named(msgspec.Struct):
    name: str


class _Choice(msgspec.Struct):
    """`{type, function | custom: {name}}`, as a tool choice or an allowed tool."""

    function: _Named | None = None
    custom: _Named | None = None


class _Allowed(msgspec.Struct):
    mode: Literal["auto", "required"]
    tools: list[_Choice]


class _Schema(msgspec.Struct):
    name: str = "output"
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


# Fields of chat-like providers that determine the answer: filters, searches, constraints on the format of the text.
_DECIDING = (
    "response_format",
    "moderation",
    "plugins",
    "search_parameters",
    "enable_search",
    "enable_code_interpreter",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "grammar",
)
_body = msgspec.json.Decoder(_Body)
_members = msgspec.json.Decoder(dict[str, Any])
_KNOWN = frozenset(_Body.__struct_fields__)
_OUTPUT_KINDS = {"text": "text", "json_object": "json", "json_schema": "schema"}


def read_request(body: bytes) -> ChatRequest:
    """The `ChatRequest` of a chat completions body. Raises BadRequest naming the field."""
    view = decode(_body, body)
    extra = _extra(decode(_members, body))
    places: Places = []
    system, messages = _messages(view.messages, places)
    if places:
        extra["messages"] = places
    if view.stream_options is not None and extra.get("stream_options") == {}:
        del extra["stream_options"]
    tools, server_tools = _tools(view, extra)
    output = _output(view.response_format, extra)
    return ChatRequest(
        model=view.model,
        messages=messages,
        system=system,
        tools=tools,
        server_tools=server_tools,
        tool_choice=_tool_choice(view, extra),
        parallel_tools=False if view.functions else view.parallel_tool_calls,
        max_output_tokens=view.max_completion_tokens or view.max_tokens,
        temperature=view.temperature,
        top_p=view.top_p,
        top_k=view.top_k,
        stop=(view.stop,) if isinstance(view.stop, str) else tuple(view.stop or ()),
        seed=view.seed,
        n=view.n or 1,
        presence_penalty=view.presence_penalty,
        frequency_penalty=view.frequency_penalty,
        logit_bias=view.logit_bias,
        logprobs=bool(view.logprobs),
        top_logprobs=view.top_logprobs,
        output=output,
        reasoning=_reasoning(view, extra),
        verbosity=view.verbosity,
        user=view.user if view.user is not None else _text_or_none(extra.get("safety_identifier")),
        metadata=view.metadata,
        service_tier=view.service_tier,
        cache_key=view.prompt_cache_key,
        stream=bool(view.stream),
        dialect="chat",
        extra=extra,
    )


def check_crossing(request: ChatRequest) -> None:
    """Raise BadRequest if a chat asks for an answer that no other dialect can give."""
    modalities = request.extra.get("modalities")
    if isinstance(modalities, list) and "audio" in modalities:
        raise BadRequest("This model does not support audio output.", param="modalities")
    for place in request.extra.get("messages", ()):
        if place.get("message", {}).get("audio") is not None:
            raise BadRequest(
                "This model does not support earlier audio answers by id; send the transcript as text.",
                param="messages",
            )
    if _google(request.extra).get("cached_content"):
        raise BadRequest(
            "`cached_content` is not supported by this model: it refers to an object stored at Google.",
            param="extra_body",
        )
    for name in _DECIDING:
        if request.extra.get(name) not in (None, False, []):
            raise BadRequest(f"This value of `{name}` is not supported by this model.", param=name)


def _extra(members: dict[str, Any]) -> dict[str, Any]:
    """The unknown fields. `Model` for `model` is refused, since some upstreams would treat it as `model`."""
    extra = {}
    for name, value in members.items():
        if name == "stream_options" and isinstance(value, dict):
            extra[name] = {key: option for key, option in value.items() if key != "include_usage"}
        elif name not in _KNOWN:
            if name.lower() in _KNOWN:
                raise BadRequest(f"`{name[:64]}` must be written in lower case: `{name.lower()}`.", param=name)
            extra[name] = value
    return extra


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


# --- messages --------------------------------------------------------------------------------------------------------


# All other roles belong to the user's side.
_SIDES: dict[str, Role] = {"system": "system", "assistant": "assistant"}


def _messages(rows: list[dict[str, Any]], places: Places) -> tuple[tuple[Text, ...], list[Message]]:
    """(leading instructions, turns). Adjacent messages of one role are merged; instructions alone are a user turn."""
    system: list[Text] = []
    turns: list[tuple[Role, list[Part]]] = []
    calls = Calls()
    for index, row in enumerate(rows):
        path = f"messages[{index}]"
        view = at(path, row, _Message)
        role = "system" if view.role == "developer" else view.role
        parts, beside = _turn(role, view, row, path, calls)
        if not parts and not beside:
            continue
        is_result = role in ("tool", "function")
        if role == "system" and not turns:
            place, before = -1, cast("list[Part]", system)
        else:
            side = _SIDES.get(role, "user")
            if not turns or turns[-1][0] != side:
                turns.append((side, []))
            place, before = len(turns) - 1, turns[-1][1]
        if not is_result:
            ahead = next((index for index, part in enumerate(parts) if not isinstance(part, Thinking)), 0)
            for offset, members in members_beside(view.content):
                places.append({"at": [place, len(before) + ahead + offset], "part": members})
        # Mark where a message begins inside a turn. A tool result is always a message of its own and needs no mark.
        if beside or (before and place >= 0 and not is_result):
            places.append({"at": [place, len(before)], "message": beside})
        before += parts
    if not turns and system:
        # OpenAI's models answer instructions alone; other models require a user message.
        turns, system = [("user", [*system])], []
        for note in places:
            note["at"][0] = 0
    if not turns:
        raise BadRequest("`messages` must contain at least one message with content.", param="messages")
    return tuple(system), [Message(side, tuple(parts)) for side, parts in turns]


def _turn(role: str, view: _Message, row: dict[str, Any], path: str, calls: Calls) -> tuple[list[Part], dict[str, Any]]:
    """The parts of one message, and its fields that no part holds."""
    used = {"role", "content"}
    if role == "system":
        parts: list[Part] = list(read_text(view.content, path))
    elif role == "user":
        if view.content is None:
            raise BadRequest(f"`{path}.content` is missing.", param=f"{path}.content")
        parts = read_content(view.content, path)
    elif role == "assistant":
        parts = read_assistant(row, path, calls)
        used |= {
            "tool_calls",
            "function_call",
            "refusal",
            "reasoning_content",
            "reasoning",
            "thinking_blocks",
            "images",
        }
    elif role in ("tool", "function"):
        by_id = view.tool_call_id if role == "tool" else _last_id(calls, row.get("name"), path)
        if not by_id:
            raise BadRequest(f"`{path}.tool_call_id` is missing.", param=f"{path}.tool_call_id")
        parts = [read_result(view.content, by_id, calls, path)]
        used |= {"tool_call_id"} | ({"name"} if role == "function" else set())
    else:
        raise BadRequest(
            f"`{path}.role` is `{role[:40]}`; it must be developer, system, user, assistant, tool or function.",
            param=f"{path}.role",
        )
    return parts, {name: value for name, value in row.items() if name not in used and value is not None}


def _last_id(calls: Calls, name: Any, path: str) -> str:
    """The id of the call that a deprecated `function` message answers."""
    if isinstance(name, str) and (call := calls.by_name.get(name)) is not None:
        return call.id
    raise BadRequest(
        f"`{path}.name` must be the name of a function called earlier in the conversation.", param=f"{path}.name"
    )


# --- tools -----------------------------------------------------------------------------------------------------------


def _tools(view: _Body, extra: dict[str, Any]) -> tuple[tuple[Tool, ...], tuple[ServerTool, ...]]:
    tools: list[Tool] = []
    served: list[ServerTool] = []
    for index, row in enumerate(view.tools or ()):
        kind = row.get("type", "function")
        if kind == "function":
            mark = at(f"tools[{index}]", row, _Marked).cache_control
            tools.append(_function(row.get("function"), f"tools[{index}].function", mark))
        elif kind == "custom":
            custom = at(f"tools[{index}].custom", row.get("custom"), _Custom)
            tools.append(Tool(custom.name, custom.description, custom=True, format=_flat(custom.format)))
        elif isinstance(kind, str):
            served.append(ServerTool(CHAT.get(kind, kind), "chat", row))
        else:
            raise BadRequest("The `type` of a tool must be a string.", param=f"tools[{index}].type")
    if view.functions:
        # The marker makes the writer answer with `function_call` too.
        extra["functions"] = True
        tools += [_function(row, f"functions[{index}]") for index, row in enumerate(view.functions)]
    if view.web_search_options is not None:
        served.append(ServerTool("web_search", "chat", view.web_search_options))
    return tuple(tools), tuple(served)


def _function(row: Any, path: str, mark: dict[str, Any] | None = None) -> Tool:
    function = at(path, row, _Function)
    ttl = lifetime(mark or function.cache_control)
    return Tool(function.name, function.description, function.parameters, function.strict, cache_ttl=ttl)


def _flat(form: Any) -> Any:
    """The format of a custom tool as in `Tool.format`: chat completions nest a grammar one level deeper."""
    if isinstance(form, dict) and isinstance(grammar := form.get("grammar"), dict):
        return {"type": form.get("type"), **grammar}
    return form


def _tool_choice(view: _Body, extra: dict[str, Any]) -> ToolChoice | None:
    """Copilot's `validated` for Gemini means `auto` elsewhere, and Mistral's `any` means `required`.

    The original value of both stays in `extra`.
    """
    value = view.tool_choice if view.tool_choice is not None else view.function_call
    if value is None:
        return None
    if value == "validated":
        extra["tool_choice"] = value
        return ToolChoice("auto")
    if value == "any":
        extra["tool_choice"] = value
        return ToolChoice("required")
    if isinstance(value, str):
        if value not in ("auto", "none", "required"):
            raise BadRequest("`tool_choice` must be none, auto, required or an object.", param="tool_choice")
        return ToolChoice(cast("Literal['auto', 'none', 'required']", value))
    if "allowed_tools" in value:
        allowed = at("tool_choice.allowed_tools", value["allowed_tools"], _Allowed)
        return ToolChoice(allowed.mode, tuple(_name(choice) for choice in allowed.tools))
    if view.tool_choice is None:
        return ToolChoice("named", (at("function_call", value, _Named).name,))
    return ToolChoice("named", (_name(at("tool_choice", value, _Choice)),))


def _name(choice: _Choice) -> str:
    named = choice.function or choice.custom
    if named is None:
        raise BadRequest("`tool_choice` must name a function or a custom tool.", param="tool_choice")
    return named.name


# --- the rest --------------------------------------------------------------------------------------------------------


def _output(value: str | dict[str, Any] | None, extra: dict[str, Any]) -> OutputFormat | None:
    """A bare "json" or "text", which some clients send, is dropped; an unknown type stays in `extra`."""
    if value is None:
        return None
    if isinstance(value, str):
        if value not in ("json", "text"):
            raise BadRequest("`response_format` must be an object.", param="response_format")
        return None
    kind = _OUTPUT_KINDS.get(str(value.get("type")))
    if kind is None:
        if not isinstance(value.get("type"), str):
            raise BadRequest("`response_format.type` is missing.", param="response_format.type")
        extra["response_format"] = value
        return None
    if kind != "schema":
        return OutputFormat("text" if kind == "text" else "json")
    schema = at("response_format.json_schema", value.get("json_schema"), _Schema)
    return OutputFormat("schema", schema.name, schema.schema or {"type": "object"}, schema.strict, schema.description)


def _reasoning(view: _Body, extra: dict[str, Any]) -> Reasoning | None:
    """`reasoning_effort`, and the providers' own fields for thinking, which also stay in `extra`."""
    effort = _effort(view.reasoning_effort)
    if effort is None and view.reasoning_effort is not None:
        extra["reasoning_effort"] = view.reasoning_effort
    spoken, thinking = _object(extra.get("reasoning")), _object(extra.get("thinking"))
    google = _object(_google(extra).get("thinking_config"))
    effort = effort or _effort(spoken.get("effort")) or _effort(str(google.get("thinking_level") or "").lower())
    visible = False if spoken.get("exclude") is True else None
    if isinstance(shown := google.get("include_thoughts"), bool):
        visible = shown
    counts = (
        spoken.get("max_tokens"),
        thinking.get("budget_tokens"),
        google.get("thinking_budget"),
        None if effort else extra.get("thinking_budget"),
    )
    budget = next((count for count in map(_count, counts) if count is not None), None)
    switched = _switched(spoken, thinking, extra)
    if effort is None and switched is False:
        effort, budget = "none", None
    adaptive = thinking.get("type") == "adaptive" or google.get("thinking_budget") == -1
    adaptive = adaptive or (switched is True and effort is None and budget is None)
    if effort is None and budget is None and not adaptive and visible is None:
        return None
    return Reasoning(effort=effort, budget_tokens=budget, adaptive=adaptive, visible=visible)


def _switched(spoken: dict[str, Any], thinking: dict[str, Any], extra: dict[str, Any]) -> bool | None:
    """Whether thinking is on, in the formats of OpenRouter, GLM and similar, and Qwen and its servers, whose templates
    of DeepSeek and Kimi have another word."""
    template = _object(extra.get("chat_template_kwargs"))
    by_template = template.get("enable_thinking"), template.get("thinking")
    words = {"enabled": True, "disabled": False}
    said = (spoken.get("enabled"), words.get(str(thinking.get("type"))), extra.get("enable_thinking"), *by_template)
    return next((switch for switch in said if isinstance(switch, bool)), None)


def _google(extra: dict[str, Any]) -> dict[str, Any]:
    """Gemini's own fields, where Google's OpenAI-compatible API takes them."""
    return _object(_object(extra.get("extra_body")).get("google"))


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _effort(value: Any) -> Effort | None:
    return value if value in get_args(Effort) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
