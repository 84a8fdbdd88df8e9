"""The script: what a model says to which question, and what it counts; and instances of JSON schemas."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elkapi.sandbox import script
from elkapi.sandbox.messages import Problem
from elkapi.sandbox.schema import instance
from elkapi.sandbox.script import reply_to
from elkapi.sandbox.talk import Ask, Call, Refusal, Reply, Result, Text, Thinking, Tool, Turn, part_tokens, pieces

DOCUMENT = Path(__file__).parents[3] / "docs" / "sandbox.md"

WEATHER = Tool("get_weather", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
CLOCK = Tool("clock", {"type": "object", "properties": {}})
SHELL = Tool("shell", custom=True)


def told(text: str, **more: Any) -> Reply:
    return reply_to(Ask(turns=(Turn("user", text),), **more))


@pytest.mark.parametrize(
    ("text", "more", "parts", "finish"),
    [
        ("hello there", {}, [Text("You said: hello there")], "stop"),
        ("[[say: a]][[say: b]]", {}, [Text("a"), Text("b")], "stop"),
        ("[[think: hm]] hi", {}, [Thinking("hm"), Text("You said: hi")], "stop"),
        ("[[refuse: no]]", {}, [Refusal("no")], "refusal"),
        ("[[finish: filter]] x", {}, [Text("You said: x")], "filter"),
        ("[[tokens: 3]]", {}, [Text("w000 w001 w002")], "stop"),
        ('[[json: {"a": [[1]]}]]', {}, [Text('{"a": [[1]]}')], "stop"),
        ('[[tools: f {"a":[[1]]}; g]]', {}, [Call("f", '{"a":[[1]]}'), Call("g", "{}")], "tools"),
        ('[[say: so]] [[tools: shell "ls; pwd"]]', {}, [Text("so"), Call("shell", "ls; pwd", custom=True)], "tools"),
        ('[[tools: f {"a":1}; g]]', {"parallel": False}, [Call("f", '{"a":1}')], "tools"),
        ("[[tools: f]] x", {"choice": "none"}, [Text("You said: x")], "stop"),
        ("use get_weather", {"tools": (WEATHER, CLOCK)}, [Call("get_weather", '{"city":"city"}')], "tools"),
        ("get_weathers", {"tools": (WEATHER,)}, [Text("You said: get_weathers")], "stop"),
        ("x", {"tools": (WEATHER, CLOCK), "choice": "tool:clock"}, [Call("clock", "{}")], "tools"),
        ("x", {"tools": (CLOCK, WEATHER), "choice": "required"}, [Call("clock", "{}")], "tools"),
        ("x", {"tools": (SHELL,), "choice": "required"}, [Call("shell", "x", custom=True)], "tools"),
        ("clock", {"tools": (CLOCK,), "choice": "none"}, [Text("You said: clock")], "stop"),
        ("x", {"schema": WEATHER.schema}, [Text('{"city":"city"}')], "stop"),
        ("x", {"wants_json": True}, [Text('{"answer": "You said: x"}')], "stop"),
        (
            "x",
            {"wants_json": True, "system": f"Fit this JSON schema: {json.dumps(WEATHER.schema)}."},
            [Text('{"city":"city"}')],
            "stop",
        ),
        ("x", {"wants_json": True, "system": "JSON schema: {"}, [Text('{"answer": "You said: x"}')], "stop"),
        ("x", {"system": f"JSON schema: {json.dumps(WEATHER.schema)}"}, [Text("You said: x")], "stop"),
        ("x", {"thinks_tokens": 2}, [Thinking("think1 think2"), Text("You said: x")], "stop"),
        ("one two", {"stops": ("two",)}, [Text("You said: one ")], "stop_sequence"),
        ("one two", {"output_tokens_max": 3}, [Text("You said: one")], "length"),
        ("x", {"thinks_tokens": 2, "output_tokens_max": 1}, [Thinking("think1")], "length"),
        ("[[tools: f]]", {"output_tokens_max": 1}, [], "length"),
        ("hi [sandbox: status=500, times=1]", {}, [Text("You said: hi")], "stop"),
    ],
)
def test_a_question_gets_these_parts(text: str, more: dict[str, Any], parts: list[Any], finish: str) -> None:
    reply = told(text, **more)
    assert (list(reply.parts), reply.finish) == (parts, finish)


def test_what_is_shown_is_acknowledged_and_counted() -> None:
    turn = Turn("user", "look", images=("image/png", "https://a.example/b.jpg"), files=("a.pdf",), sounds=1)
    reply = reply_to(Ask(turns=(turn,)))
    assert reply.text == (
        "You said: look You showed: image image/png, image https://a.example/b.jpg, file a.pdf, a sound."
    )
    assert (reply.usage.input, reply.usage.image, reply.usage.audio) == (1 + 170 + 10, 170, 10)


def test_tools_are_called_round_by_round_and_then_the_results_are_quoted() -> None:
    question = Turn("user", '[[tools: f {"a":1}; g]] [[tools: h]]')
    first = (question, Turn("assistant", calls=(Call("f", "{}"), Call("g", "{}"))))
    # The two results of one round, each in a message of its own as OpenAI has them.
    second = (*first, Turn("user", results=(Result("f", "1"),)), Turn("user", results=(Result("g", "2"),)))
    third = (*second, Turn("assistant", calls=(Call("h", "{}"),)), Turn("user", "<note>", results=(Result("h", "3"),)))
    replies = [reply_to(Ask(turns=turns)) for turns in ((question,), second, third)]
    assert [[call.name for call in reply.calls] for reply in replies] == [["f", "g"], ["h"], []]
    assert replies[2].text == "h answered 3"


def test_a_later_step_can_use_what_the_tools_of_the_one_before_answered() -> None:
    question = Turn(
        "user", '[[tools: f; g]] [[tools: h {"a": "<{{result}}>"}; shell "echo {{result}}"]] [[then: {{result}}!]]'
    )
    first = (question, Turn("user", results=(Result("f", 'say "a"'), Result("g", "b"))))
    second = (*first, Turn("assistant", calls=(Call("h", "{}"),)), Turn("user", results=(Result("h", "c"),)))
    writing, saying = (reply_to(Ask(turns=turns, tools=(SHELL,))) for turns in (first, second))
    function, free = writing.calls
    assert json.loads(function.arguments) == {"a": '<say "a"\nb>'}
    assert free.arguments == 'echo say "a"\nb'
    assert saying.text == "c!"
    assert reply_to(Ask(turns=(question,))).calls == (Call("f", "{}"), Call("g", "{}"))


def test_a_forced_tool_is_not_forced_again_after_its_results() -> None:
    turns = (
        Turn("user", "x"),
        Turn("assistant", calls=(Call("clock", "{}"),)),
        Turn("user", results=(Result("clock", "9"),)),
    )
    assert reply_to(Ask(turns=turns, tools=(CLOCK,), choice="required")).text == "clock answered 9"
    then = (Turn("user", "[[tools: clock]][[then: done]]"), *turns[1:])
    assert reply_to(Ask(turns=then, tools=(CLOCK,))).text == "done"


def test_every_word_is_documented_and_every_documented_word_works() -> None:
    documented = re.findall(r"^\| `(\[\[([a-z-]+): .*?\]\])` \|", DOCUMENT.read_text(), re.MULTILINE)
    described = re.findall(r"^    \[\[([a-z-]+): ", script.__doc__ or "", re.MULTILINE)
    assert [word for _, word in documented] == described
    for example, _ in documented:
        assert told(example).parts


def test_an_old_script_does_not_answer_a_new_question() -> None:
    turns = (Turn("user", "[[say: old]]"), Turn("assistant", "old"), Turn("user", "new"))
    assert reply_to(Ask(turns=turns)).text == "You said: new"


def test_counts_are_what_the_parts_hold_and_what_the_script_asks_for() -> None:
    reply = told('[[think: a b]][[say: c d e]][[tools: f {"a":1}]][[cached: 100]][[cache-write: 50]]')
    assert reply.usage.output == sum(map(part_tokens, reply.parts)) == 2 + 3 + 2
    assert (reply.usage.reasoning, reply.usage.input, reply.usage.cached, reply.usage.cache_write) == (2, 150, 100, 50)
    assert told("[[input: 250000]]").usage.input == 250_000
    assert told("[[tokens: 500]]").usage.output == 500
    assert told("[[takes: 150ms]]").takes_s == 0.15


@given(st.text(max_size=60))
def test_pieces_are_the_text_and_one_token_each(text: str) -> None:
    assert "".join(pieces(text)) == text


@pytest.mark.parametrize(
    "text", ["[[sey: a]]", "[[say: a", "[[tools: ]]", "[[tools: f {a]]", "[[tokens: x]]", "[[finish: well]]",
               "[[tokens: 999999999]]", "[[json: x]]", "[[takes: long]]", "[[tools: f {} ]"],
)  # fmt: skip
def test_a_script_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Problem) as refused:
        told(text)
    assert (refused.value.status, refused.value.code) == (400, "sandbox_script_invalid")


SCHEMAS: list[tuple[Any, Any]] = [
    ({"type": "string"}, "text"),
    ({"type": "string", "minLength": 6}, "texttex"[:6]),
    ({"type": "string", "maxLength": 2}, "te"),
    ({"type": "string", "format": "date"}, "2026-01-02"),
    ({"type": "string", "pattern": "^[0-9]{3}$"}, "000"),
    ({"type": "integer"}, 1),
    ({"type": "integer", "minimum": 3, "maximum": 5}, 3),
    ({"type": "integer", "exclusiveMinimum": 3}, 4),
    ({"type": "integer", "maximum": -3}, -3),
    ({"type": "integer", "minimum": 10, "multipleOf": 7}, 14),
    ({"type": "number", "minimum": 0.125, "maximum": 0.25}, 0.1875),
    ({"type": ["null", "boolean"]}, True),
    ({"type": "null"}, None),
    ({"const": {"a": 1}}, {"a": 1}),
    ({"enum": ["x", "y"]}, "x"),
    ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, 1),
    ({"type": "array", "items": {"type": "string"}, "minItems": 2, "uniqueItems": True}, ["text", "text1"]),
    ({"type": "array", "prefixItems": [{"const": 1}], "maxItems": 1}, [1]),
    ({"type": "OBJECT", "properties": {"n": {"type": "INTEGER"}}}, {"n": 1}),
    ({"$defs": {"a": {"type": "boolean"}}, "properties": {"b": {"$ref": "#/$defs/a"}}}, {"b": True}),
    ({"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}}]}, {"b": 2, "a": 1}),
    ({"type": "object", "required": ["z"]}, {"z": "z"}),
    (True, {}),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "value"), SCHEMAS, ids=[json.dumps(schema)[:50] for schema, _ in SCHEMAS])
def test_an_instance_of_a_schema_is_valid_and_always_the_same(schema: Any, value: Any) -> None:
    assert instance(schema) == value


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^(a+)+$"},
        {"type": "string", "pattern": "^([0-9-]*){8}x$"},
        {"type": "string", "pattern": "^" + ".*" * 12 + "x$"},
    ],
)
def test_a_pattern_that_could_take_for_ever_is_not_tried(schema: Any) -> None:
    assert instance({"type": "object", "properties": {"a" * 40 + "!": schema}}) == {"a" * 40 + "!": "a" * 40 + "!"}
    assert instance(schema) == "text"


def test_a_schema_that_holds_itself_ends() -> None:
    node = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}}
    assert len(json.dumps(instance(node))) < 200
    forced = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    assert "next" in instance(forced)
    assert instance({"$ref": "#"}) == {}
