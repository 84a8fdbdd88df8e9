"""Custom tools as functions: what an upstream without them is asked, and what the caller gets back."""

from __future__ import annotations

import json

import pytest

from elkapi.translate.dialect import ReplyFacts
from elkapi.translate.dialects import UPSTREAM_DIALECTS
from elkapi.translate.free_text import as_functions, custom_tools_for
from elkapi.translate.ir import (
    ChatRequest,
    End,
    Event,
    Finish,
    Message,
    Start,
    Text,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolCallStart,
    ToolResult,
)
from elkapi.translate.profiles import profile_for
from elkapi.translate.responses import DIALECT

PATCH = Tool("apply_patch", "Patches", custom=True, format={"type": "grammar", "syntax": "lark", "definition": "g: x"})
REQUEST = ChatRequest(
    model="m",
    messages=[
        Message("user", (Text("fix"),)),
        Message("assistant", (ToolCall("call_1", "apply_patch", '*** "x"\n', custom=True),)),
        Message("user", (ToolResult("call_1", (Text("ok"),), "apply_patch", custom=True),)),
    ],
    tools=(PATCH, Tool("f", schema={"type": "object"})),
    dialect="responses",
)


def test_custom_tools_and_their_calls_become_functions_of_one_string() -> None:
    plain = as_functions(REQUEST)
    patch, other = plain.tools
    assert not patch.custom
    assert patch.schema == {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
    assert patch.description == "Patches\n\n`input` must follow this grammar:\ng: x"
    assert other is REQUEST.tools[1]
    call = plain.messages[1].parts[0]
    assert isinstance(call, ToolCall)
    assert (call.custom, json.loads(call.arguments)) == (False, {"input": '*** "x"\n'})
    assert plain.messages[2].parts[0] == ToolResult("call_1", (Text("ok"),), "apply_patch")


def test_a_request_without_custom_tools_stays_itself() -> None:
    plain = as_functions(REQUEST)
    assert as_functions(plain) is plain


@pytest.mark.parametrize(
    ("wire", "family", "model", "native"),
    [
        ("chat", "openai", "gpt-5.2", True),
        ("chat", "deepseek", "deepseek-chat", False),
        ("anthropic", "anthropic", "claude-sonnet-4-5", False),
        ("gemini", "gemini", "gemini-3-pro", False),
        ("converse", "bedrock", "anthropic.claude-sonnet-4-5", False),
        ("responses", "openai", "gpt-5.2", True),
    ],
)
def test_every_upstream_can_be_asked_with_a_custom_tool(wire: str, family: str, model: str, native: bool) -> None:
    profile = profile_for(family, model)
    body = UPSTREAM_DIALECTS[wire].write_request(custom_tools_for(REQUEST, profile), profile)
    assert b"apply_patch" in body
    assert (b'"custom' in body) is native


def test_a_caller_whose_dialect_cannot_unwrap_keeps_its_custom_tools() -> None:
    request = ChatRequest(model="m", messages=REQUEST.messages, tools=(PATCH,), dialect="chat")
    assert custom_tools_for(request, profile_for("gemini", "gemini-3-pro")) is request


def test_the_caller_gets_its_custom_call_back() -> None:
    call = as_functions(REQUEST).messages[1].parts[0]
    assert isinstance(call, ToolCall)
    events: list[Event] = [
        Start("a", "b"),
        ToolCallStart(0, call.id, call.name),
        *(ToolCallDelta(0, letter) for letter in call.arguments),
        Finish("tool_calls"),
        End(),
    ]
    (item,) = json.loads(DIALECT.write_reply(events, ReplyFacts("resp_1", "m", 1, REQUEST)))["output"]
    assert (item["type"], item["call_id"], item["input"]) == ("custom_tool_call", "call_1", '*** "x"\n')
