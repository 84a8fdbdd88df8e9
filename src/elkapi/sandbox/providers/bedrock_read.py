"""Converse's body for the models of other makers, read strictly into a neutral `Ask`; Claude's is `bedrock_converse`'s.

Members and limits are those of the Bedrock runtime's service model; what is wrong is worded as AWS words it.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any, Literal

from elkapi.sandbox.messages import Problem
from elkapi.sandbox.providers.bedrock_converse import BODY_FIELDS
from elkapi.sandbox.providers.bedrock_models import Model
from elkapi.sandbox.strict import strictly
from elkapi.sandbox.talk import Ask, Call, Result, Tool, Turn

Raw = dict[str, Any]

IMAGE_FORMATS = ("png", "jpeg", "gif", "webp")
DOCUMENT_TYPES = {"pdf": "application/pdf"}
DOCUMENT_FORMATS = ("pdf", "csv", "doc", "docx", "xls", "xlsx", "html", "txt", "md")
_CHOICES = {"auto": "auto", "any": "required"}
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@strictly
def read(body: Raw, model: Model) -> Ask:
    """The ask of a body. Raises Problem for what Converse or this model does not take."""
    for name in body:
        if name not in BODY_FIELDS:
            raise Problem(400, f"Unknown field: {name}")
    for name in body.get("additionalModelRequestFields") or {}:
        if name not in model.fields:
            reason = f"#: extraneous key [{name}] is not permitted"
            raise Problem(400, f"Malformed input request: {reason}, please reformat your input and try again.")
    if (body.get("outputConfig") or {}).get("textFormat"):
        raise _unsupported("outputConfig.textFormat")
    config = body.get("inferenceConfig") or {}
    for name in ("temperature", "topP"):
        if not 0 <= config.get(name, 0) <= 1:
            raise _constraint(str(config[name]), f"inferenceConfig.{name}", "value less than or equal to 1")
    if config.get("maxTokens", 1) < 1:
        raise _constraint(str(config["maxTokens"]), "inferenceConfig.maxTokens", "value greater than or equal to 1")
    tools, choice = _tools(body.get("toolConfig"), model)
    turns = _turns(body.get("messages") or [], model)
    if not tools and any(turn.calls or turn.results for turn in turns):
        raise Problem(400, "The toolConfig field must be defined when using toolUse and toolResult content blocks.")
    return Ask(
        turns=turns,
        system="\n".join(_system(body.get("system") or [], model)),
        tools=tools,
        choice=choice,
        thinks=model.thinks_tokens > 0,
        thinks_tokens=model.thinks_tokens,
        stops=tuple(config.get("stopSequences") or ()),
        output_tokens_max=config.get("maxTokens"),
    )


def _unsupported(field: str) -> Problem:
    return Problem(400, f"This model doesn't support the {field} field. Remove {field} and try again.")


def _constraint(value: str, place: str, must: str) -> Problem:
    told = f"Value '{value}' at '{place}' failed to satisfy constraint: Member must have {must}"
    return Problem(400, f"1 validation error detected: {told}")


def _system(blocks: list[Raw], model: Model) -> list[str]:
    texts = []
    for index, block in enumerate(blocks):
        if "cachePoint" in block:
            _check_cache(model)
        else:
            texts.append(_text(block["text"], f"system.{index}"))
    return texts


def _check_cache(model: Model) -> None:
    if not model.extras:
        raise Problem(403, "You invoked an unsupported model or your request did not allow prompt caching.")


def _text(text: Any, place: str) -> str:
    if not isinstance(text, str) or not text.strip():
        told = "is blank. Add text to the text field, and try again."
        raise Problem(400, f"The text field in the ContentBlock object at {place} {told}")
    return text


def _tools(config: Raw | None, model: Model) -> tuple[tuple[Tool, ...], str]:
    """The offered tools and the tool choice."""
    if not config:
        return (), "auto"
    if not model.tools:
        raise Problem(400, "This model doesn't support tool use.")
    tools = []
    for index, entry in enumerate(config["tools"]):
        if "cachePoint" in entry:
            _check_cache(model)
            continue
        spec, place = entry["toolSpec"], f"toolConfig.tools.{index}.member.toolSpec"
        if not _NAME.fullmatch(spec["name"]):
            raise _constraint(spec["name"], f"{place}.name", "a name of letters, digits, _ and -, at most 64")
        if spec.get("description") == "":
            raise _constraint("", f"{place}.description", "length greater than or equal to 1")
        schema = spec["inputSchema"]["json"]
        if schema.get("type") != "object":
            kind = f"toolConfig.tools.{index}.toolSpec.inputSchema.json.type"
            raise Problem(400, f"The value at {kind} must be one of the following: object.")
        tools.append(Tool(spec["name"], schema, spec.get("description", "")))
    if not tools:
        raise _constraint("[]", "toolConfig.tools", "length greater than or equal to 1")
    return tuple(tools), _choice(config.get("toolChoice") or {"auto": {}}, tools, model)


def _choice(choice: Raw, tools: list[Tool], model: Model) -> str:
    ((kind, value),) = choice.items()
    if kind != "auto" and kind not in model.choices:
        raise _unsupported(f"toolConfig.toolChoice.{kind}")
    if kind != "tool":
        return _CHOICES[kind]
    if value["name"] not in {tool.name for tool in tools}:
        raise Problem(400, f"Tool {value['name']} is not in toolConfig.tools.")
    return f"tool:{value['name']}"


def _turns(messages: list[Raw], model: Model) -> tuple[Turn, ...]:
    """The turns; every tool call must be answered by the next message. Raises Problem."""
    if not messages or messages[0]["role"] != "user":
        told = "Try again with a conversation that starts with a user message."
        raise Problem(400, f"A conversation must start with a user message. {told}")
    turns: list[Turn] = []
    open_calls: dict[str, str] = {}
    for index, message in enumerate(messages):
        role = message["role"]
        if turns and turns[-1].role == role:
            told = "Make sure the conversation alternates between user and assistant roles and try again."
            raise Problem(400, f"A conversation must alternate between user and assistant roles. {told}")
        turn, open_calls = _turn(role, message["content"], f"messages.{index}.content", open_calls, model)
        turns.append(turn)
    # Nova continues an answer that the caller started.
    if turns[-1].role != "user" and not model.extras:
        told = "Try again with a conversation that ends with a user message."
        raise Problem(400, f"A conversation must end with a user message. {told}")
    return tuple(turns)


def _turn(
    role: Literal["user", "assistant"], content: list[Raw], place: str, open_calls: dict[str, str], model: Model
) -> tuple[Turn, dict[str, str]]:
    """One message, and the names of the calls by id that the next one must answer."""
    texts, images, files, calls, results = [], [], [], {}, {}
    for index, block in enumerate(content):
        ((kind, value),) = block.items()
        if kind == "text":
            texts.append(_text(value, f"{place}.{index}"))
        elif kind == "image" and model.images:
            if value["format"] not in IMAGE_FORMATS:
                raise _constraint(value["format"], f"{place}.{index}.member.image.format", "a known format")
            _bytes(value["source"])
            images.append(f"image/{value['format']}")
        elif kind == "document" and model.documents:
            if value["format"] not in DOCUMENT_FORMATS or not value["name"]:
                raise _constraint(value["format"], f"{place}.{index}.member.document.format", "a known format")
            if "text" not in value["source"]:
                _bytes(value["source"])
            files.append(DOCUMENT_TYPES.get(value["format"], "text/plain"))
        elif kind == "toolUse" and role == "assistant":
            arguments = json.dumps(dict(value["input"]), ensure_ascii=False, separators=(",", ":"))
            calls[value["toolUseId"]] = Call(value["name"], arguments)
        elif kind == "toolResult" and role == "user":
            if "status" in value and not model.extras:
                raise _unsupported("toolResult.status")
            told = " ".join(_result(part, model) for part in value["content"])
            results[value["toolUseId"]] = Result(open_calls.get(value["toolUseId"], ""), told)
        elif kind == "cachePoint":
            _check_cache(model)
        else:
            raise _unsupported(kind)
    _check_results(results, open_calls, place)
    if files and not texts:
        raise Problem(400, "A text block is required when a document is sent.")
    turn = Turn(
        role=role,
        text="\n".join(texts),
        images=tuple(images),
        files=tuple(files),
        calls=tuple(calls.values()),
        results=tuple(results.values()),
    )
    return turn, {id_: call.name for id_, call in calls.items()}


def _check_results(results: dict[str, Result], open_calls: dict[str, str], place: str) -> None:
    missing = [id_ for id_ in open_calls if id_ not in results]
    if missing:
        raise Problem(400, f"Expected toolResult blocks at {place} for the following Ids: {', '.join(missing)}")
    if len(results) > len(open_calls):
        told = "exceeds the number of toolUse blocks of previous turn"
        raise Problem(400, f"The number of toolResult blocks at {place} {told}.")


def _result(part: Raw, model: Model) -> str:
    if "json" in part:
        return json.dumps(part["json"], ensure_ascii=False, separators=(",", ":"))
    if "image" in part or "document" in part:
        ((kind, value),) = part.items()
        if not (model.extras and (model.images if kind == "image" else model.documents)):
            raise _unsupported(f"toolResult.content.{kind}")
        if "text" not in value["source"]:
            _bytes(value["source"])
        return f"({kind})"
    return str(part["text"])


def _bytes(source: Raw) -> None:
    """Check the data of an image or document: base64, or an S3 object."""
    if "s3Location" in source and str(source["s3Location"]["uri"]).startswith("s3://"):
        return
    try:
        base64.b64decode(source["bytes"], validate=True)
    except binascii.Error:
        raise Problem(400, "The data of a content block is not valid base64.") from None
