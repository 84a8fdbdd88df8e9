"""Tools that a client (Codex) declares in its input or lets the model search, on upstreams that know only functions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from elkapi.errors import BadRequest
from elkapi.translate.dialect import ReplyFacts
from elkapi.translate.dialects import UPSTREAM_DIALECTS
from elkapi.translate.ir import ChatRequest, Event, Finish, ToolCallDelta, ToolCallStart
from elkapi.translate.profiles import profile_for
from elkapi.translate.responses import DIALECT
from elkapi.translate.sse import SseDecoder
from elkapi.translate.tool_search import tool_search_for

SEARCH = {
    "type": "tool_search",
    "execution": "client",
    "description": "Finds tools",
    "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
}
SPAWN = {"type": "function", "name": "spawn", "description": "Spawns", "defer_loading": True, "parameters": {}}
FOUND = {"type": "namespace", "name": "agents", "description": "Agents", "tools": [SPAWN]}
CALL = {"type": "tool_search_call", "call_id": "call_1", "execution": "client", "arguments": {"query": "agent"}}
USER = {"type": "message", "role": "user", "content": "find"}


def asked(*items: dict[str, Any], search: dict[str, Any] = SEARCH) -> ChatRequest:
    body = {"model": "m", "input": [USER, *items], "tools": [search]}
    return tool_search_for(DIALECT.read_request(json.dumps(body).encode()))


def output(*tools: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_search_output", "call_id": "call_1", "execution": "client", "tools": list(tools)}


def called(name: str, arguments: str) -> list[Event]:
    return [ToolCallStart(0, "call_2", name), ToolCallDelta(0, arguments), Finish("tool_calls")]


@pytest.mark.parametrize(
    ("wire", "family", "model"),
    [
        ("chat", "deepseek", "deepseek-chat"),
        ("anthropic", "anthropic", "claude-sonnet-4-5"),
        ("gemini", "gemini", "gemini-3-pro"),
        ("converse", "bedrock", "anthropic.claude-sonnet-4-5"),
    ],
)
def test_an_upstream_gets_the_search_as_a_function_and_what_it_found_as_tools(
    wire: str, family: str, model: str
) -> None:
    body = UPSTREAM_DIALECTS[wire].write_request(asked(CALL, output(FOUND)), profile_for(family, model))
    # Declared, called and answered; the found tool declared, and named in the answer.
    assert body.count(b'"tool_search"') >= 2
    assert body.count(b"agents__spawn") == 2
    assert b"These tools can be called now: agents__spawn." in body
    assert b"tool_search_output" not in body


def test_a_search_that_found_nothing_says_so() -> None:
    body = UPSTREAM_DIALECTS["anthropic"].write_request(
        asked(CALL, output()), profile_for("anthropic", "claude-sonnet-4-5")
    )
    assert b"No tool was found." in body


def test_the_caller_gets_its_search_call_back_and_its_tools_as_it_declared_them() -> None:
    facts = ReplyFacts("resp_1", "m", 1, asked())
    response = json.loads(DIALECT.write_reply(called("tool_search", '{"query":"agent"}'), facts))
    (item,) = response["output"]
    assert (item["type"], item["execution"], item["call_id"]) == ("tool_search_call", "client", "call_2")
    assert (item["arguments"], item["status"]) == ({"query": "agent"}, "completed")
    assert response["tools"] == [SEARCH]


def test_a_streamed_search_call_comes_whole_with_its_last_event() -> None:
    writer = DIALECT.writer(ReplyFacts("resp_1", "m", 1, asked()))
    stream = b"".join(writer.feed(event) for event in called("tool_search", '{"query":"agent"}')) + writer.finish()
    events = [json.loads(frame.data) for frame in SseDecoder().feed(stream) if frame.data]
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.output_item.done",
        "response.completed",
    ]
    assert events[3]["item"]["arguments"] == {"query": "agent"}


def test_a_found_tool_is_called_in_its_namespace() -> None:
    facts = ReplyFacts("resp_1", "m", 1, asked(CALL, output(FOUND)))
    (item,) = json.loads(DIALECT.write_reply(called("agents__spawn", "{}"), facts))["output"]
    assert (item["type"], item["namespace"], item["name"]) == ("function_call", "agents", "spawn")


def test_a_search_that_the_provider_would_run_is_still_refused_elsewhere() -> None:
    request = asked(search={"type": "tool_search"})
    with pytest.raises(BadRequest):
        UPSTREAM_DIALECTS["anthropic"].write_request(request, profile_for("anthropic", "claude-sonnet-4-5"))


def test_tools_that_stand_in_the_input_are_tools_and_leave_no_turn_behind() -> None:
    code = {"type": "custom", "name": "exec", "description": "Runs code"}
    space = {"type": "namespace", "name": "functions", "description": "", "tools": [code]}
    declared = {"type": "additional_tools", "id": "at_1", "role": "developer", "tools": [space, SPAWN]}
    body = {"model": "m", "input": [declared, {"role": "developer", "content": "Be brief."}, USER]}
    request = DIALECT.read_request(json.dumps(body).encode())
    assert [(tool.name, tool.custom) for tool in request.tools] == [("functions__exec", True), ("spawn", False)]
    assert [text.text for text in request.system] == ["Be brief."]
    assert [message.role for message in request.messages] == ["user"]
    (item,) = json.loads(
        DIALECT.write_reply(called("functions__exec", '{"input":"1"}'), ReplyFacts("resp_1", "m", 1, request))
    )["output"]
    assert (item["type"], item["namespace"], item["name"], item["input"]) == (
        "custom_tool_call",
        "functions",
        "exec",
        "1",
    )


@pytest.mark.parametrize("tools", [None, "x", [1]])
def test_odd_tools_in_the_input_are_none(tools: Any) -> None:
    body = {"model": "m", "input": [{"type": "additional_tools", "tools": tools}, USER]}
    assert DIALECT.read_request(json.dumps(body).encode()).tools == ()


def test_a_function_of_that_name_is_a_function() -> None:
    function = {"type": "function", "name": "tool_search", "parameters": {"type": "object"}}
    facts = ReplyFacts("resp_1", "m", 1, asked(search=function))
    (item,) = json.loads(DIALECT.write_reply(called("tool_search", "{}"), facts))["output"]
    assert (item["type"], item["arguments"]) == ("function_call", "{}")
