"""Reading OpenAI's bodies: JSON, checked fields, and a chat's messages as a neutral `Ask`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.sandbox.messages import Problem
from elkapi.sandbox.providers.bodies import decoded_base64, is_address
from elkapi.sandbox.providers.openai_models import THINKS_TOKENS, UNKNOWN_PREFIX, thinks_tokens
from elkapi.sandbox.talk import Ask, Call, Result, Tool, Turn

NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
STOPS_MAX = 4
CHOICES_MAX = 128
TOP_LOGPROBS_MAX = 20


def json_object(body: bytes) -> dict[str, Any]:
    """The body as an object. Raises Problem 400."""
    try:
        value = msgspec.json.decode(body)
    except NOT_JSON:
        raise Problem(400, "The body of this request is not valid JSON.") from None
    if not isinstance(value, dict):
        raise Problem(400, "The body of this request is not a JSON object.")
    return value


def invalid(message: str, param: str | None) -> Problem:
    """A 400 that names the field."""
    return Problem(400, message, param=param)


def no_such_model(name: str) -> Problem:
    """The 404 of a model that is not served."""
    message = f"The model `{name}` does not exist or you do not have access to it."
    return Problem(404, message, code="model_not_found", param="model")


def model_name(body: Mapping[str, Any]) -> str:
    """The body's model name, known or not."""
    name = body.get("model")
    if name is None:
        raise invalid("A model is required.", "model")
    if not isinstance(name, str):
        raise invalid("model must be a string.", "model")
    return name


def text_model(body: Mapping[str, Any]) -> str:
    """The name of a served text model."""
    name = model_name(body)
    if name.startswith(UNKNOWN_PREFIX) or "embedding" in name:
        raise no_such_model(name)
    return name


def whole(body: Mapping[str, Any], name: str, low: int, high: int, default: int | None = None) -> int | None:
    """An integer from the body; the default if it is absent or null."""
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise invalid(f"{name} must be an integer from {low} to {high}.", name)
    return value


def flag(body: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    """A boolean from the body."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise invalid(f"{name} must be a boolean.", name)
    return value


def number_checked(body: Mapping[str, Any], name: str, low: float, high: float) -> None:
    """Refuse a number outside its bounds."""
    value = body.get(name)
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high
    ):
        raise invalid(f"{name} must be a number from {low:g} to {high:g}.", name)


def effort_checked(value: object, param: str) -> str | None:
    """A reasoning effort, None if absent."""
    if value is not None and (not isinstance(value, str) or value not in THINKS_TOKENS):
        raise invalid(f"{param} must be one of {', '.join(THINKS_TOKENS)}.", param)
    return value


def stops(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The stop sequences."""
    value = body.get("stop")
    listed = [value] if isinstance(value, str) else value or []
    if not isinstance(listed, list) or len(listed) > STOPS_MAX or not all(isinstance(one, str) for one in listed):
        raise invalid(f"stop must be a string or at most {STOPS_MAX} strings.", "stop")
    return tuple(listed)


def include_usage(body: Mapping[str, Any], *, streams: bool) -> bool:
    """Whether a stream must end with its usage; stream options are refused without a stream."""
    options = body.get("stream_options")
    if options is None:
        return False
    if not streams or not isinstance(options, dict):
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise invalid(message, "stream_options")
    return flag(options, "include_usage")


def sampling_checked(body: Mapping[str, Any]) -> None:
    """Refuse sampling settings outside their bounds; they have no other effect in the sandbox."""
    for name, low, high in (
        ("temperature", 0, 2),
        ("top_p", 0, 1),
        ("presence_penalty", -2, 2),
        ("frequency_penalty", -2, 2),
    ):
        number_checked(body, name, low, high)


def image_source(url: object, param: str) -> str:
    """The name of an image part: its URL, or the type and size of a data URL. Raises Problem for anything else."""
    if is_address(url):
        return url
    head, comma, data = (url if isinstance(url, str) else "").partition(",")
    kind = re.fullmatch(r"data:(image/(?:png|jpeg|gif|webp));base64", head)
    if not comma or kind is None:
        raise invalid("An image must be an http(s) URL or a base64 data URL of a png, jpeg, gif or webp.", param)
    return f"{kind[1]} of {decoded_bytes(data, param)} bytes"


def decoded_bytes(data: object, param: str) -> int:
    """The decoded size of base64 data in bytes. Raises Problem if it is invalid."""
    content = decoded_base64(data)
    if content is None:
        raise invalid("This part holds no valid base64.", param)
    return len(content)


class Content(msgspec.Struct):
    """The content of one message, its parts by kind."""

    text: str = ""
    images: list[str] = []
    files: list[str] = []
    sounds: int = 0

    def turn(self, role: Literal["user", "assistant"], calls: tuple[Call, ...] = ()) -> Turn:
        """This content as a turn."""
        return Turn(role, self.text, tuple(self.images), tuple(self.files), self.sounds, calls)


def chat_content(value: object, param: str) -> Content:
    """A chat message's content: null, a string, or parts."""
    if value is None or isinstance(value, str):
        return Content(value or "")
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        raise invalid("content must be a string or an array of parts.", param)
    content, texts = Content(), []
    for index, part in enumerate(value):
        at, kind = f"{param}[{index}]", part.get("type")
        held = part.get(kind) if isinstance(kind, str) else None
        if kind in ("text", "refusal") and isinstance(held, str):
            texts.append(held)
        elif kind == "image_url" and isinstance(held, dict):
            content.images.append(image_source(held.get("url"), at))
        elif kind == "input_audio" and isinstance(held, dict) and held.get("format") in ("wav", "mp3"):
            decoded_bytes(held.get("data"), at)
            content.sounds += 1
        elif kind == "file" and isinstance(held, dict) and (held.get("file_id") or held.get("file_data")):
            content.files.append(str(held.get("filename") or held.get("file_id") or "file"))
        else:
            raise invalid(f"Invalid content part of type {kind!r}.", at)
    content.text = "\n".join(texts)
    return content


def chat_ask(body: Mapping[str, Any], name: str) -> Ask:
    """A chat completion's body as an `Ask`. Raises Problem for what OpenAI refuses."""
    sampling_checked(body)
    effort = effort_checked(body.get("reasoning_effort"), "reasoning_effort")
    if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
        raise invalid("max_tokens and max_completion_tokens cannot both be set.", "max_tokens")
    limit_name = "max_tokens" if body.get("max_tokens") is not None else "max_completion_tokens"
    system, turns = chat_turns(body.get("messages"))
    tools, asked_choice = chat_tools(body.get("tools")), body.get("tool_choice")
    old = has_functions(body)
    if old:
        tools, asked_choice = _functions(body)
    schema, wants_json = format_of(body.get("response_format"), "response_format", nested=True)
    choice, tools = chosen(asked_choice, tools, "function_call" if old else "tool_choice")
    return Ask(
        turns=turns,
        system=system,
        tools=tools,
        choice=choice,
        parallel=flag(body, "parallel_tool_calls", default=True) and not old,
        schema=schema,
        wants_json=wants_json,
        thinks_tokens=thinks_tokens(name, effort),
        stops=stops(body),
        output_tokens_max=whole(body, limit_name, 1, 1_000_000),
    )


def chat_turns(messages: object) -> tuple[str, tuple[Turn, ...]]:
    """The system text and the turns. As with OpenAI, every tool call must be answered before the next message."""
    if not isinstance(messages, list) or not messages:
        raise invalid("messages must be a non-empty array.", "messages")
    system: list[str] = []
    turns: list[Turn] = []
    waiting: dict[str, str] = {}
    for index, message in enumerate(messages):
        at = f"messages[{index}]"
        if not isinstance(message, dict):
            raise invalid("A message must be an object.", at)
        role = message.get("role")
        content = chat_content(message.get("content"), f"{at}.content")
        if role == "tool":
            called = waiting.pop(str(message.get("tool_call_id")), None)
            if called is None:
                raise invalid("A message with role 'tool' must answer a preceding message with 'tool_calls'.", at)
            turns.append(Turn("user", results=(Result(called, content.text),)))
            continue
        if waiting:
            missing = ", ".join(waiting)
            raise invalid(f"'tool_calls' must be followed by tool messages for each of them; missing: {missing}.", at)
        if role in ("system", "developer"):
            system.append(content.text)
        elif role == "user":
            turns.append(content.turn("user"))
        elif role == "assistant":
            calls = chat_calls(message.get("tool_calls"), f"{at}.tool_calls")
            waiting = {call_id: call.name for call_id, call in calls}
            old = message.get("function_call")
            if isinstance(old, dict):
                calls.append(("", Call(str(old.get("name")), str(old.get("arguments")))))
            turns.append(content.turn("assistant", tuple(call for _, call in calls)))
        elif role == "function":
            turns.append(Turn("user", results=(Result(str(message.get("name")), content.text),)))
        else:
            raise invalid(f"Invalid role {role!r}.", f"{at}.role")
    if waiting:
        raise invalid("'tool_calls' must be followed by tool messages for each of them.", "messages")
    return "\n".join(system), tuple(turns)


def chat_calls(value: object, param: str) -> list[tuple[str, Call]]:
    """An assistant message's tool calls with their ids."""
    calls = []
    for call in value if isinstance(value, list) else []:
        kind = call.get("type", "function") if isinstance(call, dict) else None
        held = call.get(kind) if kind in ("function", "custom") else None
        text = held.get("arguments" if kind == "function" else "input") if isinstance(held, dict) else None
        if not isinstance(held, dict) or not isinstance(call.get("id"), str) or not isinstance(text, str):
            raise invalid("A tool call needs an id, a name and arguments as a string.", param)
        calls.append((call["id"], Call(str(held.get("name")), text, custom=kind == "custom")))
    return calls


def chat_tools(value: object) -> tuple[Tool, ...]:
    """The tools of a chat, each nested under its type."""
    if value is not None and (not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value)):
        raise invalid("tools must be an array of objects.", "tools")
    tools = []
    for index, tool in enumerate(value or []):
        kind = tool.get("type")
        held = tool.get(kind) if kind in ("function", "custom") else None
        tools.append(tool_of(held, f"tools[{index}]", custom=kind == "custom"))
    return tuple(tools)


def has_functions(body: Mapping[str, Any]) -> bool:
    """Whether a chat uses `functions`, the older form of tools: one call at a time, in a separate field."""
    return bool(body.get("functions")) and not body.get("tools")


def _functions(body: Mapping[str, Any]) -> tuple[tuple[Tool, ...], object]:
    """The functions as tools, and `function_call` as a tool choice."""
    listed = body["functions"] if isinstance(body["functions"], list) else [None]
    choice = body.get("function_call")
    named = {"type": "function", **choice} if isinstance(choice, dict) else choice
    return tuple(tool_of(one, f"functions[{at}]", custom=False) for at, one in enumerate(listed)), named


def tool_of(held: object, param: str, *, custom: bool) -> Tool:
    """One tool from its object with name, description and parameters."""
    if not isinstance(held, dict) or not isinstance(held.get("name"), str) or not NAME.fullmatch(held["name"]):
        raise invalid("A tool needs a type and a name of letters, digits, '_', '-' and '.'.", param)
    schema = held.get("parameters")
    if schema is not None and not isinstance(schema, dict):
        raise invalid("parameters must be a JSON schema object.", param)
    return Tool(held["name"], schema, str(held.get("description") or ""), custom)


def chosen(value: object, tools: tuple[Tool, ...], param: str) -> tuple[str, tuple[Tool, ...]]:
    """The neutral tool choice and the tools it leaves, from the nested form of a chat or the flat one of responses."""
    if value is None:
        return "auto", tools
    if isinstance(value, str) and value in ("none", "auto", "required"):
        if value == "required" and not tools:
            raise invalid("tool_choice is only allowed when tools are specified.", param)
        return value, tools
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(kind, str):
        raise invalid("tool_choice must be none, auto, required or an object with a type.", param)
    held = value.get(kind, value)
    if kind == "allowed_tools" and isinstance(held, dict):
        listed = [one.get(str(one.get("type")), one) for one in held.get("tools") or [] if isinstance(one, dict)]
        names = {one.get("name") for one in listed if isinstance(one, dict)}
        return str(held.get("mode", "auto")), tuple(tool for tool in tools if tool.name in names)
    name = held.get("name") if isinstance(held, dict) else None
    if kind in ("function", "custom") and name not in {tool.name for tool in tools}:
        raise invalid(f"tool_choice names {name!r}, which is not among the tools.", param)
    return (f"tool:{name}" if kind in ("function", "custom") else "auto"), tools


def format_of(value: object, param: str, *, nested: bool) -> tuple[dict[str, Any] | None, bool]:
    """The schema of a response format, and whether any object is wanted. `nested`: below `json_schema`, as in chat."""
    if value is None:
        return None, False
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(value, dict) or kind not in ("text", "json_object", "json_schema"):
        raise invalid(f"{param} must be an object of type text, json_object or json_schema.", param)
    if kind != "json_schema":
        return None, kind == "json_object"
    held = value.get("json_schema") if nested else value
    if not isinstance(held, dict) or not isinstance(held.get("name"), str):
        raise invalid("A JSON schema format needs a name.", f"{param}.name")
    schema = held.get("schema")
    if not isinstance(schema, dict):
        raise invalid("A JSON schema format needs a schema.", f"{param}.schema")
    return schema, False
