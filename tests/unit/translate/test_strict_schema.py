"""Anthropic's strict schemas on OpenAI-type upstreams: held to strictly where OpenAI's rules allow it, else not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from elkapi.translate import anthropic, chat, responses
from elkapi.translate.profiles import profile_for

STRING = {"type": "string"}
WHOLE = {
    "$defs": {"Row": {"type": ["object", "null"], "properties": {}, "required": [], "additionalProperties": False}},
    "type": "object",
    "title": "Plan",
    "properties": {
        "title": STRING | {"description": "Short."},
        "day": STRING | {"format": "date"},
        "rows": {"type": "array", "items": {"$ref": "#/$defs/Row"}, "minItems": 1},
        "note": {"anyOf": [STRING, {"type": "null"}]},
        "kind": {"enum": ["a", "b"]},
    },
    "required": ["title", "day", "rows", "note", "kind"],
    "additionalProperties": False,
}


def _of(member: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": member}, "required": ["a"], "additionalProperties": False}


# What LangChain and Anthropic's SDK make of a pydantic model with a default, and other things that OpenAI refuses.
NOT_OPENAIS: list[dict[str, Any]] = [
    WHOLE | {"required": ["title"]},
    _of(_of(STRING) | {"required": []}),
    _of({"type": "array", "items": _of(STRING) | {"required": []}}),
    _of({"anyOf": [{"type": "null"}, _of(STRING) | {"required": []}]}),
    _of({"$ref": "#/$defs/Row"}) | {"$defs": {"Row": {"type": "object", "additionalProperties": True}}},
    _of({"$ref": "#/$defs/Row", "description": "The row."}) | {"$defs": {"Row": _of(STRING)}},
    _of(STRING | {"format": "uri"}),
    _of(STRING | {"default": ""}),
    _of({"allOf": [STRING]}),
    {"type": "array", "items": STRING},
    {"anyOf": [_of(STRING), _of({"type": "integer"})]},
    {"type": "object", "properties": [], "additionalProperties": False},
    {"type": "object", "required": "a", "additionalProperties": False},
    {"type": "object", "additionalProperties": False, "$defs": []},
    _of({"anyOf": {}}),
    _of(STRING | {"format": {}}),
]


def _asked(schema: dict[str, Any], strict: bool | None = True) -> bytes:
    """As a client of Anthropic's form asks for an answer and a call of this schema."""
    tool = {"name": "plan", "input_schema": schema, **({} if strict is None else {"strict": strict})}
    body = {
        "model": "m",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "Plan."}],
        "tools": [tool],
        "output_config": {"format": {"type": "json_schema", "schema": schema}},
    }
    return json.dumps(body).encode()


def _strict_in_chat(body: bytes) -> tuple[Any, Any]:
    """(`strict` of the answer, of the tool), None where it is not said."""
    request = anthropic.DIALECT.read_request(body)
    written = json.loads(chat.DIALECT.write_request(request, profile_for("openai", "gpt-4o")))
    return written["response_format"]["json_schema"].get("strict"), written["tools"][0]["function"].get("strict")


def _strict_in_responses(body: bytes) -> tuple[Any, Any]:
    request = anthropic.DIALECT.read_request(body)
    written = json.loads(responses.DIALECT.write_request(request, profile_for("openai", "gpt-5")))
    return written["text"]["format"].get("strict"), written["tools"][0].get("strict")


def test_a_schema_that_openai_takes_strictly_stays_strict() -> None:
    assert _strict_in_chat(_asked(WHOLE)) == (True, True)
    assert _strict_in_responses(_asked(WHOLE)) == (True, True)


@pytest.mark.parametrize("schema", NOT_OPENAIS)
def test_a_schema_that_openai_would_refuse_strictly_is_not_strict(schema: dict[str, Any]) -> None:
    assert _strict_in_chat(_asked(schema)) == (None, None)
    # A function is strict there unless it says otherwise.
    assert _strict_in_responses(_asked(schema)) == (None, False)


def test_a_tool_that_is_not_strict_stays_so() -> None:
    assert [_strict_in_chat(_asked(WHOLE, strict))[1] for strict in (None, False)] == [None, False]
    assert [_strict_in_responses(_asked(WHOLE, strict))[1] for strict in (None, False)] == [False, False]


def test_what_an_openai_caller_says_is_left_to_openai() -> None:
    """Its own 400 tells the caller of OpenAI's form what is wrong with the schema."""
    output = {"type": "json_schema", "json_schema": {"name": "o", "schema": {"type": "object"}, "strict": True}}
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}], "response_format": output}
    request = chat.DIALECT.read_request(json.dumps(body).encode())
    written = json.loads(responses.DIALECT.write_request(request, profile_for("openai", "gpt-5")))
    assert written["text"]["format"]["strict"] is True
