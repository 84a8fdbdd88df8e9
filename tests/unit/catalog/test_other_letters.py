"""Members in other letters: servers written in Go take `Tools` for `tools`, which would be served and not be held."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from elkapi.catalog import bounds, text
from elkapi.catalog.families.openai import read_embeddings
from elkapi.catalog.operation import Facts
from elkapi.errors import BadRequest

ASKED = [{"role": "user", "content": "hello"}]
READERS: dict[str, tuple[Callable[[bytes], Facts], dict[str, object]]] = {
    "chat": (text.read_chat, {"model": "m", "messages": ASKED, "max_tokens": 1}),
    "completions": (text.read_completion, {"model": "m", "prompt": "hello"}),
    "responses": (text.read_responses, {"model": "m", "input": "hello", "max_output_tokens": 1}),
    "messages": (text.read_messages, {"model": "m", "messages": ASKED, "max_tokens": 1}),
    "gemini": (text.read_generate, {"contents": [{}]}),
    "embeddings": (read_embeddings, {"model": "m", "input": "hello"}),
    "rerank": (text.read_rerank, {"model": "m", "query": "x", "documents": ["a"] * 100}),
    "moderations": (text.read_moderation, {"model": "m", "input": "hello"}),
    "gemini-embed": (text.read_gemini_embed, {"content": {}}),
    "gemini-batch-embed": (text.read_gemini_batch_embed, {"requests": [{"content": {}}]}),
    "count": (text.read_count, {"model": "m", "messages": ASKED}),
    "any": (text.read_any, {"model": "m"}),
}
# Go's decoder folds two letters outside ASCII into k and s.
OTHERS = [
    *(("chat", name) for name in ("Max_Tokens", "max_Tokens", "Max_tokens", "MAX_COMPLETION_TOKENS", "N", "Messages")),
    *(("chat", name) for name in ("max_to\u212aens", "max_token\u017f", "Tools", "tool\u017f", "Web_Search_Options")),
    *(("chat", name) for name in ("Models", "Store", "Stream", "Stream_Options", "Service_Tier", "Speed")),
    *(("completions", name) for name in ("best_Of", "Best_of", "N", "Prompt", "Models", "Max_Tokens")),
    *(("responses", name) for name in ("max_Output_tokens", "Input", "Tools", "Store", "Background", "Conversation")),
    *(("responses", name) for name in ("Previous_Response_Id", "Models", "Service_Tier", "Stream")),
    *(("messages", name) for name in ("Max_Tokens", "Tools", "MCP_Servers", "Fallbacks", "Thread", "Compaction")),
    *(("messages", name) for name in ("Context_Management", "Speed", "Inference_Geo", "Stream", "Messages")),
    *(("gemini", name) for name in ("Contents", "Tools", "GenerationConfig", "serviceTIER")),
    *(("embeddings", name) for name in ("Model", "Input", "Dimensions")),
    *(("rerank", name) for name in ("Query", "QUERY", "Documents", "document\u017f", "Top_N")),
    *(("moderations", "Input"), ("gemini-embed", "Content"), ("gemini-batch-embed", "requestS")),
    *((wire, "MODEL") for wire in ("chat", "completions", "responses", "messages", "count", "any")),
]


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize(("wire", "name"), OTHERS, ids=[f"{wire}-{name!r}" for wire, name in OTHERS])
def test_a_member_that_decides_something_is_refused_in_other_letters(wire: str, name: str, ascii_only: bool) -> None:
    read, body = READERS[wire]
    with pytest.raises(BadRequest, match=r"must be spelled `[a-zA-Z_]+`") as refused:
        read(json.dumps(body | {name: "whatever"}, ensure_ascii=ascii_only).encode())
    assert refused.value.param == name


@pytest.mark.parametrize("spelled", [rb'"\u004dax_tokens"', rb'"max_\u0054okens"', rb'"\u004e"'])
def test_a_letter_by_its_number_is_read_as_the_letter(spelled: bytes) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"hello"}],"max_tokens":1,%b:8000}' % spelled
    with pytest.raises(BadRequest, match="must be spelled"):
        text.read_chat(body)


@pytest.mark.parametrize("wire", ["chat", "completions", "responses", "messages"])
def test_what_only_looks_like_a_limit_passes(wire: str) -> None:
    read, body = READERS[wire]
    inside = {"type": "object", "properties": {"N": {}, "MAX_TOKENS": {}, "Best_Of": {}, "Model": {}}}
    beside = {"metadata": {"N": "1", "Max_Tokens": "2"}, "other_tokens": 3, "thinking": {"budget_tokens": 1024}}
    tools = [{"type": "function", "name": "f", "function": {"name": "f", "parameters": inside}}]
    before = read(json.dumps(body).encode())
    after = read(json.dumps(body | beside | {"tools": tools}).encode())
    assert (after.output_limit, after.choices) == (before.output_limit, before.choices)


SEARCHES = [
    ("chat", {"Type": "web_search_preview"}),
    ("chat", {"\u0054YPE": "web_search"}),
    ("responses", {"type": "web_search", "Max_Uses": 40}),
    ("messages", {"tYPE": "web_search_20250305", "name": "web_search"}),
    ("gemini", {"GoogleSearch": {}}),
    ("gemini", {"google\u017fearch": {}}),
    ("gemini", {"URL_CONTEXT": {}}),
]


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize(("wire", "tool"), SEARCHES, ids=str)
def test_a_tool_of_the_provider_is_held_in_any_letters(wire: str, tool: dict[str, object], ascii_only: bool) -> None:
    read, body = READERS[wire]
    facts = read(json.dumps(body | {"tools": [tool]}, ensure_ascii=ascii_only).encode())
    assert facts.upper.input_tokens > bounds.SERVED_TOOLS_TOKENS_MAX
    assert facts.upper.searches == (40 if "Max_Uses" in tool else bounds.SEARCHES_MAX)
    assert facts.open_ended


@pytest.mark.parametrize(
    ("wire", "part", "tokens"),
    [
        ("chat", {"Type": "file", "File": {"File_ID": "f"}}, bounds.REMOTE_FILE_TOKENS_MAX),
        ("chat", {"type": "video_url", "Video_Url": {"url": "https://a.example/v"}}, bounds.REMOTE_FILE_TOKENS_MAX),
        ("messages", {"type": "document", "source": {"Type": "url", "URL": "u"}}, bounds.REMOTE_FILE_TOKENS_MAX),
        ("gemini", {"FileData": {"FileUri": "f"}}, bounds.REMOTE_FILE_TOKENS_MAX),
        ("gemini", {"Inline_Data": {"Data": "aaaa"}}, bounds.IMAGE_TOKENS_MAX),
    ],
)
def test_what_a_message_refers_to_is_held_in_any_letters(wire: str, part: dict[str, object], tokens: int) -> None:
    read, body = READERS[wire]
    said = (
        {"contents": [{"parts": [part]}]} if wire == "gemini" else {"messages": [{"role": "user", "content": [part]}]}
    )
    facts = read(json.dumps(body | said).encode())
    assert facts.upper.input_tokens > tokens
    assert facts.open_ended


def test_a_text_that_begins_like_a_word_for_a_picture_is_no_picture() -> None:
    facts = text.read_chat(b'{"model":"m","messages":[{"role":"user","content":"Image of a cat; \'Audio\'"}]}')
    assert (facts.pictures, facts.open_ended, facts.wide) == (0, False, False)


def test_a_document_may_hold_members_of_such_names() -> None:
    documents = [{"text": "a", "Query": "b", "DOCUMENTS": []}]
    assert text.read_rerank(json.dumps({"model": "m", "query": "x", "documents": documents}).encode()).model == "m"
