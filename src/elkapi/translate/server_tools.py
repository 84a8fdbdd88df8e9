"""Tools that upstreams run themselves: each wire's word for them -> the hub's, and which of them a call may use.

Readers and bounds go by the words. What such a tool finds, reads or computes is input of the same call: a `type` that
is neither here nor a caller's own (`catalog.bounds`) is held for like one from here, but work of a member of Google's
that is missing here is covered by no hold. Anthropic's words are the hub's with a date behind them.
"""

from __future__ import annotations

from typing import Any

from elkapi.errors import BadRequest
from elkapi.translate.ir import ChatRequest, ServerTool

# The `type` of a tool, as chat-like providers spell it, and in responses.
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
# The member that declares it, in Google's spelling, or says what a retrieval looks in; a tool without a word of ours
# keeps Google's.
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
# Where OpenAI's shell runs when it is no machine of the caller's.
HOSTED = ("container_auto", "container_reference")
# Items of a response whose tool OpenAI bills by the call, for which a price record has no class.
UNPRICED_CALLS = frozenset({"file_search_call", "code_interpreter_call"})
# Words of one provider each, without another spelling: OpenAI's for programs that call tools, Groq's, Moonshot's for
# all of its own, Zhipu's, Qwen's, Ark's.
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
# The hub's words, some of which have no other spelling.
KINDS = frozenset({"web_search", "web_fetch", "x_search", "file_search", "code_execution", "mcp"})

_PLACE = ("city", "region", "country", "timezone")


def is_unpriced(item: dict[str, Any]) -> bool:
    """Whether an item of a response tells of a tool that its provider bills by the call."""
    where = item.get("environment") if item.get("type") == "shell_call" else None
    return item.get("type") in UNPRICED_CALLS or (isinstance(where, dict) and where.get("type") in HOSTED)


def place_of(search: ServerTool) -> dict[str, Any] | None:
    """Where a web search is made from, as far as the caller says it. Raises BadRequest for what is no place."""
    place = search.raw.get("user_location")
    if isinstance(place, dict):
        # Chat completions put it one member deeper.
        place = place.get("approximate") or place
    if place is None:
        return None
    if not isinstance(place, dict):
        raise BadRequest("`user_location` of a web search must be an object.", param="user_location")
    return {name: place[name] for name in _PLACE if place.get(name)}


def chosen_server_tool(request: ChatRequest) -> ServerTool | None:
    """The tool run by the upstream that the caller's choice names, as Claude Code does to search."""
    choice = request.tool_choice
    if choice is None or choice.mode != "named" or any(tool.name in choice.names for tool in request.tools):
        return None
    return next((tool for tool in request.server_tools if tool.raw.get("name") in choice.names), None)


def offered_server_tools(request: ChatRequest) -> tuple[ServerTool, ...]:
    """The tools that the upstream may run: none where the caller wants no tool used."""
    choice = request.tool_choice
    return () if choice is not None and choice.mode == "none" else request.server_tools
