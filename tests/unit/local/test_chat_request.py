"""What the bundled chat model may be asked: honoured, harmless, or refused by name; and its schemas."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from elkapi.errors import BadRequest, NotFound
from elkapi.local.chat.request import read_chat, read_count
from elkapi.local.chat.rows import BUNDLED_CHAT

NAME = BUNDLED_CHAT.id
HI = [{"role": "user", "content": "hi"}]
WINDOW = 512


def read(**members: Any) -> dict[str, Any]:
    """The runtime's body of a request."""
    body = msgspec.json.encode({"model": NAME, "messages": HI} | members)
    return dict(msgspec.json.decode(read_chat(body, BUNDLED_CHAT, WINDOW).body))


def refused(**members: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        read(**members)
    return caught.value


def test_what_can_be_honoured_reaches_the_runtime() -> None:
    asked = read(temperature=0, top_p=0.5, top_k=7, stop="x", seed=5, presence_penalty=1, frequency_penalty=-1)
    expected = {"temperature": 0.0, "top_p": 0.5, "top_k": 7, "stop": ["x"], "seed": 5, "presence_penalty": 1.0}
    assert asked.items() >= (expected | {"frequency_penalty": -1.0}).items()
    assert read(logit_bias={"5": -100})["logit_bias"] == {"5": -100.0}
    assert read(stop=["a", "b"])["stop"] == ["a", "b"]


def test_what_is_not_said_is_the_authors_advice() -> None:
    asked = read()
    assert (asked["temperature"], asked["top_p"]) == (BUNDLED_CHAT.temperature, BUNDLED_CHAT.top_p)
    assert (asked["top_k"], asked["min_p"]) == (0, 0.0)
    assert "seed" not in asked
    assert asked["cache_prompt"] is False


@pytest.mark.parametrize(
    ("members", "tokens"),
    [
        ({"max_tokens": 3}, 3),
        ({"max_tokens": 3, "max_completion_tokens": 4}, 4),
        ({"max_tokens": 10**9}, WINDOW),
        ({}, min(BUNDLED_CHAT.output_default, WINDOW)),
    ],
)
def test_the_length_of_an_answer_is_always_bounded(members: dict[str, int], tokens: int) -> None:
    assert read(**members)["max_tokens"] == tokens


@pytest.mark.parametrize("seed", [-1, 0, 2**32 - 1, 2**63])
def test_a_seed_is_never_the_runtimes_word_for_drawing_one(seed: int) -> None:
    assert 0 <= read(seed=seed)["seed"] < 2**32 - 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("functions", [{"name": "f"}]),
        ("function_call", {"name": "f"}),
        ("n", 2),
        ("n", True),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "x"}),
        ("reasoning_effort", "low"),
        ("web_search_options", {}),
        ("prediction", {"type": "content", "content": "x"}),
        ("typical_p", 0.5),
        ("grammar", "root ::= x"),
        ("temperature", 2.1),
        ("top_p", 0),
        ("max_tokens", 0),
        ("max_tokens", "many"),
        ("stop", ["a", "b", "c", "d", "e"]),
        ("stop", [""]),
        ("top_logprobs", 3),
        ("response_format", {"type": "xml"}),
        ("response_format", {"type": ["text"]}),
        ("response_format", {"type": "json_schema"}),
        ("logit_bias", {str(n): 1 for n in range(301)}),
        ("messages", []),
        ("messages", "hi"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(name: str, value: Any) -> None:
    error = refused(**{name: value})
    assert error.status == 400
    assert error.param == name


@pytest.mark.parametrize("value", [None, [], 1, "none"])
def test_a_refusable_field_that_asks_for_nothing_is_let_through(value: Any) -> None:
    names = {"tools": (None, []), "n": (None, 1), "tool_choice": (None, "none"), "reasoning_effort": (None, "none")}
    for name, harmless in names.items():
        if value in harmless:
            assert read(**{name: value}) == read()


def test_fields_that_change_nothing_are_let_through() -> None:
    assert read(user="u", metadata={"a": "b"}, store=True, service_tier="auto") == read()


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "content": "x", "tool_call_id": "1"},
        {"role": "alien", "content": "x"},
        {"role": ["user"], "content": "x"},
        {"content": "x"},
        {"role": "user"},
        {"role": "user", "content": 5},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]},
        {"role": "user", "content": [{"type": "text"}]},
        {"role": "user", "content": ["x"]},
        {"role": "user", "content": "x", "name": "Anna"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
    ],
)
def test_a_message_the_model_cannot_take_in_is_refused(message: Any) -> None:
    error = refused(messages=[*HI, message])
    assert error.param == "messages"
    assert "messages[1]" in error.message


def test_texts_are_joined_and_developers_speak_as_the_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    asked = read(messages=[{"role": "developer", "content": "be short"}, {"role": "user", "content": parts}])
    assert asked["messages"] == [{"role": "system", "content": "be short"}, {"role": "user", "content": "ab"}]


def test_two_closing_messages_of_the_assistant_are_refused() -> None:
    closing = {"role": "assistant", "content": "so"}
    assert read(messages=[*HI, closing])["messages"][-1] == closing
    assert refused(messages=[*HI, closing, closing]).param == "messages"


def test_another_model_is_not_found() -> None:
    with pytest.raises(NotFound) as caught:
        read(model="gpt-4o")
    assert caught.value.code == "model_not_found"
    with pytest.raises(NotFound):
        read_count(msgspec.json.encode({"model": "gpt-4o", "messages": HI}), BUNDLED_CHAT)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model":1}', b'{"a":"\\ud800"}', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read_chat(body, BUNDLED_CHAT, WINDOW)


def schema_of(schema: Any) -> Any:
    asked = read(
        response_format={"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": schema}}
    )
    return asked["response_format"]["json_schema"]["schema"]


def test_an_enforceable_schema_passes_as_it_is() -> None:
    schema = {
        "type": "object",
        "properties": {
            "pattern": {"type": "string", "pattern": "^[a-z]+$"},
            "when": {"type": "string", "format": "date-time"},
            "n": {"type": "integer", "minimum": 1, "maximum": 9},
            "many": {"type": "array", "items": {"$ref": "#/$defs/one"}, "maxItems": 3},
        },
        "required": ["pattern"],
        "additionalProperties": False,
        "$defs": {"one": {"anyOf": [{"type": "null"}, {"enum": ["a"]}]}},
    }
    assert schema_of(schema) == schema


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "a"},
        {"type": "string", "format": "email"},
        {"type": "string", "format": ["date"]},
        {"type": "number", "minimum": 1},
        {"type": "object", "minProperties": 1},
        {"not": {"type": "string"}},
        {"type": "array", "items": {"type": "string", "uniqueItems": True}},
        {"enum": ["x" * 100] * 200},
        nested(40),
    ],
    ids=range(9),
)
def test_a_schema_that_would_not_be_enforced_is_refused(schema: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        schema_of(schema)
    assert caught.value.param == "response_format"
