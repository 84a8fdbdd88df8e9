"""Read a generateContent request into `ChatRequest`; `gemini_write` does the reverse.

Contract: anthropic.md sections 6.1 and 7. Names may be camelCase or snake_case, since Google accepts both. The path has
the model and whether to stream, so `model` is "" and `stream` False until the caller of `read_request` sets them. Bytes
may be URL-safe base64 (as google-genai writes them); `ChatRequest` has standard base64.
"""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.errors import BadRequest
from elkapi.translate.decode import convert, worded
from elkapi.translate.gemini_schema import from_subset
from elkapi.translate.gemini_wire import (
    AUDIO_FORMATS,
    WireBlob,
    WireCall,
    WireCalling,
    WireContent,
    WireDeclaration,
    WireFileData,
    WireGeneration,
    WirePart,
    WireRequest,
    WireResponse,
    WireThinking,
    WireToolConfig,
    decode_names,
    standard_base64,
)
from elkapi.translate.gemini_write import UNSIGNED, UNSIGNED_BYTES
from elkapi.translate.ir import (
    Audio,
    ChatRequest,
    DialectName,
    Effort,
    File,
    Image,
    Message,
    OutputFormat,
    Part,
    Reasoning,
    Role,
    ServerTool,
    ServerToolPart,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from elkapi.translate.server_tools import GEMINI

CONTENTS_MAX = 10_000
# The field with the text of a function's response: as Google documents it, and as its SDKs wrap it.
_ANSWERS = frozenset({"output", "result"})
# Fields of a part that select a section of a video or audio, pages of a document or cells of a sheet.
STRETCHES = ("videoMetadata", "documentMetadata", "spreadsheetMetadata", "audioMetadata")
# The function calling modes by Google's enum numbers.
_MODES = ("MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED")
_EFFORTS: tuple[Effort, ...] = ("minimal", "low", "medium", "high", "xhigh")


def read_request(body: bytes) -> ChatRequest:
    """The `ChatRequest` of a generateContent body. Raises BadRequest with `param`."""
    return read_object(decode_names(body))


def read_object(wire: dict[str, Any]) -> ChatRequest:
    """`read_request` of an object with normalized names, such as the one inside a countTokens body."""
    return worded(lambda: _read(wire))


def _read(wire: dict[str, Any]) -> ChatRequest:
    view = convert(wire, WireRequest)
    settings = view.generationConfig or WireGeneration()
    extra = _extra(wire, settings)
    tools, server_tools, declared = _tools(view.tools or [])
    if declared:
        extra["functionDeclarations"] = declared
    return ChatRequest(
        model="",
        messages=_messages(view.contents),
        system=_system(view.systemInstruction),
        tools=tools,
        server_tools=server_tools,
        tool_choice=_tool_choice(view.toolConfig),
        max_output_tokens=_positive(settings.maxOutputTokens, "maxOutputTokens"),
        temperature=settings.temperature,
        top_p=settings.topP,
        top_k=_top_k(settings.topK),
        stop=tuple(settings.stopSequences or ()),
        seed=settings.seed,
        n=_positive(settings.candidateCount, "candidateCount") or 1,
        presence_penalty=settings.presencePenalty,
        frequency_penalty=settings.frequencyPenalty,
        logprobs=bool(settings.responseLogprobs),
        top_logprobs=settings.logprobs,
        output=_output(settings),
        reasoning=_reasoning(settings.thinkingConfig),
        dialect="gemini",
        extra=extra,
    )


def _system(content: WireContent | None) -> tuple[Text, ...]:
    parts = _contents([content], "systemInstruction")[0].parts if content else ()
    texts = tuple(part for part in parts if isinstance(part, Text))
    if len(texts) != len(parts):
        raise BadRequest("`systemInstruction` must contain only text.", param="systemInstruction")
    return texts


# --- contents --------------------------------------------------------------------------------------------------------


def _messages(contents: list[WireContent]) -> list[Message]:
    if not contents:
        raise BadRequest("`contents` must contain at least one content.", param="contents")
    if len(contents) > CONTENTS_MAX:
        raise BadRequest(
            f"`contents` must have at most {CONTENTS_MAX} items, but has {len(contents)}.", param="contents"
        )
    return _contents(contents, "contents")


_ROLES: dict[str | None, Role] = {
    **dict.fromkeys((None, "", "user", "function", "tool"), "user"),
    "model": "assistant",
}


def _contents(contents: list[WireContent], where: str) -> list[Message]:
    """The messages, adjacent ones of a role merged. Calls without an id get one by order, results that of the call."""
    ids = _Ids()
    merged: list[tuple[Role, list[Part]]] = []
    for place, content in enumerate(contents):
        role: Role | None = "user" if where == "systemInstruction" else _ROLES.get(content.role)
        if role is None:
            raise BadRequest("`role` must be `user` or `model`.", param=f"{where}[{place}].role")
        if not merged or merged[-1][0] != role:
            merged.append((role, []))
        for index, raw in enumerate(content.parts or ()):
            found = _part(raw, ids, f"{where}[{place}].parts[{index}]")
            if role == "assistant":
                found = _joined(merged[-1][1], found)
            merged[-1][1].extend(found)
    return [Message(role, tuple(parts)) for role, parts in merged]


def _joined(said: list[Part], found: list[Part]) -> list[Part]:
    """Merge the first part of `found` into the last of `said` if both are text or thinking; return the rest.

    Clients keep a streamed answer as one part per chunk; in other dialects each would be a block, split inside words.
    """
    last, first = said[-1] if said else None, found[0] if found else None
    if isinstance(last, Text) and isinstance(first, Text):
        said[-1] = Text(last.text + first.text)
        return found[1:]
    if isinstance(last, Thinking) and isinstance(first, Thinking) and not last.signature and first.text:
        said[-1] = msgspec.structs.replace(first, text=last.text + first.text)
        return found[1:]
    return found


_STAND_INS = frozenset({UNSIGNED, UNSIGNED_BYTES})


class _Ids:
    """Assigns ids to calls by order, and matches results to open calls by name.

    Gemini CLI gives the result of a call without an id one of its own, so an unknown id counts as none.
    """

    def __init__(self) -> None:
        self._count = 0
        self._told: set[str] = set()
        self._waiting: dict[str, list[str]] = {}

    def of_call(self, call: WireCall) -> str:
        if call.id:
            self._told.add(call.id)
        id_ = call.id or f"call_{self._count}"
        self._count += 1
        self._waiting.setdefault(call.name, []).append(id_)
        return id_

    def of_result(self, result: WireResponse) -> str:
        waiting = self._waiting.get(result.name, [])
        if result.id in self._told:
            if result.id in waiting:
                waiting.remove(result.id)
            return result.id
        unnamed = next((id_ for id_ in waiting if not result.id or id_ not in self._told), None)
        if unnamed is not None:
            waiting.remove(unnamed)
            return unnamed
        if result.id:
            return result.id
        self._count += 1
        return f"call_{self._count - 1}"


def _part(raw: dict[str, Any], ids: _Ids, where: str) -> list[Part]:
    """One part, followed by its signature if the part itself cannot hold one."""
    try:
        view = convert(raw, WirePart)
    except BadRequest as error:
        raise BadRequest(error.message, param=f"{where}.{error.param}" if error.param else where) from None
    # The writer gives calls of other upstreams a placeholder signature, which is dropped here.
    signature = None if view.thoughtSignature in _STAND_INS else view.thoughtSignature
    if view.functionCall is not None:
        call = view.functionCall
        arguments = msgspec.json.encode(call.args or {}).decode()
        signed_by: DialectName | None = "gemini" if signature else None
        return [ToolCall(ids.of_call(call), call.name, arguments, signature=signature or None, signed_by=signed_by)]
    if view.thought:
        return [Thinking(view.text or "", signature, "gemini" if signature else None)]
    parts: list[Part] = []
    if any(name in raw for name in STRETCHES):
        # Only this dialect can express this, so the part is kept whole.
        return [ServerToolPart("gemini", raw)]
    if view.text is not None:
        if view.text or not signature:
            parts.append(Text(view.text))
    elif view.inlineData is not None:
        parts.append(_inline(view.inlineData))
    elif view.fileData is not None:
        parts.append(_file(view.fileData))
    elif view.functionResponse is not None:
        parts.append(_result(view.functionResponse, ids))
    elif raw.keys() - {"thoughtSignature", "thought"}:
        return [ServerToolPart("gemini", raw)]
    elif not signature:
        raise BadRequest(
            "A part must contain text, inline data, file data, a function call or a function response.", param=where
        )
    if signature:
        parts.append(Thinking(signature=signature, signed_by="gemini"))
    return parts


def _inline(blob: WireBlob) -> Image | Audio | File:
    data = standard_base64(blob.data)
    if blob.mimeType.startswith("image/"):
        return Image(data=data, media_type=blob.mimeType)
    if blob.mimeType in AUDIO_FORMATS:
        return Audio(data, AUDIO_FORMATS[blob.mimeType])
    return File(blob.mimeType, data=data, name=blob.displayName)


def _file(file: WireFileData) -> Image | File:
    if file.mimeType.startswith("image/"):
        return Image(url=file.fileUri, media_type=file.mimeType)
    return File(file.mimeType, url=file.fileUri, name=file.displayName)


def _result(result: WireResponse, ids: _Ids) -> ToolResult:
    """A tool result: a text under a name in `_ANSWERS` or under `error`, otherwise the JSON text of the object."""
    response = result.response or {}
    name, text = next(iter(response.items())) if len(response) == 1 else ("", None)
    error = name == "error" and isinstance(text, str)
    if not isinstance(text, str) or not (error or name in _ANSWERS):
        text = msgspec.json.encode(response).decode()
    parts: list[Text | Image | File | Audio] = [Text(text)]
    for part in result.parts or ():
        if part.inlineData is not None:
            parts.append(_inline(part.inlineData))
        elif part.fileData is not None:
            parts.append(_file(part.fileData))
    return ToolResult(ids.of_result(result), tuple(parts), result.name, error)


# --- tools and settings ----------------------------------------------------------------------------------------------


def _tools(listed: list[dict[str, Any]]) -> tuple[tuple[Tool, ...], tuple[ServerTool, ...], dict[str, Any]]:
    """(tools, server tools, the declarations' fields that only Gemini knows, by tool name)."""
    tools: list[Tool] = []
    server_tools: list[ServerTool] = []
    declared: dict[str, Any] = {}
    for place, tool in enumerate(listed):
        for kind, value in tool.items():
            if kind == "functionDeclarations":
                found = [_declaration(raw) for raw in convert(value, list[dict[str, Any]])]
                tools += [function for function, _ in found]
                declared |= {function.name: rest for function, rest in found if rest}
            elif isinstance(value, dict | list):
                server_tools.append(ServerTool(GEMINI.get(kind, kind), "gemini", {kind: value}))
            else:
                raise BadRequest(f"`{kind}` must be an object.", param=f"tools[{place}].{kind}")
    return tuple(tools), tuple(server_tools), declared


def _declaration(raw: dict[str, Any]) -> tuple[Tool, dict[str, Any]]:
    """(tool, fields of its declaration that only Gemini knows)."""
    view = convert(raw, WireDeclaration)
    schema = view.parametersJsonSchema or from_subset(view.parameters)
    rest = {name: raw[name] for name in raw if name not in WireDeclaration.__struct_fields__}
    return Tool(view.name, view.description, schema), rest


def _tool_choice(config: WireToolConfig | None) -> ToolChoice | None:
    calling = config.functionCallingConfig if config else None
    mode = calling.mode if calling else None
    if isinstance(mode, int) and 0 <= mode < len(_MODES):
        mode = _MODES[mode]
    if calling is None or mode in (None, "MODE_UNSPECIFIED"):
        return None
    names = tuple(calling.allowedFunctionNames or ())
    match str(mode).upper():
        case "AUTO" | "VALIDATED":
            return ToolChoice("auto", names)
        case "NONE":
            return ToolChoice("none")
        case "ANY":
            return ToolChoice("named" if len(names) == 1 else "required", names)
    raise BadRequest("`mode` must be AUTO, ANY, NONE or VALIDATED.", param="toolConfig.functionCallingConfig.mode")


def _output(settings: WireGeneration) -> OutputFormat | None:
    schema = settings.responseJsonSchema or from_subset(settings.responseSchema)
    if settings.responseMimeType == "application/json":
        return OutputFormat("schema", schema=schema) if schema else OutputFormat("json")
    return None


def _reasoning(config: WireThinking | None) -> Reasoning | None:
    if config is None:
        return None
    level = (config.thinkingLevel or "").lower()
    effort: Effort | None = next((word for word in _EFFORTS if word == level), None)
    if level and effort is None and level != "thinking_level_unspecified":
        raise BadRequest(
            "`thinkingLevel` must be MINIMAL, LOW, MEDIUM, HIGH or XHIGH.",
            param="generationConfig.thinkingConfig.thinkingLevel",
        )
    budget = config.thinkingBudget
    if budget is not None and budget < -1:
        raise BadRequest(
            "`thinkingBudget` must be at least -1.", param="generationConfig.thinkingConfig.thinkingBudget"
        )
    adaptive = budget == -1
    return Reasoning(effort, None if adaptive else budget, adaptive, config.includeThoughts)


def _positive(value: int | None, name: str) -> int | None:
    if value is not None and value < 1:
        raise BadRequest(f"`{name}` must be at least 1.", param=f"generationConfig.{name}")
    return value


def _top_k(value: float | None) -> int | None:
    if value is not None and (value != value // 1 or value < 0):
        raise BadRequest("`topK` must be a whole number.", param="generationConfig.topK")
    return None if value is None else int(value)


# --- what only this dialect knows ------------------------------------------------------------------------------------


def _extra(wire: dict[str, Any], settings: WireGeneration) -> dict[str, Any]:
    """The fields that `ChatRequest` cannot express, nested as in the request."""
    extra = {name: wire[name] for name in wire if name not in WireRequest.__struct_fields__}
    known = set(WireGeneration.__struct_fields__)
    if settings.responseMimeType not in (None, "application/json"):
        known -= {"responseMimeType", "responseSchema", "responseJsonSchema"}
    raw = wire.get("generationConfig") or {}
    if rest := {name: value for name, value in raw.items() if name not in known and value is not None}:
        extra["generationConfig"] = rest
    config = wire.get("toolConfig") or {}
    rest = {name: value for name, value in config.items() if name != "functionCallingConfig"}
    calling = config.get("functionCallingConfig") or {}
    kept = {name: value for name, value in calling.items() if name not in WireCalling.__struct_fields__}
    if calling.get("mode") == "VALIDATED":
        kept["mode"] = "VALIDATED"
    if kept:
        rest["functionCallingConfig"] = kept
    if rest:
        extra["toolConfig"] = rest
    return extra
