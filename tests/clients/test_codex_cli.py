"""Codex CLI, unmodified, with an empty home and the configuration of docs/apps.md: a task with its own tools.

Its tools are a shell, a patch of free text, and a search for tools that it did not declare.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.clients.agents import QUESTION, assert_cut_off, documented, installed, outcomes, watched

pytestmark = pytest.mark.slow

# Codex knows the first three by name: two are given code to run (declared inside the input), the third a patch tool.
NATIVE, CODE, PATCHES, CHAT, BEDROCK = "gpt-5.6-sol", "gpt-6.2-sol", "gpt-5.5", "deepseek-chat", "claude-on-bedrock"
PATCH = "*** Begin Patch\n*** Add File: answer.txt\n+It is 42.\n*** End Patch\n"
READ = json.dumps({"cmd": "cat question.txt"})
SCRIPT = (
    f"Answer the question in the file. [[think: I read it first.]] [[tools: exec_command {READ}]] "
    f"[[tools: apply_patch {json.dumps(PATCH)}]] [[then: Done, after {{{{result}}}}]]"
)
CODE_SCRIPT = (
    "Answer the question in the file. [[think: I read it first.]] "
    """[[tools: EXEC "text(JSON.stringify(await tools.exec_command({cmd: 'tee answer.txt < question.txt'})))"]] """
    "[[then: Done, after {{result}}]]"
)
SEARCH = f'[[tools: tool_search {{"query": "spawn agent"}}]] [[tools: exec_command {READ}]] [[then: {{{{result}}}}]]'
SHELL_ONLY = f"[[tools: exec_command {READ}]] [[then: {{{{result}}}}]]"


@pytest.fixture(scope="module")
def found(node: Path) -> Any:
    """What came of all tasks."""
    config = documented("apps", "`~/.codex/config.toml`:")
    for documents, asked in (("http://127.0.0.1:8000", "{origin}"), ('model = "gpt-5"', 'model = "{model}"')):
        assert documents in config
        config = config.replace(documents, asked)
    without_search = 'web_search = "disabled"\n'
    assert without_search.strip() in Path(__file__).parents[2].joinpath("docs/apps.md").read_text("utf-8")
    # Only the container's walls hold it here: its own sandbox needs rights that a test machine may not give.
    free = ["exec", "--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    return watched(
        {
            "command": [str(installed("codex", "Codex CLI")), *free],
            "environment": {"PATH": os.pathsep.join([str(node.parent), "/usr/bin", "/bin"]), "ELKAPI_KEY": "{key}"},
            "files": {".codex/config.toml": config},
            "models": {
                NATIVE: ["openai", "gpt-5"],
                CODE: ["anthropic", "claude-sonnet-4-5"],
                PATCHES: ["anthropic", "claude-sonnet-4-5"],
                CHAT: ["deepseek", "gpt-4o"],
                BEDROCK: ["bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"],
            },
            "tasks": {
                "native": {"model": NATIVE, "prompt": CODE_SCRIPT.replace("EXEC", "exec")},
                "code": {"model": CODE, "prompt": CODE_SCRIPT.replace("EXEC", "functions__exec")},
                "patch": {"model": PATCHES, "prompt": SCRIPT},
                "search": {"model": PATCHES, "prompt": SEARCH},
                "chat": {"model": CHAT, "prompt": SHELL_ONLY},
                "bedrock": {
                    "model": BEDROCK,
                    "prompt": SHELL_ONLY,
                    "files": {".codex/config.toml": without_search + config},
                },
            },
        }
    )


def items(seen: Any) -> list[Any]:
    """The finished items of a run, in order."""
    assert seen["status"] == 0, seen
    events = [json.loads(line) for line in seen["said"].splitlines()]
    assert events[-1]["type"] == "turn.completed", events[-1]
    return [event["item"] for event in events if event["type"] == "item.completed"]


def test_nothing_but_loopback_could_be_reached(found: Any) -> None:
    assert_cut_off(found)


@pytest.mark.parametrize("task", ["native", "code"])
def test_codex_runs_code_that_calls_its_tools(found: Any, task: str) -> None:
    seen = found["tasks"][task]
    shown = {item["type"]: item for item in items(seen)}
    assert shown["command_execution"]["aggregated_output"].strip() == QUESTION
    assert seen["files"]["answer.txt"].strip() == QUESTION
    assert QUESTION in shown["agent_message"]["text"]


def test_codex_reads_patches_and_answers_on_claude(found: Any) -> None:
    seen = found["tasks"]["patch"]
    shown = {item["type"]: item for item in items(seen)}
    assert shown["command_execution"]["aggregated_output"].strip() == QUESTION
    assert shown["file_change"]["status"] == "completed"
    assert seen["files"]["answer.txt"] == "It is 42.\n"
    # The last words quote what the patch tool answered to the model.
    assert "answer.txt" in shown["agent_message"]["text"]


@pytest.mark.parametrize("task", ["chat", "bedrock"])
def test_codex_runs_its_shell_on_any_other_model(found: Any, task: str) -> None:
    assert QUESTION in items(found["tasks"][task])[-1]["text"]


def test_tools_that_codex_declares_inside_its_input_reach_claude(found: Any) -> None:
    first = found["tasks"]["code"]["received"][0]["body"]
    assert {"functions__exec", "functions__wait"} <= {tool["name"] for tool in first["tools"]}
    assert first["messages"][0]["role"] == "user"


def test_each_upstream_was_asked_in_its_own_words(found: Any) -> None:
    targets = {
        name: {row["target"].rpartition("/")[2] for row in seen["received"]} for name, seen in found["tasks"].items()
    }
    assert targets == {
        "native": {"responses"},
        "code": {"messages"},
        "patch": {"messages"},
        "search": {"messages"},
        "chat": {"completions"},
        "bedrock": {"invoke-with-response-stream"},
    }
    answered = {NATIVE: 2, CODE: 2, PATCHES: 6, CHAT: 2, BEDROCK: 2}
    assert Counter(outcomes(found)) == {("openai.responses", model, 200): n for model, n in answered.items()}


def test_a_tool_that_codex_finds_can_be_called_on_claude(found: Any) -> None:
    declared = [{tool["name"] for tool in row["body"]["tools"]} for row in found["tasks"]["search"]["received"]]
    assert "tool_search" in declared[0]
    assert [name for name in declared[1] - declared[0] if "spawn_agent" in name] != []
    assert QUESTION in items(found["tasks"]["search"])[-1]["text"]


def test_thinking_that_claude_signed_comes_back_to_claude(found: Any) -> None:
    last = found["tasks"]["patch"]["received"][-1]["body"]
    thoughts = [block for turn in last["messages"] for block in turn["content"] if block["type"] == "thinking"]
    assert thoughts[0]["thinking"] == "I read it first."
    assert all(block["signature"] for block in thoughts)


def test_every_call_was_paid_exactly(found: Any) -> None:
    money = found["money"]
    assert money["held_nano"] == 0
    assert money["spent_nano"] == money["charged_nano"] > 0
