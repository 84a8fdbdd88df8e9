"""A tool loop of Anthropic's package over Gemini 3: the sandbox checks that its calls come back with what it signed."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import anthropic
import pytest

from elkapi.sandbox.server import Running
from tests.gateway import gateway

MODEL = "gemini-3-pro-preview"
TOOL = {"name": "f", "description": "F.", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}
SAID = '[[tools: f {"a":1}; g {"a":2}]][[then: done]]'


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("thinking", [True, False])
async def test_a_tool_loop_over_gemini_3_carries_what_it_signed(
    tmp_path: Path, sandbox: Running, stream: bool, thinking: bool
) -> None:
    async with gateway(tmp_path) as gate:
        await gate.channel(sandbox.base_url.removesuffix("/v1"), (MODEL,), family="gemini", secrets=("AIzaUpstream",))
        await gate.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
        asked: dict[str, Any] = {"model": MODEL, "max_tokens": 4000, "tools": [TOOL, {**TOOL, "name": "g"}]}
        if thinking:
            asked["thinking"] = {"type": "enabled", "budget_tokens": 1024}
        messages: list[Any] = [{"role": "user", "content": SAID}]
        async with anthropic.AsyncAnthropic(base_url=gate.origin, api_key=await gate.key("9"), max_retries=0) as sdk:
            while True:
                if stream:
                    async with sdk.messages.stream(messages=messages, **asked) as events:
                        message = await events.get_final_message()
                else:
                    message = await sdk.messages.create(messages=messages, **asked)
                if message.stop_reason != "tool_use":
                    break
                results = [
                    {"type": "tool_result", "tool_use_id": block.id, "content": "5"}
                    for block in message.content
                    if block.type == "tool_use"
                ]
                blocks = [block.model_dump(exclude_none=True) for block in message.content]
                messages += [{"role": "assistant", "content": blocks}, {"role": "user", "content": results}]
        assert isinstance(said := message.content[-1], anthropic.types.TextBlock)
        assert said.text == "done"
        last = json.loads(base64.b64decode(sandbox.sandbox.recorder.shown()[-1].body_base64))
    (parts,) = [turn["parts"] for turn in last["contents"] if turn["role"] == "model"]
    signed = [part["thoughtSignature"] for part in parts if "functionCall" in part and "thoughtSignature" in part]
    assert len(signed) == 1
    assert (signed[0] == "skip_thought_signature_validator") is not thinking
