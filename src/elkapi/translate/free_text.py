"""Custom tools (free text in) as functions of one string, for upstreams that know only functions.

It owns the rewriting of requests; a writer that declared a tool as custom takes the text out again (`unwrapped` in
`responses_object`). The grammar of the text, which such an upstream cannot enforce, is told in the description.
"""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.translate.ir import ChatRequest, Message, Part, Tool, ToolCall, ToolResult
from elkapi.translate.profiles import Profile

MEMBER = "input"
SCHEMA: dict[str, Any] = {"type": "object", "properties": {MEMBER: {"type": "string"}}, "required": [MEMBER]}


def custom_tools_for(request: ChatRequest, profile: Profile) -> ChatRequest:
    """The request as a model takes it. Only for callers whose dialect takes the free text out of a function's call."""
    if request.dialect != "responses" or profile.custom_tools:
        return request
    return as_functions(request)


def as_functions(request: ChatRequest) -> ChatRequest:
    """The request without custom tools and calls; itself when it has none."""
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
