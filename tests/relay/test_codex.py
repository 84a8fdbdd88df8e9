"""A stateless Codex-like client of the responses dialect runs its tool loop on upstreams of every other dialect."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from elkapi.sandbox.server import Running
from elkapi.translate.sse import SseDecoder
from tests.gateway import Gateway
from tests.relay.test_text import MODEL, prepared

PATCH = "*** Begin Patch\n*** End Patch"
SCRIPT = (
    f"[[think: Looking.]] [[tools: apply_patch {json.dumps({'input': PATCH})}; files__read {{}}]] [[then: Patched.]]"
)
READ = {"type": "function", "name": "read", "parameters": {"type": "object", "properties": {}}, "strict": False}
CODEX = {
    "model": MODEL,
    "instructions": "You are a coding agent.",
    "tools": [
        {"type": "custom", "name": "apply_patch", "description": "Patches files", "format": {"type": "text"}},
        {"type": "namespace", "name": "files", "description": "Files", "tools": [READ]},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["reasoning.encrypted_content"],
    "store": False,
    "stream": True,
    "prompt_cache_key": "thread-1",
}


def _message(role: str, text: str) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


async def _turn(gate: Gateway, key: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    reply = await gate.ask(key, CODEX | {"input": items}, path="/v1/responses")
    assert reply.status_code == 200, reply.text
    last = SseDecoder().feed(reply.content)[-1]
    assert last.event == b"response.completed", reply.text
    response: dict[str, Any] = json.loads(last.data or b"")["response"]
    return response


@pytest.mark.parametrize("upstream", ["deepseek", "anthropic", "gemini", "bedrock"])
async def test_a_codex_tool_loop_runs_against_every_upstream(gate: Gateway, sandbox: Running, upstream: str) -> None:
    key = await prepared(gate, sandbox, upstream)
    items = [_message("developer", "The folder is read-only."), _message("user", SCRIPT)]
    first = await _turn(gate, key, items)
    custom, read = [item for item in first["output"] if item["type"].endswith("call")]
    assert (custom["type"], custom["name"], custom["input"]) == ("custom_tool_call", "apply_patch", PATCH)
    assert (read["type"], read["namespace"], read["name"]) == ("function_call", "files", "read")
    items += first["output"]
    items.append({"type": "custom_tool_call_output", "call_id": custom["call_id"], "output": "Done"})
    items.append({"type": "function_call_output", "call_id": read["call_id"], "output": "x = 1"})
    second = await _turn(gate, key, items)
    (message,) = [item for item in second["output"] if item["type"] == "message"]
    assert message["content"][0]["text"] == "Patched."
    assert second["usage"]["input_tokens"] > 0
    if upstream == "anthropic":
        # Thinking that Claude signed came back to Claude, through a client that only kept what it was given.
        asked = json.loads(base64.b64decode(sandbox.sandbox.recorder.shown()[-1].body_base64))
        thinking = asked["messages"][1]["content"][0]
        assert (thinking["type"], thinking["thinking"]) == ("thinking", "Looking.")
        assert thinking["signature"]
