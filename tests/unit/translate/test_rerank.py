"""Reranking in both forms: requests, answers sorted and within the request, counts that can be believed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from elkapi.errors import BadRequest
from elkapi.translate import rerank as r
from elkapi.translate.dialect import Unreadable
from elkapi.types import Usage

REQUEST = {"model": "m", "query": "q", "documents": ["a", {"text": "b"}, "c"]}
RESULTS = [
    {"index": 2, "relevance_score": 0.25},
    {"index": 0, "relevance_score": 0.75},
    {"index": 1, "relevance_score": 0.25},
]


def _body(value: object) -> bytes:
    return json.dumps(value).encode()


def _read(**members: Any) -> r.RerankRequest:
    return r.read_request(_body({**REQUEST, **members}))


def test_both_spellings_of_documents_and_what_limits_them_are_read() -> None:
    request = _read(top_n=2, return_documents=True, max_chunk_per_doc=4, overlap_tokens=8, max_tokens_per_doc=100)
    assert request.documents == ("a", "b", "c")
    assert (request.top_n, request.return_documents, request.max_tokens_per_doc) == (2, True, 100)


def test_cohere_gets_its_own_form() -> None:
    request = _read(top_n=9, return_documents=True, max_chunks_per_doc=4, max_tokens_per_doc=100)
    asked = {"model": "up", "query": "q", "documents": ["a", "b", "c"], "top_n": 3, "max_tokens_per_doc": 100}
    assert json.loads(r.write_cohere_request(request, "up")) == asked


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"documents": []}, "documents"),
        ({"documents": [1]}, "documents[0]"),
        ({"documents": [{"title": "x"}]}, "documents[0].text"),
        ({"query": ""}, "query"),
        ({"model": ""}, "model"),
        ({"top_n": 0}, "top_n"),
        ({"rank_fields": ["title"]}, "rank_fields"),
    ],
)
def test_a_refused_request_names_its_field(members: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        _read(**members)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("counted", "usage", "units"),
    [
        ({"usage": {"total_tokens": 12, "prompt_tokens": 11}}, Usage(input_tokens=11, calls=1), None),
        ({"usage": {"total_tokens": 12}}, Usage(input_tokens=12, calls=1), None),
        ({"usage": {"total_tokens": -1}}, None, None),
        ({"meta": {"billed_units": {"search_units": 2}}}, None, 2),
        ({"meta": {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": 9.0}}}, Usage(9, calls=1), 1),
        ({"meta": {"billed_units": {"search_units": -1}}}, None, None),
        ({"meta": {"billed_units": {"search_units": 1.5}}}, None, None),
        ({"meta": {"billed_units": {"search_units": 0}}}, None, 0),
        ({"meta": {"billed_units": {"search_units": 1000}}}, None, 1000),
        ({"meta": {"billed_units": {"search_units": 1001}}}, None, None),
        ({"meta": {"billed_units": {"input_tokens": 7}, "tokens": {"input_tokens": 9}}}, Usage(7, calls=1), None),
        ({"meta": {"tokens": {"input_tokens": 9.5}}}, None, None),
        ({"meta": {"tokens": {"input_tokens": 0}}}, Usage(0, calls=1), None),
        ({}, None, None),
    ],
)
def test_answers_of_both_forms_are_read_sorted_with_what_they_count(
    counted: dict[str, Any], usage: Usage | None, units: int | None
) -> None:
    reply = r.read_reply(_body({"id": "x", "results": RESULTS, **counted}), _read(top_n=2))
    assert reply == r.RerankReply("x", (r.Ranked(0, 0.75), r.Ranked(1, 0.25)), usage, units)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"{}",
        _body({"results": [{"index": 3, "relevance_score": 1}]}),
        _body({"results": [{"index": -1, "relevance_score": 1}]}),
        _body({"results": [RESULTS[0], RESULTS[0]]}),
        b'{"results":[{"index":0,"relevance_score":1e999}]}',
    ],
)
def test_an_answer_about_other_documents_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        r.read_reply(body, _read())


def test_a_caller_gets_its_own_documents_and_the_counts_of_both_forms() -> None:
    request = _read(return_documents=True)
    upstream = {
        "id": "id-1",
        "results": RESULTS[:2],
        "usage": {"total_tokens": 12},
        "meta": {"billed_units": {"search_units": 2}},
    }
    reply = r.read_reply(_body(upstream), request)
    results = [
        {"index": 0, "relevance_score": 0.75, "document": {"text": "a"}},
        {"index": 2, "relevance_score": 0.25, "document": {"text": "c"}},
    ]
    assert json.loads(r.write_jina_reply(reply, request, "m")) == {
        "id": "id-1",
        "model": "m",
        "results": results,
        "usage": {"prompt_tokens": 12, "total_tokens": 12},
        "meta": {"billed_units": {"search_units": 2}},
    }


def test_what_is_written_is_read_back() -> None:
    request = _read()
    reply = r.RerankReply("i", (r.Ranked(1, 0.5), r.Ranked(0, 0.25)), Usage(input_tokens=3, calls=1), 1)
    assert r.read_reply(r.write_jina_reply(reply, request, "m"), request).results == reply.results


@pytest.mark.parametrize("units", [1, 0])
def test_the_units_that_cohere_bills_are_shown_as_it_shows_them(units: int) -> None:
    reply = r.RerankReply("i", (r.Ranked(0, 0.5),), None, units)
    written = json.loads(r.write_jina_reply(reply, _read(), "m"))
    assert written["meta"] == {"billed_units": {"search_units": units}}
