"""Schemas as Moonshot accepts them: a type, a reference or alternatives at every place, and no two of them."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from elkapi.errors import BadRequest
from elkapi.translate.chat import DIALECT
from elkapi.translate.ir import ChatRequest, Message, OutputFormat, Text, Tool
from elkapi.translate.profiles import profile_for
from elkapi.translate.typed_schema import typed

ANY = {"anyOf": [{"type": kind} for kind in ("string", "number", "boolean", "object", "array", "null")]}
STRING, INTEGER = {"type": "string"}, {"type": "integer"}
CASES: dict[str, tuple[Any, Any]] = {
    "plain": ({"type": "string", "description": "d"}, {"type": "string", "description": "d"}),
    "no type": ({"description": "d"}, {"description": "d", **ANY}),
    "anything": (True, ANY),
    "nothing": (False, False),
    "an object": ({"properties": {"a": STRING}}, {"type": "object", "properties": {"a": STRING}}),
    "a list": ({"items": {}}, {"type": "array", "items": ANY}),
    "words": ({"enum": ["a", "b"]}, {"type": "string", "enum": ["a", "b"]}),
    "one word": ({"const": 1}, {"type": "integer", "const": 1}),
    "a word or none": ({"enum": ["a", None]}, {"anyOf": [{"type": "null"}, {"type": "string", "enum": ["a"]}]}),
    "mixed": (
        {"enum": [1, "a"]},
        {"anyOf": [{"type": "integer", "enum": [1]}, {"type": "string", "enum": ["a"]}]},
    ),
    "types": ({"type": ["string", "null"], "title": "t"}, {"title": "t", "anyOf": [STRING, {"type": "null"}]}),
    "one type": ({"type": ["string"], "default": "x"}, STRING | {"default": "x"}),
    "a type that no word has": ({"type": ["string", "null"], "enum": ["a"]}, {"type": "string", "enum": ["a"]}),
    "beside alternatives": (
        {"type": "string", "description": "d", "oneOf": [{"pattern": "^a"}, {"enum": ["b"]}]},
        {"description": "d", "anyOf": [{"type": "string", "pattern": "^a"}, {"type": "string", "enum": ["b"]}]},
    ),
    "an alternative without a type": ({"anyOf": [STRING, {"title": "t"}]}, {"anyOf": [STRING, {"title": "t", **ANY}]}),
    "which are required": (
        {
            "type": "object",
            "properties": {"a": STRING, "b": STRING},
            "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
        },
        {"type": "object", "properties": {"a": STRING, "b": STRING}},
    ),
    "which there are": (
        {"type": "object", "properties": {"a": STRING}, "oneOf": [{"properties": {"b": INTEGER}, "required": ["b"]}]},
        {"type": "object", "properties": {"a": STRING, "b": INTEGER}},
    ),
    "all of them": (
        {"allOf": [{"type": "object", "properties": {"a": STRING}, "required": ["a"]}, {"properties": {"b": INTEGER}}]},
        {"type": "object", "properties": {"a": STRING, "b": INTEGER}, "required": ["a"]},
    ),
    "others": (
        {"additionalProperties": {"title": "t"}},
        {"type": "object", "additionalProperties": {"title": "t", **ANY}},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_place_has_a_type_or_alternatives(case: str) -> None:
    given, wanted = CASES[case]
    schema = {"type": "object", "properties": {"x": given}}
    before = copy.deepcopy(schema)
    assert typed(schema) == {"type": "object", "properties": {"x": wanted}}
    assert schema == before


def test_a_reference_has_nothing_beside_it() -> None:
    node = {"properties": {"next": {"$ref": "#/definitions/node", "description": "d"}}}
    written = typed(
        {"type": "object", "properties": {"n": {"$ref": "#/definitions/node"}}, "definitions": {"node": node}}
    )
    reference = written["properties"]["n"]
    assert reference.keys() == {"$ref"}
    target = written["$defs"][reference["$ref"].rpartition("/")[2]]
    assert target == {"type": "object", "properties": {"next": {"description": "d", "anyOf": [reference]}}}


def test_a_schema_that_is_too_deep_is_refused() -> None:
    schema: dict[str, Any] = dict(STRING)
    for _ in range(5_000):
        schema = {"type": "object", "properties": {"a": schema}}
    with pytest.raises(BadRequest):
        typed(schema)


def test_tools_and_formats_of_other_dialects_reach_moonshot_typed_and_others_unchanged() -> None:
    schema = {"type": "object", "properties": {"a": {"description": "d"}}}
    request = ChatRequest(
        model="kimi-k3",
        messages=[Message("user", (Text("hi"),))],
        tools=(Tool("f", schema=schema),),
        output=OutputFormat("schema", schema=schema),
        dialect="responses",
    )
    for family, expected in (("moonshot", typed(schema)), ("openrouter", schema)):
        written = json.loads(DIALECT.write_request(request, profile_for(family, "kimi-k3")))
        assert written["tools"][0]["function"]["parameters"] == expected
        assert written["response_format"]["json_schema"]["schema"] == expected
