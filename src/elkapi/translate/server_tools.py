"""Tools that upstreams run themselves: each wire's word for them -> the hub's. Data; readers and bounds go by it.

What such a tool finds, reads or computes is input of the same call, so a word that is missing here is work that no hold
covers. Anthropic's words are the hub's with a date behind them.
"""

from __future__ import annotations

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
# The member that declares it, in Google's spelling; a tool without a word of ours keeps Google's.
GEMINI = {
    "googleSearch": "web_search",
    "googleSearchRetrieval": "web_search",
    "enterpriseWebSearch": "web_search",
    "codeExecution": "code_execution",
    "urlContext": "web_fetch",
    "fileSearch": "fileSearch",
    "googleMaps": "googleMaps",
}
# The hub's words, some of which have no other spelling.
KINDS = frozenset({"web_search", "web_fetch", "file_search", "code_execution", "mcp"})
