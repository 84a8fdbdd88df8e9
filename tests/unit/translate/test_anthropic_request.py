"""Anthropic bodies: read and written back without loss; written for callers of other dialects by the contract."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext, suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elkapi.errors import BadRequest
from elkapi.translate.anthropic import DIALECT, LOSSES, check_crossing, read_count_request, told_elsewhere
from elkapi.translate.claude import OUTPUT_TOOL, tool_id
from elkapi.translate.ir import (
    Audio,
    File,
    Image,
    Message,
    OutputFormat,
    Reasoning,
    Refusal,
    ServerTool,
    ServerToolPart,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from elkapi.translate.profiles import Profile, profile_for
from tests.translate_anthropic import asked

BUDGET = profile_for("anthropic", "claude-sonnet-4-5")
ADAPTIVE = profile_for("anthropic", "claude-opus-4-6")
NEWEST = profile_for("anthropic", "claude-opus-4-8")
OLD = profile_for("anthropic", "claude-3-5-haiku-20241022")
EPHEMERAL = {"type": "ephemeral"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}

CLAUDE_CODE = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 32_000,
    "stream": True,
    "temperature": 1,
    "system": [
        {"type": "text", "text": "You are a coding agent."},
        {"type": "text", "text": "Rules.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "text", "text": "More.", "cache_control": {"type": "ephemeral", "scope": "global"}},
    ],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<system-reminder>x</system-reminder>"},
                {"type": "text", "text": "Fix it.", "cache_control": EPHEMERAL},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "I read.", "signature": "c2ln"},
                {"type": "redacted_thinking", "data": "b3Bh"},
                {"type": "text", "text": "Reading.", "citations": [{"type": "char_location", "cited_text": "x"}]},
                {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"path": "a.py"}, "caller": {"t": 1}},
                {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": "q"}},
                {"type": "web_search_tool_result", "tool_use_id": "srv_1", "content": []},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "content": [
                        {"type": "text", "text": "1\tprint()"},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aWs="}},
                    ],
                    "is_error": True,
                    "cache_control": EPHEMERAL,
                },
                {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
                {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
                {
                    "type": "document",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="},
                    "title": "Spec",
                    "context": "ours",
                    "citations": {"enabled": True},
                },
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "plain"}},
                {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "c"}]}},
                {"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": "r"}]},
                {"type": "container_upload", "file_id": "file_2"},
                {"type": "text", "text": "Go on."},
            ],
        },
    ],
    "tools": [
        {
            "name": "Read",
            "description": "Read a file.",
            "input_schema": SCHEMA,
            "eager_input_streaming": True,
            "defer_loading": False,
            "strict": True,
        },
        {"name": "Edit", "input_schema": SCHEMA, "cache_control": EPHEMERAL},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 3},
    ],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 31_999, "display": "summarized"},
    "metadata": {"user_id": "u1", "session": "s1"},
    "stop_sequences": ["END"],
    "service_tier": "standard_only",
    "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}, "beta_member": 1},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "betas_unknown": [1, {"a": None}],
    "cache_control": EPHEMERAL,
}


def _through(body: dict[str, Any], profile: Profile = BUDGET) -> dict[str, Any]:
    return json.loads(DIALECT.write_request(DIALECT.read_request(msgspec.json.encode(body)), profile))


def _written(profile: Profile = BUDGET, **members: Any) -> dict[str, Any]:
    return json.loads(DIALECT.write_request(asked(**members), profile))


def test_a_claude_code_body_is_read_and_written_back_without_loss() -> None:
    expected = {name: value for name, value in CLAUDE_CODE.items() if name != "temperature"}
    assert _through(CLAUDE_CODE) == expected


def test_a_claude_code_body_is_understood() -> None:
    request = DIALECT.read_request(msgspec.json.encode(CLAUDE_CODE))
    assert [text.cache_ttl for text in request.system] == [None, "1h", "5m"]
    assert request.messages[1].parts[0] == Thinking("I read.", "c2ln", "anthropic")
    assert request.messages[1].parts[3] == ToolCall("toolu_1", "Read", '{"path":"a.py"}')
    assert isinstance(request.messages[1].parts[4], ServerToolPart)
    result = request.messages[2].parts[0]
    assert isinstance(result, ToolResult)
    assert (result.name, result.is_error, len(result.parts)) == ("Read", True, 2)
    assert request.messages[2].parts[5] == File("text/plain", text="c")
    assert request.server_tools[0].kind == "web_search"
    assert request.reasoning == Reasoning(budget_tokens=31_999, visible=True)
    assert (request.user, request.parallel_tools, request.include_usage) == ("u1", False, True)
    assert request.output == OutputFormat("schema", schema=SCHEMA, strict=True)


@pytest.mark.parametrize(
    "members",
    [
        {"thinking": {"type": "disabled"}},
        {"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}},
        {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
        {"thinking": {"type": "adaptive", "display": "omitted"}},
        {"output_config": {"effort": "low"}},
        {"tool_choice": {"type": "tool", "name": "Read"}, "tools": [{"name": "Read", "input_schema": SCHEMA}]},
        {"tool_choice": {"type": "any"}, "tools": [{"name": "Read", "input_schema": SCHEMA}]},
        {"tool_choice": {"type": "none"}, "tools": [{"name": "Read", "input_schema": SCHEMA}]},
        {"temperature": 0.5, "top_k": 5},
        {"output_format": {"type": "json_schema", "schema": SCHEMA}},
        {"system": "Be brief."},
    ],
)
def test_what_is_read_is_written_back(members: dict[str, Any]) -> None:
    body = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]} | members
    assert _through(body, ADAPTIVE) == body


def test_neighbours_of_one_role_are_merged_and_empty_text_is_left_out() -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": ""}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "unsigned", "signature": ""}]},
        {"role": "system", "content": "Later rule."},
        {"role": "user", "content": "c"},
    ]
    body = _through({"model": "m", "max_tokens": 5, "messages": messages})
    texts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert body["messages"] == [{"role": "user", "content": texts}, *messages[3:]]


GOOD: dict[str, Any] = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}


def _block(**block: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [block]}]}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"temperature": 1.5}, "temperature"),
        ({"stream": "yes"}, "stream"),
        ({"system": [{"type": "image"}]}, "system[0].type"),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        (_block(text="x"), "messages[0].content[0].type"),
        (_block(type="text"), "messages[0].content[0].text"),
        (_block(type="image", source={"type": "base64", "media_type": "image/png"}), "messages[0].content[0].source"),
        (_block(type="image", source={"type": "base64", "data": "x"}), "messages[0].content[0].source.media_type"),
        (_block(type="tool_use", id="a", name="b", input="{}"), "messages[0].content[0].input"),
        (_block(type="tool_result", content="x"), "messages[0].content[0].tool_use_id"),
        (_block(type="text", text="x", cache_control={"type": "x"}), "messages[0].content[0].cache_control.type"),
    ],
)
def test_a_wrong_body_is_refused_by_the_name_of_its_field(members: dict[str, Any], param: str) -> None:
    body = {name: value for name, value in (GOOD | members).items() if value is not None}
    with pytest.raises(BadRequest) as caught:
        DIALECT.read_request(msgspec.json.encode(body))
    assert caught.value.param == param


def test_a_count_needs_no_limit() -> None:
    body = {name: value for name, value in CLAUDE_CODE.items() if name not in ("max_tokens", "stream")}
    request = read_count_request(msgspec.json.encode(body))
    assert request.max_output_tokens is None
    assert len(request.tools) == 2


# --- for callers of other dialects -----------------------------------------------------------------------------------

CALL = ToolCall("call:1/x", "now", "")
LOOP = [
    Message("user", (Text("time?"),)),
    Message("assistant", (Text("I look. "), CALL)),
    Message("user", (Text("and then"), ToolResult("call:1/x", (Text("12:00"),), is_error=True))),
]


def test_a_tool_loop_of_another_dialect() -> None:
    body = _written(messages=LOOP, tools=(Tool("now"),), max_output_tokens=50)
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
    body = _written(messages=messages, system=(Text("First.", "1h"),), output=OutputFormat("json"))
    assert [text["text"] for text in body["system"][:2]] == ["First.", "Later."]
    assert "JSON" in body["system"][2]["text"]
    assert body["messages"] == [
        {"role": "user", "content": "..."},
        {"role": "assistant", "content": [{"type": "text", "text": "No."}, {"type": "text", "text": "Well"}]},
    ]


def test_the_limit_comes_from_the_profile_when_the_caller_names_none() -> None:
    assert _written(BUDGET)["max_tokens"] == BUDGET.max_output_tokens


def test_tools_that_only_the_history_shows_are_declared_and_may_not_be_used() -> None:
    body = _written(messages=LOOP)
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
    body = _written(profile, reasoning=reasoning, max_output_tokens=limit, temperature=0.3)
    assert body.get("thinking") == thinking
    assert body.get("output_config", {}).get("effort") == effort
    thinks = thinking is not None and thinking["type"] != "disabled"
    assert ("temperature" in body) == (profile.sampling and not thinks)


def test_an_anthropic_caller_is_given_the_shape_of_the_mapped_model() -> None:
    body = GOOD | {"max_tokens": 9000, "thinking": {"type": "adaptive"}}
    assert _through(body, BUDGET)["thinking"] == {"type": "enabled", "budget_tokens": 7200}
    body = GOOD | {"max_tokens": 9000, "thinking": {"type": "enabled", "budget_tokens": 2000}}
    assert _through(body, NEWEST)["thinking"] == {"type": "adaptive"}
    assert _through(body, profile_for("anthropic", "kimi-k2"))["thinking"] == body["thinking"]


def test_thinking_by_budget_rests_inside_a_loop_whose_thoughts_are_lost() -> None:
    asked_for = {"tools": (Tool("now"),), "reasoning": Reasoning(effort="low")}
    assert "thinking" not in _written(messages=LOOP, **asked_for)
    assert _written(ADAPTIVE, messages=LOOP, **asked_for)["thinking"] == ADAPTIVE_SHOWN
    kept = [LOOP[0], Message("assistant", (Thinking("hm", "s", "anthropic"), CALL)), LOOP[2]]
    body = _written(messages=kept, **asked_for)
    assert body["thinking"]["type"] == "enabled"
    assert body["messages"][1]["content"][0] == {"type": "thinking", "thinking": "hm", "signature": "s"}


def test_a_forced_tool_is_stronger_than_thinking() -> None:
    body = _written(tools=(Tool("now"),), tool_choice=ToolChoice("required"), reasoning=Reasoning(effort="low"))
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
    body = _written(tools=(Tool("now"), Tool("then")), tool_choice=choice, parallel_tools=parallel)
    assert body.get("tool_choice") == written


def test_a_choice_among_some_tools_declares_only_those() -> None:
    body = _written(tools=(Tool("now"), Tool("then")), tool_choice=ToolChoice("required", ("then",)))
    assert [tool["name"] for tool in body["tools"]] == ["then"]


def test_a_custom_tool_of_responses_takes_one_string() -> None:
    call = Message("assistant", (ToolCall("a", "patch", "free text", custom=True),))
    body = _written(dialect="responses", tools=(Tool("patch", custom=True),), messages=[LOOP[0], call])
    assert body["tools"][0]["input_schema"]["required"] == ["input"]
    assert body["messages"][1]["content"][0]["input"] == {"input": "free text"}


@pytest.mark.parametrize("call_id", ["x" * 65, "call:" + "y" * 300, "é", "", "\ud800"])
def test_a_call_of_any_id_has_one_that_claude_takes_and_its_result_the_same(call_id: str) -> None:
    turns = [Message("user", (Text("hi"),)), Message("assistant", (ToolCall(call_id, "f", "{}"),))]
    body = _written(messages=[*turns, Message("user", (ToolResult(call_id, (Text("1"),)),))])
    written = body["messages"][1]["content"][0]["id"]
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", written)
    assert body["messages"][2]["content"][0]["tool_use_id"] == written


def test_a_choice_without_tools_is_left_out() -> None:
    assert "tool_choice" not in _written(tool_choice=ToolChoice("auto"))


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
    schema = _written(output=OutputFormat("schema", schema=inside))["output_config"]["format"]["schema"]
    assert schema["properties"]["a"] == {"type": "string", "description": f"{{{bound}: 2}}"}


def test_what_the_model_refused_before_is_text_to_claude() -> None:
    turns = [Message("user", (Text("a"),)), Message("assistant", (Refusal("No."),)), Message("user", (Text("b"),))]
    assert _written(messages=turns)["messages"][1] == {"role": "assistant", "content": "No."}


def test_a_schema_is_an_output_format_with_closed_objects() -> None:
    schema = _written(output=OUTPUT)["output_config"]["format"]["schema"]
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
    written = _written(output=OutputFormat("schema", schema=BOUNDED))
    assert written["output_config"]["format"]["schema"] == IN_WORDS
    tools = _written(tools=(Tool("a", schema=BOUNDED, strict=True), Tool("b", schema=BOUNDED)))["tools"]
    assert [tool["input_schema"] for tool in tools] == [IN_WORDS, BOUNDED]


def test_a_format_that_is_no_word_is_told_in_words_too() -> None:
    schema = SCHEMA | {"format": {"a": 1}}
    written = _written(output=OutputFormat("schema", schema=schema))["output_config"]["format"]["schema"]
    assert written == SCHEMA | {"additionalProperties": False, "description": "{format: {'a': 1}}"}


def test_a_schema_for_a_model_without_them_is_a_forced_tool() -> None:
    body = _written(OLD, output=OUTPUT)
    assert "output_config" not in body
    assert body["tools"][0]["input_schema"] == SCHEMA
    assert body["tool_choice"] == {"type": "tool", "name": OUTPUT_TOOL, "disable_parallel_tool_use": True}
    beside = _written(OLD, output=OUTPUT, tools=(Tool("now"),))
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
    body = _written(output=OutputFormat("schema", schema=schema))
    assert "output_config" not in body
    (tool,) = body["tools"]
    assert (tool["name"], tool["input_schema"]) == (OUTPUT_TOOL, schema)
    assert body["tool_choice"] == {"type": "tool", "name": OUTPUT_TOOL, "disable_parallel_tool_use": True}


def test_who_wants_members_of_any_name_strictly_is_left_to_claude() -> None:
    """OpenAI refuses such a strict schema as well."""
    body = _written(output=OutputFormat("schema", schema=ANY_NAMES, strict=True))
    assert body["output_config"]["format"]["schema"] == ANY_NAMES


def test_web_search_of_another_dialect() -> None:
    place = {"type": "approximate", "approximate": {"city": "Paris", "country": "FR"}}
    tool = ServerTool("web_search", "chat", {"search_context_size": "low", "user_location": place})
    assert _written(server_tools=(tool,))["tools"] == [
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
    assert _written(server_tools=(tool,))["tools"][0].get("max_uses") == uses


@pytest.mark.parametrize("place", ["Paris", {"approximate": "Paris"}, {"type": "approximate", "approximate": ["FR"]}])
def test_a_place_that_is_none_is_not_searched_from(place: Any) -> None:
    tool = ServerTool("web_search", "chat", {"user_location": place})
    with pytest.raises(BadRequest) as refused:
        _written(server_tools=(tool,))
    assert refused.value.param == "user_location"


def test_files_are_documents() -> None:
    files = (
        File("application/pdf", data="JVBERg==", name="a.pdf", cache_ttl="5m"),
        File("text/csv", data="YSxi"),
        File("image/png", data="aWs="),
        File("application/pdf", url="https://example.org/a.pdf"),
    )
    content = _written(messages=[Message("user", files)])["messages"][0]["content"]
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
        _written(**_user(File(media_type, url="https://example.org/film")))


def _user(*parts: Any) -> dict[str, Any]:
    return {"messages": [Message("user", parts)]}


REFUSED: dict[str, dict[str, Any]] = {
    "n": {"n": 2},
    "modalities: image": {"extra": {"modalities": ["text", "image"]}},
    "input audio": _user(Audio("x", "wav")),
    "files other than PDF and text": _user(File("application/zip", data="aWs=")),
    "images other than JPEG, PNG, GIF and WebP": _user(Image(data="aWs=", media_type="image/tiff")),
    "files by id": _user(File("application/pdf", url="file-id:f1")),
    "server tools other than web search": {"server_tools": (ServerTool("mcp", "responses", {}),)},
    "custom tools of chat completions": {"tools": (Tool("patch", custom=True),)},
    "tool arguments that are no JSON object": {"messages": [Message("assistant", (ToolCall("a", "b", "[1]"),))]},
    "stop sequences of white space only": {"stop": ("END", "\n\n")},
}
DROPPED: dict[str, tuple[dict[str, Any], Any]] = {
    "logprobs, top_logprobs": ({"logprobs": True, "top_logprobs": 2}, {}),
    "seed, presence_penalty, frequency_penalty, logit_bias": (
        {"seed": 1, "presence_penalty": 1.0, "frequency_penalty": 1.0, "logit_bias": {"1": 1.0}},
        {},
    ),
    "temperature above 1": ({"temperature": 1.7}, {"temperature": 1.0}),
    "temperature, top_p and top_k while thinking, or on models that fix them": (
        {"temperature": 0.5, "top_k": 4, "reasoning": Reasoning(effort="low")},
        {"thinking": {"type": "enabled", "budget_tokens": 4096}},
    ),
    "top_p beside temperature": ({"temperature": 0.5, "top_p": 0.5}, {"temperature": 0.5}),
    "verbosity, metadata, prompt_cache_key": ({"verbosity": "low", "metadata": {"a": "b"}, "cache_key": "k"}, {}),
    "service_tier other than auto and default": ({"service_tier": "flex"}, {}),
    "image detail": (
        _user(Image(url="https://e.org/a.png", detail="low")),
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image", "source": {"type": "url", "url": "https://e.org/a.png"}}],
                }
            ]
        },
    ),
    "images and files that the model made, in earlier turns": (
        {"messages": [Message("user", (Text("draw"),)), Message("assistant", (Text("a"), Image(data="aWs=")))]},
        {"messages": [{"role": "user", "content": "draw"}, {"role": "assistant", "content": "a"}]},
    ),
    "thinking without Claude's signature": (
        {"messages": [Message("user", (Text("hi"),)), Message("assistant", (Thinking("x", "s", "gemini"), Text("a")))]},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}]},
    ),
}
ELSEWHERE = {
    "the place of later system messages",
    "thinking beside a forced tool",
    "thinking by budget inside a tool loop whose thoughts are lost",
    "strict tools on models without JSON schema",
    "bounds in a JSON schema",
    "JSON mode",
}


def test_a_picture_that_a_model_drew_is_read_back_as_one() -> None:
    drew = "![image](data:image/png;base64,iVBORw0KGgo=)"
    said = f"Here: {drew} and {drew}"
    turns = [{"role": "user", "content": drew}, {"role": "assistant", "content": said}]
    request = DIALECT.read_request(msgspec.json.encode({"model": "m", "max_tokens": 9, "messages": turns}))
    picture = Image(data="iVBORw0KGgo=", media_type="image/png")
    assert request.messages[0].parts == (Text(drew),)
    assert request.messages[1].parts == (Text("Here: "), picture, Text(" and "), picture)
    words = [{"type": "text", "text": "Here: "}, {"type": "text", "text": " and "}]
    assert json.loads(DIALECT.write_request(request, BUDGET))["messages"][1]["content"] == words


def test_every_loss_is_tested() -> None:
    assert {loss.field for loss in LOSSES if loss.refused} == REFUSED.keys()
    assert {loss.field for loss in LOSSES if not loss.refused} == DROPPED.keys() | ELSEWHERE


@pytest.mark.parametrize("row", REFUSED)
def test_what_would_change_the_meaning_is_refused(row: str) -> None:
    with pytest.raises(BadRequest) as caught:
        _written(**REFUSED[row])
    assert caught.value.param in ("n", "modalities", "messages", "tools", "stop")


def test_a_file_that_only_another_provider_knows_is_refused_in_a_tools_result_too() -> None:
    called = Message("assistant", (ToolCall("a", "b", "{}"),))
    shown = Message("user", (ToolResult("a", (Image(url="file-id:f1"),)),))
    with pytest.raises(BadRequest, match="only known where it was uploaded"):
        _written(messages=[Message("user", (Text("hi"),)), called, shown])


@pytest.mark.parametrize("row", DROPPED)
def test_what_does_not_change_the_meaning_is_dropped(row: str) -> None:
    members, left = DROPPED[row]
    body = _written(**members)
    plain = {"model": "m", "max_tokens": 64_000, "messages": [{"role": "user", "content": "hi"}]}
    assert body == plain | left


def test_strict_tools_are_plain_for_models_without_schemas() -> None:
    assert "strict" not in _written(OLD, tools=(Tool("now", strict=True),))["tools"][0]
    assert _written(tools=(Tool("now", strict=True),))["tools"][0]["strict"] is True


def test_betas_cross_in_silence_and_what_only_anthropic_runs_does_not_cross() -> None:
    request = DIALECT.read_request(msgspec.json.encode(GOOD | {"context_management": {"edits": []}}))
    check_crossing(request)
    with pytest.raises(BadRequest) as caught:
        check_crossing(DIALECT.read_request(msgspec.json.encode(GOOD | {"mcp_servers": [{"url": "https://x"}]})))
    assert caught.value.param == "mcp_servers"
    stored = _block(type="image", source={"type": "file", "file_id": "f"})
    with pytest.raises(BadRequest):
        check_crossing(DIALECT.read_request(msgspec.json.encode(GOOD | stored)))


def test_what_a_search_for_tools_found_is_told_to_other_models_and_written_back_as_it_came() -> None:
    found = [{"type": "tool_reference", "tool_name": name} for name in ("mcp__a", "mcp__b")]
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "ToolSearch", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": found}]},
    ]
    request = DIALECT.read_request(msgspec.json.encode(GOOD | {"messages": turns}))
    (result,) = request.messages[2].parts
    assert isinstance(result, ToolResult)
    told = tuple(Text(f"The tool `{name}` can be called now.") for name in ("mcp__a", "mcp__b"))
    assert result.parts == told
    assert json.loads(DIALECT.write_request(request, BUDGET))["messages"] == turns


def test_a_file_for_the_container_does_not_cross_in_silence() -> None:
    """Its id is only known where it was uploaded; what a container gave is left out like all that others' tools did."""
    upload = {"type": "container_upload", "file_id": "file_1"}
    given = {"role": "assistant", "content": [{"type": "text", "text": "done"}, upload]}
    user = {"role": "user", "content": "go on"}
    for turns, crosses in (([user, given, user], True), ([{"role": "user", "content": [upload]}], False)):
        request = DIALECT.read_request(msgspec.json.encode(GOOD | {"messages": turns}))
        with nullcontext() if crosses else pytest.raises(BadRequest, match="where it was uploaded"):
            check_crossing(request)


@pytest.mark.parametrize("inside", [False, True], ids=["in a message", "in a tool's result"])
def test_what_is_said_of_a_document_crosses_as_a_text_before_it(inside: bool) -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": "aGk="}
    document = {"type": "document", "source": source, "title": "a.pdf", "context": "From 1873."}
    block = {"type": "tool_result", "tool_use_id": "t", "content": [document]} if inside else document
    body = GOOD | _block(**block)
    request = DIALECT.read_request(msgspec.json.encode(body))
    assert json.loads(DIALECT.write_request(request, BUDGET))["messages"] == body["messages"]
    parts = told_elsewhere(request).messages[0].parts
    if inside:
        (result,) = parts
        assert isinstance(result, ToolResult)
        parts = result.parts
    assert parts == (Text("From 1873."), File("application/pdf", data="aGk=", name="a.pdf"))


def test_a_block_that_nobody_here_knows_does_not_cross_in_silence_when_the_user_said_it() -> None:
    """What tools that Anthropic runs did stands in the assistant's turns, and is left out."""
    newer = {"type": "newer_input", "data": "aGk="}
    user = {"role": "user", "content": "hi"}
    for turns, crosses in (
        ([user, {"role": "assistant", "content": [newer, {"type": "text", "text": "so"}]}, user], True),
        ([{"role": "user", "content": [{"type": "text", "text": "what is this?"}, newer]}], False),
    ):
        request = DIALECT.read_request(msgspec.json.encode(GOOD | {"messages": turns}))
        with nullcontext() if crosses else pytest.raises(BadRequest, match="newer_input"):
            check_crossing(request)


def test_a_summary_that_stands_for_a_conversation_crosses_as_text_and_is_written_back_as_it_came() -> None:
    summary = {"type": "compaction", "content": "They talked of Ulm.", "cache_control": {"type": "ephemeral"}}
    sealed = {"type": "compaction", "content": None, "encrypted_content": "e"}
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [summary, sealed]}]
    turns.append({"role": "user", "content": "go on"})
    request = DIALECT.read_request(msgspec.json.encode(GOOD | {"messages": turns}))
    assert request.messages[1].parts == (Text("They talked of Ulm."), ServerToolPart("anthropic", sealed))
    assert json.loads(DIALECT.write_request(request, BUDGET))["messages"] == turns


@pytest.mark.parametrize("inside", [False, True], ids=["in a message", "in a tool's result"])
def test_a_picture_inside_of_a_document_does_not_cross_in_silence(inside: bool) -> None:
    text = {"type": "text", "text": "one"}
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aWs="}}
    for blocks, crosses in (([text], True), ([text, picture], False)):
        document = {"type": "document", "source": {"type": "content", "content": blocks}}
        block = {"type": "tool_result", "tool_use_id": "t", "content": [document]} if inside else document
        request = DIALECT.read_request(msgspec.json.encode(GOOD | _block(**block)))
        with nullcontext() if crosses else pytest.raises(BadRequest, match="text only"):
            check_crossing(request)


@pytest.mark.parametrize(
    ("block", "param"),
    [
        ({"type": "search_result", "source": "s", "title": "t", "content": ["one"]}, "content[0]"),
        ({"type": "search_result", "source": {"content": [1]}, "title": "t", "content": []}, "source"),
        ({"type": "mid_conv_system", "content": [None]}, "content[0]"),
    ],
)
@pytest.mark.parametrize("inside", [False, True], ids=["in a message", "in a tool's result"])
def test_what_is_no_block_inside_of_one_is_refused_by_its_place(
    block: dict[str, Any], param: str, inside: bool
) -> None:
    at = "messages[0].content[0]" + (".content[0]" if inside else "")
    given = {"type": "tool_result", "tool_use_id": "t", "content": [block]} if inside else block
    with pytest.raises(BadRequest) as caught:
        DIALECT.read_request(msgspec.json.encode(GOOD | _block(**given)))
    assert caught.value.param == f"{at}.{param}"


@pytest.mark.parametrize("content", [["words"], [1], [["a"]], [None]])
def test_a_new_block_whose_content_is_no_block_crosses_without_it(content: Any) -> None:
    """Where the model said it: what a user says so is refused."""
    user, blocks = (
        {"role": "user", "content": "hi"},
        [{"type": "text", "text": "so"}, {"type": "new", "content": content}],
    )
    turns = [user, {"role": "assistant", "content": blocks}, user]
    request = DIALECT.read_request(msgspec.json.encode(GOOD | {"messages": turns}))
    check_crossing(request)
    assert request.messages[1].parts[0] == Text("so")


@pytest.mark.parametrize("content", [["words"], [1], [["a"]], [None]])
def test_a_new_block_of_whatever_content_does_not_cross_in_silence(content: Any) -> None:
    blocks = [{"type": "text", "text": "hi"}, {"type": "new", "content": content}]
    request = DIALECT.read_request(msgspec.json.encode(GOOD | {"messages": [{"role": "user", "content": blocks}]}))
    with pytest.raises(BadRequest, match="blocks of type `new`"):
        check_crossing(request)


# --- anything at all -------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-2, 2) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "source", "id"]), inner)
    ),
    max_leaves=6,
)
BLOCKS = st.dictionaries(
    st.sampled_from(["text", "source", "id", "name", "input", "content", "tool_use_id", "cache_control", "data"]), JSON
)
KINDS = st.sampled_from(["text", "image", "document", "thinking", "tool_use", "tool_result", "search_result", "new"])


@given(st.lists(st.tuples(KINDS, BLOCKS), max_size=3), st.dictionaries(st.sampled_from(list(CLAUDE_CODE)), JSON))
def test_no_body_raises_anything_but_bad_request(blocks: list[tuple[str, Any]], members: dict[str, Any]) -> None:
    content = [{"type": kind} | block for kind, block in blocks]
    body = GOOD | members | {"messages": [{"role": "user", "content": content}]}
    with suppress(BadRequest):
        request = DIALECT.read_request(msgspec.json.encode(body))
        DIALECT.write_request(request, BUDGET)
        check_crossing(request)
    with suppress(BadRequest):
        DIALECT.read_request(msgspec.json.encode(GOOD | members))


WORDS = st.text("abc ", min_size=1, max_size=5).filter(str.strip)
PARTS = st.one_of(
    st.builds(Text, WORDS, st.sampled_from([None, "5m", "1h"])),
    st.builds(Image, url=st.just("https://example.org/i.png")),
    st.builds(Image, data=st.just("aWs="), media_type=st.just("image/png")),
    st.builds(File, st.just("application/pdf"), data=st.just("JVBERg=="), name=WORDS),
    st.builds(Thinking, WORDS, st.just("sig"), st.just("anthropic")),
    st.builds(ToolCall, st.sampled_from(["a", "b"]), st.just("f"), st.just('{"x":1}')),
)
# Claude takes images from the user only.
SAID = PARTS.filter(lambda part: not isinstance(part, Image))
TURNS = st.lists(
    st.tuples(st.lists(PARTS, min_size=1, max_size=3), st.lists(SAID, min_size=1, max_size=3)), min_size=1, max_size=2
).map(
    lambda turns: [
        message
        for asked, said in turns
        for message in (Message("user", tuple(asked)), Message("assistant", tuple(said)))
    ]
)


@given(
    TURNS,
    st.fixed_dictionaries(
        {
            "max_output_tokens": st.integers(1, 99),
            "temperature": st.none() | st.sampled_from([0.0, 0.25, 1.0]),
            "stop": st.lists(WORDS, max_size=2).map(tuple),
            "user": st.none() | WORDS,
            "stream": st.booleans(),
            "system": st.lists(st.builds(Text, WORDS), max_size=2).map(tuple),
            "tools": st.sampled_from([(), (Tool("f", "d", SCHEMA, True, cache_ttl="1h"),)]),
            "output": st.sampled_from([None, OutputFormat("schema", schema=SCHEMA, strict=True)]),
        }
    ),
)
def test_a_request_is_read_back_as_it_was_written(messages: list[Message], members: dict[str, Any]) -> None:
    request = asked(messages=messages, dialect="anthropic", include_usage=True, **members)
    assert DIALECT.read_request(DIALECT.write_request(request, BUDGET)) == request
