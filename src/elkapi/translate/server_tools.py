"""Tools that upstreams run: their names in each format, their neutral kinds, and which of them a call may use.

Readers and `catalog.bounds` use these names. What such a tool finds, reads or computes is billed as input of the call.
A hold covers a `type` that is neither here nor a caller's own like one from here, but a field of Google's that is
missing here is not covered by any hold. Anthropic's types are the neutral kinds with a date suffix.
"""

from __future__ import annotations

from typing import Any

from elkapi.errors import BadRequest
from elkapi.translate.ir import ChatRequest, ServerTool

# The kinds by `type` of a tool, of chat-like providers and in responses.
CHAT = {
    "web_search": "web_search",
    "web_search_preview": "web_search",
    "google_search": "web_search",
    "code_interpreter": "code_execution",
    "code_execution": "code_execution",
}
RESPONSES = {
    "web_search": "web_search",
    "web_search_2025_08_26": "web_search",
    "web_search_preview": "web_search",
    "web_search_preview_2025_03_11": "web_search",
    "code_interpreter": "code_execution",
}
# The kinds by Google's field that declares the tool or the source of a retrieval; tools without a neutral kind keep
# Google's name.
GEMINI = {
    "googleSearch": "web_search",
    "googleSearchRetrieval": "web_search",
    "enterpriseWebSearch": "web_search",
    "codeExecution": "code_execution",
    "urlContext": "web_fetch",
    "fileSearch": "fileSearch",
    "googleMaps": "googleMaps",
    "parallelAiSearch": "parallelAiSearch",
    "exaAiSearch": "exaAiSearch",
    "mcpServers": "mcpServers",
    "externalApi": "externalApi",
    "vertexAiSearch": "vertexAiSearch",
    "vertexRagStore": "vertexRagStore",
}
# The environments of OpenAI's shell that are not the caller's machine.
HOSTED = ("container_auto", "container_reference")
# Items of a response whose tool OpenAI bills per call, which has no class in price records.
UNPRICED_CALLS = frozenset({"file_search_call", "code_interpreter_call"})
# Types that only one provider has: OpenAI's programs that call tools, Groq's, Moonshot's for all its tools, Zhipu's,
# Qwen's, Ark's.
OTHERS = frozenset(
    {
        "programmatic_tool_calling",
        "browser_search",
        "builtin_function",
        "retrieval",
        "web_extractor",
        "image_process",
        "knowledge_search",
        "doubao_app",
    }
)
# The neutral kinds.
KINDS = frozenset({"web_search", "web_fetch", "x_search", "file_search", "code_execution", "mcp"})

_PLACE = ("city", "region", "country", "timezone")


def is_unpriced(item: dict[str, Any]) -> bool:
    """Whether an item of a response is of a tool that its provider bills per call."""
    kind, where = item.get("type"), item.get("environment")
    if kind == "shell_call" and isinstance(where, dict):
        kind = where.get("type")
        return isinstance(kind, str) and kind in HOSTED
    return isinstance(kind, str) and kind in UNPRICED_CALLS


def place_of(search: ServerTool) -> dict[str, Any] | None:
    """The user location of a web search, if given. Raises BadRequest if it is not an object."""
    place = search.raw.get("user_location")
    if isinstance(place, dict):
        # Chat completions nest it one level deeper.
        place = place.get("approximate") or place
    if place is None:
        return None
    if not isinstance(place, dict):
        raise BadRequest("`user_location` of a web search must be an object.", param="user_location")
    return {name: place[name] for name in _PLACE if place.get(name)}


def chosen_server_tool(request: ChatRequest) -> ServerTool | None:
    """The server tool that the tool choice names, as Claude Code does to search; None if there is none."""
    choice = request.tool_choice
    if choice is None or choice.mode != "named" or any(tool.name in choice.names for tool in request.tools):
        return None
    return next((tool for tool in request.server_tools if tool.raw.get("name") in choice.names), None)


def offered_server_tools(request: ChatRequest) -> tuple[ServerTool, ...]:
    """The tools that the upstream may run: none if the tool choice is `none`."""
    choice = request.tool_choice
    return () if choice is not None and choice.mode == "none" else request.server_tools
