"""Reading `POST /v1/embeddings`: every input kind is bounded, every mistake names its field."""

from __future__ import annotations

import pytest

from elkapi.catalog.families.openai import EMBEDDING_ITEMS_MAX, FRAME_TOKENS_PER_ITEM, read_embeddings
from elkapi.errors import BadRequest


@pytest.mark.parametrize(
    ("value", "items", "tokens"),
    [
        (b'"hello"', 1, 5),
        ('"héé"'.encode(), 1, 5),
        (b'["a","bc"]', 2, 3),
        (b"[1,2,3]", 1, 3),
        (b"[[1,2],[3]]", 2, 3),
    ],
)
def test_each_input_kind_is_bounded_from_above(value: bytes, items: int, tokens: int) -> None:
    facts = read_embeddings(b'{"model":"m","input":' + value + b',"future":{"x":1}}')
    assert (facts.model, facts.items) == ("m", items)
    assert facts.upper.input_tokens == tokens + FRAME_TOKENS_PER_ITEM * items


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model":"m"}', "input"),
        (b'{"model":"m","input":""}', "input"),
        (b'{"model":"m","input":[]}', "input"),
        (b'{"model":"m","input":[""]}', "input"),
        (b'{"model":"m","input":[[]]}', "input"),
        (b'{"model":"m","input":["a",1]}', "input"),
        (b'{"model":"m","input":[1.5]}', "input"),
        (b'{"model":"m","input":[-1]}', "input"),
        (b'{"model":"m","input":[[1],[-1]]}', "input"),
        (b'{"model":"m","input":{"a":1}}', "input"),
        (b'{"model":"m","input":null}', "input"),
        (b'{"model":"m","input":[true]}', "input"),
        (b'{"model":7,"input":"a"}', "model"),
        (b'{"model":"","input":"a"}', "model"),
        (b'{"model":"m","input":"a","dimensions":0}', "dimensions"),
        (b'{"model":"m","input":"a","dimensions":"3"}', "dimensions"),
        (b'{"model":"m","input":"a","encoding_format":"hex"}', "encoding_format"),
        (b'{"model":"m","input":"a","user":5}', "user"),
        (b'{"model":"m","input":[%s]}' % b",".join([b'"a"'] * (EMBEDDING_ITEMS_MAX + 1)), "input"),
    ],
)
def test_a_mistake_names_its_field(body: bytes, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_embeddings(body)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b'{"input":"\xff","model":"m"}',
        b'{"input":"a",}',
        b'{"x":' + b"[" * 100_000,
    ],
)
def test_what_is_not_a_json_object_is_told_so(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read_embeddings(body)
