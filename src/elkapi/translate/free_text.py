"""Rewrite custom tools (with free-text input) as functions of one string, for upstreams that support only functions.

The responses writer extracts the text from calls again (`responses_object.unwrapped`). The grammar of the text, which
such an upstream cannot enforce, goes into the description.
"""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.translate.ir import ChatRequest, Message, Part, Tool, ToolCall, ToolResult
from elkapi.translate.profiles import Profile

MEMBER = "input"
SCHEMA: dict[str, Any] = {"type": "object", "properties": {MEMBER: {"type": "string"}}, "required": [MEMBER]}


def custom_tools_for(request: ChatRequest, profile: Profile) -> ChatRequest:
    """The request as the model accepts it. Only responses callers, whose writer extracts the free text again."""
    if request.dialect != "responses" or profile.custom_tools:
        return request
    return as_functions(request)


def as_functions(request: ChatRequest) -> ChatRequest:
    """The request with custom tools and calls as functions; the same object if it has none."""
    called = any(isinstance(part, ToolCall) and part.custom for turn in request.messages for part in turn.parts)
    if not called and not any(tool.custom for tool in request.tools):
        return request
    return msgspec.structs.replace(
        request,
        tools=tuple(_function(tool) if tool.custom else tool for tool in request.tools),
        messages=[Message(turn.role, tuple(_part(part) for part in turn.parts)) for turn in request.messages],
    )


def _function(tool: Tool) -> Tool:
    described = tool.description or ""
    definition = tool.format.get("definition") if isinstance(tool.format, dict) else None
    if isinstance(definition, str):
        described = f"{described}\n\n`{MEMBER}` must follow this grammar:\n{definition}".lstrip()
    return Tool(tool.name, described or None, SCHEMA, cache_ttl=tool.cache_ttl)


def _part(part: Part) -> Part:
    if isinstance(part, ToolCall) and part.custom:
        arguments = msgspec.json.encode({MEMBER: part.arguments}).decode()
        return msgspec.structs.replace(part, arguments=arguments, custom=False)
    if isinstance(part, ToolResult) and part.custom:
        return msgspec.structs.replace(part, custom=False)
    return part
