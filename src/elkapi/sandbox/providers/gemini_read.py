"""Gemini's generateContent body, camelCase or snake_case, read strictly into a neutral `Ask`; Vertex reads the same."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.sandbox.messages import Problem
from elkapi.sandbox.providers.gemini_models import Model
from elkapi.sandbox.providers.gemini_schema import (
    camel,
    invalid,
    json_schema,
    object_schema,
    parameters_schema,
    unknown_name,
)
from elkapi.sandbox.sealing import is_sealed
from elkapi.sandbox.strict import strictly
from elkapi.sandbox.talk import Ask, Call, Result, Tool, Turn

STOPS_MAX = 5
THOUGHT_TOKENS = 6
SIGNED_CALL = "gemini function call"
# Google's documented placeholders for calls without a signature; its SDK sends them in base64.
_WORDS = ("skip_thought_signature_validator", "context_engineering_is_the_way_to_go")
UNSIGNED = {*_WORDS, *(base64.b64encode(word.encode()).decode("ascii") for word in _WORDS)}
BODY_FIELDS = {
    "contents", "systemInstruction", "tools", "toolConfig", "safetySettings", "generationConfig", "cachedContent",
    "model", "labels", "serviceTier", "store",
}  # fmt: skip
CONFIG_FIELDS = {
    "temperature", "topP", "topK", "maxOutputTokens", "stopSequences", "candidateCount", "seed", "presencePenalty",
    "frequencyPenalty", "responseMimeType", "responseSchema", "responseJsonSchema", "responseModalities",
    "responseLogprobs", "logprobs", "thinkingConfig", "speechConfig", "imageConfig", "mediaResolution",
    "enableEnhancedCivicAnswers", "audioTimestamp", "routingConfig", "modelSelectionConfig", "responseFormat",
}  # fmt: skip
TOOL_FIELDS = {
    "functionDeclarations", "googleSearch", "googleSearchRetrieval", "codeExecution", "urlContext", "computerUse",
    "fileSearch", "googleMaps", "retrieval", "enterpriseWebSearch", "mcpServers",
}  # fmt: skip


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A valid body. `shows_thinking`: thoughts are requested; `pictures`/`texts`: the requested kinds of output."""

    ask: Ask
    shows_thinking: bool
    pictures: bool
    texts: bool


def fields_of(value: object, path: str, known: set[str] | None = None) -> dict[str, Any]:
    """An object with its names in camelCase. Raises Problem for another value or, given `known`, another name."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(f"Invalid value at '{path}': must be an object.")
    for name in value:
        if known is not None and camel(name) not in known:
            raise unknown_name(name, path)
    return {camel(name): entry for name, entry in value.items()}


def json_object(body: bytes) -> dict[str, Any]:
    """The body as an object. Raises Problem if it is not one."""
    try:
        value = msgspec.json.decode(body)
    except NOT_JSON:
        raise invalid("Invalid JSON payload received. Unexpected token.") from None
    if not isinstance(value, dict):
        raise invalid("Invalid JSON payload received. Root must be an object.")
    return value


@strictly
def read(body: dict[str, Any], model: Model) -> Asked:
    """Read a body for `model`. Raises Problem."""
    given = fields_of(body, "", BODY_FIELDS)
    if given.get("cachedContent"):
        raise Problem(403, "CachedContent not found (or permission denied)")
    config = fields_of(given.get("generationConfig"), "generation_config", CONFIG_FIELDS)
    turns = _turns(given.get("contents"), model)
    tools, choice = _choice(given.get("toolConfig"), _tools(given.get("tools")))
    thinks, shows = _thinking(config.get("thinkingConfig"), model)
    schema, wants_json = _format(config)
    stops = _stops(config.get("stopSequences") or [])
    if config.get("candidateCount") not in (None, 1):
        raise invalid("Only one candidate can be specified in the current model")
    limit = _limit(config.get("maxOutputTokens"), model)
    temperature = config.get("temperature")
    if temperature is not None and not 0 <= temperature <= 2:
        raise invalid(f"* GenerateContentRequest.generation_config.temperature: {temperature} is not in [0.0, 2.0]")
    kinds = {str(kind).upper() for kind in config.get("responseModalities") or ["TEXT"]}
    if "IMAGE" in kinds and not model.pictures:
        raise invalid("Multi-modal output is not supported.")
    ask = Ask(
        turns=turns,
        system=_system(given.get("systemInstruction")),
        tools=tools,
        choice=choice,
        schema=schema,
        wants_json=wants_json,
        thinks=thinks > 0,
        thinks_tokens=thinks,
        stops=stops,
        output_tokens_max=limit,
    )
    return Asked(ask=ask, shows_thinking=shows, pictures="IMAGE" in kinds, texts="TEXT" in kinds)


def _stops(stops: Any) -> tuple[str, ...]:
    if len(stops) > STOPS_MAX:
        raise invalid(f"The maximum number of stop sequences is {STOPS_MAX}, but {len(stops)} were given.")
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise invalid("Invalid value at 'generation_config.stop_sequences': must be a list of strings.")
    return tuple(stops)


def _limit(limit: Any, model: Model) -> int | None:
    if limit is None or (type(limit) is int and 1 <= limit <= model.output_tokens_max):
        return limit
    raise invalid(
        f"Unable to submit request because it has a maxOutputTokens value of {limit} but the supported range is "
        f"from 1 (inclusive) to {model.output_tokens_max + 1} (exclusive). Update the value and try again."
    )


def _system(value: object) -> str:
    parts = _parts(fields_of(value, "system_instruction"), "system_instruction")
    for index, part in enumerate(parts):
        if not part.get("text"):
            raise invalid(
                f"* GenerateContentRequest.system_instruction.parts[{index}].data: required oneof field 'data' must "
                "have one initialized field"
            )
    return "\n".join(str(part["text"]) for part in parts)


def call_text(name: object, args: object) -> str:
    """The text that the signature of a function call covers."""
    return json.dumps([name, args or {}], ensure_ascii=False, sort_keys=True)


def _turns(contents: object, model: Model) -> tuple[Turn, ...]:
    if isinstance(contents, dict):
        contents = [contents]
    if not isinstance(contents, list) or not contents:
        raise invalid("* GenerateContentRequest.contents: contents is not specified")
    parsed: list[tuple[str, list[dict[str, Any]]]] = []
    for index, content in enumerate(contents):
        path = f"contents[{index}]"
        fields = fields_of(content, path, {"role", "parts"})
        if (role := fields.get("role") or "user") not in ("user", "model", "function"):
            raise invalid("Please use a valid role: user, model.")
        parts = _parts(fields, path)
        if not parts:
            raise invalid(f"* GenerateContentRequest.{path}.parts: contents.parts must not be empty.")
        if parsed and parsed[-1][0] == role == "model":
            # Google's chat helper stores every chunk of a stream as a separate content.
            parsed[-1][1].extend(parts)
        else:
            parsed.append((role, parts))
    _check_calls(parsed, signed=model.signs_calls)
    return tuple(_turn(role, parts, f"contents[{index}]") for index, (role, parts) in enumerate(parsed))


def _parts(content: dict[str, Any], path: str) -> list[dict[str, Any]]:
    parts = content.get("parts") or []
    if isinstance(parts, dict):
        parts = [parts]
    return [fields_of(part, f"{path}.parts[{index}]") for index, part in enumerate(parts)]


def _check_calls(contents: list[tuple[str, list[dict[str, Any]]]], *, signed: bool) -> None:
    """Check that each preceding call has one function response, and that calls of this turn have their signature."""
    current = max((index for index, (role, parts) in enumerate(contents) if _asks(role, parts)), default=-1)
    for index, (role, parts) in enumerate(contents):
        calls = [part for part in parts if "functionCall" in part]
        answers = [part for part in parts if "functionResponse" in part]
        before = contents[index - 1][1] if index else []
        called = sum("functionCall" in part for part in before)
        if role != "model" and (answers or called) and len(answers) != called:
            raise invalid(
                "Please ensure that the number of function response parts is equal to the number of function call "
                "parts of the function call turn."
            )
        if signed and role == "model" and calls and index > current:
            _check_signature(calls[0], index)


def _asks(role: str, parts: list[dict[str, Any]]) -> bool:
    return role == "user" and not any("functionResponse" in part for part in parts)


def _check_signature(part: dict[str, Any], index: int) -> None:
    call = fields_of(part["functionCall"], "function_call")
    signature = part.get("thoughtSignature")
    if not signature:
        raise invalid(
            "Function call is missing a thought_signature in functionCall parts. This is required for tools to work "
            "correctly, and missing thought_signature may lead to degraded model performance. Additional data, "
            f"function call `default_api:{call.get('name')}`, position {index + 1}."
        )
    if signature not in UNSIGNED and not is_sealed(
        SIGNED_CALL, call_text(call.get("name"), call.get("args")), signature
    ):
        raise invalid("Corrupted thought signature.")


def _turn(role: str, parts: list[dict[str, Any]], path: str) -> Turn:
    texts: list[str] = []
    images: list[str] = []
    files: list[str] = []
    sounds = 0
    calls: list[Call] = []
    results: list[Result] = []
    for index, part in enumerate(parts):
        where = f"{path}.parts[{index}]"
        blob = fields_of(part.get("inlineData") or part.get("fileData"), where)
        if blob:
            media_type = str(blob.get("mimeType") or "")
            source = str(blob.get("fileUri") or media_type)
            if "inlineData" in part and (not media_type or not blob.get("data")):
                raise invalid(f"Unable to process input: {where}.inline_data needs mimeType and data.")
            if media_type.startswith("image/"):
                images.append(source)
            elif media_type.startswith("audio/"):
                sounds += 1
            else:
                files.append(source)
        elif "functionCall" in part:
            calls.append(_call(part["functionCall"], where))
        elif "functionResponse" in part:
            results.append(_result(part["functionResponse"], where))
        elif isinstance(part.get("text"), str):
            if not part.get("thought"):
                texts.append(part["text"])
        elif not part.keys() & {
            "executableCode",
            "codeExecutionResult",
            "thoughtSignature",
            "toolCall",
            "toolResponse",
        }:
            raise invalid(
                f"* GenerateContentRequest.{where}.data: required oneof field 'data' must have one initialized field"
            )
    return Turn(
        "assistant" if role == "model" else "user",
        "".join(texts) if role == "model" else "\n".join(texts),
        images=tuple(images),
        files=tuple(files),
        sounds=sounds,
        calls=tuple(calls),
        results=tuple(results),
    )


def _call(value: object, where: str) -> Call:
    call = fields_of(value, where)
    return Call(str(call.get("name")), json.dumps(call.get("args") or {}, ensure_ascii=False, separators=(",", ":")))


def _result(value: object, where: str) -> Result:
    answer = fields_of(value, where)
    if not answer.get("name") or not isinstance(answer.get("response"), dict):
        raise invalid(f"* GenerateContentRequest.{where}.function_response: name and response are required.")
    return Result(str(answer["name"]), _result_text(answer["response"]))


def _result_text(response: dict[str, Any]) -> str:
    """A tool's result: the text in its usual wrapping, or the whole object."""
    if len(response) == 1 and isinstance(text := next(iter(response.values())), str):
        return text
    return json.dumps(response, ensure_ascii=False, separators=(",", ":"))


def _tools(value: object) -> tuple[Tool, ...]:
    tools: list[Tool] = []
    for index, entry in enumerate(value if isinstance(value, list) else [value] if value else []):
        fields = fields_of(entry, f"tools[{index}]", TOOL_FIELDS)
        for number, declared in enumerate(fields.get("functionDeclarations") or []):
            path = f"tools[{index}].function_declarations[{number}]"
            function = fields_of(declared, path)
            name = function.get("name")
            if not isinstance(name, str) or not name.replace("_", "a").replace("-", "a").replace(".", "a").isalnum():
                raise invalid(f"* GenerateContentRequest.{path}.name: Invalid function name.")
            if any(tool.name == name for tool in tools):
                raise invalid(f"Duplicate function declaration found: {name}")
            tools.append(Tool(name, parameters_schema(function, path), str(function.get("description") or "")))
    return tuple(tools)


# In the order of their enum numbers, which older clients send.
_MODES = ("MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED")


def _choice(value: object, tools: tuple[Tool, ...]) -> tuple[tuple[Tool, ...], str]:
    """The tools that may be called, and the tool choice."""
    outer = fields_of(value, "tool_config")
    config = fields_of(outer.get("functionCallingConfig"), "tool_config.function_calling_config")
    mode = config.get("mode") or "AUTO"
    mode = _MODES[mode] if isinstance(mode, int) and mode in range(len(_MODES)) else str(mode).upper()
    if mode not in _MODES:
        raise invalid(f"Invalid value at 'tool_config.function_calling_config.mode', \"{mode}\"")
    if config and not tools:
        raise invalid("Function calling config is set without function_declarations.")
    allowed = config.get("allowedFunctionNames") or []
    if allowed and mode not in ("ANY", "VALIDATED"):
        raise invalid("allowed_function_names should only be set when the Mode is ANY or VALIDATED.")
    for name in allowed:
        if name not in {tool.name for tool in tools}:
            raise invalid(f"allowed_function_names contains a function that is not declared: {name}")
    kept = tuple(tool for tool in tools if not allowed or tool.name in allowed)
    return kept, {"ANY": "required", "NONE": "none"}.get(mode, "auto")


def _thinking(value: object, model: Model) -> tuple[int, bool]:
    """(default thinking tokens, 0 for none; whether thoughts are shown)."""
    known = {"includeThoughts", "thinkingBudget", "thinkingLevel"}
    config = fields_of(value, "generation_config.thinking_config", known)
    budget, level = config.get("thinkingBudget"), config.get("thinkingLevel")
    if budget is not None and type(budget) is not int:
        raise invalid("Invalid value at 'generation_config.thinking_config.thinking_budget' (TYPE_INT32)")
    if not model.thinks:
        if budget or level or config.get("includeThoughts"):
            raise invalid("Unable to submit request because thinking is not supported by this model.")
        return 0, False
    if budget is not None and level is not None:
        raise invalid("You can only set only one of thinking budget and thinking level.")
    if level is not None and not model.signs_calls:
        raise invalid("Thinking level is not supported for this model.")
    if budget == 0 and model.always_thinks:
        raise invalid("Budget 0 is invalid. This model only works in thinking mode.")
    thinks = THOUGHT_TOKENS if budget is None or budget < 0 else min(budget, THOUGHT_TOKENS)
    return thinks, bool(config.get("includeThoughts"))


def _format(config: dict[str, Any]) -> tuple[dict[str, Any] | None, bool]:
    """The schema of the answer and whether it must be JSON."""
    kind = config.get("responseMimeType") or "text/plain"
    if kind not in ("text/plain", "application/json", "text/x.enum"):
        raise invalid(f"* GenerateContentRequest.generation_config.response_mime_type: unsupported value {kind}")
    plain, raw = config.get("responseSchema"), config.get("responseJsonSchema")
    if plain is not None and raw is not None:
        raise invalid("response_schema and response_json_schema cannot both be set.")
    if (plain is not None or raw is not None) and kind == "text/plain":
        raise invalid("response_schema can only be set when response_mime_type is application/json.")
    if plain is not None:
        return json_schema(plain, "generation_config.response_schema"), True
    raw = None if raw is None else object_schema(raw, "generation_config.response_json_schema")
    return raw, kind == "application/json"
