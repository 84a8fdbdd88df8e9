"""Responses requests: read into the hub and written back; what a stateless Codex-like client sends; state helpers."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import openai.types.responses as sdk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses.input_token_count_response import InputTokenCountResponse

from elkapi.errors import BadRequest
from elkapi.translate import responses_state as state
from elkapi.translate.dialect import ReplyFacts
from elkapi.translate.ir import (
    Audio,
    ChatRequest,
    DialectName,
    End,
    File,
    Finish,
    Image,
    Message,
    OutputFormat,
    Reasoning,
    Refusal,
    ServerTool,
    ServerToolPart,
    Start,
    Text,
    TextDelta,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    UsageSeen,
)
from elkapi.translate.profiles import Profile, profile_for
from elkapi.translate.responses import DIALECT
from elkapi.translate.responses_request import configured
from elkapi.translate.seal import Sealed, seal, unseal
from elkapi.types import Usage

PLAIN = Profile()
REASONER = profile_for("openai", "gpt-5.2")
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": "start: begin_patch"}
IMAGE = {"type": "input_image", "detail": "high", "image_url": "data:image/png;base64,iVBO"}
SOUND = {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}}
PDF = {"type": "input_file", "file_data": "data:application/pdf;base64,JVBE", "filename": "a.pdf"}

CODEX: dict[str, Any] = {
    "model": "gpt-x",
    "instructions": "You are a coding agent.",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Sandbox: read-only"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "fix it"}, IMAGE, PDF]},
        {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "Look."}, {"type": "summary_text", "text": "Read."}],
            "encrypted_content": "gAAAenc",
        },
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Reading."}]},
        {"type": "function_call", "call_id": "call_1", "name": "shell", "arguments": '{"command":["ls"]}'},
        {"type": "custom_tool_call", "call_id": "call_2", "name": "apply_patch", "input": "*** Begin Patch\n"},
        {"type": "function_call", "call_id": "call_3", "name": "read", "namespace": "files", "arguments": "{}"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}},
        {"type": "function_call_output", "call_id": "call_1", "output": "a.py"},
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": "Done"},
        {"type": "function_call_output", "call_id": "call_3", "output": [{"type": "input_text", "text": "x"}, IMAGE]},
    ],
    "tools": [
        {"type": "function", "name": "shell", "description": "Runs", "parameters": {"type": "object"}, "strict": False},
        {"type": "custom", "name": "apply_patch", "description": "Patches", "format": GRAMMAR},
        {
            "type": "namespace",
            "name": "files",
            "description": "Files",
            "tools": [{"type": "function", "name": "read", "parameters": {"type": "object"}, "strict": True}],
        },
        {"type": "web_search", "external_web_access": False},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"effort": "medium", "summary": "auto", "context": "all_turns"},
    "text": {
        "format": {"type": "json_schema", "name": "o", "schema": {"type": "object"}, "strict": True},
        "verbosity": "low",
    },
    "include": ["reasoning.encrypted_content"],
    "store": False,
    "stream": True,
    "prompt_cache_key": "thread-1",
    "truncation": "auto",
    "max_output_tokens": 4096,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_logprobs": 2,
    "metadata": {"a": "b"},
    "user": "u",
    "service_tier": "flex",
    "safety_identifier": "s",
    "client_metadata": {"x": "y"},
}


def _read(**members: Any) -> ChatRequest:
    return DIALECT.read_request(json.dumps({"model": "m", "input": "hi", **members}).encode())


def _write(request: ChatRequest, profile: Profile = PLAIN) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(DIALECT.write_request(request, profile))
    return body


def _foreign(dialect: DialectName = "anthropic", **members: Any) -> ChatRequest:
    return ChatRequest(**{"model": "m", "messages": [Message("user", (Text("hi"),))], "dialect": dialect, **members})


def test_a_codex_request_is_read_into_the_hub() -> None:
    request = DIALECT.read_request(json.dumps(CODEX).encode())
    assert request.system == (Text("You are a coding agent."), Text("Sandbox: read-only"))
    image = Image(data="iVBO", media_type="image/png", detail="high")
    assert request.messages == [
        Message("user", (Text("fix it"), image, File("application/pdf", data="JVBE", name="a.pdf"))),
        Message(
            "assistant",
            (
                Thinking("Look."),
                Thinking("Read.", "gAAAenc", "responses"),
                Text("Reading."),
                ToolCall("call_1", "shell", '{"command":["ls"]}'),
                ToolCall("call_2", "apply_patch", "*** Begin Patch\n", custom=True),
                ToolCall("call_3", "files__read", "{}"),
                ServerToolPart("responses", CODEX["input"][7]),
            ),
        ),
        Message(
            "user",
            (
                ToolResult("call_1", (Text("a.py"),), name="shell"),
                ToolResult("call_2", (Text("Done"),), name="apply_patch", custom=True),
                ToolResult("call_3", (Text("x"), image), name="files__read"),
            ),
        ),
    ]
    assert [tool.name for tool in request.tools] == ["shell", "apply_patch", "files__read"]
    assert request.tools[1] == Tool("apply_patch", "Patches", custom=True, format=GRAMMAR)
    assert request.server_tools[0].kind == "web_search"
    assert request.reasoning == Reasoning(effort="medium", visible=True, summary="auto")
    assert request.output == OutputFormat("schema", "o", {"type": "object"}, True)
    DIALECT.check_crossing(request)


def test_top_logprobs_without_logprobs_stay_in_this_dialect() -> None:
    assert _read(top_logprobs=2).top_logprobs is None
    assert _read(top_logprobs=2, include=["message.output_text.logprobs"]).top_logprobs == 2
    assert _write(_read(top_logprobs=2))["top_logprobs"] == 2


def test_reading_then_writing_changes_nothing() -> None:
    """But the order of tools (those the upstream runs stand last) and a developer's role, which the profile says."""
    assert _write(DIALECT.read_request(json.dumps(CODEX).encode()), REASONER) == CODEX


@pytest.mark.parametrize(
    "members",
    [
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        {"input": [{"type": "message", "role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]},
        {"input": [{"type": "compaction", "encrypted_content": "gAAA"}]},
        {"previous_response_id": "resp_1", "background": True, "conversation": {"id": "c"}, "prompt": {"id": "p"}},
        {"tool_choice": {"type": "web_search"}, "tools": [{"type": "web_search"}]},
        {"tool_choice": {"type": "custom", "name": "p"}, "tools": [{"type": "custom", "name": "p"}]},
        {"text": {"format": {"type": "grammar", "x": 1}, "verbosity": "low"}},
        {"text": {"format": {"type": "json_object"}}},
        {"include": ["message.output_text.logprobs"], "stream_options": {"include_obfuscation": False}},
        {
            "tools": [{"type": "function", "name": "f"}, {"type": "custom", "name": "g"}],
            "tool_choice": {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "f"}, {"type": "custom", "name": "g"}],
            },
        },
    ],
)
def test_members_only_this_dialect_knows_survive(members: dict[str, Any]) -> None:
    written = _write(_read(**members))
    assert {name: written[name] for name in members} == members


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"text": {"format": {"type": "grammar"}}}, "text"),
        ({"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, "tools"),
        ({"tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file-1"]}}]}, "tools"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input"),
        ({"input": [{"type": "compaction", "encrypted_content": "gAAA"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}]}, "input"),
        ({"input": [{"role": "user", "content": "hi"}, {"type": "compaction_trigger"}]}, "input"),
        ({"input": [{"type": "agent_message", "author": "/root", "content": []}]}, "input"),
        ({"prompt_cache_options": {"mode": "explicit", "prewarm": True}}, "prompt_cache_options"),
    ],
)
def test_what_no_other_dialect_can_carry_is_refused_by_name(members: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        DIALECT.check_crossing(_read(**members))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
        ({"input": 3}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"type": "input_text", "text": "said as if it were a part"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": "x"}, {"type": "mesage", "role": "user", "content": "y"}]}, "input[1]"),
        ({"input": [{"role": "user", "content": [{"type": "video"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
        ({"input": ["x"]}, "input"),
        ({"input": ["x", {"type": "function_call", "name": "f"}]}, "input"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": [SOUND]}]}, "input[0].output"),
        ({"input": [{"role": "system", "content": [IMAGE]}]}, "input[0].content"),
        ({"input": [{"role": "owner", "content": "x"}]}, "input[0].role"),
        ({"tools": [{"name": "f"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"reasoning": {"effort": "enormous"}}, "reasoning.effort"),
        ({"text": {"format": {}}}, "text.format.type"),
        ({"Model": "x"}, "Model"),
    ],
)
def test_a_wrong_body_is_refused_by_the_name_of_its_field(members: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        _read(**members)
    assert (caught.value.param or "").startswith(param)


REFUSED: dict[str, dict[str, Any]] = {
    "n": {"n": 2},
    "stop": {"stop": ("END",)},
    "logit_bias": {"logit_bias": {"1": 1.0}},
    "modalities: audio": {"dialect": "chat", "extra": {"modalities": ["text", "audio"]}},
    "cachedContent": {"dialect": "gemini", "extra": {"cachedContent": "cachedContents/1"}},
    "tools the upstream runs": {"server_tools": (ServerTool("computer", "anthropic", {"type": "computer_20250124"}),)},
}
DROPPED: dict[str, dict[str, Any]] = {
    "top_k": {"top_k": 3},
    "seed": {"seed": 3},
    "presence_penalty": {"presence_penalty": 1.0},
    "frequency_penalty": {"frequency_penalty": 1.0},
    "name of a chat participant": {
        "dialect": "chat",
        "extra": {"messages": [{"at": [0, 0], "message": {"name": "Ann"}}]},
    },
    "cache_control": {"messages": [Message("user", (Text("hi", "1h"),))]},
    "thinking signed elsewhere": {
        "messages": [Message("user", (Text("hi"),)), Message("assistant", (Thinking("t", "s", "anthropic"),))]
    },
    "results of tools the upstream ran": {
        "messages": [Message("user", (Text("hi"),)), Message("assistant", (ServerToolPart("anthropic", {"a": 1}),))]
    },
    "reasoning": {"reasoning": Reasoning(effort="high")},
}


def test_every_loss_is_true() -> None:
    plain = _write(_foreign())
    seen = {"temperature, top_p"}
    for name, members in REFUSED.items():
        with pytest.raises(BadRequest):
            _write(_foreign(**members))
        seen.add(name)
    for name, members in DROPPED.items():
        assert _write(_foreign(**members)) == plain, name
        seen.add(name)
    missing = {"type": "object", "properties": {"a": {}}, "additionalProperties": False}
    asked = [_foreign(output=OutputFormat("schema", schema=missing, strict=strict)) for strict in (True, None)]
    assert _write(asked[0]) == _write(asked[1])
    seen.add("strict, of Anthropic's schemas with optional properties")
    unsampled = _write(_foreign(temperature=0.1, top_p=0.2), REASONER)
    assert not unsampled.keys() & {"temperature", "top_p"}
    assert [_write(_foreign(max_output_tokens=limit))["max_output_tokens"] for limit in (1, 16, 17)] == [16, 16, 17]
    seen.add("a limit of fewer than 16 tokens")
    assert {(loss.field, loss.refused) for loss in DIALECT.losses} == {(name, name in REFUSED) for name in seen}


def test_another_dialects_request_is_asked_statelessly_and_hands_reasoning_over() -> None:
    body = _write(_foreign(reasoning=Reasoning(budget_tokens=9000, visible=True)), REASONER)
    assert body["store"] is False
    assert body["include"] == ["reasoning.encrypted_content"]
    assert body["reasoning"] == {"effort": "medium", "summary": "auto"}


def test_parts_of_another_dialect_become_items() -> None:
    request = _foreign(
        system=(Text("A"), Text("B")),
        messages=[
            Message("user", (Text("hi"), Audio("UklG", "wav"), File("text/plain", text="body", name="n.txt"))),
            Message("assistant", (Text("t"), Refusal("no"), ToolCall("toolu_1", "f", '{"a":1}'))),
            Message("user", (ToolResult("toolu_1", (Text("bad"),), is_error=True), Text("go on"))),
            Message("system", (Text("late"),)),
        ],
        tools=(Tool("f"),),
        tool_choice=ToolChoice("named", ("f",)),
        service_tier="standard_only",
        user="u" * 100,
    )
    body = _write(request)
    assert body["instructions"] == "A"
    assert [(item["type"], item.get("role")) for item in body["input"]] == [
        ("message", "system"),
        ("message", "user"),
        ("message", "assistant"),
        ("function_call", None),
        ("function_call_output", None),
        ("message", "user"),
        ("message", "system"),
    ]
    assert body["input"][4]["output"] == "Error: bad"
    assert body["input"][1]["content"][2] == {"type": "input_text", "text": "n.txt\n\nbody"}
    assert body["tools"][0]["parameters"] == {"type": "object", "properties": {}}
    assert body["tools"][0]["strict"] is False
    assert body["tool_choice"] == {"type": "function", "name": "f"}
    assert body["service_tier"] == "default"
    assert len(body["user"]) == 64


def test_a_failed_tools_result_keeps_all_its_parts() -> None:
    image = Image(data="iVBO", media_type="image/png")
    results = (
        ToolResult("a", (Text("bad"), Text("worse"), image), is_error=True),
        ToolResult("b", (image,), is_error=True),
        ToolResult("c", (), is_error=True),
    )
    outputs = [item["output"] for item in _write(_foreign(messages=[Message("user", results)]))["input"]]
    picture = {"type": "input_image", "detail": "auto", "image_url": "data:image/png;base64,iVBO"}
    assert outputs == [
        [{"type": "input_text", "text": "Error: bad"}, {"type": "input_text", "text": "worse"}, picture],
        [{"type": "input_text", "text": "Error: "}, picture],
        "Error: ",
    ]


@pytest.mark.parametrize(
    ("members", "media_type"),
    [
        ({"file_url": "https://a.test/b.csv"}, "text/csv"),
        ({"file_url": "https://a.test/b.csv?X-Amz-Signature=1.2"}, "text/csv"),
        ({"file_url": "https://a.test/b.html#part.2"}, "text/html"),
        ({"file_url": "https://a.test/get?name=b.csv"}, "application/pdf"),
        ({"file_url": "https://a.test/b.csv", "filename": "c.TXT"}, "text/plain"),
        ({"file_data": "AAAA", "filename": "c.json"}, "application/json"),
    ],
)
def test_a_file_is_of_the_kind_that_its_name_or_its_address_says(members: dict[str, Any], media_type: str) -> None:
    item = {"role": "user", "content": [{"type": "input_file", **members}]}
    (message,) = DIALECT.read_request(json.dumps({"model": "m", "input": [item]}).encode()).messages
    (file,) = message.parts
    assert isinstance(file, File)
    assert file.media_type == media_type


def test_an_image_by_its_id_is_one_by_its_id() -> None:
    image = {"type": "input_image", "detail": "auto", "file_id": "file-1"}
    body = {"input": [{"type": "message", "role": "user", "content": [image]}]}
    assert _write(_read(**body))["input"] == body["input"]


def _thought(sealed: Sealed) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [], "encrypted_content": seal(sealed)}


@pytest.mark.parametrize(
    ("items", "system", "messages"),
    [
        (
            [
                {"role": "developer", "content": "a"},
                {"role": "system", "content": "b"},
                {"role": "user", "content": "c"},
            ],
            (Text("a"), Text("b")),
            [Message("user", (Text("c"),))],
        ),
        (
            [{"role": "user", "content": "a"}, {"role": "developer", "content": "b"}],
            (),
            [Message("user", (Text("a"),)), Message("system", (Text("b"),))],
        ),
        (
            [
                _thought(Sealed("gemini", "s", call_id="c")),
                {"type": "function_call", "call_id": "c", "name": "f", "namespace": "n", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "r"},
                {"type": "function_call_output", "call_id": "unknown", "output": ""},
            ],
            (),
            [
                Message("assistant", (ToolCall("c", "n__f", "{}", signature="s", signed_by="gemini"),)),
                Message("user", (ToolResult("c", (Text("r"),), name="n__f"), ToolResult("unknown", ()))),
            ],
        ),
        (
            [_thought(Sealed("anthropic", redacted="r")), _thought(Sealed("anthropic", "s", text="t"))],
            (),
            [
                Message(
                    "assistant",
                    (Thinking(redacted="r", signed_by="anthropic"), Thinking("t", "s", signed_by="anthropic")),
                )
            ],
        ),
        (
            [{"type": "reasoning", "summary": [{"text": "a"}, {"text": "b"}], "encrypted_content": "theirs"}],
            (),
            [Message("assistant", (Thinking("a"), Thinking("b", "theirs", "responses")))],
        ),
        (
            [{"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "a"}]}],
            (),
            [Message("assistant", (Thinking("a"),))],
        ),
        (
            [{"type": "reasoning", "summary": []}, {"role": "user", "content": []}, {"role": "user", "content": "x"}],
            (),
            [Message("user", (Text("x"),))],
        ),
        (
            [{"type": "mcp_approval_response", "approve": True}, {"type": "mcp_call", "id": "m"}],
            (),
            [
                Message("user", (ServerToolPart("responses", {"type": "mcp_approval_response", "approve": True}),)),
                Message("assistant", (ServerToolPart("responses", {"type": "mcp_call", "id": "m"}),)),
            ],
        ),
        ([{"type": "compaction", "encrypted_content": seal(Sealed(summary="s"))}], (), [Message("user", (Text("s"),))]),
    ],
)
def test_items_become_instructions_and_turns(
    items: list[dict[str, Any]], system: tuple[Text, ...], messages: list[Message]
) -> None:
    request = _read(input=items)
    assert tuple(request.system) == system
    assert request.messages == messages


def test_an_item_that_configures_the_answers_counts_in_other_dialects_and_is_written_back_as_it_came() -> None:
    form = {"type": "json_schema", "name": "o", "schema": {"type": "object"}}
    items = [
        {"type": "configuration_update", "reasoning": {"effort": "high"}, "text": {"format": form}},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "configuration_update", "reasoning": {"effort": "low"}},
    ]
    request = _read(input=items, reasoning={"effort": "medium", "summary": "auto"}, text={"format": {"type": "text"}})
    assert _write(request)["input"] == items
    told = configured(request)
    assert told.messages == [Message("user", (Text("hi"),))]
    assert told.reasoning == Reasoning(effort="low", visible=True, summary="auto")
    assert told.output == OutputFormat("schema", "o", {"type": "object"})
    DIALECT.check_crossing(told)
    plain = configured(_read(input=[*items, {"type": "configuration_update", "text": {"format": {"type": "text"}}}]))
    assert plain.output == OutputFormat("text")


@pytest.mark.parametrize("update", [{"reasoning": {"effort": "huge"}}, {"reasoning": "high"}, {"text": []}])
def test_an_item_that_configures_wrongly_is_refused(update: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        configured(_read(input=[{"role": "user", "content": "hi"}, {"type": "configuration_update", **update}]))
    assert str(caught.value.param).startswith("input")


def test_what_tools_did_elsewhere_is_left_out() -> None:
    kinds = ("shell_call", "shell_call_output", "mcp_list_tools", "mcp_approval_request", "program", "program_output")
    DIALECT.check_crossing(_read(input=[{"role": "user", "content": "hi"}, *({"type": kind} for kind in kinds)]))


def test_tools_that_stand_in_the_input_are_declared_and_said_by_nobody() -> None:
    own = {"type": "function", "name": "g", "parameters": {}}
    items = [
        {"type": "additional_tools", "tools": [own, "odd"]},
        {"type": "additional_tools"},
        {"role": "user", "content": "x"},
    ]
    request = _read(input=items, tools=[own | {"name": "f"}])
    assert [tool.name for tool in request.tools] == ["f", "g"]
    assert request.messages == [Message("user", (Text("x"),))]


def test_instructions_alone_are_what_the_user_says() -> None:
    items = [{"role": "system", "content": "a"}, {"role": "developer", "content": "b"}]
    request = _read(input=items, instructions="c")
    assert request.system == (Text("c"),)
    assert request.messages == [Message("user", (Text("a"), Text("b")))]


def test_a_later_instruction_has_the_role_that_the_model_knows() -> None:
    turns = [Message("user", (Text("hi"),)), Message("system", (Text("late"),))]
    for profile, role in ((PLAIN, "system"), (REASONER, "developer")):
        assert [item["role"] for item in _write(_foreign(messages=turns), profile)["input"]] == ["user", role]


def test_what_chat_and_responses_have_alike_is_carried() -> None:
    shared = {"safety_identifier": "s", "moderation": {"model": "m"}, "prompt_cache_retention": "24h"}
    written = _write(_foreign("chat", extra=shared | {"prediction": 1}))
    assert {name: written.get(name) for name in shared} == shared
    assert "prediction" not in written


def test_tools_an_upstream_runs_are_carried_where_both_sides_have_them() -> None:
    tools = (
        ServerTool("web_search", "anthropic", {"type": "web_search_20250305", "allowed_domains": ["a.example"]}),
        ServerTool("code_execution", "anthropic", {"type": "code_execution_20250825"}),
        ServerTool("mcp", "anthropic", {"type": "url", "url": "https://m.example", "name": "m"}),
    )
    assert _write(_foreign(server_tools=tools))["tools"] == [
        {"type": "web_search", "filters": {"allowed_domains": ["a.example"]}},
        {"type": "code_interpreter", "container": {"type": "auto"}},
        {"type": "mcp", "server_label": "m", "server_url": "https://m.example", "require_approval": "never"},
    ]


def test_who_a_tools_server_lets_in_and_where_a_search_is_made_is_carried() -> None:
    place = {"type": "approximate", "city": "Rome"}
    server = {"type": "url", "url": "https://m.example", "authorization_token": "t"}
    limits = {"tool_configuration": {"allowed_tools": ["a"]}}
    tools = (
        ServerTool("web_search", "anthropic", {"type": "web_search_20250305", "user_location": place}),
        ServerTool("mcp", "anthropic", server | limits),
    )
    searching, asking = _write(_foreign(server_tools=tools))["tools"]
    assert searching == {"type": "web_search", "user_location": place}
    assert asking == {
        "type": "mcp",
        "server_label": "mcp",
        "server_url": "https://m.example",
        "require_approval": "never",
        "authorization": "t",
        "allowed_tools": ["a"],
    }


def test_where_and_how_much_a_chat_searches_is_said_as_this_dialect_says_it() -> None:
    """Chat completions put the place one member deeper, which is an unknown parameter here."""
    raw = {
        "search_context_size": "high",
        "user_location": {"type": "approximate", "approximate": {"city": "Rome", "country": None, "timezone": "UTC"}},
    }
    (searching,) = _write(_foreign("chat", server_tools=(ServerTool("web_search", "chat", raw),)))["tools"]
    assert searching == {
        "type": "web_search",
        "search_context_size": "high",
        "user_location": {"type": "approximate", "city": "Rome", "timezone": "UTC"},
    }


def test_what_a_schema_is_for_is_carried() -> None:
    output = OutputFormat("schema", "x", {"type": "object"}, description="d")
    assert _write(_foreign("chat", output=output))["text"]["format"]["description"] == "d"


def test_a_choice_of_a_tool_that_the_upstream_runs_names_no_function() -> None:
    """So Claude Code searches."""
    tools = (ServerTool("code_execution", "anthropic", {"type": "code_execution_20250825", "name": "code_execution"}),)
    choice = ToolChoice("named", ("code_execution",))
    assert _write(_foreign(server_tools=tools, tool_choice=choice))["tool_choice"] == "required"
    beside = _write(_foreign(server_tools=tools, tool_choice=choice, tools=(Tool("f"),)))["tool_choice"]
    assert beside == {"type": "allowed_tools", "mode": "required", "tools": [{"type": "code_interpreter"}]}
    named = _write(_foreign(server_tools=tools, tool_choice=choice, tools=(Tool("code_execution"),)))["tool_choice"]
    assert named == {"type": "function", "name": "code_execution"}


_names = st.sampled_from(["f", "g", "h"])
_text = st.builds(Text, st.text(min_size=1, max_size=20), st.sampled_from([None, "5m", "1h"]))
_image = st.builds(Image, data=st.just("iVBO"), media_type=st.just("image/png"), detail=st.just("auto")) | st.builds(
    Image, url=st.just("https://a.example/x.png"), detail=st.sampled_from(["low", "high"])
)
_file = st.builds(File, st.just("application/pdf"), data=st.just("JVBE"), name=st.just("a.pdf"))
_user = st.lists(_text | _image | _file | st.just(Audio("UklG", "wav")), min_size=1, max_size=4)
_call = st.builds(ToolCall, st.uuids().map(str), _names, st.just('{"a":1}'), custom=st.booleans())
_thinking = st.builds(Thinking, st.text(min_size=1), st.just("enc"), st.just("responses"))
_assistant = st.lists(_text.map(lambda t: Text(t.text)) | st.builds(Refusal, st.text(min_size=1)) | _thinking | _call)


@st.composite
def _requests(draw: st.DrawFn) -> ChatRequest:
    messages = [Message("user", tuple(draw(_user)))]
    for _ in range(draw(st.integers(0, 3))):
        parts = draw(_assistant)
        calls = [part for part in parts if isinstance(part, ToolCall)]
        if parts:
            messages.append(Message("assistant", tuple(parts)))
            results = [ToolResult(call.id, (Text(draw(_text).text),), call.name, custom=call.custom) for call in calls]
            messages.append(Message("user", (*results, *draw(_user))))
    tools = tuple(draw(st.lists(st.builds(Tool, _names, st.none() | st.text(), st.just({"type": "object"})))))
    return ChatRequest(
        model="m",
        messages=messages,
        system=tuple(draw(st.lists(_text.map(lambda t: Text(t.text)), max_size=2))),
        tools=tools,
        parallel_tools=draw(st.none() | st.booleans()),
        max_output_tokens=draw(st.none() | st.integers(1, 9)),
        temperature=draw(st.none() | st.floats(0, 2)),
        output=draw(st.none() | st.builds(OutputFormat, st.just("schema"), st.just("o"), st.just({"type": "object"}))),
        verbosity=draw(st.none() | st.just("low")),
        metadata=draw(st.none() | st.just({"a": "b"})),
        stream=draw(st.booleans()),
        dialect="responses",
        extra=draw(st.just({}) | st.just({"store": False, "truncation": "auto"})),
    )


@settings(max_examples=200)
@given(_requests())
def test_what_is_written_is_read_back(request: ChatRequest) -> None:
    assert DIALECT.read_request(DIALECT.write_request(request, PLAIN)) == request


_KEYS = (*CODEX, "type", "role", "content", "call_id", "output", "name", "text", "summary", "encrypted_content")
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.sampled_from(["message", "user", "reasoning"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=5),
    max_leaves=15,
)


@given(_json, st.dictionaries(st.sampled_from(_KEYS), _json), st.binary(max_size=30))
def test_reading_raises_nothing_but_bad_request(value: Any, members: dict[str, Any], noise: bytes) -> None:
    for body in (json.dumps(value).encode(), json.dumps({"model": "m", "input": "x", **members}).encode(), noise):
        for read in (DIALECT.read_request, state.read_compact, state.read_input_tokens):
            with contextlib.suppress(BadRequest):
                read(body)


@given(st.text())
def test_an_envelope_opens_only_when_it_is_ours(text: str) -> None:
    assert unseal(text) is None
    assert unseal("elkapi.v1." + text) is None or text
    assert unseal(seal(Sealed("gemini", signature=text))) == Sealed("gemini", signature=text)


# --- state -----------------------------------------------------------------------------------------------------------

FACTS = ReplyFacts("resp_ab", "m", 1_700_000_000, _read())


def test_the_next_turn_begins_with_what_was_said() -> None:
    answer = DIALECT.write_reply([Start("a", "b"), TextDelta("Hello"), Finish("stop"), End()], FACTS)
    items = state.items_of(b'{"model":"m","instructions":"x","input":"hi"}', answer)
    body = state.with_history(b'{"model":"m","previous_response_id":"resp_ab","input":"and?"}', items)
    request = DIALECT.read_request(body)
    DIALECT.check_crossing(request)
    assert request.system == ()
    assert request.messages == [
        Message("user", (Text("hi"),)),
        Message("assistant", (Text("Hello"),)),
        Message("user", (Text("and?"),)),
    ]
    listed = state.with_ids(items, "resp_ab")
    assert [item["id"] for item in listed] == ["item_ab_0", "msg_ab_0"]


@pytest.mark.parametrize("value", ["3", '["x"]', "{}"])
def test_history_of_a_wrong_input_is_refused(value: str) -> None:
    with pytest.raises(BadRequest) as caught:
        state.with_history(f'{{"model":"m","input":{value}}}'.encode(), [])
    assert caught.value.param == "input"


def test_an_upstream_of_this_dialect_never_sees_our_envelopes() -> None:
    sealed = {"type": "reasoning", "summary": [], "encrypted_content": seal(Sealed("anthropic", signature="s"))}
    theirs = {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"}
    compacted = {"type": "compaction", "encrypted_content": seal(Sealed(summary="So far."))}
    body = json.dumps({"model": "m", "input": [sealed, theirs, compacted]}).encode()
    kept = json.loads(state.without_envelopes(body))["input"]
    assert kept[0] == theirs
    assert kept[1]["content"][0]["text"] == "So far."
    assert len(kept) == 2
    untouched = b'{"model":"m",  "input":"hi"}'
    assert state.without_envelopes(untouched) is untouched


def test_a_compaction_asks_for_a_summary_and_stands_for_the_conversation() -> None:
    asked = state.read_compact(b'{"model":"m","input":[{"role":"user","content":"my name is Ada"}]}')
    assert asked.messages[-1].parts[-1] == Text(state.COMPACT_INSTRUCTION)
    usage = UsageSeen(Usage(input_tokens=9, output_tokens=2, calls=1))
    body = state.write_compact([Start("a", "b"), TextDelta("Ada "), TextDelta("asks."), usage, End()], FACTS)
    answer = sdk.CompactedResponse.model_validate_json(body, strict=False)
    assert answer.object == "response.compaction"
    assert answer.usage.total_tokens == 11
    items = json.loads(body)["output"]
    request = _read(input=[*items, {"role": "user", "content": "who am I?"}])
    DIALECT.check_crossing(request)
    summary, question = request.messages[0].parts
    assert isinstance(summary, Text)
    assert summary.text.endswith("Ada asks.")
    assert question == Text("who am I?")


def test_input_tokens_are_asked_without_a_model_and_answered() -> None:
    assert state.read_input_tokens(b'{"input":"hi","personality":"friendly"}').model == ""
    body = state.write_input_tokens(7)
    assert json.loads(body) == {"object": "response.input_tokens", "input_tokens": 7}
    assert InputTokenCountResponse.model_validate_json(body).input_tokens == 7
