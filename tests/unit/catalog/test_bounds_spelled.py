"""A limit in other letters: servers written in Go go by `Max_Tokens`, so it must not stand beside the one held for."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from elkapi.catalog import text
from elkapi.catalog.operation import Facts
from elkapi.errors import BadRequest

ASKED = [{"role": "user", "content": "hello"}]
READERS: dict[str, tuple[Callable[[bytes], Facts], dict[str, object]]] = {
    "chat": (text.read_chat, {"model": "m", "messages": ASKED, "max_tokens": 1}),
    "completions": (text.read_completion, {"model": "m", "prompt": "hello"}),
    "responses": (text.read_responses, {"model": "m", "input": "hello", "max_output_tokens": 1}),
    "messages": (text.read_messages, {"model": "m", "messages": ASKED, "max_tokens": 1}),
}
# Go's decoder folds two letters outside ASCII into k and s.
OTHERS = [
    ("Max_Tokens", "max_tokens"),
    ("max_Tokens", "max_tokens"),
    ("Max_tokens", "max_tokens"),
    ("MAX_COMPLETION_TOKENS", "max_completion_tokens"),
    ("max_Output_tokens", "max_output_tokens"),
    ("max_to\u212aens", "max_tokens"),
    ("max_token\u017f", "max_tokens"),
    ("N", "n"),
    ("best_Of", "best_of"),
    ("Best_of", "best_of"),
]


@pytest.mark.parametrize("wire", READERS)
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize(("name", "right"), OTHERS, ids=[repr(name) for name, _ in OTHERS])
def test_a_limit_in_other_letters_is_refused_and_named(wire: str, name: str, right: str, ascii_only: bool) -> None:
    read, body = READERS[wire]
    with pytest.raises(BadRequest, match=f"write `{right}` as it is spelled here") as refused:
        read(json.dumps(body | {name: 8000}, ensure_ascii=ascii_only).encode())
    assert refused.value.param == name


@pytest.mark.parametrize("spelled", [rb'"\u004dax_tokens"', rb'"max_\u0054okens"', rb'"\u004e"'])
def test_a_letter_by_its_number_is_read_as_the_letter(spelled: bytes) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"hello"}],"max_tokens":1,%b:8000}' % spelled
    with pytest.raises(BadRequest, match="as it is spelled here"):
        text.read_chat(body)


@pytest.mark.parametrize("wire", READERS)
def test_what_only_looks_like_a_limit_passes(wire: str) -> None:
    read, body = READERS[wire]
    inside = {"type": "object", "properties": {"N": {}, "MAX_TOKENS": {}, "Best_Of": {}}}
    beside = {"metadata": {"N": "1", "Max_Tokens": "2"}, "other_tokens": 3, "thinking": {"budget_tokens": 1024}}
    tools = [{"type": "function", "name": "f", "function": {"name": "f", "parameters": inside}}]
    before = read(json.dumps(body).encode())
    after = read(json.dumps(body | beside | {"tools": tools}).encode())
    assert (after.output_limit, after.choices) == (before.output_limit, before.choices)


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize(
    ("name", "right"),
    [("Query", "query"), ("QUERY", "query"), ("Documents", "documents"), ("document\u017f", "documents")],
)
def test_what_a_rerank_reads_is_named_as_it_is_spelled(name: str, right: str, ascii_only: bool) -> None:
    body = {"model": "m", "query": "x", "documents": ["a"] * 100, name: "a query that is read with each document"}
    with pytest.raises(BadRequest, match=f"write `{right}` as it is spelled here") as refused:
        text.read_rerank(json.dumps(body, ensure_ascii=ascii_only).encode())
    assert refused.value.param == name


def test_a_document_may_hold_members_of_such_names() -> None:
    documents = [{"text": "a", "Query": "b", "DOCUMENTS": []}]
    assert text.read_rerank(json.dumps({"model": "m", "query": "x", "documents": documents}).encode()).model == "m"
