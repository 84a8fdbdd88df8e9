"""Bedrock's Converse format for Claude: converts its body to a messages body, and messages and events back."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from elkapi.sandbox.messages import Problem
from elkapi.sandbox.providers.anthropic_write import Event, Said, message
from elkapi.sandbox.strict import strictly

MAX_TOKENS = 4_096
METRICS = {"latencyMs": 1}
STOP_REASONS = {"refusal": "content_filtered"}
BODY_FIELDS = {
    "messages", "system", "inferenceConfig", "toolConfig", "additionalModelRequestFields", "outputConfig",
    "additionalModelResponseFieldPaths", "requestMetadata", "performanceConfig", "guardrailConfig", "promptVariables",
    "serviceTier",
}  # fmt: skip


@strictly
def messages_body(body: dict[str, Any]) -> dict[str, Any]:
    """The equivalent messages body. Raises Problem for a block or field that Converse does not have."""
    for name in body:
        if name not in BODY_FIELDS:
            raise Problem(400, f"Unknown field: {name}")
    config = body.get("inferenceConfig") or {}
    made: dict[str, Any] = {
        "max_tokens": config.get("maxTokens", MAX_TOKENS),
        "messages": [
            {"role": entry.get("role"), "content": _blocks(entry.get("content") or [])}
            for entry in body.get("messages") or []
        ],
    }
    named = {"temperature": "temperature", "topP": "top_p", "stopSequences": "stop_sequences"}
    made |= {theirs: config[ours] for ours, theirs in named.items() if ours in config}
    if body.get("system"):
        made["system"] = _blocks(body["system"])
    if tools := body.get("toolConfig"):
        made["tools"] = _marked([_tool(tool) for tool in tools.get("tools") or []])
        choice = tools.get("toolChoice")
        if choice:
            kind, value = next(iter(choice.items()))
            made["tool_choice"] = {"type": kind, **(value or {})}
    wanted = ((body.get("outputConfig") or {}).get("textFormat") or {}).get("structure")
    if wanted:
        schema = _json(wanted["jsonSchema"]["schema"])
        made["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    return made | (body.get("additionalModelRequestFields") or {})


def response(said: Said) -> dict[str, Any]:
    """The whole Converse answer."""
    whole = message(said)
    content = [_converse_block(block) for block in whole["content"]]
    answer: dict[str, Any] = {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": STOP_REASONS.get(whole["stop_reason"], whole["stop_reason"]),
        "metrics": METRICS,
    }
    if "usage" in whole:
        answer["usage"] = usage(whole["usage"])
    return answer


def usage(counts: dict[str, Any]) -> dict[str, int]:
    """Anthropic's counts in Converse's names."""
    read, written = counts["cache_read_input_tokens"], counts["cache_creation_input_tokens"]
    return {
        "inputTokens": counts["input_tokens"],
        "outputTokens": counts["output_tokens"],
        "totalTokens": counts["input_tokens"] + counts["output_tokens"] + read + written,
        "cacheReadInputTokens": read,
        "cacheWriteInputTokens": written,
    }


def event_of(event: Event, said: Said) -> tuple[str, dict[str, Any]] | None:
    """The Converse event for one of Anthropic's: its name and body; None for those that Converse does not have."""
    body = event.body
    kind = body["type"]
    if kind == "message_start":
        return "messageStart", {"role": "assistant"}
    if kind == "content_block_start":
        return _started(body["index"], body["content_block"])
    if kind == "content_block_delta":
        return "contentBlockDelta", {"contentBlockIndex": body["index"], "delta": _delta(body["delta"])}
    if kind == "content_block_stop":
        return "contentBlockStop", {"contentBlockIndex": body["index"]}
    if kind == "message_delta":
        reason = body["delta"]["stop_reason"]
        return "messageStop", {"stopReason": STOP_REASONS.get(reason, reason)}
    whole = message(said)
    if kind == "message_stop" and "usage" in whole:
        return "metadata", {"usage": usage(whole["usage"]), "metrics": METRICS}
    return None


def _started(index: int, block: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    if block["type"] == "tool_use":
        start = {"toolUse": {"toolUseId": block["id"], "name": block["name"]}}
        return "contentBlockStart", {"contentBlockIndex": index, "start": start}
    if block["type"] == "redacted_thinking":
        delta = {"reasoningContent": {"redactedContent": _blob(block["data"])}}
        return "contentBlockDelta", {"contentBlockIndex": index, "delta": delta}
    return None


def _delta(delta: dict[str, Any]) -> dict[str, Any]:
    kind = delta["type"]
    if kind == "text_delta":
        return {"text": delta["text"]}
    if kind == "input_json_delta":
        return {"toolUse": {"input": delta["partial_json"]}}
    name = "text" if kind == "thinking_delta" else "signature"
    return {"reasoningContent": {name: delta["thinking" if name == "text" else "signature"]}}


def _converse_block(block: dict[str, Any]) -> dict[str, Any]:
    kind = block["type"]
    if kind == "text":
        return {"text": block["text"]}
    if kind == "tool_use":
        return {"toolUse": {"toolUseId": block["id"], "name": block["name"], "input": block["input"]}}
    if kind == "redacted_thinking":
        return {"reasoningContent": {"redactedContent": _blob(block["data"])}}
    return {"reasoningContent": {"reasoningText": {"text": block["thinking"], "signature": block["signature"]}}}


def _blocks(content: list[Any]) -> list[dict[str, Any]]:
    return _marked([_block(entry) for entry in content])


def _marked(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks with cache points converted to marks on the preceding block."""
    made: list[dict[str, Any]] = []
    for block in blocks:
        if "cachePoint" not in block:
            made.append(block)
        elif made:
            made[-1]["cache_control"] = {"type": "ephemeral", "ttl": block["cachePoint"].get("ttl", "5m")}
    return made


def _tool(entry: dict[str, Any]) -> dict[str, Any]:
    if "cachePoint" in entry:
        return entry
    spec = entry.get("toolSpec") or {}
    tool = {"name": spec.get("name"), "input_schema": (spec.get("inputSchema") or {}).get("json")}
    return {**tool, "description": spec["description"]} if "description" in spec else tool


def _block(entry: dict[str, Any]) -> dict[str, Any]:
    """One content block in Anthropic's format; cache points stay unchanged."""
    kind = next(iter(entry), "")
    value = entry.get(kind)
    if kind == "cachePoint":
        return {"cachePoint": value}
    if kind == "text":
        return {"type": "text", "text": value}
    if not isinstance(value, dict):
        raise Problem(400, "The content block is not valid.")
    if kind == "image":
        return {"type": "image", "source": _source(value, f"image/{value.get('format')}")}
    if kind == "document":
        source = value.get("source") or {}
        text = {"type": "text", "media_type": "text/plain", "data": source.get("text") or ""}
        is_pdf = value.get("format") == "pdf"
        made = _source(value, "application/pdf") if is_pdf else text
        return {"type": "document", "source": made, "title": value.get("name")}
    if kind == "toolUse":
        return {
            "type": "tool_use",
            "id": value.get("toolUseId"),
            "name": value.get("name"),
            "input": value.get("input"),
        }
    if kind == "toolResult":
        content = [_result(part) for part in value.get("content") or []]
        failed = value.get("status") == "error"
        return {"type": "tool_result", "tool_use_id": value.get("toolUseId"), "content": content, "is_error": failed}
    if kind == "reasoningContent":
        return _thought(value)
    raise Problem(400, f"The content block {kind!r} is not supported by this model.")


def _result(part: dict[str, Any]) -> dict[str, Any]:
    if "json" in part:
        return {"type": "text", "text": json.dumps(part["json"], ensure_ascii=False, separators=(",", ":"))}
    return _block(part)


def _thought(value: dict[str, Any]) -> dict[str, Any]:
    if "redactedContent" in value:
        try:
            return {"type": "redacted_thinking", "data": base64.b64decode(value["redactedContent"]).decode("ascii")}
        except (binascii.Error, ValueError):
            raise Problem(400, "The redacted reasoning content is not valid.") from None
    text = value.get("reasoningText") or {}
    return {"type": "thinking", "thinking": text.get("text"), "signature": text.get("signature")}


def _source(value: dict[str, Any], media_type: str) -> dict[str, Any]:
    source = value.get("source") or {}
    if "s3Location" in source:
        return {"type": "url", "url": str(source["s3Location"].get("uri"))}
    return {"type": "base64", "media_type": media_type, "data": source.get("bytes")}


def _blob(data: str) -> str:
    return base64.b64encode(data.encode("ascii")).decode("ascii")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        raise Problem(400, "The schema of outputConfig is not valid JSON.") from None
