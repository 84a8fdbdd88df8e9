"""Claude's requirements for a conversation, shared by the `anthropic` and `converse` writers.

They concern the order of turns, the ids and arguments of tool calls, thinking by profile and the tool that replaces a
JSON schema. Contract: anthropic.md sections 2 and 4.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode
from typing import Any

import msgspec

from elkapi.errors import NOT_JSON, BadRequest
from elkapi.translate import free_text
from elkapi.translate.chat_parts import refuse_file_ids
from elkapi.translate.dialect import stop_member
from elkapi.translate.ir import (
    Audio,
    ChatRequest,
    File,
    Image,
    Message,
    OutputFormat,
    Part,
    Reasoning,
    Refusal,
    Role,
    ServerToolPart,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    unreadable_input,
)
from elkapi.translate.profiles import GO_ON, Profile, effort_for
from elkapi.translate.strict_schema import takes_objects

# A model without JSON schema is made to call this tool; readers turn its arguments back into text.
OUTPUT_TOOL = "elkapi_output"
JSON_INSTRUCTION = "Answer with one JSON object and nothing else: no other text and no code fence."
FORCED_REFUSED = "This model does not support a forced tool call: `tool_choice` must be `auto`."
IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})

BUDGET_TOKENS_MIN = 1024
BUDGET_TOKENS = {"minimal": 1024, "low": 4096, "medium": 16_384, "high": 32_768, "xhigh": 49_152, "max": 63_999}
# The share of the output limit for thinking if the caller gave no budget, in percent.
BUDGET_SHARE_PERCENT = 80

_TOOL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_object: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])


def tool_id(call_id: str) -> str:
    """The id if it has only the characters that Claude allows, otherwise a deterministic replacement."""
    if _TOOL_ID.fullmatch(call_id):
        return call_id
    clean = re.sub(r"[^a-zA-Z0-9_-]", "_", call_id)[:40]
    return f"{clean}_{hashlib.sha256(call_id.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def tool_input(call: ToolCall) -> dict[str, Any]:
    """A call's arguments as an object; the free text of a custom tool is in `free_text.MEMBER`."""
    if call.custom:
        return {free_text.MEMBER: call.arguments}
    if not call.arguments.strip():
        return {}
    try:
        return _object.decode(call.arguments)
    except NOT_JSON:
        return unreadable_input(call)


def tool_schema(tool: Tool) -> dict[str, Any]:
    """A tool's input schema; Claude requires an object, even for a custom tool."""
    if tool.custom:
        return free_text.SCHEMA
    schema = tool.schema or {}
    return schema if schema.get("type") == "object" else {"properties": {}, **schema, "type": "object"}


def tools_of(request: ChatRequest, invent: bool) -> list[Tool]:
    """The tools to declare: those of the caller's that it allows. `invent`: if there are none, those in the history.

    An upstream refuses tool calls in the history of a request that declares no tools.
    """
    choice = request.tool_choice
    tools = list(request.tools)
    if choice and choice.names and choice.mode != "named":
        tools = [tool for tool in tools if tool.name in choice.names]
    if tools or request.server_tools or not invent:
        return tools
    calls = {part.name: None for message in request.messages for part in message.parts if isinstance(part, ToolCall)}
    return [Tool(name=name, schema={"type": "object"}) for name in calls]


def takes_schema(output: OutputFormat, profile: Profile) -> bool:
    """Whether the model's structured outputs support the schema.

    They do not support objects with arbitrary member names. With `strict` they are used anyway and refuse those.
    """
    return profile.json_schema and bool(output.strict or not _is_open(output.schema))


def output_tool(request: ChatRequest, profile: Profile) -> Tool | None:
    """The tool whose arguments are the answer, if structured outputs do not support the requested schema.

    None too for a model that cannot be made to call it; see `schema_told`.
    """
    output = request.output
    if output is None or output.kind != "schema" or takes_schema(output, profile) or not profile.forced_tools:
        return None
    schema = output.schema or {"type": "object"}
    if schema.get("type") != "object":
        raise BadRequest("The type of the output schema must be `object` for this model.", param="output")
    return Tool(OUTPUT_TOOL, output.description or "Give the answer as the arguments of this tool.", schema)


def schema_told(output: OutputFormat) -> str:
    """The instruction that replaces a JSON schema for a model without structured outputs and forced tools."""
    schema = msgspec.json.encode(output.described).decode()
    return f"{JSON_INSTRUCTION} It must be valid under this JSON schema: {schema}"


# Keywords of a JSON schema whose value is a schema, a list of schemas or an object of schemas by name.
_SCHEMA_IN = frozenset({"items", "additionalProperties", "not"})
_SCHEMAS_IN = frozenset({"anyOf", "allOf", "oneOf", "prefixItems"})
_SCHEMAS_BY_NAME = frozenset({"properties", "$defs", "definitions"})
# Bounds that structured outputs refuse; they go into the description, as in Anthropic's SDKs.
_BOUNDS = frozenset(
    {
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "minLength",
        "maxLength",
        "maxItems",
        "uniqueItems",
        "minProperties",
        "maxProperties",
    }
)
_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid", "text")


def closed(schema: Any) -> Any:
    """The schema as structured outputs require it: objects are closed by default, and bounds are in descriptions."""
    if not isinstance(schema, dict):
        return schema
    result: dict[str, Any] = {}
    bounds: list[str] = []
    for name, value in schema.items():
        if name in _BOUNDS or (name == "minItems" and value not in (0, 1)):
            bounds.append(f"{name}: {msgspec.json.encode(value).decode()}")
        elif name == "format" and value not in _FORMATS:
            bounds.append(f"format: {value}")
        elif name in _SCHEMA_IN:
            result[name] = closed(value)
        elif name in _SCHEMAS_IN and isinstance(value, list):
            # Structured outputs support `anyOf`, but not `oneOf`.
            result["anyOf" if name == "oneOf" else name] = [closed(item) for item in value]
        elif name in _SCHEMAS_BY_NAME and isinstance(value, dict):
            result[name] = {key: closed(item) for key, item in value.items()}
        else:
            result[name] = value
    if bounds:
        words = "{" + ", ".join(bounds) + "}"
        said = schema.get("description")
        result["description"] = f"{said}\n\n{words}" if said else words
    if takes_objects(result):
        result.setdefault("additionalProperties", False)
    return result


def _is_open(schema: Any) -> bool:
    """Whether the schema has an object, at any depth, that allows members it does not list."""
    if not isinstance(schema, dict):
        return False
    if takes_objects(schema):
        others = schema.get("additionalProperties")
        if others not in (None, False) or (others is None and not schema.get("properties")):
            return True
    within = [value for name, value in schema.items() if name in _SCHEMA_IN]
    for name, value in schema.items():
        if name in _SCHEMAS_IN and isinstance(value, list):
            within += value
        elif name in _SCHEMAS_BY_NAME and isinstance(value, dict):
            within += value.values()
    return any(_is_open(each) for each in within)


def system_of(request: ChatRequest, later: bool = True) -> list[Text]:
    """The instructions before the first turn and the one for JSON mode; `later`: with those of later messages."""
    texts = [text for text in request.system if text.text.strip()]
    for message in request.messages if later else ():
        if message.role == "system":
            texts += [part for part in message.parts if isinstance(part, Text) and part.text.strip()]
    if request.output is not None and request.output.kind == "json":
        texts.append(Text(JSON_INSTRUCTION))
    return texts


def turns(request: ChatRequest, profile: Profile, later: bool = False) -> list[Message]:
    """Alternating user and assistant turns, user first; tool results first in their turn; no empty parts.

    A partial answer may come last; a model that does not accept one gets a user turn that asks it to continue. `later`:
    with later instructions, each at the end of its user turn or of the next one, where Claude accepts them: a changed
    `system` would invalidate the prompt cache, and the thinking that newer models bind to all that precedes it.
    """
    merged: list[tuple[Role, list[Part]]] = []
    waiting: list[Part] = []
    for message in request.messages:
        parts = [kept for part in message.parts if (kept := _kept(part, message.role)) is not None]
        if message.role == "system":
            waiting += parts if later else ()
        elif parts and merged and merged[-1][0] == message.role:
            merged[-1][1].extend(parts)
        elif parts:
            if waiting and merged and merged[-1][0] == "user":
                merged.append(("system", waiting))
                waiting = []
            merged.append((message.role, parts))
    if not merged or merged[0][0] != "user":
        merged.insert(0, ("user", [Text("...")]))
    role, last = merged[-1]
    if role == "assistant" and isinstance(last[-1], Text):
        last[-1] = msgspec.structs.replace(last[-1], text=last[-1].text.rstrip())
    if role == "assistant" and not profile.begun_answers and not isinstance(last[-1], ToolCall):
        merged.append(("user", [Text(GO_ON)]))
    if waiting:
        merged.append(("system", waiting))
    for _, parts in merged:
        parts.sort(key=lambda part: not isinstance(part, ToolResult))
    return [Message(role, tuple(parts)) for role, parts in merged]


def _kept(part: Part, role: str) -> Part | None:
    """The part as Claude accepts it: no empty text, no foreign thinking, a refusal as text.

    Images, files and audio are refused in an assistant turn and dropped.
    """
    if role == "assistant" and isinstance(part, Image | File | Audio):
        return None
    if isinstance(part, Refusal):
        part = Text(part.text)
    if isinstance(part, Text):
        return part if part.text.strip() else None
    if isinstance(part, Thinking):
        return part if is_signed(part) else None
    if isinstance(part, ServerToolPart) and part.dialect != "anthropic":
        return None
    return part


def is_signed(part: Thinking) -> bool:
    """Whether Claude wrote this thinking and accepts it back."""
    return part.signed_by == "anthropic" and bool(part.signature or part.redacted)


def thinking_of(request: ChatRequest, profile: Profile, max_tokens: int, forced: bool) -> dict[str, Any] | None:
    """The `thinking` object, by profile; None omits it.

    A budget stays below `max_tokens`. There is no thinking with a forced tool, nor by budget in a tool loop whose
    thinking is lost: Claude answers both with a 400. A model that always thinks is not told otherwise; `effort_of` then
    asks for its lowest effort.
    """
    asked = request.reasoning
    if asked is None:
        return None
    if asked.effort == "none" or asked.budget_tokens == 0:
        return {"type": profile.thinking_off} if profile.thinking_off else None
    shape = _shape(request, asked, profile)
    if shape == "none" or forced:
        return None
    if shape == "adaptive":
        return {"type": "adaptive"} | _display(request, asked, shape)
    budget = _budget(asked, max_tokens)
    if budget is None or _lost_thoughts(request):
        return None
    return {"type": "enabled", "budget_tokens": budget} | _display(request, asked, shape)


def _shape(request: ChatRequest, asked: Reasoning, profile: Profile) -> str:
    """How the model should think: "adaptive", "budget" or "none".

    A model without a row in `profiles` thinks only if an Anthropic caller asks for it explicitly.
    """
    if profile.reasoning in ("budget", "adaptive"):
        # Effort alone does not switch thinking on for an Anthropic caller.
        said = asked.adaptive or asked.budget_tokens is not None or request.dialect != "anthropic"
        return profile.reasoning if said else "none"
    if request.dialect != "anthropic":
        return "none"
    return "adaptive" if asked.adaptive else "budget" if asked.budget_tokens else "none"


def _display(request: ChatRequest, asked: Reasoning, shape: str) -> dict[str, str]:
    """`display`: newer models omit thinking by default, while other dialects show it by default."""
    if request.dialect == "anthropic":
        if asked.visible is None:
            return {}
    elif shape == "budget":
        return {}
    return {"display": "omitted" if asked.visible is False else "summarized"}


def _budget(asked: Reasoning, max_tokens: int) -> int | None:
    """The budget, limited to below the output limit; None if not even the smallest fits."""
    budget = asked.budget_tokens
    if budget is None or budget < 0:
        budget = min(BUDGET_TOKENS[asked.effort or "medium"], max_tokens * BUDGET_SHARE_PERCENT // 100)
    budget = min(max(budget, BUDGET_TOKENS_MIN), max_tokens - 1)
    return budget if budget >= BUDGET_TOKENS_MIN else None


def _lost_thoughts(request: ChatRequest) -> bool:
    """Whether the last assistant turn of the current tool loop has no thinking signed by Claude."""
    turns = [message for message in request.messages if message.role != "system"]
    last = next((message for message in reversed(turns) if message.role == "assistant"), None)
    in_loop = bool(turns) and any(isinstance(part, ToolResult) for part in turns[-1].parts)
    if last is None or not in_loop:
        return False
    return not any(isinstance(part, Thinking) and is_signed(part) for part in last.parts)


def effort_of(request: ChatRequest, profile: Profile) -> str | None:
    """The value of `output_config.effort`; None if the model has none."""
    asked = request.reasoning
    if asked is None:
        return None
    if asked.effort == "none" or asked.budget_tokens == 0:
        return None if profile.thinking_off else profile.efforts[0]
    if profile.reasoning == "adaptive":
        return effort_for(asked, profile)
    return asked.effort if request.dialect == "anthropic" else None


def sampling_of(request: ChatRequest, profile: Profile, thinks: bool) -> dict[str, float]:
    """temperature (0 to 1), top_p and top_k, as far as the model accepts them with or without thinking."""
    if not profile.sampling:
        return {}
    result: dict[str, float] = {}
    if request.temperature is not None and not thinks:
        result["temperature"] = min(max(request.temperature, 0.0), 1.0)
    if request.top_p is not None and not thinks and (profile.temperature_and_top_p or not result):
        result["top_p"] = request.top_p
    if request.top_k is not None and not thinks:
        result["top_k"] = request.top_k
    return result


def stops_of(request: ChatRequest) -> list[str]:
    """The stop sequences. Raises BadRequest for one of only whitespace, which Claude does not accept."""
    stops = [word for word in request.stop if word]
    if not all(word.strip() for word in stops):
        raise BadRequest(
            "Stop sequences for this model must not consist only of white space.", param=stop_member(request)
        )
    return stops


def text_of_file(part: File) -> str | None:
    """The text of a plain text document, otherwise None. Raises BadRequest for invalid data."""
    if part.text is not None:
        return part.text
    plain = part.media_type.startswith("text/") or part.media_type == "application/json"
    if part.data is None or not plain:
        return None
    try:
        return b64decode(part.data, validate=True).decode()
    except ValueError:
        raise BadRequest("The data of a text file must be base64-encoded UTF-8.", param="messages") from None


def refuse_foreign(request: ChatRequest) -> None:
    """Raise BadRequest, naming the field, for what Claude cannot do for a caller of another dialect."""
    if request.n > 1:
        raise BadRequest("`n` must be 1 for this model.", param="n")
    # A custom tool becomes a function of one string; only the responses writer converts its calls back.
    if request.dialect == "chat" and any(tool.custom for tool in request.tools):
        raise BadRequest("This model does not support custom tools on chat completions.", param="tools")
    modalities = request.extra.get("modalities")
    if request.dialect == "chat" and isinstance(modalities, list) and "image" in modalities:
        raise BadRequest("This model supports only text output.", param="modalities")
    refuse_file_ids(request.messages)
