"""Write a `ChatRequest` as a generateContent body; `gemini.LOSSES` lists what is refused or dropped.

Contract: anthropic.md sections 6.1 and 7. Signatures of other dialects are never sent. For a model that refuses
unsigned calls, the placeholder that Google documents for foreign calls is sent (docs "thought signatures").
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from elkapi.catalog.jsonpath import first_of
from elkapi.errors import NOT_JSON, BadRequest
from elkapi.translate.chat_parts import refuse_file_ids
from elkapi.translate.claude import JSON_INSTRUCTION, schema_told
from elkapi.translate.decode import worded
from elkapi.translate.dialect import given, stop_member
from elkapi.translate.gemini_schema import to_subset, with_plain_references
from elkapi.translate.ir import (
    Audio,
    ChatRequest,
    Effort,
    File,
    Image,
    Message,
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
    unreadable_input,
)
from elkapi.translate.profiles import GO_ON, Profile, effort_for
from elkapi.translate.server_tools import GEMINI, chosen_server_tool, offered_server_tools

STOP_MAX = 5
BUDGETS: dict[Effort, int] = {"none": 0, "minimal": 512, "low": 1024, "medium": 8192, "high": 24_576}
# The largest budget that every model with a thinking budget accepts.
BUDGET_MAX = 24_576
UNSIGNED = "skip_thought_signature_validator"
# The same in base64, for answers: SDKs decode a signature as bytes, and send it back in base64.
UNSIGNED_BYTES = base64.b64encode(UNSIGNED.encode()).decode()
FIRST_TURN = "..."
# Ids that the reader assigned are not written back.
_MADE_UP = re.compile(r"call_\d+")
# The keywords that define the members of an object in a JSON schema.
_MEMBERS = ("properties", "patternProperties", "$ref", "allOf", "anyOf", "oneOf")
# Fields that narrow a web search in other dialects; Gemini has no equivalent.
_NARROWING = ("allowed_domains", "blocked_domains", "filters")
_MEDIA_TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "heic": "image/heic",
    "heif": "image/heif",
}
_PICTURES = (("aspect_ratio", "aspectRatio"), ("image_size", "imageSize"))
_json = msgspec.json.Encoder()
_object: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])

_Wire = dict[str, Any]


def write_request(request: ChatRequest, profile: Profile) -> bytes:
    """The body; the model and streaming are in the path. Raises BadRequest for what Gemini cannot carry."""
    return worded(lambda: _json.encode(_written(request, profile)))


def _written(request: ChatRequest, profile: Profile) -> _Wire:
    _check(request)
    own = request.dialect == "gemini"
    body: _Wire = {"contents": _contents(request, profile)}
    extra = dict(request.extra) if own else {}
    declared = extra.pop("functionDeclarations", {})
    tools = _tools(request, profile, declared)
    told = _output_told(request, profile) if tools else None
    # Gemini refuses an empty text.
    instructions = [{"text": part.text} for part in request.system if part.text or own]
    if told is not None:
        instructions.append({"text": told})
    if instructions:
        body["systemInstruction"] = {"parts": instructions}
    if tools:
        body["tools"] = tools
    # A choice without declared tools is an error, and Gemini decides itself whether to run its own tools.
    if request.tool_choice is not None and (own or (request.tools and chosen_server_tool(request) is None)):
        body["toolConfig"] = {"functionCallingConfig": _calling(request)}
    if not own and request.tools and len(tools) > 1 and profile.shows_tools:
        body["toolConfig"] = _beside_google(body.get("toolConfig", {}))
    if settings := _settings(request, profile, {} if told is not None else _output(request, profile)):
        body["generationConfig"] = settings
    return _merged(body, extra)


def _merged(body: _Wire, extra: _Wire) -> _Wire:
    """Merge the fields that only Gemini knows back into the body."""
    for name, value in extra.items():
        if isinstance(value, dict) and isinstance(body.get(name), dict):
            body[name] = _merged(body[name], value)
        else:
            body[name] = value
    return body


def _check(request: ChatRequest) -> None:
    if request.logit_bias:
        raise BadRequest("`logit_bias` is not supported by this model.", param="logit_bias")
    if len(request.stop) > STOP_MAX:
        raise BadRequest(f"This model supports at most {STOP_MAX} stop sequences.", param=stop_member(request))
    if request.n > 1 and request.dialect != "gemini":
        raise BadRequest("`n` must be 1 for this model.", param="n")
    refuse_file_ids(request.messages)


# --- contents --------------------------------------------------------------------------------------------------------


def _contents(request: ChatRequest, profile: Profile) -> list[_Wire]:
    names = {part.id: part.name for message in request.messages for part in message.parts if isinstance(part, ToolCall)}
    order = {id_: place for place, id_ in enumerate(names)}
    own = request.dialect == "gemini"
    contents: list[_Wire] = []
    for message in request.messages:
        role = "model" if message.role == "assistant" else "user"
        if role == "model":
            parts = _model_parts(message.parts, own, profile)
        else:
            parts = _user_parts(message, names, order, own, profile)
        if parts and contents and contents[-1]["role"] == role:
            contents[-1]["parts"].extend(parts)
        elif parts:
            contents.append({"role": role, "parts": parts})
    if not contents:
        raise BadRequest("At least one message must have content.", param="messages")
    if contents[0]["role"] == "model" and not own:
        contents.insert(0, {"role": "user", "parts": [{"text": FIRST_TURN}]})
    last = contents[-1]
    begun = last["role"] == "model" and not any("functionCall" in part for part in last["parts"])
    if begun and not profile.begun_answers and not own:
        contents.append({"role": "user", "parts": [{"text": GO_ON}]})
    return contents


def _model_parts(parts: Iterable[Part], own: bool, profile: Profile) -> list[_Wire]:
    result: list[_Wire] = []
    unsigned = profile.call_signatures
    for part in parts:
        if isinstance(part, ToolCall):
            wire = _call(part, own, profile)
            if unsigned and "thoughtSignature" not in wire and not own:
                wire["thoughtSignature"] = UNSIGNED
            # Only the first of parallel calls is signed.
            unsigned = False
            result.append(wire)
        elif isinstance(part, Thinking):
            _add_thinking(result, part, own)
        elif (common := _common_part(part, profile)) is not None:
            if not own and result and result[-1].keys() == {"text", "thoughtSignature"} and not result[-1]["text"]:
                # In dialects with thinking first, a bare signature belongs to the part after it.
                common = {**common, "thoughtSignature": result.pop()["thoughtSignature"]}
            result.append(common)
    if profile.call_signatures and not own:
        for wire in result:
            if "inlineData" in wire:
                wire.setdefault("thoughtSignature", UNSIGNED)
    return result


def _user_parts(
    message: Message, names: dict[str, str], order: dict[str, int], own: bool, profile: Profile
) -> list[_Wire]:
    """Results first, in the order of their calls: older models match them only by that order and the name."""
    results = [part for part in message.parts if isinstance(part, ToolResult)]
    if not own:
        results.sort(key=lambda part: order.get(part.call_id, len(order)))
    written = {id(part): _result(part, names, own, profile) for part in results}
    result: list[_Wire] = [] if own else [wire for part in results for wire in written[id(part)]]
    for part in message.parts:
        if isinstance(part, ToolResult):
            result.extend(written[id(part)] if own else ())
        elif isinstance(part, Thinking):
            _add_thinking(result, part, own)
        elif isinstance(part, ToolCall):
            raise BadRequest("Tool calls must be in assistant messages.", param="messages")
        elif (common := _common_part(part, profile)) is not None:
            result.append(common)
    return result


def _call(part: ToolCall, own: bool, profile: Profile) -> _Wire:
    if part.custom:
        raise BadRequest(
            f"This model does not support custom tools, such as the call of `{part.name}`.", param="messages"
        )
    call: _Wire = {"name": part.name, "args": _arguments(part)}
    if _has_id(part.id, own, profile):
        call["id"] = part.id
    if part.signature and part.signed_by == "gemini":
        return {"functionCall": call, "thoughtSignature": part.signature}
    return {"functionCall": call}


def _has_id(call_id: str, own: bool, profile: Profile) -> bool:
    """Whether a call and its result have their id. Without ids, newer models give no answer to parallel results; older
    ones refuse them."""
    return not _MADE_UP.fullmatch(call_id) if own else profile.whole_results


def _arguments(part: ToolCall) -> msgspec.Raw:
    text = part.arguments.strip() or "{}"
    try:
        _object.decode(text)
    except NOT_JSON:
        return msgspec.Raw(msgspec.json.encode(unreadable_input(part)))
    return msgspec.Raw(text.encode())


def _add_thinking(result: list[_Wire], part: Thinking, own: bool) -> None:
    """Append thinking, or a bare signature, which belongs to the preceding part. Foreign thinking is dropped."""
    signature = part.signature if part.signed_by == "gemini" else None
    if not own and signature is None:
        return
    if part.text:
        result.append({"text": part.text, "thought": True, **({"thoughtSignature": signature} if signature else {})})
    elif signature and result and "thoughtSignature" not in result[-1]:
        result[-1]["thoughtSignature"] = signature
    elif signature:
        result.append({"text": "", "thoughtSignature": signature})


def _common_part(part: Part, profile: Profile) -> _Wire | None:
    match part:
        case Text(text=text) | Refusal(text=text):
            return {"text": text} if text else None
        case Image(data=str(data)):
            return {"inlineData": {"mimeType": image_type(data, part.media_type) or "image/png", "data": data}}
        case Image(url=str(url)):
            known = part.media_type or _media_type(url) or ("image/jpeg" if profile.typed_links else None)
            return {"fileData": given(fileUri=url, mimeType=known)}
        case Audio(data=data, format=form):
            return {"inlineData": {"mimeType": f"audio/{form}", "data": data}}
        case File(text=str(text)):
            return {"text": f"{part.name}:\n{text}" if part.name else text}
        case File(data=str(data)):
            return {"inlineData": given(mimeType=part.media_type, data=data, displayName=part.name)}
        case File(url=str(url)):
            known = part.media_type if part.media_type != "application/octet-stream" else None
            return {"fileData": given(fileUri=url, mimeType=known, displayName=part.name)}
        case ServerToolPart(dialect="gemini", raw=raw):
            return raw
        case ServerToolPart(raw={"type": "image_generation_call", "result": str(data), **more}):
            # An image that a model generated, in the format of OpenAI responses.
            return {"inlineData": {"mimeType": f"image/{more.get('output_format') or 'png'}", "data": data}}
    return None


def _media_type(url: str) -> str | None:
    ending = url.partition("?")[0].partition("#")[0].rpartition(".")[2].lower()
    return _MEDIA_TYPES.get(ending)


def _result(part: ToolResult, names: dict[str, str], own: bool, profile: Profile) -> list[_Wire]:
    """The response, with the result's other parts inside, or behind it for older models."""
    name = part.name or names.get(part.call_id)
    if not name:
        raise BadRequest(f"The result of the tool call `{part.call_id}` must follow the call.", param="messages")
    inside = own or profile.whole_results
    written = [(item, wire) for item in part.parts if (wire := _common_part(item, profile)) is not None]
    # A file of text is a text, which may be nowhere but in the response.
    texts = [wire["text"] for item, wire in written if "text" in wire and (inside or isinstance(item, Text))]
    others = [wire for item, wire in written if "text" not in wire or not (inside or isinstance(item, Text))]
    text = "\n".join(texts)
    response: _Wire = {"name": name, "response": {"error": text} if part.is_error else _response(text, own)}
    if _has_id(part.call_id, own, profile):
        response["id"] = part.call_id
    if inside and others:
        response["parts"] = others
        return [{"functionResponse": response}]
    return [{"functionResponse": response}, *others]


def _response(text: str, own: bool) -> Any:
    """A JSON object unchanged, anything else under `result`.

    Objects with a `$ref`, such as a JSON schema, go under `result` too: to Gemini it refers to a part of the response.
    """
    if text.lstrip().startswith("{") and (own or '"$ref"' not in text):
        try:
            _object.decode(text)
        except NOT_JSON:
            pass
        else:
            return msgspec.Raw(text.encode())
    return {"result": text}


# --- tools and settings ----------------------------------------------------------------------------------------------


def _tools(request: ChatRequest, profile: Profile, declared: dict[str, _Wire]) -> list[_Wire]:
    own = request.dialect == "gemini"
    tools: list[_Wire] = [
        _server_tool(tool) for tool in (request.server_tools if own else offered_server_tools(request))
    ]
    if request.tools:
        listed = [{**_declaration(tool, profile), **declared.get(tool.name, {})} for tool in request.tools]
        tools.insert(0, {"functionDeclarations": listed})
    return tools


def _declaration(tool: Tool, profile: Profile) -> _Wire:
    if tool.custom:
        raise BadRequest(f"This model does not support custom tools, such as `{tool.name}`.", param="tools")
    schema = tool.schema
    if not schema or _is_empty(schema):
        return given(name=tool.name, description=tool.description)
    if profile.schema_subset:
        return given(name=tool.name, description=tool.description, parameters=to_subset(schema))
    return given(name=tool.name, description=tool.description, parametersJsonSchema=with_plain_references(schema))


def _is_empty(schema: _Wire) -> bool:
    """Whether the schema is an object without members. Gemini refuses those, so the tool is declared without one."""
    if schema.get("type") != "object" or schema.get("additionalProperties"):
        return False
    return not any(schema.get(name) for name in _MEMBERS)


def _server_tool(tool: ServerTool) -> _Wire:
    if tool.dialect == "gemini":
        return tool.raw
    name = next((name for name, kind in GEMINI.items() if kind == tool.kind), None)
    if name is None or any(tool.raw.get(word) for word in _NARROWING):
        raise BadRequest(f"This model does not support the `{tool.raw.get('type', tool.kind)}` tool.", param="tools")
    return {name: {}}


def _calling(request: ChatRequest) -> _Wire:
    choice = request.tool_choice
    assert choice is not None
    if choice.mode == "auto" and choice.names:
        # Text or one of these tools, which is VALIDATED at Gemini.
        return {"mode": "VALIDATED", "allowedFunctionNames": list(choice.names)}
    if request.dialect == "chat" and request.extra.get("tool_choice") == "validated":
        return {"mode": "VALIDATED"}
    mode = {"auto": "AUTO", "none": "NONE", "required": "ANY", "named": "ANY"}[choice.mode]
    return given(mode=mode, allowedFunctionNames=list(choice.names) or None)


def _beside_google(config: _Wire) -> _Wire:
    """The tool settings of functions beside Google's own tools, where there is no mode AUTO."""
    calling = config.get("functionCallingConfig", {})
    if calling.get("mode") == "AUTO":
        config = {"functionCallingConfig": {**calling, "mode": "VALIDATED"}}
    return {**config, "includeServerSideToolInvocations": True}


def _settings(request: ChatRequest, profile: Profile, output: _Wire) -> _Wire:
    settings = given(
        maxOutputTokens=request.max_output_tokens,
        stopSequences=list(request.stop) or None,
        seed=request.seed,
        candidateCount=request.n if request.n > 1 else None,
        presencePenalty=request.presence_penalty,
        frequencyPenalty=request.frequency_penalty,
        responseLogprobs=request.logprobs or None,
        logprobs=request.top_logprobs,
        thinkingConfig=_thinking(request, profile),
        **output,
    )
    modalities = request.extra.get("modalities") if request.dialect == "chat" else None
    if isinstance(modalities, list) and "image" in modalities:
        settings["responseModalities"] = [word.upper() for word in ("text", "image") if word in modalities]
    # OpenRouter's field for the images of chat completions, or where clients of new-api put it.
    places = ("image_config", "extra_body.google.image_config") if request.dialect == "chat" else ()
    pictures = first_of(places, request.extra)
    if isinstance(pictures, dict) and (
        known := {theirs: pictures[ours] for ours, theirs in _PICTURES if ours in pictures}
    ):
        settings["imageConfig"] = known
    if profile.sampling:
        settings |= given(temperature=request.temperature, topP=request.top_p, topK=request.top_k)
    return settings


def _output_told(request: ChatRequest, profile: Profile) -> str | None:
    """The instruction that replaces JSON mode and a schema beside tools; None if the model takes both."""
    output = request.output
    if request.dialect == "gemini" or profile.json_beside_tools or output is None or output.kind == "text":
        return None
    return schema_told(output) if output.kind == "schema" else JSON_INSTRUCTION


def _output(request: ChatRequest, profile: Profile) -> _Wire:
    output = request.output
    if output is None or output.kind == "text":
        return {}
    result: _Wire = {"responseMimeType": "application/json"}
    if schema := output.described:
        if not profile.schema_subset:
            result["responseJsonSchema"] = with_plain_references(schema)
        elif subset := to_subset(schema):
            result["responseSchema"] = subset
    return result


def _thinking(request: ChatRequest, profile: Profile) -> _Wire | None:
    asked = request.reasoning
    if asked is None:
        return None
    if request.dialect == "gemini":
        budget = -1 if asked.adaptive else asked.budget_tokens
        level = asked.effort.upper() if asked.effort else None
        return given(thinkingBudget=budget, thinkingLevel=level, includeThoughts=asked.visible)
    if profile.reasoning in ("budget", "adaptive"):
        budget = asked.budget_tokens
        if budget is None:
            budget = BUDGETS.get(asked.effort, BUDGET_MAX) if asked.effort else -1
        config: _Wire = {"thinkingBudget": budget if budget < 0 else max(min(budget, BUDGET_MAX), profile.budget_min)}
    elif profile.reasoning in ("level", "effort"):
        level = effort_for(asked, profile)
        config = {"thinkingLevel": level.upper()} if level else {}
    else:
        return None
    # A caller that asks for thinking gets the thoughts, unless it opts out.
    off = asked.effort == "none" or asked.budget_tokens == 0
    return {**config, "includeThoughts": False if off else asked.visible is not False}
