"""Anthropic bodies: read and written back without loss; written for callers of other dialects by the contract."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elkapi.errors import BadRequest
from elkapi.translate.anthropic import DIALECT, LOSSES, check_crossing, told_elsewhere
from elkapi.translate.anthropic_request import read_count_request
from elkapi.translate.dialects import UPSTREAM_DIALECTS
from elkapi.translate.ir import (
    Audio,
    File,
    Image,
    Message,
    OutputFormat,
    Reasoning,
    ServerTool,
    ServerToolPart,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from elkapi.translate.profiles import profile_for
from tests.translate_anthropic import (
    ADAPTIVE,
    BUDGET,
    EPHEMERAL,
    GOOD,
    OLD,
    SCHEMA,
    asked,
    body_of,
    read,
    rewritten,
    user_says,
    written,
)

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


def test_a_claude_code_body_is_read_and_written_back_without_loss() -> None:
    expected = {name: value for name, value in CLAUDE_CODE.items() if name != "temperature"}
    assert rewritten(CLAUDE_CODE) == expected


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
    assert (request.user, request.parallel_tools) == ("u1", False)
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
    assert rewritten(body, ADAPTIVE) == body


@pytest.mark.parametrize("kind", ["disabled", "between_tools"])
@pytest.mark.parametrize("more", [{}, {"output_config": {"effort": "high"}}], ids=["alone", "effort"])
def test_thinking_that_is_switched_off_is_off_for_every_model(kind: str, more: dict[str, Any]) -> None:
    """Such a call often has a small limit, which thoughts of another model would use up."""
    request = read(thinking={"type": kind}, **more)
    assert request.reasoning == Reasoning(effort="none")
    assert written(request, profile_for("anthropic", "claude-sonnet-5-5"))["thinking"] == {"type": "between_tools"}
    assert written(request, ADAPTIVE)["thinking"] == {"type": "disabled"}
    for wire, family, model, thinking in (
        ("chat", "openai", "gpt-5.2", b'"reasoning_effort":"none"'),
        ("responses", "openai", "gpt-5.2", b'"effort":"none"'),
        ("gemini", "gemini", "gemini-2.5-flash", b'"thinkingBudget":0'),
    ):
        assert thinking in UPSTREAM_DIALECTS[wire].write_request(request, profile_for(family, model))


def test_neighbours_of_one_role_are_merged_and_empty_text_is_left_out() -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": ""}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "unsigned", "signature": ""}]},
        {"role": "system", "content": "Later rule."},
        {"role": "user", "content": "c"},
    ]
    body = rewritten({"model": "m", "max_tokens": 5, "messages": messages})
    texts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert body["messages"] == [{"role": "user", "content": texts}, *messages[3:]]


def _block(**block: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [block]}]}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
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


def test_a_message_of_no_tokens_is_written_back_as_one() -> None:
    request = read(max_tokens=0)
    assert written(request)["max_tokens"] == 0


def test_a_count_needs_no_limit() -> None:
    body = {name: value for name, value in CLAUDE_CODE.items() if name not in ("max_tokens", "stream")}
    request = read_count_request(msgspec.json.encode(body))
    assert request.max_output_tokens is None
    assert len(request.tools) == 2


REFUSED: dict[str, dict[str, Any]] = {
    "n": {"n": 2},
    "modalities: image": {"extra": {"modalities": ["text", "image"]}},
    "input audio": user_says(Audio("x", "wav")),
    "files other than PDF and text": user_says(File("application/zip", data="aWs=")),
    "images other than JPEG, PNG, GIF and WebP": user_says(Image(data="aWs=", media_type="image/tiff")),
    "files by id": user_says(File("application/pdf", url="file-id:f1")),
    "server tools other than web search": {"server_tools": (ServerTool("mcp", "responses", {}),)},
    "custom tools of chat completions": {"tools": (Tool("patch", custom=True),)},
    "stop sequences of white space only": {"stop": ("END", "\n\n")},
    "a forced tool, from Opus and Sonnet 5.5, Fable and Mythos 5.1 on": {
        "tools": (Tool("now"),),
        "tool_choice": ToolChoice("required"),
        "profile": profile_for("anthropic", "claude-opus-5-5"),
    },
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
    "name of a chat participant": (
        {"dialect": "chat", "extra": {"messages": [{"at": [0, 0], "message": {"name": "Ann"}}]}},
        {},
    ),
    "image detail": (
        user_says(Image(url="https://e.org/a.png", detail="low")),
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
    "the place of later system messages, before Opus 4.8, Sonnet 5.5 and Fable 5",
    "no thinking, on models that always think",
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
    request = read(messages=turns)
    picture = Image(data="iVBORw0KGgo=", media_type="image/png")
    assert request.messages[0].parts == (Text(drew),)
    assert request.messages[1].parts == (Text("Here: "), picture, Text(" and "), picture)
    words = [{"type": "text", "text": "Here: "}, {"type": "text", "text": " and "}]
    assert written(request)["messages"][1]["content"] == words


def test_every_loss_is_tested() -> None:
    assert {loss.field for loss in LOSSES if loss.refused} == REFUSED.keys()
    assert {loss.field for loss in LOSSES if not loss.refused} == DROPPED.keys() | ELSEWHERE


@pytest.mark.parametrize("row", REFUSED)
def test_what_would_change_the_meaning_is_refused(row: str) -> None:
    with pytest.raises(BadRequest) as caught:
        body_of(**REFUSED[row])
    assert caught.value.param in ("n", "modalities", "messages", "tools", "tool_choice", "stop")


def test_a_file_that_only_another_provider_knows_is_refused_in_a_tools_result_too() -> None:
    called = Message("assistant", (ToolCall("a", "b", "{}"),))
    shown = Message("user", (ToolResult("a", (Image(url="file-id:f1"),)),))
    with pytest.raises(BadRequest, match="does not support files by id"):
        body_of(messages=[Message("user", (Text("hi"),)), called, shown])


@pytest.mark.parametrize("row", DROPPED)
def test_what_does_not_change_the_meaning_is_dropped(row: str) -> None:
    members, left = DROPPED[row]
    body = body_of(**members)
    plain = {"model": "m", "max_tokens": 64_000, "messages": [{"role": "user", "content": "hi"}]}
    assert body == plain | left


def test_strict_tools_are_plain_for_models_without_schemas() -> None:
    assert "strict" not in body_of(OLD, tools=(Tool("now", strict=True),))["tools"][0]
    assert body_of(tools=(Tool("now", strict=True),))["tools"][0]["strict"] is True


def test_betas_cross_in_silence_and_what_only_anthropic_runs_does_not_cross() -> None:
    request = read(context_management={"edits": []})
    check_crossing(request)
    with pytest.raises(BadRequest) as caught:
        check_crossing(read(mcp_servers=[{"url": "https://x"}]))
    assert caught.value.param == "mcp_servers"
    stored = _block(type="image", source={"type": "file", "file_id": "f"})
    with pytest.raises(BadRequest):
        check_crossing(read(**stored))


@pytest.mark.parametrize(
    ("member", "crosses"),
    [
        ({"compaction": {"type": "summarize"}}, False),
        ({"billing_policy": {"type": "billing_policy", "bill_to": "user_profile"}}, False),
        ({"billing_policy": {"type": "billing_policy", "bill_to": "self"}}, True),
        ({"billing_policy": None, "compaction": None}, True),
    ],
)
def test_what_decides_the_answer_or_who_pays_does_not_cross_in_silence(member: dict[str, Any], crosses: bool) -> None:
    request = read(**member)
    if crosses:
        check_crossing(request)
        return
    with pytest.raises(BadRequest) as caught:
        check_crossing(request)
    assert caught.value.param in member


@pytest.mark.parametrize(
    ("callers", "crosses"),
    [(["code_execution_20260120"], False), (["direct", "code_execution_20260120"], True), ([], True), (None, True)],
)
def test_a_tool_that_only_code_may_call_does_not_cross_in_silence(callers: list[str] | None, crosses: bool) -> None:
    """Elsewhere the model would call it itself, beside its code execution."""
    tool = {"name": "pay", "input_schema": {"type": "object"}, "allowed_callers": callers}
    request = read(tools=[tool, {"type": "code_execution_20260120", "name": "code_execution"}])
    if crosses:
        check_crossing(request)
        return
    with pytest.raises(BadRequest, match="tool `pay` must include `direct`") as caught:
        check_crossing(request)
    assert caught.value.param == "tools"


def test_what_a_search_for_tools_found_is_told_to_other_models_and_written_back_as_it_came() -> None:
    found = [{"type": "tool_reference", "tool_name": name} for name in ("mcp__a", "mcp__b")]
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "ToolSearch", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": found}]},
    ]
    request = read(messages=turns)
    (result,) = request.messages[2].parts
    assert isinstance(result, ToolResult)
    told = tuple(Text(f"The tool `{name}` can be called now.") for name in ("mcp__a", "mcp__b"))
    assert result.parts == told
    assert written(request)["messages"] == turns


def test_a_block_that_nobody_here_knows_does_not_cross_in_silence_in_a_tools_result() -> None:
    """Such as what a browser shows, for whose tool Anthropic alone has a form."""
    shown = [{"type": "text", "text": "opened"}, {"type": "browser_state", "tabs": []}]
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "open", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": shown}]},
    ]
    request = read(messages=turns)
    with pytest.raises(BadRequest, match="browser_state"):
        check_crossing(told_elsewhere(request))


def test_a_file_for_the_container_does_not_cross_in_silence() -> None:
    """Its id is only known where it was uploaded; what a container gave is left out like all that others' tools did."""
    upload = {"type": "container_upload", "file_id": "file_1"}
    given = {"role": "assistant", "content": [{"type": "text", "text": "done"}, upload]}
    user = {"role": "user", "content": "go on"}
    for turns, crosses in (([user, given, user], True), ([{"role": "user", "content": [upload]}], False)):
        request = read(messages=turns)
        with nullcontext() if crosses else pytest.raises(BadRequest, match="files by id"):
            check_crossing(request)


@pytest.mark.parametrize("inside", [False, True], ids=["in a message", "in a tool's result"])
def test_what_is_said_of_a_document_crosses_as_a_text_before_it(inside: bool) -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": "aGk="}
    document = {"type": "document", "source": source, "title": "a.pdf", "context": "From 1873."}
    block = {"type": "tool_result", "tool_use_id": "t", "content": [document]} if inside else document
    said = _block(**block)
    request = read(**said)
    assert written(request)["messages"] == said["messages"]
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
        request = read(messages=turns)
        with nullcontext() if crosses else pytest.raises(BadRequest, match="newer_input"):
            check_crossing(request)


def _later(content: Any = None, **settings: Any) -> dict[str, Any]:
    return {"role": "system"} | ({} if content is None else {"content": content}) | settings


@pytest.mark.parametrize("last", ["user", "system"])
def test_an_instruction_for_one_turn_stands_for_that_turn_elsewhere_too(last: str) -> None:
    """So does the effort that it says, with which it may come alone."""
    turns = [
        {"role": "user", "content": "hi"},
        _later("Be brief.", clear_at="next_user_message"),
        _later("Be kind.", clear_at="never"),
        _later(output_config={"effort": "high"}),
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "go on"},
        _later("Be quick.", clear_at="next_user_message", output_config={"effort": "low"}),
    ]
    turns = turns if last == "system" else turns[:-1]
    request = read(messages=turns, output_config={"effort": "max"})
    assert written(request)["messages"] == turns
    told = told_elsewhere(request)
    said = ["hi", "Be kind.", "hello", "go on", *(["Be quick."] if last == "system" else [])]
    assert [part for message in told.messages for part in message.parts] == [Text(text) for text in said]
    assert told.reasoning == Reasoning(effort="low" if last == "system" else "max")
    check_crossing(told)


@pytest.mark.parametrize("message", [{"role": "user"}, {"role": "system"}, {"role": "system", "output_config": {}}])
def test_a_message_that_says_nothing_at_all_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        read(messages=[{"role": "user", "content": "hi"}, message])
    assert caught.value.param == "messages[1].content"


def _change(kind: str, **tool: Any) -> dict[str, Any]:
    return {"type": f"tool_{kind}", "tool": tool}


def test_other_models_are_offered_the_tools_that_the_conversation_left_there() -> None:
    """As the SDKs' tool runner tells of tools that it was given, or that were taken from it, on the way."""
    schema = {"type": "object", "properties": {"place": {"type": "string"}}}
    added = {"name": "rain", "input_schema": schema, "description": "Will it rain?"}
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {
            "role": "system",
            "content": [
                _change("removal", type="tool_reference", name="clock"),
                _change("removal", type="tool_reference", name="weather"),
                _change("addition", type="tool_definition", definition=added),
                _change("addition", type="tool_reference", name="weather"),
            ],
        },
        {"role": "user", "content": "go on"},
    ]
    tools = [{"name": name, "input_schema": schema} for name in ("clock", "weather")]
    request = read(messages=turns, tools=tools)
    assert written(request)["messages"] == turns
    told = told_elsewhere(request)
    assert [tool.name for tool in told.tools] == ["rain", "weather"]
    assert (told.tools[0].description, told.tools[0].schema) == ("Will it rain?", schema)
    assert [part for message in told.messages for part in message.parts] == [Text("hi"), Text("hello"), Text("go on")]
    check_crossing(told)


def test_what_a_summary_says_of_the_tools_counts_elsewhere_too() -> None:
    gone = [_change("removal", type="tool_reference", name="clock")]
    summary = {"type": "compaction", "content": "They talked of Ulm.", "tool_changes": gone}
    turns = [{"role": "assistant", "content": [summary]}, {"role": "user", "content": "go on"}]
    tools = [{"name": "clock", "input_schema": {"type": "object"}}]
    request = read(messages=turns, tools=tools)
    assert told_elsewhere(request).tools == ()


def test_a_change_of_tools_without_its_tool_is_refused() -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "system", "content": [{"type": "tool_removal"}]}]
    request = read(messages=turns)
    with pytest.raises(BadRequest, match="`tool` is missing"):
        told_elsewhere(request)


def test_a_tool_that_the_conversation_adds_is_refused_where_it_stands() -> None:
    added = _change("addition", type="tool_definition", definition={"name": 5})
    turns = [{"role": "user", "content": "hi"}, {"role": "system", "content": [added]}]
    request = read(messages=turns)
    with pytest.raises(BadRequest) as caught:
        told_elsewhere(request)
    assert caught.value.param == "messages.name"


def test_a_block_that_nobody_here_knows_does_not_cross_in_silence_among_instructions() -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "system", "content": [{"type": "newer_order", "x": 1}]}]
    request = read(messages=turns)
    with pytest.raises(BadRequest, match="newer_order"):
        check_crossing(told_elsewhere(request))


def test_a_summary_that_stands_for_a_conversation_crosses_as_text_and_is_written_back_as_it_came() -> None:
    summary = {"type": "compaction", "content": "They talked of Ulm.", "cache_control": {"type": "ephemeral"}}
    sealed = {"type": "compaction", "content": None, "encrypted_content": "e"}
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [summary, sealed]}]
    turns.append({"role": "user", "content": "go on"})
    request = read(messages=turns)
    assert request.messages[1].parts == (Text("They talked of Ulm."), ServerToolPart("anthropic", sealed))
    assert written(request)["messages"] == turns


@pytest.mark.parametrize("inside", [False, True], ids=["in a message", "in a tool's result"])
def test_a_picture_inside_of_a_document_does_not_cross_in_silence(inside: bool) -> None:
    text = {"type": "text", "text": "one"}
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aWs="}}
    for blocks, crosses in (([text], True), ([text, picture], False)):
        document = {"type": "document", "source": {"type": "content", "content": blocks}}
        block = {"type": "tool_result", "tool_use_id": "t", "content": [document]} if inside else document
        request = read(**_block(**block))
        with nullcontext() if crosses else pytest.raises(BadRequest, match="only text"):
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
        read(**_block(**given))
    assert caught.value.param == f"{at}.{param}"


@pytest.mark.parametrize("content", [["words"], [1], [["a"]], [None]])
def test_a_new_block_whose_content_is_no_block_crosses_without_it(content: Any) -> None:
    """Where the model said it: what a user says so is refused."""
    user, blocks = (
        {"role": "user", "content": "hi"},
        [{"type": "text", "text": "so"}, {"type": "new", "content": content}],
    )
    turns = [user, {"role": "assistant", "content": blocks}, user]
    request = read(messages=turns)
    check_crossing(request)
    assert request.messages[1].parts[0] == Text("so")


@pytest.mark.parametrize("content", [["words"], [1], [["a"]], [None]])
def test_a_new_block_of_whatever_content_does_not_cross_in_silence(content: Any) -> None:
    blocks = [{"type": "text", "text": "hi"}, {"type": "new", "content": content}]
    request = read(messages=[{"role": "user", "content": blocks}])
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
    with suppress(BadRequest):
        request = read(**members | {"messages": [{"role": "user", "content": content}]})
        written(request)
        check_crossing(request)
    with suppress(BadRequest):
        read(**members)


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
    request = asked(messages=messages, dialect="anthropic", **members)
    assert DIALECT.read_request(DIALECT.write_request(request, BUDGET)) == request
