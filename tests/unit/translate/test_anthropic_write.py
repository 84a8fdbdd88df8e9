"""Anthropic bodies as they are written for callers of other dialects."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from elkapi.errors import BadRequest
from elkapi.translate.anthropic import DIALECT
from elkapi.translate.claude import JSON_INSTRUCTION, OUTPUT_TOOL, tool_id
from elkapi.translate.converse import DIALECT as BEDROCK
from elkapi.translate.ir import (
    ChatRequest,
    File,
    Message,
    OutputFormat,
    Reasoning,
    Refusal,
    Role,
    ServerTool,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from elkapi.translate.profiles import Profile, profile_for
from tests.translate_anthropic import (
    ADAPTIVE,
    BUDGET,
    EPHEMERAL,
    GOOD,
    NEWEST,
    OLD,
    SCHEMA,
    asked,
    body_of,
    rewritten,
    user_says,
)

CALL = ToolCall("call:1/x", "now", "")


LOOP = [
    Message("user", (Text("time?"),)),
    Message("assistant", (Text("I look. "), CALL)),
    Message("user", (Text("and then"), ToolResult("call:1/x", (Text("12:00"),), is_error=True))),
]


def test_a_tool_loop_of_another_dialect() -> None:
    body = body_of(messages=LOOP, tools=(Tool("now"),), max_output_tokens=50)
    id = tool_id("call:1/x")
    assert id != "call:1/x"
    assert tool_id(id) == id
    assert body == {
        "model": "m",
        "max_tokens": 50,
        "messages": [
            {"role": "user", "content": "time?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "I look. "},
                    {"type": "tool_use", "id": id, "name": "now", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": id, "content": "12:00", "is_error": True},
                    {"type": "text", "text": "and then"},
                ],
            },
        ],
        "tools": [{"name": "now", "input_schema": {"type": "object", "properties": {}}}],
    }


def test_a_conversation_begins_with_the_user_and_every_instruction_stands_before_it() -> None:
    messages = [
        Message("assistant", (Refusal("No."),)),
        Message("system", (Text("Later."),)),
        Message("user", (Text(""),)),
        Message("assistant", (Text("Well \n"),)),
    ]
    body = body_of(messages=messages, system=(Text("First.", "1h"),), output=OutputFormat("json"))
    assert [text["text"] for text in body["system"][:2]] == ["First.", "Later."]
    assert "JSON" in body["system"][2]["text"]
    assert body["messages"] == [
        {"role": "user", "content": "..."},
        {"role": "assistant", "content": [{"type": "text", "text": "No."}, {"type": "text", "text": "Well"}]},
    ]


IN_PLACE = ["claude-opus-4-8", "claude-opus-5", "claude-opus-5-5", "anthropic.claude-sonnet-5-5", "claude-fable-5@1"]


def said(role: Role, *texts: str) -> Message:
    return Message(role, tuple(Text(text) for text in texts))


@pytest.mark.parametrize("model", IN_PLACE)
def test_a_later_instruction_stands_after_the_users_turn_where_claude_takes_it(model: str) -> None:
    """Directly after a user's turn, and last or before an assistant's; never first."""
    messages = [
        said("user", "hi"),
        said("system", "Be brief."),
        said("user", "who?"),
        said("assistant", "I."),
        said("system", "Be kind.", " ", "Rhyme."),
        said("system", ""),
        said("user", "why?"),
        said("assistant", "So."),
        said("system", "End."),
    ]
    profile = profile_for("anthropic", model)
    body = body_of(profile, messages=messages, system=(Text("First."),), output=OutputFormat("json"))
    assert [text["text"] for text in body["system"]] == ["First.", JSON_INSTRUCTION]
    rows = [
        ("user", [{"type": "text", "text": "hi"}, {"type": "text", "text": "who?"}]),
        ("system", "Be brief."),
        ("assistant", "I."),
        ("user", "why?"),
        ("system", [{"type": "text", "text": "Be kind."}, {"type": "text", "text": "Rhyme."}]),
        ("assistant", "So."),
        ("user", "Continue."),
        ("system", "End."),
    ]
    assert [(row["role"], row["content"]) for row in body["messages"]] == rows


@pytest.mark.parametrize(
    "model", ["claude-opus-4-7", "claude-sonnet-5", "claude-sonnet-5-20260630", "claude-haiku-4-5"]
)
def test_a_later_instruction_comes_first_for_the_other_models(model: str) -> None:
    turns = [said("user", "hi"), said("assistant", "I."), said("system", "Be kind."), said("user", "why?")]
    body = body_of(profile_for("anthropic", model), messages=turns)
    assert (body["system"], [row["role"] for row in body["messages"]]) == ("Be kind.", ["user", "assistant", "user"])


@pytest.mark.parametrize("model", IN_PLACE)
def test_a_conversation_that_grows_keeps_what_was_sent_before(model: str) -> None:
    """What precedes its thinking must not change, or the newest models refuse it; nor is a changed prefix cached."""
    call = Message("assistant", (Thinking("hm", "s", "anthropic"), CALL))
    result = Message("user", (ToolResult(CALL.id, (Text("12:00"),)),))
    grown = [
        [said("user", "hi"), said("system", "Be brief.")],
        [call, result],
        [said("assistant", "Noon."), said("system", "Be kind."), said("user", "why?")],
        [call, result, said("system", "End.")],
        [said("assistant", "So."), said("user", "bye")],
    ]
    profile = profile_for("anthropic", model)
    bodies = [
        body_of(profile, messages=[turn for more in grown[:end] for turn in more], tools=(Tool("now"),))
        for end in range(1, len(grown) + 1)
    ]
    for before, after in pairwise(bodies):
        assert after | {"messages": after["messages"][: len(before["messages"])]} == before


def test_the_limit_comes_from_the_profile_when_the_caller_names_none() -> None:
    assert body_of(BUDGET)["max_tokens"] == BUDGET.max_output_tokens


def test_tools_that_only_the_history_shows_are_declared_and_may_not_be_used() -> None:
    body = body_of(messages=LOOP)
    assert body["tools"] == [{"name": "now", "input_schema": {"type": "object"}}]
    assert body["tool_choice"] == {"type": "none"}


ADAPTIVE_SHOWN = {"type": "adaptive", "display": "summarized"}


@pytest.mark.parametrize(
    ("profile", "reasoning", "limit", "thinking", "effort"),
    [
        (BUDGET, Reasoning(effort="low"), None, {"type": "enabled", "budget_tokens": 4096}, None),
        (BUDGET, Reasoning(effort="high"), 10_000, {"type": "enabled", "budget_tokens": 8000}, None),
        (BUDGET, Reasoning(budget_tokens=9000), 4000, {"type": "enabled", "budget_tokens": 3999}, None),
        (BUDGET, Reasoning(effort="high"), 1000, None, None),
        (BUDGET, Reasoning(effort="none"), None, {"type": "disabled"}, None),
        (BUDGET, Reasoning(adaptive=True), None, {"type": "enabled", "budget_tokens": 16_384}, None),
        (ADAPTIVE, Reasoning(effort="medium"), None, ADAPTIVE_SHOWN, "medium"),
        (ADAPTIVE, Reasoning(effort="xhigh"), None, ADAPTIVE_SHOWN, "high"),
        (NEWEST, Reasoning(budget_tokens=20_000), None, ADAPTIVE_SHOWN, "high"),
        (NEWEST, Reasoning(effort="minimal", visible=False), None, {"type": "adaptive", "display": "omitted"}, "low"),
        (OLD, Reasoning(effort="high"), None, None, None),
    ],
)
def test_thinking_is_asked_for_in_the_shape_of_the_model(
    profile: Profile, reasoning: Reasoning, limit: int | None, thinking: Any, effort: str | None
) -> None:
    body = body_of(profile, reasoning=reasoning, max_output_tokens=limit, temperature=0.3)
    assert body.get("thinking") == thinking
    assert body.get("output_config", {}).get("effort") == effort
    thinks = thinking is not None and thinking["type"] != "disabled"
    assert ("temperature" in body) == (profile.sampling and not thinks)


def test_an_anthropic_caller_is_given_the_shape_of_the_mapped_model() -> None:
    body = GOOD | {"max_tokens": 9000, "thinking": {"type": "adaptive"}}
    assert rewritten(body, BUDGET)["thinking"] == {"type": "enabled", "budget_tokens": 7200}
    body = GOOD | {"max_tokens": 9000, "thinking": {"type": "enabled", "budget_tokens": 2000}}
    assert rewritten(body, NEWEST)["thinking"] == {"type": "adaptive"}
    assert rewritten(body, profile_for("anthropic", "kimi-k2"))["thinking"] == body["thinking"]


def test_thinking_by_budget_rests_inside_a_loop_whose_thoughts_are_lost() -> None:
    asked_for: dict[str, Any] = {"tools": (Tool("now"),), "reasoning": Reasoning(effort="low")}
    assert "thinking" not in body_of(messages=LOOP, **asked_for)
    assert body_of(ADAPTIVE, messages=LOOP, **asked_for)["thinking"] == ADAPTIVE_SHOWN
    kept = [LOOP[0], Message("assistant", (Thinking("hm", "s", "anthropic"), CALL)), LOOP[2]]
    body = body_of(messages=kept, **asked_for)
    assert body["thinking"]["type"] == "enabled"
    assert body["messages"][1]["content"][0] == {"type": "thinking", "thinking": "hm", "signature": "s"}


@pytest.mark.parametrize("reasoning", [Reasoning(effort="none"), Reasoning(budget_tokens=0)], ids=["effort", "budget"])
@pytest.mark.parametrize(
    ("model", "thinking", "effort"),
    [
        ("claude-opus-5-5", None, "low"),
        ("claude-opus-5-5@20260922", None, "low"),
        ("us.anthropic.claude-fable-5", None, "low"),
        ("claude-mythos-5-1", None, "low"),
        ("claude-sonnet-5-5", {"type": "between_tools"}, None),
        ("claude-sonnet-5", {"type": "disabled"}, None),
        ("claude-opus-5-20260724", {"type": "disabled"}, None),
        ("claude-haiku-5-5", {"type": "disabled"}, None),
    ],
)
def test_thinking_is_switched_off_as_far_as_the_model_lets_it_be(
    model: str, thinking: Any, effort: str | None, reasoning: Reasoning
) -> None:
    """Each refuses the others' way with a 400 (Anthropic's "Troubleshooting thinking", by model)."""
    profile = profile_for("anthropic", model)
    body = body_of(profile, reasoning=reasoning)
    assert body.get("thinking") == thinking
    assert body.get("output_config", {}).get("effort") == effort
    written = json.loads(BEDROCK.write_request(asked(reasoning=reasoning), profile)).get(
        "additionalModelRequestFields", {}
    )
    assert (written.get("thinking"), written.get("output_config", {}).get("effort")) == (thinking, effort)


CHOOSING = ["claude-opus-5-5", "claude-sonnet-5-5-20260928", "claude-fable-5-1", "eu.anthropic.claude-mythos-5-1"]


@pytest.mark.parametrize("choice", [ToolChoice("required"), ToolChoice("named", ("now",))], ids=str)
@pytest.mark.parametrize("write", [DIALECT.write_request, BEDROCK.write_request], ids=["anthropic", "converse"])
@pytest.mark.parametrize("model", CHOOSING)
def test_a_model_that_chooses_for_itself_is_not_forced_to_call_a_tool(
    model: str, write: Callable[[ChatRequest, Profile], bytes], choice: ToolChoice
) -> None:
    """They answer "any" and "tool" with a 400 ("Forced tool use is not supported"), so another channel may be asked."""
    profile = profile_for("bedrock" if write is BEDROCK.write_request else "anthropic", model)
    with pytest.raises(BadRequest) as refused:
        write(asked(tools=(Tool("now"),), tool_choice=choice), profile)
    assert refused.value.param == "tool_choice"
    for free in (ToolChoice("auto"), ToolChoice("none"), None):
        assert b"now" in write(asked(tools=(Tool("now"),), tool_choice=free, messages=LOOP), profile)


@pytest.mark.parametrize("model", ["claude-opus-5", "claude-haiku-5-5", "claude-fable-5", "claude-fable-5-20260609"])
def test_the_models_before_them_are_forced(model: str) -> None:
    body = body_of(profile_for("anthropic", model), tools=(Tool("now"),), tool_choice=ToolChoice("required"))
    assert body["tool_choice"] == {"type": "any"}


@pytest.mark.parametrize("model", CHOOSING)
def test_a_schema_with_members_of_any_name_is_told_to_a_model_that_cannot_be_forced(model: str) -> None:
    output = OutputFormat("schema", schema=ANY_NAMES)
    body = body_of(profile_for("anthropic", model), output=output, tools=(Tool("now"),), system=(Text("Be brief."),))
    assert ([tool["name"] for tool in body["tools"]], body.get("tool_choice")) == (["now"], None)
    brief, told = body["system"]
    assert brief["text"] == "Be brief."
    assert '{"type":"object","additionalProperties":{"type":"integer"}}' in told["text"]
    asked_for = asked(output=output)
    converse = json.loads(BEDROCK.write_request(asked_for, profile_for("bedrock", model)))
    assert ([row["text"] for row in converse["system"]], "toolConfig" in converse) == ([told["text"]], False)
    closed = body_of(profile_for("anthropic", model), output=OUTPUT)
    assert ("system" in closed, closed["output_config"]["format"]["type"]) == (False, "json_schema")


def test_a_forced_tool_is_stronger_than_thinking() -> None:
    body = body_of(tools=(Tool("now"),), tool_choice=ToolChoice("required"), reasoning=Reasoning(effort="low"))
    assert body["tool_choice"] == {"type": "any"}
    assert "thinking" not in body


@pytest.mark.parametrize(
    ("choice", "parallel", "written"),
    [
        (None, None, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (ToolChoice("auto"), True, {"type": "auto"}),
        (ToolChoice("none"), False, {"type": "none"}),
        (ToolChoice("required"), False, {"type": "any", "disable_parallel_tool_use": True}),
        (ToolChoice("named", ("now",)), None, {"type": "tool", "name": "now"}),
    ],
)
def test_tool_choices(choice: ToolChoice | None, parallel: bool | None, written: Any) -> None:
    body = body_of(tools=(Tool("now"), Tool("then")), tool_choice=choice, parallel_tools=parallel)
    assert body.get("tool_choice") == written


def test_a_choice_among_some_tools_declares_only_those() -> None:
    body = body_of(tools=(Tool("now"), Tool("then")), tool_choice=ToolChoice("required", ("then",)))
    assert [tool["name"] for tool in body["tools"]] == ["then"]


def test_a_custom_tool_of_responses_takes_one_string() -> None:
    call = Message("assistant", (ToolCall("a", "patch", "free text", custom=True),))
    body = body_of(dialect="responses", tools=(Tool("patch", custom=True),), messages=[LOOP[0], call])
    assert body["tools"][0]["input_schema"]["required"] == ["input"]
    assert body["messages"][1]["content"][0]["input"] == {"input": "free text"}


@pytest.mark.parametrize("call_id", ["x" * 65, "call:" + "y" * 300, "é", "", "\ud800"])
def test_a_call_of_any_id_has_one_that_claude_takes_and_its_result_the_same(call_id: str) -> None:
    turns = [Message("user", (Text("hi"),)), Message("assistant", (ToolCall(call_id, "f", "{}"),))]
    body = body_of(messages=[*turns, Message("user", (ToolResult(call_id, (Text("1"),)),))])
    written = body["messages"][1]["content"][0]["id"]
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", written)
    assert body["messages"][2]["content"][0]["tool_use_id"] == written


def test_a_choice_without_tools_is_left_out() -> None:
    assert "tool_choice" not in body_of(tool_choice=ToolChoice("auto"))


OUTPUT = OutputFormat("schema", schema=SCHEMA)


@pytest.mark.parametrize(
    "bound",
    [
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength"),
        *("maxItems", "minItems", "uniqueItems", "minProperties", "maxProperties"),
    ],
)
def test_every_bound_that_structured_outputs_refuse_is_told_in_words(bound: str) -> None:
    inside = {"type": "object", "properties": {"a": {"type": "string", bound: 2}}, "additionalProperties": False}
    schema = body_of(output=OutputFormat("schema", schema=inside))["output_config"]["format"]["schema"]
    assert schema["properties"]["a"] == {"type": "string", "description": f"{{{bound}: 2}}"}


def test_what_the_model_refused_before_is_text_to_claude() -> None:
    turns = [Message("user", (Text("a"),)), Message("assistant", (Refusal("No."),)), Message("user", (Text("b"),))]
    assert body_of(messages=turns)["messages"][1] == {"role": "assistant", "content": "No."}


def test_a_schema_is_an_output_format_with_closed_objects() -> None:
    schema = body_of(output=OUTPUT)["output_config"]["format"]["schema"]
    assert schema == SCHEMA | {"additionalProperties": False}


BOUNDED = {
    "type": "object",
    "properties": {
        "age": {"type": "integer", "minimum": 0, "maximum": 150, "description": "In years."},
        "tag": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]},
        "rows": {"type": "array", "minItems": 2, "items": {"$ref": "#/$defs/Row"}},
        "some": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "date"}},
        "maximum": {"oneOf": [{"const": {"minimum": 1}}, {"type": "string", "format": "color"}]},
    },
    "required": ["age"],
    "additionalProperties": False,
    "$defs": {"Row": {"type": ["object", "null"], "properties": {"n": {"type": "number", "exclusiveMinimum": 0.5}}}},
}


IN_WORDS = {
    "type": "object",
    "properties": {
        "age": {"type": "integer", "description": "In years.\n\n{minimum: 0, maximum: 150}"},
        "tag": {"anyOf": [{"type": "string", "description": "{maxLength: 3}"}, {"type": "null"}]},
        "rows": {"type": "array", "items": {"$ref": "#/$defs/Row"}, "description": "{minItems: 2}"},
        "some": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "date"}},
        "maximum": {"anyOf": [{"const": {"minimum": 1}}, {"type": "string", "description": "{format: color}"}]},
    },
    "required": ["age"],
    "additionalProperties": False,
    "$defs": {
        "Row": {
            "type": ["object", "null"],
            "properties": {"n": {"type": "number", "description": "{exclusiveMinimum: 0.5}"}},
            "additionalProperties": False,
        }
    },
}


def test_bounds_that_structured_outputs_refuse_are_told_in_words() -> None:
    """As Anthropic's own SDKs do (`transform_schema`); of plain tools Claude takes every schema."""
    written = body_of(output=OutputFormat("schema", schema=BOUNDED))
    assert written["output_config"]["format"]["schema"] == IN_WORDS
    tools = body_of(tools=(Tool("a", schema=BOUNDED, strict=True), Tool("b", schema=BOUNDED)))["tools"]
    assert [tool["input_schema"] for tool in tools] == [IN_WORDS, BOUNDED]


def test_a_format_that_is_no_word_is_told_in_words_too() -> None:
    schema = SCHEMA | {"format": {"a": 1}}
    written = body_of(output=OutputFormat("schema", schema=schema))["output_config"]["format"]["schema"]
    assert written == SCHEMA | {"additionalProperties": False, "description": "{format: {'a': 1}}"}


def test_a_schema_for_a_model_without_them_is_a_forced_tool() -> None:
    body = body_of(OLD, output=OUTPUT)
    assert "output_config" not in body
    assert body["tools"][0]["input_schema"] == SCHEMA
    assert body["tool_choice"] == {"type": "tool", "name": OUTPUT_TOOL, "disable_parallel_tool_use": True}
    beside = body_of(OLD, output=OUTPUT, tools=(Tool("now"),))
    assert [tool["name"] for tool in beside["tools"]] == ["now", OUTPUT_TOOL]
    assert beside["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}


ANY_NAMES = {"type": "object", "additionalProperties": {"type": "integer"}}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        ANY_NAMES,
        SCHEMA | {"additionalProperties": True},
        {"type": "object", "properties": {"counts": ANY_NAMES}, "additionalProperties": False},
        {"type": "object", "properties": {"rows": {"type": "array", "items": ANY_NAMES}}},
        {
            "type": "object",
            "properties": {"one": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/C"}]}},
            "$defs": {"C": ANY_NAMES},
        },
    ],
)
def test_a_schema_with_members_of_any_name_is_a_forced_tool(schema: dict[str, Any]) -> None:
    """Structured outputs want every object closed: a `dict` of pydantic's would be refused, or always empty."""
    body = body_of(output=OutputFormat("schema", schema=schema))
    assert "output_config" not in body
    (tool,) = body["tools"]
    assert (tool["name"], tool["input_schema"]) == (OUTPUT_TOOL, schema)
    assert body["tool_choice"] == {"type": "tool", "name": OUTPUT_TOOL, "disable_parallel_tool_use": True}


def test_who_wants_members_of_any_name_strictly_is_left_to_claude() -> None:
    """OpenAI refuses such a strict schema as well."""
    body = body_of(output=OutputFormat("schema", schema=ANY_NAMES, strict=True))
    assert body["output_config"]["format"]["schema"] == ANY_NAMES


def test_web_search_of_another_dialect() -> None:
    place = {"type": "approximate", "approximate": {"city": "Paris", "country": "FR"}}
    tool = ServerTool("web_search", "chat", {"search_context_size": "low", "user_location": place})
    assert body_of(server_tools=(tool,))["tools"] == [
        {
            "type": "web_search_20250305",
            "name": "web_search",
            "max_uses": 1,
            "user_location": {"type": "approximate", "city": "Paris", "country": "FR"},
        }
    ]


@pytest.mark.parametrize(("size", "uses"), [("low", 1), ("medium", 5), ("high", 10), ("huge", None), ([], None)])
def test_how_much_a_search_reads_becomes_how_often_it_is_made(size: Any, uses: int | None) -> None:
    tool = ServerTool("web_search", "chat", {"search_context_size": size})
    assert body_of(server_tools=(tool,))["tools"][0].get("max_uses") == uses


@pytest.mark.parametrize(("members", "uses"), [({}, 2), ({"search_context_size": "low"}, 1)])
def test_what_limits_a_responses_search_limits_claudes(members: dict[str, Any], uses: int) -> None:
    """The domains that it may not use, and how often the provider's tools may be called."""
    raw = {"type": "web_search", "filters": {"blocked_domains": ["b.example"]}, **members}
    search = ServerTool("web_search", "responses", raw)
    body = body_of(server_tools=(search,), dialect="responses", extra={"max_tool_calls": 2})
    name = {"type": "web_search_20250305", "name": "web_search"}
    assert body["tools"] == [name | {"max_uses": uses, "blocked_domains": ["b.example"]}]


@pytest.mark.parametrize("place", ["Paris", {"approximate": "Paris"}, {"type": "approximate", "approximate": ["FR"]}])
def test_a_place_that_is_none_is_not_searched_from(place: Any) -> None:
    tool = ServerTool("web_search", "chat", {"user_location": place})
    with pytest.raises(BadRequest) as refused:
        body_of(server_tools=(tool,))
    assert refused.value.param == "user_location"


def test_files_are_documents() -> None:
    files = (
        File("application/pdf", data="JVBERg==", name="a.pdf", cache_ttl="5m"),
        File("text/csv", data="YSxi"),
        File("image/png", data="aWs="),
        File("application/pdf", url="https://example.org/a.pdf"),
    )
    content = body_of(messages=[Message("user", files)])["messages"][0]["content"]
    assert [block["source"]["type"] for block in content] == ["base64", "text", "base64", "url"]
    assert [block["type"] for block in content] == ["document", "document", "image", "document"]
    assert (content[0]["title"], content[0]["cache_control"], content[1]["source"]["data"]) == (
        "a.pdf",
        EPHEMERAL,
        "a,b",
    )


@pytest.mark.parametrize("media_type", ["video/mp4", "text/html", "audio/wav"])
def test_a_file_by_url_that_says_it_is_no_pdf_is_refused_here(media_type: str) -> None:
    with pytest.raises(BadRequest, match=media_type):
        body_of(**user_says(File(media_type, url="https://example.org/film")))


@pytest.mark.parametrize(
    ("model", "asked"),
    [("claude-haiku-4-5", False), ("claude-opus-4-6", True), ("claude-sonnet-5-5", True)],
)
def test_a_model_that_takes_no_begun_answer_is_asked_to_go_on_with_it(model: str, asked: bool) -> None:
    """OpenAI goes on from any turn; Claude's newer models refuse a conversation that ends with their own."""
    said = [Message("user", (Text("hi"),)), Message("assistant", (Text("Well, "),))]
    turns = body_of(profile_for("anthropic", model), messages=said)["messages"]
    assert [turn["content"] for turn in turns] == ["hi", "Well,", *(["Continue."] if asked else [])]
