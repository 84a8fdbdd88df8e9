"""What callers of one dialect say, and how the upstreams of every other one are told it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from elkapi.translate.dialects import DIALECTS, UPSTREAM_DIALECTS
from elkapi.translate.profiles import profile_for
from elkapi.translate.responses_request import configured

# One upstream for each way in which a form of the answer is asked for.
UPSTREAMS = [
    ("chat", "openai", "gpt-5.2"),
    ("chat", "openrouter", "anthropic/claude-3-haiku"),
    ("responses", "openai", "gpt-5.2"),
    ("anthropic", "anthropic", "claude-sonnet-5-5"),
    ("anthropic", "anthropic", "claude-3-haiku"),
    ("gemini", "gemini", "gemini-3-pro"),
    ("gemini", "gemini", "gemini-2.0-flash"),
    ("converse", "bedrock", "us.anthropic.claude-sonnet-4-5"),
    ("converse", "bedrock", "amazon.nova-pro-v1:0"),
    ("converse", "bedrock", "meta.llama3"),
]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def written(caller: str, upstream: tuple[str, str, str], **members: Any) -> str:
    """The body that an upstream of another dialect is sent, as text."""
    wire, family, model = upstream
    said = {"messages": [{"role": "user", "content": "hi"}]} if caller == "chat" else {"input": "hi"}
    request = DIALECTS[caller].read_request(json.dumps({"model": "m", **said, **members}).encode())
    return UPSTREAM_DIALECTS[wire].write_request(request, profile_for(family, model)).decode()


def asks(caller: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The members that ask for an answer of a schema, which is for a weather station."""
    form = {"name": "o", "description": "For a weather station.", "schema": schema, "strict": True}
    if caller == "chat":
        return {"response_format": {"type": "json_schema", "json_schema": form}}
    return {"text": {"format": {"type": "json_schema", **form}}}


@pytest.mark.parametrize("caller", ["chat", "responses"])
@pytest.mark.parametrize("upstream", UPSTREAMS, ids=lambda upstream: upstream[2])
def test_what_the_form_of_an_answer_is_for_is_told_to_every_model(caller: str, upstream: tuple[str, str, str]) -> None:
    assert written(caller, upstream, **asks(caller, SCHEMA)).count("For a weather station.") == 1


@pytest.mark.parametrize("upstream", UPSTREAMS, ids=lambda upstream: upstream[2])
def test_a_schema_that_says_itself_what_it_is_for_keeps_its_words(upstream: tuple[str, str, str]) -> None:
    body = written("chat", upstream, **asks("chat", SCHEMA | {"description": "For ships."}))
    assert "For ships." in body
    if upstream[0] in ("anthropic", "gemini") and "haiku" not in upstream[2]:
        assert "weather" not in body


def test_nothing_stands_beside_a_reference() -> None:
    schema = {"$ref": "#/$defs/City", "$defs": {"City": SCHEMA}}
    body = json.loads(written("chat", ("anthropic", "anthropic", "claude-sonnet-5-5"), **asks("chat", schema)))
    assert body["output_config"]["format"]["schema"] == schema


@pytest.mark.parametrize("upstream", UPSTREAMS, ids=lambda upstream: upstream[2])
def test_what_is_left_out_of_a_chat_is_listed(upstream: tuple[str, str, str]) -> None:
    """A participant's name is a chat's alone."""
    body = written("chat", upstream, messages=[{"role": "user", "name": "Ann", "content": "hi"}])
    listed = {loss.field for loss in UPSTREAM_DIALECTS[upstream[0]].losses}
    assert ("Ann" in body) is ("name of a chat participant" not in listed)


@pytest.mark.parametrize("upstream", [row for row in UPSTREAMS if row[0] != "responses"], ids=lambda row: row[2])
def test_a_search_that_may_not_go_out_is_not_offered_where_every_search_does(upstream: tuple[str, str, str]) -> None:
    """Codex asks so unless it is told otherwise; it has other tools beside."""
    wire, family, model = upstream
    tools = [{"type": "web_search", "external_web_access": False}, {"type": "function", "name": "shell"}]
    body = {"model": "m", "input": "hi", "tools": tools}
    request = configured(DIALECTS["responses"].read_request(json.dumps(body).encode()))
    sent = UPSTREAM_DIALECTS[wire].write_request(request, profile_for(family, model)).decode()
    assert "shell" in sent
    assert "search" not in sent.lower()


def test_a_search_that_goes_out_is_offered() -> None:
    for access in ({}, {"external_web_access": True}, {"external_web_access": None}):
        body = {"model": "m", "input": "hi", "tools": [{"type": "web_search", **access}]}
        request = configured(DIALECTS["responses"].read_request(json.dumps(body).encode()))
        assert [tool.kind for tool in request.server_tools] == ["web_search"]
