"""Rewrite a tool search that the client runs as a function, for upstreams that support only functions.

The tool becomes a function, its calls and outputs those of a function, and the tools that a search found are declared.
`responses_writer` converts the function's calls back to `tool_search_call`. The writers refuse a search that the
provider would run, like every tool of a single provider.
"""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.translate.ir import ChatRequest, Message, Part, ServerTool, ServerToolPart, Text, Tool, ToolCall, ToolResult
from elkapi.translate.responses_request import read_tools

NAME = "tool_search"


def tool_search_for(request: ChatRequest) -> ChatRequest:
    """The request with its tool search as a function, unchanged if it has none. Raises BadRequest for a bad tool."""
    found = next((tool for tool in request.server_tools if _by_client(tool)), None)
    if found is None:
        return request
    spaces = dict(request.extra.get("namespaces", {}))
    rows = [row for turn in request.messages for part in turn.parts for row in _found(part)]
    # A search may find a tool that is already known.
    tools = {tool.name: tool for tool in (*request.tools, _function(found.raw), *read_tools(rows, spaces)[0])}
    return msgspec.structs.replace(
        request,
        tools=tuple(tools.values()),
        server_tools=tuple(tool for tool in request.server_tools if tool is not found),
        messages=[Message(turn.role, tuple(map(_part, turn.parts))) for turn in request.messages],
        extra={**request.extra, "namespaces": spaces, NAME: found.raw},
    )


def _by_client(tool: ServerTool) -> bool:
    return tool.dialect == "responses" and tool.kind == NAME and tool.raw.get("execution") == "client"


def _function(row: dict[str, Any]) -> Tool:
    described, schema = row.get("description"), row.get("parameters")
    return Tool(
        NAME,
        described if isinstance(described, str) else "Finds more tools to call.",
        schema if isinstance(schema, dict) else {"type": "object", "properties": {"query": {"type": "string"}}},
    )


def _found(part: Part) -> list[dict[str, Any]]:
    """The declarations of the tools that a search found."""
    if not isinstance(part, ServerToolPart) or part.raw.get("type") != f"{NAME}_output":
        return []
    tools = part.raw.get("tools")
    return [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []


def _part(part: Part) -> Part:
    if not isinstance(part, ServerToolPart) or not isinstance(call_id := part.raw.get("call_id"), str):
        return part
    if part.raw.get("type") == f"{NAME}_call":
        return ToolCall(call_id, NAME, msgspec.json.encode(part.raw.get("arguments") or {}).decode())
    if part.raw.get("type") == f"{NAME}_output":
        names = [tool.name for tool in read_tools(_found(part), {})[0]]
        told = f"These tools can be called now: {', '.join(names)}." if names else "No tool was found."
        return ToolResult(call_id, (Text(told),), NAME)
    return part
