"""Chat requests: what chat asks survives the hub, what other dialects ask is carried, dropped or refused as listed."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elkapi.errors import BadRequest
from elkapi.translate.chat import DIALECT
from elkapi.translate.dialects import DIALECTS
from elkapi.translate.ir import (
    Audio,
    ChatRequest,
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

PLAIN = Profile()
USER = {"role": "user", "content": "hi"}


def _through(body: dict[str, Any], profile: Profile = PLAIN) -> dict[str, Any]:
    """A body through the hub and back."""
    written: dict[str, Any] = json.loads(
        DIALECT.write_request(DIALECT.read_request(json.dumps(body).encode()), profile)
    )
    return written


def _write(request: ChatRequest, profile: Profile = PLAIN) -> dict[str, Any]:
    written: dict[str, Any] = json.loads(DIALECT.write_request(request, profile))
    return written


def _other(*messages: Message, dialect: Any = "anthropic", **members: Any) -> ChatRequest:
    turns = list(messages) or [Message("user", (Text("hi"),))]
    return ChatRequest(model="m", messages=turns, dialect=dialect, **members)


CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "system", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
    {"role": "user", "name": "bob", "content": "hi"},
    {"role": "user", "name": "eve", "content": "ho"},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "look", "prompt_cache_breakpoint": {"mode": "explicit"}},
            {"type": "image_url", "image_url": {"url": "https://a.example/x.png", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}},
            {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE", "filename": "a.pdf"}},
            {"type": "file", "file": {"file_id": "file-1"}},
        ],
    },
    {
        "role": "assistant",
        "content": "Calling.",
        "reasoning_content": "Hm.",
        "thinking_blocks": [
            {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "b3Bh"},
        ],
        "tool_calls": [
            {
                "id": "call_a",
                "type": "function",
                "function": {"name": "f", "arguments": '{"a": 1}'},
                "extra_content": {"google": {"thought_signature": "dGhv"}},
            },
            {"id": "call_b", "type": "custom", "custom": {"name": "g", "input": "free"}},
        ],
    },
    {"role": "tool", "tool_call_id": "call_a", "content": "1"},
    {
        "role": "tool",
        "tool_call_id": "call_b",
        "content": [{"type": "text", "text": "2"}, {"type": "text", "text": "3"}],
    },
    {"role": "user", "content": "go on"},
    {"role": "assistant", "content": None, "refusal": "No."},
    {"role": "system", "content": "From here in French."},
    {"role": "user", "content": "ok"},
    {"role": "assistant", "audio": {"id": "audio_1"}},
    {"role": "user", "content": "and?"},
    {"role": "assistant", "content": "Done", "prefix": True},
]
FULL: dict[str, Any] = {
    "model": "m",
    "messages": CONVERSATION,
    "max_tokens": 100,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "n": 2,
    "stop": ["a", "b", "c", "d", "e"],
    "seed": 7,
    "presence_penalty": 0.1,
    "frequency_penalty": -0.1,
    "logit_bias": {"50256": -100.0},
    "logprobs": True,
    "top_logprobs": 3,
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "f",
                "description": "d",
                "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
                "strict": True,
            },
        },
        {"type": "custom", "custom": {"name": "g", "format": {"type": "grammar", "grammar": {"syntax": "lark"}}}},
        {"type": "mcp", "server_label": "docs", "server_url": "https://mcp.example"},
    ],
    "tool_choice": {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "required",
            "tools": [{"type": "function", "function": {"name": "f"}}, {"type": "custom", "custom": {"name": "g"}}],
        },
    },
    "parallel_tool_calls": False,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True},
    },
    "reasoning_effort": "high",
    "web_search_options": {"search_context_size": "low"},
    "verbosity": "low",
    "user": "u1",
    "safety_identifier": "s1",
    "metadata": {"k": "v"},
    "service_tier": "flex",
    "prompt_cache_key": "ck",
    "prompt_cache_retention": "24h",
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "prediction": {"type": "content", "content": "x"},
    "store": True,
    "stream": True,
    "stream_options": {"include_usage": True, "include_obfuscation": False},
    "chat_template_kwargs": {"enable_thinking": False},
    "thinking_budget": 5,
}


def test_everything_of_a_chat_request_survives_the_hub() -> None:
    assert _through(FULL) == FULL


@pytest.mark.parametrize(
    "members",
    [
        {"tool_choice": "auto"},
        {"tool_choice": "none"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}, "tools": FULL["tools"]},
        {"tool_choice": {"type": "custom", "custom": {"name": "g"}}, "tools": FULL["tools"]},
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "grammar", "grammar": "root ::= x"}},
        {"reasoning": {"effort": "low", "exclude": True}},
        {"reasoning": {"max_tokens": 2000}},
        {"thinking": {"type": "enabled", "budget_tokens": 2048}},
        {"thinking": {"type": "disabled"}},
        {"thinking": {"type": "enabled"}},
        {"reasoning": {"enabled": False}},
        {"enable_thinking": False},
        {"enable_thinking": True, "thinking_budget": 2000},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"reasoning_effort": "default"},
        {"safety_identifier": "s"},
        {"functions_of_mine": 1},
        {"moderation": {"model": "omni", "policy": "x"}},
        {"stop": ["x"]},
        {
            "tools": FULL["tools"],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]},
            },
        },
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "object"}, "description": "d"},
            }
        },
        {"prompt_cache_options": {"mode": "explicit", "ttl": "30m"}},
    ],
)
def test_single_members_survive_the_hub(members: dict[str, Any]) -> None:
    body = {"model": "m", "messages": [USER], **members}
    assert _through(body) == body


def test_a_cache_mark_on_a_tool_is_read_beside_the_function_and_inside_it() -> None:
    hour = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    minutes = {"cache_control": {"type": "ephemeral"}}
    tools = [
        {"type": "function", "function": {"name": "f"}},
        {"type": "function", "function": {"name": "g"}, **hour},
        {"type": "function", "function": {"name": "h", **minutes}},
    ]
    body = {"model": "m", "messages": [USER], "tools": tools}
    read = DIALECT.read_request(json.dumps(body).encode())
    assert [tool.cache_ttl for tool in read.tools] == [None, "1h", "5m"]
    assert _through(body)["tools"] == [*tools[:2], {"type": "function", "function": {"name": "h"}, **minutes}]


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        ("a.XLSX", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
        ("a.json", "application/json"),
        ("a.html", "text/html"),
        ("scan", "application/pdf"),
    ],
)
def test_bare_base64_is_what_the_files_name_says(name: str, media_type: str) -> None:
    """The SDK's own description of `file_data`; as a PDF the upstream could not open it."""
    part = {"type": "file", "file": {"file_data": "e30=", "filename": name}}
    body = {"model": "m", "messages": [{"role": "user", "content": [part]}]}
    read = DIALECT.read_request(json.dumps(body).encode())
    assert read.messages[0].parts == (File(media_type, data="e30=", name=name),)


ON, OFF = Reasoning(adaptive=True), Reasoning(effort="none")


def of_google(**thinking: Any) -> dict[str, Any]:
    """The thinking settings of Google's own API for OpenAI's SDKs."""
    return {"extra_body": {"google": {"thinking_config": thinking}}}


@pytest.mark.parametrize(
    ("members", "reasoning"),
    [
        ({"thinking": {"type": "enabled"}}, ON),
        ({"thinking": {"type": "disabled"}}, OFF),
        ({"reasoning": {"enabled": True}}, ON),
        ({"reasoning": {"enabled": False}}, OFF),
        ({"reasoning": {"enabled": True, "effort": "low"}}, Reasoning(effort="low")),
        ({"enable_thinking": True}, ON),
        ({"enable_thinking": False, "thinking_budget": 100}, OFF),
        ({"enable_thinking": True, "thinking_budget": 2000}, Reasoning(budget_tokens=2000)),
        ({"chat_template_kwargs": {"enable_thinking": False}}, OFF),
        ({"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "high"}, Reasoning(effort="high")),
        ({"chat_template_kwargs": {"thinking": False}}, Reasoning(effort="none")),
        ({"thinking": "on", "enable_thinking": "yes", "chat_template_kwargs": [True]}, None),
        (of_google(thinking_level="LOW", include_thoughts=True), Reasoning(effort="low", visible=True)),
        (of_google(thinking_budget=0), Reasoning(budget_tokens=0)),
        (of_google(thinking_budget=-1, include_thoughts=False), Reasoning(adaptive=True, visible=False)),
        (of_google(thinking_level=None, thinking_budget="5", include_thoughts="no"), None),
        ({"extra_body": {"google": "odd"}}, None),
    ],
)
def test_every_familys_switch_for_thinking_is_understood(members: dict[str, Any], reasoning: Reasoning | None) -> None:
    body = {"model": "m", "messages": [USER], **members}
    assert DIALECT.read_request(json.dumps(body).encode()).reasoning == reasoning


def test_content_that_google_holds_is_refused_where_it_would_be_left_out() -> None:
    held = {"extra_body": {"google": {"cached_content": "cachedContents/1"}}}
    request = DIALECT.read_request(json.dumps({"model": "m", "messages": [USER], **held}).encode())
    with pytest.raises(BadRequest, match="stored at Google") as refused:
        DIALECT.check_crossing(request)
    assert refused.value.param == "extra_body"


def test_instructions_alone_are_what_the_user_says() -> None:
    """OpenAI's models answer to them, and BAML's prompts are nothing else; Claude, Gemini and Nova want a turn."""
    rows = [{"role": "system", "content": "a"}, {"role": "developer", "content": "b", "name": "setup"}]
    request = DIALECT.read_request(json.dumps({"model": "m", "messages": rows}).encode())
    assert (request.system, request.messages) == ((), [Message("user", (Text("a"), Text("b")))])
    assert _write(request)["messages"] == [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b", "name": "setup"},
    ]


def test_a_choice_that_copilot_makes_for_gemini_is_geminis_and_automatic_elsewhere() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    body = {"model": "m", "messages": [USER], "tools": [tool], "tool_choice": "validated"}
    request = DIALECT.read_request(json.dumps(body).encode())
    assert request.tool_choice == ToolChoice("auto")
    assert _write(request)["tool_choice"] == "validated"
    gemini = json.loads(DIALECTS["gemini"].write_request(request, profile_for("gemini", "gemini-3-pro")))
    assert gemini["toolConfig"] == {"functionCallingConfig": {"mode": "VALIDATED"}}
    claude = json.loads(DIALECTS["anthropic"].write_request(request, profile_for("anthropic", "claude-sonnet-5-5")))
    assert claude["tool_choice"] == {"type": "auto"}


def test_mistrals_word_for_a_call_that_must_be_made_crosses() -> None:
    """Its SDK knows `any` beside `required`, which the other dialects spell in ways of their own."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    body = {"model": "m", "messages": [USER], "tools": [tool], "tool_choice": "any"}
    request = DIALECT.read_request(json.dumps(body).encode())
    assert request.tool_choice == ToolChoice("required")
    assert _write(request)["tool_choice"] == "any"
    gemini = json.loads(DIALECTS["gemini"].write_request(request, profile_for("gemini", "gemini-3-pro")))
    assert gemini["toolConfig"] == {"functionCallingConfig": {"mode": "ANY"}}
    claude = json.loads(DIALECTS["anthropic"].write_request(request, profile_for("anthropic", "claude-sonnet-5")))
    assert claude["tool_choice"] == {"type": "any"}
    responses = json.loads(DIALECTS["responses"].write_request(request, profile_for("openai", "gpt-5.2")))
    assert responses["tool_choice"] == "required"


def test_what_the_hub_understands_of_a_full_request() -> None:
    request = DIALECT.read_request(json.dumps(FULL).encode())
    assert [text.text for text in request.system] == ["Be brief.", "a"]
    assert request.system[1].cache_ttl == "5m"
    assert [message.role for message in request.messages] == [
        *("user", "assistant", "user", "assistant", "system", "user", "assistant", "user", "assistant")
    ]
    assert request.messages[0].parts == (
        Text("hi"),
        Text("ho"),
        Text("look", "5m"),
        Image(url="https://a.example/x.png", detail="low"),
        Image(data="iVBO", media_type="image/png"),
        Audio("UklG", "wav"),
        File("application/pdf", data="JVBE", name="a.pdf"),
        File("application/octet-stream", url="file-id:file-1"),
    )
    assert request.messages[1].parts == (
        Thinking("Hm.", "c2ln", "anthropic"),
        Thinking(redacted="b3Bh", signed_by="anthropic"),
        Text("Calling."),
        ToolCall("call_a", "f", '{"a": 1}', signature="dGhv", signed_by="gemini"),
        ToolCall("call_b", "g", "free", custom=True),
    )
    assert request.messages[2].parts == (
        ToolResult("call_a", (Text("1"),), name="f"),
        ToolResult("call_b", (Text("2"), Text("3")), name="g", custom=True),
        Text("go on"),
    )
    assert request.messages[3].parts == (Refusal("No."),)
    assert request.tool_choice == ToolChoice("required", ("f", "g"))
    assert [tool.kind for tool in request.server_tools] == ["mcp", "web_search"]
    assert request.output == OutputFormat("schema", "x", {"type": "object"}, True)
    assert request.reasoning == Reasoning(effort="high")
    assert (request.user, request.cache_key) == ("u1", "ck")


def test_deprecated_functions_become_tools() -> None:
    body = {
        "model": "m",
        "messages": [
            USER,
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a":1}'}},
            {"role": "function", "name": "f", "content": "1"},
        ],
        "functions": [{"name": "f", "parameters": {"type": "object"}}],
        "function_call": {"name": "f"},
    }
    written = _through(body)
    assert written["messages"][1]["tool_calls"][0]["id"] == written["messages"][2]["tool_call_id"] == "call_0"
    assert written["tools"] == [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    assert written["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert written["parallel_tool_calls"] is False
    assert "functions" not in written
    assert "function_call" not in written


def test_a_bare_json_response_format_is_dropped() -> None:
    assert "response_format" not in _through({"model": "m", "messages": [USER], "response_format": "json"})


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}, "modalities"),
        ({"response_format": {"type": "grammar", "grammar": "start: x"}}, "response_format"),
        ({"messages": [USER, {"role": "assistant", "content": None, "audio": {"id": "audio_1"}}, USER]}, "messages"),
        ({"moderation": {"model": "omni-moderation-latest"}}, "moderation"),
        ({"moderation": None}, None),
        ({"plugins": [{"id": "web"}]}, "plugins"),
        ({"search_parameters": {"mode": "on"}}, "search_parameters"),
        ({"enable_search": True}, "enable_search"),
        ({"enable_code_interpreter": True}, "enable_code_interpreter"),
        ({"guided_choice": ["yes", "no"]}, "guided_choice"),
        ({"structured_outputs": {"regex": "[a-z]+"}}, "structured_outputs"),
        ({"grammar": "root ::= [a-z]+"}, "grammar"),
        ({"plugins": [], "enable_search": False, "guided_json": None}, None),
        ({"messages": [USER, {"role": "assistant", "content": "said", "audio": None}, USER]}, None),
        ({"modalities": ["text"], "response_format": {"type": "json_object"}}, None),
        ({"modalities": None, "response_format": "json"}, None),
    ],
)
def test_an_answer_that_no_other_dialect_can_give_does_not_cross_in_silence(
    members: dict[str, Any], param: str | None
) -> None:
    request = DIALECT.read_request(json.dumps({"model": "m", "messages": [USER], **members}).encode())
    refused = contextlib.nullcontext() if param is None else pytest.raises(BadRequest)
    with refused as caught:
        DIALECT.check_crossing(request)
    assert (caught.value.param if caught else None) == param


@pytest.mark.parametrize("asked", [None, {"include_usage": False}, {"include_usage": True}])
def test_g45_g46_usage_is_always_asked_of_the_upstream_whatever_the_caller_says(asked: Any) -> None:
    body = {"model": "m", "messages": [USER], "stream": True, "stream_options": asked}
    assert _through(body)["stream_options"] == {"include_usage": True}


def test_the_profile_chooses_the_spelling() -> None:
    body = {"model": "m", "messages": [{"role": "system", "content": "s"}, USER], "max_tokens": 5, "temperature": 1.0}
    reasoner = _through(body, profile_for("openai", "gpt-5.1"))
    assert reasoner["messages"][0]["role"] == "developer"
    assert reasoner["max_completion_tokens"] == 5
    assert "max_tokens" not in reasoner
    assert "temperature" not in reasoner
    both = {"model": "m", "messages": [USER], "max_tokens": 5, "max_completion_tokens": 6}
    assert _through(both) == {"model": "m", "messages": [USER], "max_tokens": 6}


@pytest.mark.parametrize(
    ("model", "reasoning", "word"),
    [
        ("gpt-5.1", Reasoning(effort="none"), "none"),
        ("gpt-5", Reasoning(effort="none"), "minimal"),
        ("gpt-5.1", Reasoning(effort="max"), "high"),
        ("gpt-5.1-codex-max", Reasoning(effort="max"), "xhigh"),
        ("gpt-5-pro", Reasoning(effort="low"), "high"),
        ("gpt-5.5-pro", Reasoning(effort="low"), "medium"),
        ("gpt-5.6-sol", Reasoning(effort="none"), "none"),
        ("gpt-6-luna", Reasoning(effort="minimal"), "none"),
        ("gpt-6-astra", Reasoning(effort="none"), "low"),
        ("gpt-6.2-sol", Reasoning(budget_tokens=0), "low"),
        ("gpt-6.2-sol", Reasoning(effort="max"), "xhigh"),
        ("o3", Reasoning(effort="xhigh"), "high"),
        ("o3", Reasoning(budget_tokens=4096), "low"),
        ("o3", Reasoning(budget_tokens=16_384), "medium"),
        ("o3", Reasoning(budget_tokens=16_385), "high"),
        ("o3", Reasoning(adaptive=True), None),
        ("gpt-4o", Reasoning(effort="high"), None),
    ],
)
def test_thinking_of_other_dialects_becomes_an_effort_word_the_model_knows(
    model: str, reasoning: Reasoning, word: str | None
) -> None:
    assert _write(_other(reasoning=reasoning), profile_for("openai", model)).get("reasoning_effort") == word


_ON, _OFF = {"thinking": {"type": "enabled"}}, {"thinking": {"type": "disabled"}}
_QWEN_ON, _QWEN_OFF = {"enable_thinking": True}, {"enable_thinking": False}


@pytest.mark.parametrize(
    ("family", "model", "off", "high", "by_itself"),
    [
        ("deepseek", "deepseek-flash", _OFF, _ON | {"reasoning_effort": "high"}, _ON),
        ("deepseek", "deepseek-v4-pro", _OFF, _ON | {"reasoning_effort": "high"}, _ON),
        ("zhipu", "glm-4.7", _OFF, _ON, _ON),
        ("zhipu", "glm-5.2", _OFF, _ON | {"reasoning_effort": "high"}, _ON),
        ("zhipu", "glm-5.3", {"reasoning_effort": "minimal"}, {"reasoning_effort": "high"}, {}),
        ("zhipu", "glm-4-32b-0414-128k", {}, {}, {}),
        ("moonshot", "kimi-k2.6", _OFF, _ON, _ON),
        ("moonshot", "kimi-k2.7-code", {}, {}, {}),
        ("moonshot", "kimi-k3.1-pro", {"reasoning_effort": "low"}, {"reasoning_effort": "high"}, {}),
        ("minimax", "MiniMax-M3", _OFF, {"thinking": {"type": "adaptive"}}, {"thinking": {"type": "adaptive"}}),
        ("minimax", "MiniMax-M2.7", {}, {}, {}),
        ("ark", "doubao-seed-1-6-251015", _OFF, _ON, _ON),
        ("qwen", "qwen3.7-plus", _QWEN_OFF, _QWEN_ON, _QWEN_ON),
        ("qwen", "qwen-plus", _QWEN_OFF, _QWEN_ON, _QWEN_ON),
        ("qwen", "qwen3-coder-plus", {}, {}, {}),
        ("qwen", "qwen3-30b-a3b-instruct-2507", {}, {}, {}),
        *(
            (
                "vllm",
                model,
                {"chat_template_kwargs": _QWEN_OFF},
                {"chat_template_kwargs": _QWEN_ON},
                {"chat_template_kwargs": _QWEN_ON},
            )
            for model in ("Qwen/Qwen3-32B", "qwen3.6-27b", "zai-org/GLM-4.7")
        ),
        ("vllm", "Qwen/Qwen3-Coder-30B-A3B-Instruct", {}, {}, {}),
        ("xai", "grok-4.3", {"reasoning_effort": "none"}, {"reasoning_effort": "high"}, {}),
        ("xai", "grok-4.7", {"reasoning_effort": "low"}, {"reasoning_effort": "high"}, {}),
        ("xai", "grok-4.20-0309-reasoning", {}, {}, {}),
        ("groq", "openai/gpt-oss-120b", {"reasoning_effort": "low"}, {"reasoning_effort": "high"}, {}),
        ("groq", "qwen/qwen3.8-27b", {"reasoning_effort": "none"}, {"reasoning_effort": "high"}, {}),
        ("groq", "llama-3.3-70b-versatile", {}, {}, {}),
        ("mistral", "mistral-medium-3-5", {"reasoning_effort": "none"}, {"reasoning_effort": "high"}, {}),
        ("mistral", "mistral-large-4", {"reasoning_effort": "low"}, {"reasoning_effort": "high"}, {}),
        ("mistral", "mistral-large-2512", {}, {}, {}),
        ("openrouter", "openai/gpt-5.6-sol", {"reasoning_effort": "none"}, {"reasoning_effort": "high"}, {}),
        ("openrouter", "deepseek/deepseek-v4-pro", {"reasoning_effort": "none"}, {"reasoning_effort": "high"}, {}),
        # It refuses "none" for models that always think, and Claude thinks only where it is asked to.
        ("openrouter", "google/gemini-3.8-flash", {}, {"reasoning_effort": "high"}, {}),
        (
            "openrouter",
            "anthropic/claude-sonnet-4.5",
            {},
            {"reasoning_effort": "high"},
            {"reasoning_effort": "high"},
        ),
        ("compatible", "deepseek-v4-pro", {}, {}, {}),
    ],
)
def test_thinking_of_other_dialects_is_asked_for_as_each_provider_takes_it(
    family: str, model: str, off: dict[str, Any], high: dict[str, Any], by_itself: dict[str, Any]
) -> None:
    """DeepSeek, GLM and Kimi think unless they are told not to, Qwen's models by themselves only in part."""
    profile = profile_for(family, model)
    for reasoning, members in (
        (Reasoning(effort="none"), off),
        (Reasoning(budget_tokens=0), off),
        (Reasoning(effort="high"), high),
        (Reasoning(budget_tokens=30_000), high),
        (Reasoning(adaptive=True), by_itself),
        (None, {}),
    ):
        written = _write(_other(reasoning=reasoning), profile)
        assert {name: value for name, value in written.items() if name not in ("model", "messages")} == members


@pytest.mark.parametrize(
    ("family", "model", "budget", "word"),
    [
        ("mistral", "mistral-small-2603", 2000, "high"),
        ("deepseek", "deepseek-v4-pro", 2000, "low"),
        ("deepseek", "deepseek-v4-pro", 10_000, "medium"),
        ("openrouter", "z-ai/glm-5.2", 10_000, "medium"),
    ],
)
def test_who_asks_for_some_thinking_gets_some(family: str, model: str, budget: int, word: str) -> None:
    written = _write(_other(reasoning=Reasoning(budget_tokens=budget)), profile_for(family, model))
    assert written["reasoning_effort"] == word


@pytest.mark.parametrize(
    ("family", "model", "ends", "beside"),
    [
        ("deepseek", "deepseek-v4-pro", _OFF, {}),
        ("moonshot", "kimi-k2.6", _OFF, {}),
        ("qwen", "qwen3.7-plus", _QWEN_OFF, {}),
        ("moonshot", "kimi-k3", {}, {"reasoning_effort": "high"}),
        ("zhipu", "glm-4.7", {}, _ON),
    ],
)
def test_a_forced_tool_ends_thinking_where_both_together_are_refused(
    family: str, model: str, ends: dict[str, Any], beside: dict[str, Any]
) -> None:
    """DeepSeek says so ("Thinking mode does not support this tool_choice") to who asked for no thinking too."""
    profile, tools = profile_for(family, model), (Tool("f"), Tool("g"))
    for choice in (ToolChoice("required"), ToolChoice("named", ("g",))):
        for reasoning, members in ((None, ends), (Reasoning(effort="high"), ends | beside)):
            written = _write(_other(tools=tools, tool_choice=choice, reasoning=reasoning), profile)
            found = {name: written[name] for name in written if "think" in name or "reason" in name}
            assert (found, "tool_choice" in written) == (members, True)
    free = _write(_other(tools=tools, tool_choice=ToolChoice("auto")), profile)
    assert free.keys() == {"model", "messages", "tools", "tool_choice"}


def test_qwens_open_models_think_in_streams_only() -> None:
    profile = profile_for("qwen", "qwen3-32b")
    assert _write(_other(), profile)["enable_thinking"] is False
    assert _write(_other(reasoning=Reasoning(effort="high")), profile)["enable_thinking"] is False
    assert "enable_thinking" not in _write(_other(stream=True), profile)
    assert _write(_other(stream=True, reasoning=Reasoning(effort="high")), profile)["enable_thinking"] is True


def test_kimi_takes_no_sampling() -> None:
    """It refuses every temperature but its own."""
    sampling = {"temperature": 0.5, "top_p": 0.5, "presence_penalty": 1.0, "frequency_penalty": 1.0}
    for model in ("kimi-k2.6", "kimi-k2.7-code", "kimi-k3"):
        assert _write(_other(**sampling), profile_for("moonshot", model)).keys() == {"model", "messages"}
    assert sampling.items() <= _write(_other(**sampling), profile_for("moonshot", "moonshot-v1-8k")).items()


def test_cache_marks_reach_claude_through_openrouter() -> None:
    """It caches nothing that is not marked, so Claude Code paid for its whole conversation anew with every call."""
    asked = _other(
        Message("user", (Text("go"),)),
        Message("assistant", (Text("a"), Text("b", "5m"), ToolCall("c", "f", "{}"))),
        Message("user", (ToolResult("c", (Text("r"),), cache_ttl="5m"), Text("now", "5m"))),
        system=(Text("You are"), Text("helpful.", "1h")),
        tools=(Tool("f"), Tool("g", cache_ttl="1h")),
    )
    hour, minutes = {"type": "ephemeral", "ttl": "1h"}, {"type": "ephemeral"}
    written = _write(asked, profile_for("openrouter", "anthropic/claude-sonnet-4.5"))
    assert [tool.get("cache_control") for tool in written["tools"]] == [None, hour]
    assert [row["content"] for row in written["messages"]] == [
        [{"type": "text", "text": "You are"}, {"type": "text", "text": "helpful.", "cache_control": hour}],
        "go",
        [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": minutes}],
        [{"type": "text", "text": "r", "cache_control": minutes}],
        [{"type": "text", "text": "now", "cache_control": minutes}],
    ]
    for family, model in (("openrouter", "openai/gpt-5.6-sol"), ("deepseek", "deepseek-flash")):
        plain = _write(asked, profile_for(family, model))
        assert "cache_control" not in json.dumps(plain)
        assert [row["content"] for row in plain["messages"]] == ["You are\n\nhelpful.", "go", "ab", "r", "now"]


def test_claudes_signed_thinking_goes_back_through_openrouter() -> None:
    thoughts = (
        Thinking("Hm.", "c2ln", "anthropic"),
        Thinking(redacted="b3Bh", signed_by="anthropic"),
        Thinking("Oh.", "x", "gemini"),
        Thinking("So."),
    )
    call = ToolCall("c", "f", "{}")
    asked = _other(Message("assistant", (*thoughts, call)), Message("user", (ToolResult("c", (Text("r"),)),)))
    row = _write(asked, profile_for("openrouter", "anthropic/claude-sonnet-4.5"))["messages"][0]
    assert row["reasoning_details"] == [
        {"type": "reasoning.text", "text": "Hm.", "signature": "c2ln", "format": "anthropic-claude-v1", "index": 0},
        {"type": "reasoning.encrypted", "data": "b3Bh", "format": "anthropic-claude-v1", "index": 1},
    ]
    assert "reasoning_details" not in _write(asked, profile_for("openrouter", "openai/gpt-5.6-sol"))["messages"][0]
    unsigned = _other(Message("assistant", (Thinking("So."), call)), Message("user", (Text("r"),)))
    rows = _write(unsigned, profile_for("openrouter", "anthropic/claude-sonnet-4.5"))["messages"]
    assert "reasoning_details" not in rows[0]


def test_grok_takes_no_penalties_where_it_reasons() -> None:
    asked = _other(temperature=0.5, top_p=0.5, presence_penalty=1.0, frequency_penalty=1.0)
    for model in ("grok-4.7", "grok-4.20-0309-reasoning"):
        assert _write(asked, profile_for("xai", model)).keys() == {"model", "messages", "temperature", "top_p"}
    assert "presence_penalty" in _write(asked, profile_for("xai", "grok-4.20-0309-non-reasoning"))


@pytest.mark.parametrize(
    "model", ["o3", "gpt-5-mini", "gpt-5.6-sol", "gpt-6-luna", "gpt-6.2-astra", "gpt-7", "gpt-10-sol"]
)
def test_a_reasoning_model_is_asked_as_one(model: str) -> None:
    """A limit of a chat that is too small for its hold would make a long answer's usage look impossible."""
    profile = profile_for("openai", model)
    assert (profile.max_output_tokens, profile.reasoning) == (128_000, "effort")
    written = _write(_other(max_output_tokens=9, temperature=0.5, top_p=0.5, system=(Text("be brief"),)), profile)
    assert written.keys() == {"model", "messages", "max_completion_tokens"}
    assert written["messages"][0]["role"] == "developer"


def test_tool_results_of_other_dialects_come_before_the_rest_of_their_turn() -> None:
    turn = Message(
        "user",
        (
            Text("and now?"),
            ToolResult("toolu_1", (Text("a"), Text("b")), name="f", is_error=True),
            ToolResult("toolu_2", (Text("see"), Image(data="iVBO", media_type="image/png"))),
            ToolResult("toolu_3", ()),
        ),
    )
    call = Message("assistant", (Text("x"), Text("y"), ToolCall("toolu_1", "f", "")))
    rows = _write(_other(call, turn, system=(Text("one"), Text("two"))))["messages"]
    assert rows == [
        {"role": "system", "content": "one\n\ntwo"},
        {
            "role": "assistant",
            "content": "xy",
            "tool_calls": [{"id": "toolu_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "content": "Error: a\nb"},
        {"role": "tool", "tool_call_id": "toolu_2", "content": "see"},
        {"role": "tool", "tool_call_id": "toolu_3", "content": ""},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "From the result of tool call toolu_2:"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}},
                {"type": "text", "text": "and now?"},
            ],
        },
    ]


def test_limits_to_some_tools_become_a_shorter_list_for_other_dialects() -> None:
    request = _other(tools=(Tool("f"), Tool("g")), tool_choice=ToolChoice("required", ("g",)), parallel_tools=True)
    written = _write(request)
    assert [tool["function"]["name"] for tool in written["tools"]] == ["g"]
    assert written["tool_choice"] == "required"
    assert written["parallel_tool_calls"] is True
    alone = _write(_other(tool_choice=ToolChoice("auto"), parallel_tools=False))
    assert "tool_choice" not in alone
    assert "parallel_tool_calls" not in alone


def test_a_web_search_of_another_dialect_becomes_web_search_options() -> None:
    raw = {
        "type": "web_search_20250305",
        "name": "web_search",
        "max_uses": 3,
        "user_location": {"type": "approximate", "city": "Rome", "country": "IT"},
    }
    written = _write(_other(server_tools=(ServerTool("web_search", "anthropic", raw),)))
    assert written["web_search_options"] == {
        "user_location": {"type": "approximate", "approximate": {"city": "Rome", "country": "IT"}}
    }


@pytest.mark.parametrize(
    ("family", "model", "searches"),
    [
        ("openai", "gpt-4o-search-preview", True),
        ("openrouter", "openai/gpt-5.6-sol", True),
        ("perplexity", "sonar", True),
        ("compatible", "some", True),
        ("mistral", "mistral-large-4", False),
        ("deepseek", "deepseek-flash", False),
        ("groq", "openai/gpt-oss-120b", False),
        ("vllm", "Qwen/Qwen3-32B", False),
        ("xai", "grok-4.7", False),
    ],
)
def test_a_web_search_is_asked_of_those_who_can_search(family: str, model: str, searches: bool) -> None:
    """Mistral refuses the field, others answer as if they had searched; Codex offers one beside its other tools."""
    profile = profile_for(family, model)
    search = ServerTool("web_search", "anthropic", {"type": "web_search_20250305", "name": "web_search"})
    with contextlib.nullcontext() if searches else pytest.raises(BadRequest, match="cannot search"):
        assert "web_search_options" in _write(_other(server_tools=(search,)), profile)
    beside = _write(_other(server_tools=(search,), tools=(Tool("f"),)), profile)
    assert ("web_search_options" in beside, len(beside["tools"])) == (searches, 1)
    named = ToolChoice("named", ("web_search",))
    with contextlib.nullcontext() if searches else pytest.raises(BadRequest, match="cannot search"):
        _write(_other(server_tools=(search,), tools=(Tool("f"),), tool_choice=named), profile)
    unused = _write(_other(server_tools=(search,), tool_choice=ToolChoice("none")), profile)
    assert "web_search_options" not in unused


def test_a_chat_keeps_its_own_search_options() -> None:
    body = {"model": "m", "messages": [USER], "web_search_options": {"search_context_size": "low"}}
    assert _through(body, profile_for("vllm", "m")) == body


def test_how_much_a_web_search_of_responses_reads_is_carried() -> None:
    raw = {"type": "web_search", "search_context_size": "high"}
    written = _write(_other(dialect="responses", server_tools=(ServerTool("web_search", "responses", raw),)))
    assert written["web_search_options"] == {"search_context_size": "high"}


def test_the_grammar_of_a_custom_tool_stands_where_each_of_openais_dialects_has_it() -> None:
    nested = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: x"}}
    flat = {"type": "grammar", "syntax": "lark", "definition": "start: x"}
    chat = {"type": "custom", "custom": {"name": "g", "format": nested}}
    response = {"type": "custom", "name": "g", "format": flat}
    wires: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "chat": ({"messages": [USER]}, chat),
        "responses": ({"input": "hi"}, response),
    }
    for wire, (said, declared) in wires.items():
        read = DIALECTS[wire].read_request(json.dumps({"model": "m", "tools": [declared], **said}).encode())
        for other, (_, expected) in wires.items():
            written = DIALECTS[other].write_request(read, profile_for("openai", "gpt-5.2"))
            assert json.loads(written)["tools"] == [expected]


@pytest.mark.parametrize("given_schema", [{}, {"schema": None}, {"schema": {}}])
def test_a_schema_that_nobody_gave_is_one_of_any_object(given_schema: dict[str, Any]) -> None:
    """The SDK lets it be left out; Claude's models would be sent null in its place."""
    form = {"type": "json_schema", "json_schema": {"name": "x", **given_schema}}
    asked = {"model": "m", "messages": [USER], "response_format": form}
    assert DIALECT.read_request(json.dumps(asked).encode()).output == OutputFormat("schema", "x", {"type": "object"})
    asked = {"model": "m", "input": "hi", "text": {"format": {"type": "json_schema", "name": "x", **given_schema}}}
    read = DIALECTS["responses"].read_request(json.dumps(asked).encode())
    assert read.output == OutputFormat("schema", "x", {"type": "object"})


def test_a_file_stored_with_openai_is_known_to_both_of_its_dialects() -> None:
    turn = Message("user", (File("application/octet-stream", url="file-id:file-1"),))
    (row,) = _write(_other(turn, dialect="responses"))["messages"]
    assert row["content"] == [{"type": "file", "file": {"file_id": "file-1"}}]
    with pytest.raises(BadRequest, match="send the file's data"):
        _write(_other(turn))


def test_a_file_without_a_name_gets_one_of_its_kind() -> None:
    turn = Message("user", (File("application/pdf", data="JVBE"), File("text/csv", data="YSxi")))
    (row,) = _write(_other(turn))["messages"]
    assert row["content"] == [
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE", "filename": "document.pdf"}},
        {"type": "file", "file": {"file_data": "data:text/csv;base64,YSxi", "filename": "document"}},
    ]


def test_a_text_document_in_a_tools_result_keeps_its_title_as_anywhere_else() -> None:
    document = File("text/plain", text="Total: 7", name="Invoice")
    asked, result, read = _write(
        _other(
            Message("assistant", (ToolCall("toolu_1", "f", "{}"),)),
            Message("user", (ToolResult("toolu_1", (Text("Found:"), document)), document)),
        )
    )["messages"]
    assert result["content"] == "Found:\nInvoice:\nTotal: 7"
    assert read["content"] == [{"type": "text", "text": "Invoice:\nTotal: 7"}]
    assert asked["tool_calls"][0]["id"] == result["tool_call_id"]


def test_whoever_wants_no_tool_used_is_not_searched_for() -> None:
    search = ServerTool("web_search", "anthropic", {"type": "web_search_20250305", "name": "web_search"})
    assert "web_search_options" in _write(_other(server_tools=(search,)))
    assert "web_search_options" not in _write(_other(server_tools=(search,), tool_choice=ToolChoice("none")))


def test_a_schema_becomes_an_instruction_where_the_model_takes_none() -> None:
    output = OutputFormat("schema", schema={"type": "object"})
    written = _write(_other(output=output), msgspec.structs.replace(PLAIN, json_schema=False))
    assert written["response_format"] == {"type": "json_object"}
    assert '{"type":"object"}' in written["messages"][0]["content"]


@pytest.mark.parametrize(
    ("family", "model", "kind"),
    [
        ("deepseek", "deepseek-v4-pro", "json_object"),
        ("zhipu", "glm-5", "json_object"),
        ("openrouter", "deepseek/deepseek-v4-pro", "json_schema"),
        ("mistral", "mistral-large-latest", "json_schema"),
    ],
)
def test_a_schema_goes_in_the_form_that_each_provider_takes(family: str, model: str, kind: str) -> None:
    output = OutputFormat("schema", schema={"type": "object", "properties": {"city": {"type": "string"}}})
    written = _write(_other(output=output), profile_for(family, model))
    assert written["response_format"]["type"] == kind
    assert ('"city"' in written["messages"][0]["content"]) == (kind == "json_object")


def test_thoughts_go_back_only_to_models_that_want_them() -> None:
    request = _other(
        Message("assistant", (Thinking("Hm.", "c2ln", "anthropic"), Text("a"))), Message("user", (Text("b"),))
    )
    assert _write(request)["messages"][0] == {"role": "assistant", "content": "a"}
    wanting = profile_for("deepseek", "deepseek-reasoner")
    assert _write(request, wanting)["messages"][0] == {"role": "assistant", "content": "a", "reasoning_content": "Hm."}


def test_a_call_whose_thoughts_nobody_has_is_no_reason_to_refuse_a_conversation() -> None:
    """DeepSeek and Kimi refuse a call without `reasoning_content`, and DeepSeek an empty one."""
    call, result = ToolCall("c", "f", "{}"), ToolResult("c", (Text("r"),))
    request = _other(
        Message("assistant", (Text("a"), call)), Message("user", (result,)), Message("assistant", (Text("b"),))
    )
    for upstream, model in (("deepseek", "deepseek-v4-pro"), ("moonshot", "kimi-k2.6"), ("openrouter", "z-ai/glm-5")):
        called, _, said = _write(request, profile_for(upstream, model))["messages"]
        assert (called["reasoning_content"], "reasoning_content" in said) == (" ", False)
    assert "reasoning_content" not in _write(request)["messages"][0]
    # Groq and Mistral refuse the field, whose models of the same makers do without.
    for upstream, model in (("groq", "moonshotai/kimi-k2-instruct-0905"), ("mistral", "glm-5-2")):
        rows = _write(request, profile_for(upstream, model))["messages"]
        assert not any("reasoning_content" in row for row in rows)


def _assistant(*parts: Any) -> ChatRequest:
    return _other(Message("assistant", (*parts, Text("said"))), Message("user", (Text("next"),)))


def test_too_many_stop_sequences_are_refused_by_the_callers_own_name_for_them() -> None:
    for dialect, name in (("anthropic", "stop_sequences"), ("gemini", "generationConfig.stopSequences")):
        with pytest.raises(BadRequest) as refused:
            _write(_other(stop=tuple("abcde"), dialect=dialect))
        assert refused.value.param == name


LOSSES: dict[str, ChatRequest] = {
    "signatures of thinking": _assistant(Thinking("t", "LOST", "anthropic")),
    "redacted thinking": _assistant(Thinking(redacted="LOST", signed_by="anthropic")),
    "cache_control": _other(Message("user", (Text("a", "5m"),))),
    "top_k": _other(top_k=4),
    "temperature, top_p, penalties": _other(temperature=0.5, top_p=0.5, presence_penalty=1.0, frequency_penalty=1.0),
    "user, verbosity, log probabilities": _other(user="u", verbosity="low", logprobs=True),
    "the role of later system messages": _other(Message("user", (Text("hi"),)), Message("system", (Text("late"),))),
    "more than 4 stop sequences": _other(stop=("1", "2", "3", "4", "LOST")),
    "metadata": _other(metadata={"a": "LOST"}),
    "service_tier of Anthropic": _other(service_tier="LOST"),
    "images and files in tool results": _other(
        Message("user", (ToolResult("a", (Image(data="iVBO", media_type="image/png"),)),))
    ),
    "images that the model made, in earlier turns": _assistant(Image(data="LOST", media_type="image/png")),
    "blocks of server tools in earlier turns": _assistant(ServerToolPart("anthropic", {"x": "LOST"})),
    "tool_choice of a web search": _other(
        tools=(Tool("f"),),
        server_tools=(ServerTool("web_search", "anthropic", {"name": "LOST"}),),
        tool_choice=ToolChoice("named", ("LOST",)),
    ),
    "a web search alone, on providers whose chat cannot search": _other(
        server_tools=(ServerTool("web_search", "anthropic", {"name": "web_search"}),)
    ),
    "a web search beside other tools, on such providers": _other(
        tools=(Tool("f"),), server_tools=(ServerTool("web_search", "anthropic", {"name": "LOST"}),)
    ),
    "how much to think, finer than an effort word": _other(reasoning=Reasoning(budget_tokens=5000)),
    "how much to think": _other(reasoning=Reasoning(effort="low")),
    "thinking beside a forced tool": _other(
        tools=(Tool("f"),), tool_choice=ToolChoice("required"), reasoning=Reasoning(effort="low")
    ),
    "strict, of Anthropic's schemas with optional properties": _other(
        output=OutputFormat("schema", schema={"type": "object", "properties": {"a": {}}}, strict=True)
    ),
    "JSON schema on DeepSeek's and Zhipu's own services": _other(output=OutputFormat("schema", schema={})),
    "alternatives beside an object's properties, for Moonshot": _other(tools=(Tool("f", schema={}),)),
    "files by URL": _other(Message("user", (File("application/pdf", url="https://a.example/x.pdf"),))),
    "images by file id": _other(Message("user", (Image(url="file-id:file-1"),)), dialect="responses"),
    "files stored with a provider of another dialect": _other(
        Message("user", (ToolResult("a", (File("application/pdf", url="file-id:file_1"),)),))
    ),
    "server tools other than web search": _other(server_tools=(ServerTool("mcp", "anthropic", {"type": "mcp"}),)),
    "allowed and blocked domains of a web search": _other(
        server_tools=(ServerTool("web_search", "anthropic", {"type": "w", "allowed_domains": ["a.example"]}),)
    ),
    "several answers (n) for another dialect": _other(dialect="gemini", n=2),
}


@pytest.mark.parametrize("loss", DIALECT.losses, ids=lambda loss: loss.field)
def test_every_loss_is_as_listed(loss: Any) -> None:
    request = LOSSES[loss.field]
    if loss.refused:
        with pytest.raises(BadRequest) as refused:
            _write(request, profile_for("deepseek", "deepseek-flash"))
        assert refused.value.param
        return
    written = _write(request, profile_for("openai", "o3"))
    text = json.dumps(written)
    assert "LOST" not in text
    left_out = ("cache_control", "top_k", "temperature", "top_p", "penalty", "metadata", "service_tier", "budget")
    for member in (*left_out, "strict"):
        assert member not in text


def test_mistral_is_asked_only_for_what_it_knows() -> None:
    """It refuses all else, and Claude Code names its user on every call."""
    request = _other(user="u", seed=1, verbosity="low", logprobs=True, top_logprobs=2, service_tier="auto", top_p=0.5)
    written = _write(msgspec.structs.replace(request, dialect="responses"), profile_for("mistral", "mistral-large"))
    assert written.keys() == {"model", "messages", "top_p", "random_seed"}
    assert written["messages"] == [{"role": "user", "content": "hi"}]
    assert written["random_seed"] == 1


def test_a_tool_loop_that_began_elsewhere_goes_on_at_mistral() -> None:
    """Its ids have nine letters and digits, no user speaks right after a tool, and instructions stand first."""
    calls = (ToolCall("toolu_01", "f", "{}"), ToolCall("abcDEF123", "f", "{}"))
    results = (ToolResult("toolu_01", (Text("1"),)), ToolResult("abcDEF123", (Text("2"),)), Text("<reminder>"))
    turns = (Message("user", (Text("go"),)), Message("assistant", calls), Message("user", results))
    more = (Message("system", (Text("late"),)), Message("assistant", (Text("So"),)))
    rows = _write(_other(*turns, *more), profile_for("mistral", "mistral-large"))["messages"]
    assert [row["role"] for row in rows] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
        "user",
        "user",
        "assistant",
    ]
    ids = [call["id"] for call in rows[1]["tool_calls"]]
    assert ids == [row["tool_call_id"] for row in rows[2:4]]
    assert (len(ids[0]), ids[0].isalnum(), ids[1]) == (9, True, "abcDEF123")
    assert rows[-1] == {"role": "assistant", "content": "So", "prefix": True}


@pytest.mark.parametrize("family", ["openai", "mistral"])
@pytest.mark.parametrize(
    ("wire", "body"),
    [
        ("anthropic", {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": []}]}),
        ("gemini", {"contents": [{"role": "user", "parts": []}]}),
        ("responses", {"model": "m", "input": [{"type": "web_search_call", "id": "ws_1", "status": "completed"}]}),
    ],
)
def test_a_conversation_of_which_nothing_can_be_carried_is_refused(
    family: str, wire: str, body: dict[str, Any]
) -> None:
    request = DIALECTS[wire].read_request(json.dumps(body).encode())
    with pytest.raises(BadRequest, match="At least one message must have content") as refused:
        _write(request, profile_for(family, "some-large"))
    assert refused.value.param == "messages"


def test_the_list_of_losses_is_whole() -> None:
    assert {loss.field for loss in DIALECT.losses} == set(LOSSES)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"messages": [USER]}, "model"),
    ({"model": "", "messages": [USER]}, "model"),
    ({"model": "m"}, "messages"),
    ({"model": "m", "messages": []}, "messages"),
    ({"model": "m", "messages": [{"role": "assistant", "content": None}]}, "messages"),
    ({"model": "m", "Messages": [USER], "messages": [USER]}, "Messages"),
    ({"model": "m", "messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"model": "m", "messages": [USER, {"content": "x"}]}, "messages[1].role"),
    ({"model": "m", "messages": [{"role": "user"}]}, "messages[0].content"),
    ({"model": "m", "messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"model": "m", "messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    ({"model": "m", "messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "messages[0].content[0]"),
    ({"model": "m", "messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
    (
        {"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "ftp:x"}]}]},
        "messages[0].content[0].image_url.url",
    ),
    ({"model": "m", "messages": [USER, {"role": "tool", "content": "x"}]}, "messages[1].tool_call_id"),
    ({"model": "m", "messages": [USER, {"role": "function", "name": "f", "content": "x"}]}, "messages[1].name"),
    ({"model": "m", "messages": [USER], "temperature": "hot"}, "temperature"),
    ({"model": "m", "messages": [USER], "max_tokens": 0}, "max_tokens"),
    ({"model": "m", "messages": [USER], "n": 0}, "n"),
    ({"model": "m", "messages": [USER], "stop": [1]}, "stop[0]"),
    ({"model": "m", "messages": [USER], "tool_choice": "some"}, "tool_choice"),
    ({"model": "m", "messages": [USER], "tool_choice": {"type": "function"}}, "tool_choice"),
    ({"model": "m", "messages": [USER], "tools": [{"type": "function"}]}, "tools[0].function"),
    ({"model": "m", "messages": [USER], "tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    ({"model": "m", "messages": [USER], "response_format": "xml"}, "response_format"),
    ({"model": "m", "messages": [USER], "response_format": {}}, "response_format.type"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "param"), BAD, ids=[param + str(index) for index, (_, param) in enumerate(BAD)])
def test_what_is_wrong_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        DIALECT.read_request(json.dumps(body).encode())
    assert refused.value.param == param


def test_unreadable_bodies_are_bad_requests() -> None:
    for body in (b"", b"[]", b"{", b'{"model":"\xff"}', b'{"messages":' + b"[" * 100_000):
        with pytest.raises(BadRequest):
            DIALECT.read_request(body)


_INNER = ("type", "text", "function", "name", "tool_calls", "id", "custom", "image_url", "url", "file")
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=5) | st.just("function") | st.just("text"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_INNER), inner),
    max_leaves=8,
)
_MEMBERS = sorted({*FULL, "functions", "function_call"} - {"model", "messages"})


@given(
    st.dictionaries(st.sampled_from(_MEMBERS), _values),
    st.lists(
        st.dictionaries(st.sampled_from(["content", "tool_calls", "thinking_blocks", "images", "refusal"]), _values),
        min_size=1,
        max_size=3,
    ),
    st.lists(st.sampled_from(["user", "assistant", "tool", "system", "function"]), min_size=3, max_size=3),
)
def test_reading_raises_nothing_but_bad_request_and_what_is_read_can_be_written(
    members: dict[str, Any], rows: list[dict[str, Any]], roles: list[str]
) -> None:
    messages = [{"role": role, **row} for role, row in zip(roles, rows, strict=False)]
    with contextlib.suppress(BadRequest):
        request = DIALECT.read_request(json.dumps({"model": "m", "messages": messages, **members}).encode())
        once = DIALECT.write_request(request, PLAIN)
        assert DIALECT.write_request(DIALECT.read_request(once), PLAIN) == once


_words = st.text(min_size=1, max_size=8)
_users = st.lists(
    st.builds(Text, _words)
    | st.builds(lambda data: Image(data=data, media_type="image/png"), st.just("iVBO"))
    | st.builds(Audio, st.just("UklG"), st.sampled_from(["wav", "mp3"])),
    min_size=1,
    max_size=3,
)
_calls = st.lists(_words, max_size=2)


@st.composite
def _requests(draw: st.DrawFn) -> ChatRequest:
    messages = [Message("user", tuple(draw(_users)))]
    for turn in range(draw(st.integers(0, 3))):
        names = draw(_calls)
        calls = tuple(ToolCall(f"call_{turn}_{at}", name, "{}") for at, name in enumerate(names))
        said = (Text(draw(_words)),) if draw(st.booleans()) or not calls else ()
        messages.append(Message("assistant", said + calls))
        results = tuple(ToolResult(call.id, (Text("r"),), name=call.name) for call in calls)
        messages.append(Message("user", results + tuple(draw(_users))))
    return ChatRequest(
        model=draw(_words),
        messages=messages,
        system=tuple(draw(st.lists(st.builds(Text, _words), max_size=2))),
        tools=tuple(Tool(name, schema={"type": "object"}) for name in draw(_calls)),
        max_output_tokens=draw(st.none() | st.integers(1, 10)),
        temperature=draw(st.none() | st.floats(0, 2)),
        stop=tuple(draw(st.lists(_words, max_size=4))),
        seed=draw(st.none() | st.integers(0, 10)),
        reasoning=draw(st.none() | st.builds(Reasoning, effort=st.sampled_from(["low", "high"]))),
        stream=draw(st.booleans()),
        metadata=draw(st.none() | st.dictionaries(_words, _words, max_size=2)),
    )


@given(_requests())
def test_a_random_request_is_read_back_as_it_was_written(request: ChatRequest) -> None:
    read = DIALECT.read_request(DIALECT.write_request(request, PLAIN))
    assert msgspec.structs.replace(read, extra={}) == request


@pytest.mark.timeout(60)
def test_every_result_finds_its_call_without_a_look_through_all_of_them() -> None:
    """Looked for one by one, the 100,000 of one body of nine megabytes took minutes."""
    numbers = range(100_000)
    calls = [{"id": f"c{n}", "type": "function", "function": {"name": f"f{n}", "arguments": "{}"}} for n in numbers]
    results = [{"role": "tool", "tool_call_id": f"c{n}", "content": "r"} for n in numbers]
    asked = {"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": calls}
    read = DIALECTS["chat"].read_request(json.dumps({"model": "m", "messages": [*asked, *results]}).encode())
    assert [part.name for part in read.messages[-1].parts if isinstance(part, ToolResult)] == [f"f{n}" for n in numbers]


def test_a_result_is_that_of_the_last_call_of_its_id_and_of_its_name() -> None:
    def call(id_: str, name: str) -> dict[str, Any]:
        return {"id": id_, "type": "function", "function": {"name": name, "arguments": "{}"}}

    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [call("a", "first"), call("a", "second")]},
        {"role": "tool", "tool_call_id": "a", "content": "r"},
        {"role": "assistant", "content": None, "function_call": {"name": "first", "arguments": "{}"}},
        {"role": "function", "name": "first", "content": "r"},
        {"role": "function", "name": "second", "content": "r"},
    ]
    read = DIALECTS["chat"].read_request(json.dumps({"model": "m", "messages": messages}).encode())
    found = [part for message in read.messages for part in message.parts if isinstance(part, ToolResult)]
    assert [(one.call_id, one.name) for one in found] == [("a", "second"), ("call_2", "first"), ("a", "second")]
