"""The dialect of Anthropic's Messages API, assembled from its modules. Contract: anthropic.md sections 1 to 5."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args

import msgspec

from elkapi.errors import BadRequest
from elkapi.translate.anthropic_reply import Reader, read_reply
from elkapi.translate.anthropic_request import read_request, read_tool
from elkapi.translate.anthropic_write import write_request
from elkapi.translate.anthropic_writer import Writer, write_reply
from elkapi.translate.chat_parts import refuse_file_ids
from elkapi.translate.dialect import Dialect
from elkapi.translate.ir import (
    ChatRequest,
    Effort,
    File,
    Loss,
    Message,
    Part,
    Reasoning,
    ServerTool,
    ServerToolPart,
    Text,
    Tool,
)

# What this dialect cannot carry of a request in another dialect; a test covers the rows.
LOSSES = (
    Loss("n", True, "one answer per call"),
    Loss("modalities: image", True, "Claude answers in text"),
    Loss("input audio", True, "Claude does not accept audio"),
    Loss("files other than PDF and text", True, "Claude does not read them"),
    Loss("images other than JPEG, PNG, GIF and WebP", True, "Claude does not read them"),
    Loss("files by id", True, "the id is only known where the file was uploaded"),
    Loss("server tools other than web search", True, "each provider has its own"),
    Loss("custom tools of chat completions", True, "there are no tools with free text"),
    Loss("stop sequences of white space only", True, "Claude does not accept them"),
    Loss("a forced tool, from Opus and Sonnet 5.5, Fable and Mythos 5.1 on", True, "they choose for themselves"),
    Loss("logprobs, top_logprobs", False, "not given"),
    Loss("seed, presence_penalty, frequency_penalty, logit_bias", False, "not accepted"),
    Loss("temperature above 1", False, "1 is the maximum"),
    Loss("temperature, top_p and top_k while thinking, or on models that fix them", False, "refused upstream"),
    Loss("top_p beside temperature", False, "newer models accept only one of them"),
    Loss("verbosity, metadata, prompt_cache_key", False, "not accepted"),
    Loss("service_tier other than auto and default", False, "not offered"),
    Loss(
        "the place of later system messages, before Opus 4.8, Sonnet 5.5 and Fable 5",
        False,
        "instructions come before the first turn",
    ),
    Loss("name of a chat participant", False, "not accepted"),
    Loss("image detail", False, "not accepted"),
    Loss("images and files that the model made, in earlier turns", False, "Claude accepts them only from the user"),
    Loss("thinking without Claude's signature", False, "only Claude's own thoughts are accepted"),
    Loss("no thinking, on models that always think", False, "the lowest effort is asked for instead"),
    Loss("thinking beside a forced tool", False, "refused upstream; the tool takes precedence"),
    Loss("thinking by budget inside a tool loop whose thoughts are lost", False, "refused upstream"),
    Loss("strict tools on models without JSON schema", False, "not accepted"),
    Loss("bounds in a JSON schema", False, "minimum, maxLength and similar are moved into its descriptions"),
    Loss("JSON mode", False, "becomes an instruction"),
)

# The types of blocks inside a tool result that other dialects can carry.
_INSIDE = frozenset({"text", "image", "document", "search_result", "tool_reference", "mid_conv_system", "compaction"})
# Blocks of the conversation that add or remove tools from there on.
_TOOL_CHANGES = ("tool_addition", "tool_removal")
# The prefix of the billing line that Claude Code puts before its instructions.
ATTRIBUTION = "x-anthropic-billing-header:"

# Fields of this dialect whose silent loss would change the answer or who pays for it.
REFUSED_ELSEWHERE = ("mcp_servers", "container", "compaction")


def told_elsewhere(request: ChatRequest) -> ChatRequest:
    """The request for other dialects: documents are preceded by their context as text, tools and instructions are those
    in effect at the end of the conversation, and Claude Code's billing line is removed.

    That line differs on every call, so it would defeat the prefix caches of other providers.
    """
    if request.dialect != "anthropic":
        return request
    request = _with_tools_of_the_end(request)
    if any(text.text.startswith(ATTRIBUTION) for text in request.system):
        told = tuple(text for text in map(_told, request.system) if text.text)
        request = msgspec.structs.replace(request, system=told)
    kept = request.extra.get("messages", {})
    if not kept:
        return request
    contexts = {place: left["context"] for place, left in kept.items() if isinstance(left.get("context"), str)}
    messages = [
        Message(message.role, tuple(_with_contexts(message.parts, index, contexts)))
        for index, message in enumerate(request.messages)
    ]
    return _with_settings_of_the_turn(msgspec.structs.replace(request, messages=messages), kept)


def _with_tools_of_the_end(request: ChatRequest) -> ChatRequest:
    """The request with the tools that its conversation adds and without those it removes, as in the SDKs' runners."""
    changes = [
        change
        for index, message in enumerate(request.messages)
        for number, part in enumerate(message.parts)
        for change in _changes(part, request.extra.get("messages", {}).get(f"{index}.{number}", {}))
    ]
    if not changes:
        return request
    declared: tuple[Tool | ServerTool, ...] = (*request.tools, *request.server_tools)
    known = {_name_of(one): one for one in declared}
    offered = dict(known)
    for change in changes:
        tool = change.get("tool")
        if not isinstance(tool, dict):
            raise BadRequest("`tool` is missing from a tool change.", param="messages")
        if isinstance(definition := tool.get("definition"), dict):
            added = read_tool(definition, "messages")
            known[_name_of(added)] = added
            tool = definition
        elif tool.get("type") != "tool_reference":
            # A tool of an MCP server, which is refused as such.
            continue
        name = str(tool.get("name"))
        if change["type"] == "tool_removal":
            offered.pop(name, None)
        elif name in known:
            offered[name] = known[name]
    return msgspec.structs.replace(
        request,
        tools=tuple(tool for tool in offered.values() if isinstance(tool, Tool)),
        server_tools=tuple(tool for tool in offered.values() if isinstance(tool, ServerTool)),
        messages=[
            Message(message.role, tuple(part for part in message.parts if not _is_change(part)))
            for message in request.messages
        ],
    )


def _with_settings_of_the_turn(request: ChatRequest, kept: dict[str, Any]) -> ChatRequest:
    """The request without instructions for past turns, and with the effort that is set for the current turn."""
    turn = max((index for index, message in enumerate(request.messages) if message.role == "user"), default=-1)
    messages, reasoning = [], request.reasoning
    for index, message in enumerate(request.messages):
        settings = kept.get(str(index), {})
        config = settings.get("output_config")
        if index > turn and isinstance(config, dict) and config.get("effort") in get_args(Effort):
            reasoning = msgspec.structs.replace(reasoning or Reasoning(), effort=config["effort"])
        if (index > turn or settings.get("clear_at") != "next_user_message") and message.parts:
            messages.append(message)
    return msgspec.structs.replace(request, messages=messages, reasoning=reasoning)


def _name_of(tool: Tool | ServerTool) -> str:
    """The name by which changes refer to a tool; MCP toolsets have none and get a unique one."""
    return tool.name if isinstance(tool, Tool) else str(tool.raw.get("name") or id(tool))


def _is_change(part: Part) -> bool:
    return isinstance(part, ServerToolPart) and part.raw.get("type") in _TOOL_CHANGES


def _changes(part: Part, left: dict[str, Any]) -> list[dict[str, Any]]:
    """The tool changes of a part: itself, or those that a compaction carries over from the turns it replaces."""
    if isinstance(part, ServerToolPart) and _is_change(part):
        return [part.raw]
    rows = left.get("tool_changes") if left.get("type") == "compaction" else None
    changes = rows if isinstance(rows, list) else []
    return [row for row in changes if isinstance(row, dict) and row.get("type") in _TOOL_CHANGES]


def _with_contexts(parts: Sequence[Part], index: int, contexts: dict[str, str]) -> Iterator[Part]:
    for number, part in enumerate(parts):
        if isinstance(part, File) and (context := contexts.get(f"{index}.{number}")):
            yield Text(context)
        yield part


def _told(text: Text) -> Text:
    """The instruction without the billing line."""
    if not text.text.startswith(ATTRIBUTION):
        return text
    return msgspec.structs.replace(text, text=text.text.partition("\n")[2])


def check_crossing(request: ChatRequest) -> None:
    """Raise BadRequest for what no other dialect can do; betas that only tune the call are dropped silently."""
    if request.max_output_tokens == 0:
        raise BadRequest(
            "`max_tokens` must be at least 1: this model does not support filling the prompt cache without an answer.",
            param="max_tokens",
        )
    for name in REFUSED_ELSEWHERE:
        if request.extra.get(name):
            raise BadRequest(f"This model does not support `{name}`.", param=name)
    billed = request.extra.get("billing_policy")
    if isinstance(billed, dict) and billed.get("bill_to") not in (None, "self"):
        raise BadRequest(
            "`billing_policy.bill_to` is not supported by this model; omit `billing_policy`.", param="billing_policy"
        )
    for name, left in request.extra.get("tools", {}).items():
        callers = left.get("allowed_callers")
        if callers and isinstance(callers, list) and "direct" not in callers:
            raise BadRequest(
                f"`allowed_callers` of the tool `{name[:60]}` must include `direct`.",
                param="tools",
            )
    _check_messages(request)


def _check_messages(request: ChatRequest) -> None:
    """Raise BadRequest for content blocks that no other dialect can carry."""
    for left in request.extra.get("messages", {}).values():
        inner = left.get("content")
        if any(map(_holds_pictures, [left, *(inner if isinstance(inner, list) else ())])):
            raise BadRequest(
                "This model supports only text in documents that are made of content blocks.", param="messages"
            )
        # The caller's blocks of a tool result. A left-over with a type is a whole block instead.
        given = inner if isinstance(inner, list) and "type" not in left else []
        if unknown := [str(row.get("type")) for row in given if row.get("type") not in _INSIDE]:
            raise BadRequest(
                f"This model does not support content blocks of type `{unknown[0][:60]}`.", param="messages"
            )
    refuse_file_ids(request.messages)
    for message in request.messages:
        for part in message.parts if message.role != "assistant" else ():
            if not isinstance(part, ServerToolPart):
                continue
            kind = str(part.raw.get("type"))
            if kind == "container_upload":
                raise BadRequest(
                    "This model does not support files by id; send the file's data instead.", param="messages"
                )
            if not kind.endswith(("_tool_use", "_tool_result")):
                # Unlike the work of a server tool, this is the caller's content and must not be dropped silently.
                raise BadRequest(f"This model does not support content blocks of type `{kind[:60]}`.", param="messages")


def _holds_pictures(block: Any) -> bool:
    """Whether the block is a document of content blocks that are not all text; `File` holds only their text."""
    source = block.get("source") if isinstance(block, dict) else None
    content = source.get("content") if isinstance(source, dict) else None
    return isinstance(content, list) and any(row.get("type") != "text" for row in content)


DIALECT = Dialect(
    name="anthropic",
    read_request=read_request,
    write_request=write_request,
    read_reply=read_reply,
    write_reply=write_reply,
    reader=Reader,
    writer=Writer,
    losses=LOSSES,
    repeats=True,
    check_crossing=check_crossing,
)
