"""Write a `ChatRequest` for AWS Bedrock Converse, and the dialect's definition; only upstreams speak it.

The path has the model and whether to stream (`/model/{id}/converse` or `.../converse-stream`). Blobs are base64 text.
Contract: the Bedrock runtime API's Converse and ConverseStream.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from elkapi.errors import BadRequest
from elkapi.translate.claude import (
    FORCED_REFUSED,
    closed,
    effort_of,
    output_tool,
    refuse_foreign,
    sampling_of,
    schema_told,
    stops_of,
    system_of,
    takes_schema,
    text_of_file,
    thinking_of,
    tool_id,
    tool_input,
    tool_schema,
    tools_of,
    turns,
)
from elkapi.translate.converse_reply import Reader, read_reply
from elkapi.translate.dialect import UpstreamDialect
from elkapi.translate.ir import (
    Audio,
    ChatRequest,
    File,
    Image,
    Loss,
    OutputFormat,
    Part,
    Refusal,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    image_type,
)
from elkapi.translate.profiles import Profile

Raw = dict[str, Any]

_IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
_encode = msgspec.json.Encoder().encode


def write_request(request: ChatRequest, profile: Profile) -> bytes:
    """The body of Converse and ConverseStream. Raises BadRequest for what it cannot carry."""
    refuse_foreign(request)
    if request.server_tools:
        raise BadRequest(f"This model does not support the `{request.server_tools[0].kind}` tool.", param="tools")
    write = _Blocks(profile)
    body: Raw = {
        "messages": [write.message(turn.role, turn.parts) for turn in turns(_own_thoughts(request, profile), profile)]
    }
    stand_in = output_tool(request, profile) if profile.converse_takes else None
    system = write.each(system_of(request), lambda text: {"text": text.text})
    output = request.output
    if output is not None and output.kind == "schema" and not takes_schema(output, profile) and not stand_in:
        system.append({"text": schema_told(output)})
    if system:
        body["system"] = system
    choice = _choice(request, profile, stand_in)
    if tools := _tools(request, profile, stand_in, write):
        body["toolConfig"] = {"tools": tools} | ({"toolChoice": choice} if choice else {})
    max_tokens = request.max_output_tokens or profile.max_output_tokens
    thinking = None
    if profile.anthropic_members:
        thinking = thinking_of(request, profile, max_tokens, "any" in choice or "tool" in choice)
    thinks = thinking is not None and thinking["type"] != "disabled"
    sampling = sampling_of(request, profile, thinks)
    limit = max_tokens if thinks else request.max_output_tokens
    stops = stops_of(request) if profile.anthropic_members else [word for word in request.stop if word]
    if inference := _inference(stops, sampling, limit):
        body["inferenceConfig"] = inference
    if profile.anthropic_members and (fields := _own_fields(request, profile, thinking, sampling)):
        body["additionalModelRequestFields"] = fields
    if config := _output(output, profile):
        body["outputConfig"] = config
    return _encode(body)


def _own_fields(request: ChatRequest, profile: Profile, thinking: Raw | None, sampling: dict[str, float]) -> Raw:
    """Anthropic's fields for which Converse has no equivalent."""
    effort = effort_of(request, profile)
    return (
        ({"thinking": thinking} if thinking else {})
        | ({"top_k": sampling["top_k"]} if "top_k" in sampling else {})
        | ({"output_config": {"effort": effort}} if effort else {})
    )


def _inference(stops: list[str], sampling: dict[str, float], max_tokens: int | None) -> Raw:
    inference: Raw = {"maxTokens": max_tokens} if max_tokens else {}
    for theirs, ours in (("temperature", "temperature"), ("topP", "top_p")):
        if ours in sampling:
            inference[theirs] = sampling[ours]
    if stops:
        inference["stopSequences"] = stops
    return inference


def _output(output: OutputFormat | None, profile: Profile) -> Raw:
    if output is None or output.kind != "schema" or not takes_schema(output, profile):
        return {}
    definition: Raw = {"schema": _encode(closed(output.schema)).decode(), "name": output.name}
    if output.description:
        definition["description"] = output.description
    return {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": definition}}}


# --- the conversation ------------------------------------------------------------------------------------------------


def _own_thoughts(request: ChatRequest, profile: Profile) -> ChatRequest:
    """The request without Claude's thinking if the model is not Claude."""
    if profile.anthropic_members:
        return request
    messages = [
        msgspec.structs.replace(message, parts=tuple(p for p in message.parts if not isinstance(p, Thinking)))
        for message in request.messages
    ]
    return msgspec.structs.replace(request, messages=messages)


class _Blocks:
    """Writes content blocks for one model; document names must be unique and use a limited character set."""

    def __init__(self, profile: Profile) -> None:
        self._takes = profile.converse_takes
        self._taken: set[str] = set()

    def message(self, role: str, parts: Sequence[Part]) -> Raw:
        content = self.each(parts, self._block)
        # Converse accepts a document only beside a text.
        if any("document" in block for block in content) and not any("text" in block for block in content):
            content.append({"text": "..."})
        return {"role": role, "content": content}

    def each(self, items: Sequence[Any], write: Callable[[Any], Raw]) -> list[Raw]:
        """The written items, with a cache point after each that ends a cached prefix."""
        result: list[Raw] = []
        for item in items:
            result.append(write(item))
            ttl = _ttl(item)
            if ttl and ("tool_cache" if isinstance(item, Tool) else "cache") in self._takes:
                hour = ttl == "1h" and "1h" in self._takes
                result.append({"cachePoint": {"type": "default"} | ({"ttl": "1h"} if hour else {})})
        return result

    def _block(self, part: Part) -> Raw:
        """One content block. Raises BadRequest for what Converse does not accept."""
        match part:
            case Text() | Refusal():
                return {"text": part.text}
            case Image():
                return {"image": _image(part.data, part.media_type)}
            case File() if part.media_type in _IMAGES:
                return {"image": _image(part.data, part.media_type)}
            case File():
                return {"document": self._document(part)}
            case Thinking():
                if part.redacted is not None:
                    return {"reasoningContent": {"redactedContent": part.redacted}}
                return {"reasoningContent": {"reasoningText": {"text": part.text, "signature": part.signature}}}
            case ToolCall():
                return {"toolUse": {"toolUseId": tool_id(part.id), "name": part.name, "input": tool_input(part)}}
            case ToolResult():
                # Converse also refuses blank text inside a tool result.
                shown = [inner for inner in part.parts if not isinstance(inner, Text) or inner.text.strip()]
                content = [self._block(inner) for inner in shown]
                result: Raw = {"toolUseId": tool_id(part.call_id), "content": content or [{"text": "(empty)"}]}
                if "status" in self._takes:
                    result["status"] = "error" if part.is_error else "success"
                return {"toolResult": result}
            case Audio():
                raise BadRequest("This model does not support audio input.", param="messages")
        raise BadRequest("This model does not support results of tools that another provider ran.", param="messages")

    def _document(self, part: File) -> Raw:
        text = text_of_file(part) if part.media_type not in _DOCUMENTS else part.text
        if text is not None:
            return {"format": "txt", "name": self._name(part.name), "source": {"text": text}}
        if part.media_type not in _DOCUMENTS:
            raise BadRequest(f"This model does not support files of type `{part.media_type}`.", param="messages")
        source = _source(part.data)
        return {"format": _DOCUMENTS[part.media_type], "name": self._name(part.name), "source": source}

    def _name(self, name: str | None) -> str:
        clean = re.sub(r"\s+", " ", re.sub(r"[^A-Za-z0-9\s()\[\]-]", "-", name or "document")).strip()[:190]
        clean = clean or "document"
        result, number = clean, 2
        while result in self._taken:
            result, number = f"{clean}-{number}", number + 1
        self._taken.add(result)
        return result


def _ttl(item: Any) -> str | None:
    """The cache lifetime of the prefix that ends with an item; None without a mark.

    A mark inside a tool result counts for the whole result, which cannot contain a cache point.
    """
    inside = item.parts if isinstance(item, ToolResult) else ()
    return next((ttl for one in (item, *inside) if (ttl := getattr(one, "cache_ttl", None))), None)


def _image(data: str | None, media_type: str | None) -> Raw:
    source = _source(data)
    kind = image_type(data or "", media_type)
    if kind not in _IMAGES:
        raise BadRequest(
            f"Images must be {', '.join(sorted(_IMAGES))}; `{kind}` is not supported by this model.", param="messages"
        )
    return {"format": _IMAGES[kind], "source": source}


def _source(data: str | None) -> Raw:
    """Bytes only: Bedrock also accepts S3 objects, but would read them with the operator's permissions."""
    if data is None:
        raise BadRequest(
            "This model does not support images and files by URL; send base64 data instead.", param="messages"
        )
    return {"bytes": data}


# --- tools -----------------------------------------------------------------------------------------------------------


def _tools(request: ChatRequest, profile: Profile, stand_in: Tool | None, write: _Blocks) -> list[Raw]:
    """The declarations. Converse has no choice `none`, so the tools are omitted unless the history requires them."""
    tools = tools_of(request, invent=True)
    if request.tool_choice and request.tool_choice.mode == "none" and not stand_in and not _has_calls(request):
        tools = []
    written = write.each(tools, lambda tool: _tool(tool, profile))
    return [*written, _tool(stand_in, profile)] if stand_in else written


def _has_calls(request: ChatRequest) -> bool:
    return any(isinstance(part, ToolCall | ToolResult) for message in request.messages for part in message.parts)


def _tool(tool: Tool, profile: Profile) -> Raw:
    strict = bool(tool.strict and profile.json_schema)
    schema = tool_schema(tool)
    spec: Raw = {"name": tool.name, "inputSchema": {"json": closed(schema) if strict else schema}}
    if tool.description:
        spec["description"] = tool.description
    if strict:
        spec["strict"] = True
    return {"toolSpec": spec}


def _choice(request: ChatRequest, profile: Profile, stand_in: Tool | None) -> Raw:
    """The tool choice; {} leaves it to the model. Raises BadRequest for one that the model does not support."""
    choice, takes = request.tool_choice, profile.converse_takes
    if not profile.forced_tools:
        takes -= {"any", "tool"}
    mode = choice.mode if choice else "auto"
    if choice and mode == "named":
        wanted: Raw = {"tool": {"name": choice.names[0]}}
    elif stand_in is not None:
        free = (request.tools and mode != "none") or "tool" not in takes
        wanted = {"any": {}} if free else {"tool": {"name": stand_in.name}}
    else:
        wanted = {"any": {}} if mode == "required" and request.tools else {}
    if not wanted.keys() <= takes:
        raise BadRequest(FORCED_REFUSED, param="tool_choice")
    return wanted


LOSSES = (
    Loss("n", True, "one answer per call"),
    Loss("modalities: image", True, "not offered"),
    Loss("input audio", True, "not supported"),
    Loss(
        "images and files by URL",
        True,
        "only bytes are taken; an object of S3 would be read with the operator's rights",
    ),
    Loss("files by id", True, "the id is only known where the file was uploaded"),
    Loss("files of unknown types", True, "PDF, Word, Excel, HTML, CSV, Markdown and text are accepted"),
    Loss("server tools and their blocks in the history", True, "each provider has its own"),
    Loss("custom tools of chat completions", True, "there are no tools with free text"),
    Loss("stop sequences of white space only, on Claude", True, "not accepted"),
    Loss("logprobs, top_logprobs", False, "not given"),
    Loss("seed, presence_penalty, frequency_penalty, logit_bias", False, "not accepted"),
    Loss("temperature above 1", False, "1 is the maximum"),
    Loss("top_k on models other than Claude", False, "each has its own field"),
    Loss("reasoning on models other than Claude", False, "each has its own field"),
    Loss("a forced tool on models other than Claude, Nova and Mistral Large", True, "they choose for themselves"),
    Loss("a forced tool on Claude from Opus and Sonnet 5.5, Fable and Mythos 5.1 on", True, "refused upstream"),
    Loss("JSON schema on models that cannot be made to call a tool", False, "becomes an instruction"),
    Loss("no thinking, on Claude models that always think", False, "the lowest effort is asked for instead"),
    Loss("is_error of a tool result, cache points on models other than Claude and Nova", False, "not accepted"),
    Loss("cache points of tools on Nova, lifetimes of an hour on Nova and Claude before 4.5", False, "not accepted"),
    Loss("parallel_tool_calls false", False, "not offered"),
    Loss("tool choice none when the history has calls", False, "not offered"),
    Loss("verbosity, metadata, user, prompt_cache_key, service_tier", False, "not accepted"),
    Loss("name of a chat participant", False, "not accepted"),
    Loss("Anthropic betas and fields of its own", False, "not accepted"),
    Loss("images and files that the model made, in earlier turns", False, "accepted only from the user"),
    Loss("the place of later system messages", False, "instructions come before the first turn"),
    Loss("thinking without Claude's signature", False, "only Claude's own thoughts are accepted"),
    Loss("bounds in a JSON schema, on Claude", False, "minimum, maxLength and similar are moved into its descriptions"),
    Loss("JSON mode", False, "becomes an instruction"),
)

DIALECT = UpstreamDialect(
    name="converse",
    write_request=write_request,
    read_reply=read_reply,
    reader=Reader,
    losses=LOSSES,
)
