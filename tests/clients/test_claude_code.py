"""Claude Code, unmodified, with an empty home and only documented variables: a tool-using task on three upstreams.

The sandbox's script says which tools to call; what they answer, and what is done with it, is Claude Code's own doing.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.clients.agents import QUESTION, assert_cut_off, installed, outcomes, watched
from tests.clients.client_stage import LOCAL, Stage

pytestmark = pytest.mark.slow

NATIVE, TRANSLATED, GOOGLE = "claude-sonnet-4-5", "claude-opus-4-8", "claude-haiku-4-5"
TOOLS = "Read,Write,Bash,Agent"
READ = json.dumps({"file_path": "{work}/question.txt"})
WRITE = json.dumps({"file_path": "{work}/answer.txt", "content": "{{result}}"})
SHOW = json.dumps({"command": "head -c 24 question.txt; echo .", "description": "Shows the question"})
SCRIPT = (
    "Answer the question in the file. [[think: I read it first.]] "
    f"[[tools: Read {READ}]] [[tools: Write {WRITE}; Bash {SHOW}]] [[then: Done, after {{{{result}}}}]]"
)
BELOW = {"subagent_type": "claude", "description": "Asks below", "model": "haiku", "run_in_background": False}
BELOW |= {"prompt": "Find it. [[say: It lies deep below.]]"}
OVERLONG = "Hello. [sandbox: status=400, code=context_length_exceeded]"


@pytest.fixture(scope="module")
def found() -> Any:
    """What came of all tasks."""
    by_key = {"ANTHROPIC_AUTH_TOKEN": "", "ANTHROPIC_API_KEY": "{key}"}
    return watched(
        {
            "command": [
                str(installed("claude", "Claude Code")),
                *("-p", "--output-format", "json", "--allowedTools", TOOLS, "--"),
            ],
            "environment": {
                "PATH": "/usr/bin:/bin",
                "ANTHROPIC_BASE_URL": "{origin}",
                "ANTHROPIC_AUTH_TOKEN": "{key}",
                "ANTHROPIC_MODEL": "{model}",
                "ANTHROPIC_DEFAULT_HAIKU_MODEL": GOOGLE,
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                "DISABLE_AUTOUPDATER": "1",
            },
            "files": {},
            "models": {
                NATIVE: ["anthropic", "claude-sonnet-4-5"],
                TRANSLATED: ["openai", "gpt-5"],
                GOOGLE: ["gemini", "gemini-2.5-pro"],
            },
            "tasks": {
                "native": {"model": NATIVE, "prompt": SCRIPT},
                "by api key": {"model": NATIVE, "prompt": "[[say: hello]]", "environment": by_key},
                "translated": {"model": TRANSLATED, "prompt": SCRIPT},
                "google": {"model": GOOGLE, "prompt": SCRIPT},
                "helper": {"model": NATIVE, "prompt": f"[[tools: Agent {json.dumps(BELOW)}]] [[then: {{{{result}}}}]]"},
                "context": {"model": NATIVE, "prompt": "/context"},
                "overlong": {"model": TRANSLATED, "prompt": OVERLONG},
                "no money": {"model": NATIVE, "prompt": "hello", "balance": "0"},
                "no model": {"model": "claude-nothing", "prompt": "hello"},
                "no key": {
                    "model": NATIVE,
                    "prompt": "hello",
                    "environment": {**by_key, "ANTHROPIC_API_KEY": "sk-wrong"},
                },
            },
        }
    )


def test_nothing_but_loopback_could_be_reached(found: Any) -> None:
    assert_cut_off(found)


@pytest.mark.parametrize(
    ("task", "target"),
    [
        ("native", "/v1/messages?beta=true"),
        ("translated", "/v1/chat/completions"),
        ("google", "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse"),
    ],
)
def test_claude_code_completes_a_task_with_its_tools(found: Any, task: str, target: str) -> None:
    seen = found["tasks"][task]
    assert seen["status"] == 0, seen
    result = json.loads(seen["said"])
    assert (result["subtype"], result["is_error"], result["num_turns"]) == ("success", False, 4)
    # What Read answered went to the model and came back as what Write was to write.
    assert QUESTION in seen["files"]["answer.txt"]
    # Both tools of the second round ran; the last words quote what Bash printed.
    assert f"{QUESTION}." in result["result"]
    assert result["permission_denials"] == []
    assert [row["target"] for row in seen["received"]] == [target] * 3
    assert result["usage"]["output_tokens"] > 0
    usage = result["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] + usage["cache_creation_input_tokens"] > 1000


def test_anthropic_gets_what_claude_code_sent_byte_for_byte_with_its_betas(found: Any) -> None:
    first, *_, last = found["tasks"]["native"]["received"]
    assert first["headers"]["anthropic-version"] == "2023-06-01"
    assert "claude-code-20250219" in first["headers"]["anthropic-beta"]
    assert first["headers"]["x-api-key"] == "sk-ant-upstream"
    assert {"system", "tools", "thinking", "context_management", "metadata"} <= first["body"].keys()
    assert any("cache_control" in block for block in first["body"]["system"])
    assert any(tool.get("defer_loading") for tool in first["body"]["tools"])
    # Thinking came back signed, as it was given.
    thought = last["body"]["messages"][1]["content"][0]
    assert (thought["type"], bool(thought["signature"])) == ("thinking", True)
    result = json.loads(found["tasks"]["native"]["said"])
    assert result["usage"]["cache_read_input_tokens"] > 0


def test_openai_gets_the_same_conversation_in_its_own_words(found: Any) -> None:
    first, second, third = (row["body"] for row in found["tasks"]["translated"]["received"])
    names = {tool["function"]["name"] for tool in first["tools"]}
    assert {"Read", "Write", "Bash", "Agent"} <= names
    (answered,) = [message for message in second["messages"] if message["role"] == "tool"]
    assert QUESTION in answered["content"]
    calls = [message["tool_calls"] for message in third["messages"] if message.get("tool_calls")]
    assert [[call["function"]["name"] for call in side] for side in calls] == [["Read"], ["Write", "Bash"]]
    assert first["stream_options"] == {"include_usage": True}
    # Its adaptive thinking and its limit are the reasoning model's own.
    assert (first["model"], first["reasoning_effort"]) == ("gpt-5", "high")
    assert first["max_completion_tokens"] > 30_000


def test_a_helper_on_the_small_model_is_asked_wherever_that_is_served(found: Any) -> None:
    seen = found["tasks"]["helper"]
    assert seen["status"] == 0, seen
    assert "It lies deep below." in json.loads(seen["said"])["result"]
    targets = [row["target"].partition("?")[0] for row in seen["received"]]
    assert targets == ["/v1/messages", "/v1beta/models/gemini-2.5-pro:streamGenerateContent", "/v1/messages"]


def test_context_is_counted_without_charge(found: Any) -> None:
    seen = found["tasks"]["context"]
    assert seen["status"] == 0, seen
    assert "Context Usage" in json.loads(seen["said"])["result"]
    # The upstream was asked for the counts, and none was refused (what goes well there is not logged).
    assert found["targets"]["/v1/messages/count_tokens?beta=true"] > 5
    assert [row for row in found["log"] if row.get("path", "").endswith("count_tokens")] == []


def test_an_overlong_conversation_is_known_for_one_whoever_serves_the_model(found: Any) -> None:
    seen = found["tasks"]["overlong"]
    assert seen["status"] == 1
    assert json.loads(seen["said"])["result"].startswith("Prompt is too long")
    assert [status for _, model, status in outcomes(found) if model == TRANSLATED].count(400) == 1


@pytest.mark.parametrize(
    ("task", "words", "status", "code"),
    [
        ("no model", "No channel serves the model 'claude-nothing'", 503, "model_not_found"),
        ("no money", "API Error: 403", 403, "insufficient_user_quota"),
        ("no key", "Failed to authenticate", 401, "invalid_api_key"),
    ],
)
def test_what_cannot_succeed_is_said_at_once_and_asked_once(
    found: Any, task: str, words: str, status: int, code: str
) -> None:
    seen = found["tasks"][task]
    assert seen["status"] == 1
    assert words in json.loads(seen["said"])["result"]
    asked = [row for row in found["log"] if row.get("path") == "/v1/messages" and row["code"] == code]
    assert [row["status"] for row in asked] == [status]


def test_every_call_was_answered_and_paid_exactly(found: Any) -> None:
    assert json.loads(found["tasks"]["by api key"]["said"])["result"] == "hello"
    statuses = [status for _, _, status in outcomes(found)]
    assert sorted(statuses) == [200] * 13 + [400]
    money = found["money"]
    assert money["held_nano"] == 0
    assert money["spent_nano"] == money["charged_nano"] > 0


@pytest.mark.parametrize("path", ["/", "/api/hello", "/v1/models?limit=1000"])
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_what_claude_code_looks_at_before_it_asks_is_no_server_error(stage: Stage, method: str, path: str) -> None:
    headers = {"authorization": f"Bearer {stage.key}", "anthropic-version": "2023-06-01", "user-agent": "Bun/1.4.6"}
    answer = httpx.request(method, f"{stage.origin}{path}", headers=headers)
    assert answer.status_code < 500
    if path.startswith("/v1/models") and method == "GET":
        row = next(row for row in answer.json()["data"] if row["id"] == LOCAL)
        assert (row["type"], row["display_name"]) == ("model", LOCAL)
