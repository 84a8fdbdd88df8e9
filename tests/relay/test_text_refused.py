"""A refusal of Claude's costs what Anthropic bills: nothing before any content, unless its category is billed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.canned import canned
from tests.gateway import Gateway
from tests.text_calls import ask

MODEL = "claude-opus-5-5"
USAGE = {"input_tokens": 400, "cache_read_input_tokens": 100, "output_tokens": 3}
TEXT = {"type": "text", "text": "Well"}


def refusal(category: str | None, content: list[dict[str, Any]]) -> dict[str, Any]:
    told = {"type": "refusal", "category": category, "explanation": "Not this."}
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": content,
        "stop_reason": "refusal",
        "stop_sequence": None,
        "stop_details": told,
        "usage": USAGE,
    }


def frames(whole: dict[str, Any]) -> bytes:
    begun = whole | {"content": [], "stop_reason": None, "stop_details": None, "usage": USAGE | {"output_tokens": 1}}
    rows: list[dict[str, Any]] = [{"type": "message_start", "message": begun}]
    for index, block in enumerate(whole["content"]):
        rows.append({"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}})
        delta = {"type": "text_delta", "text": block["text"]}
        rows.append({"type": "content_block_delta", "index": index, "delta": delta})
        rows.append({"type": "content_block_stop", "index": index})
    ending = {name: whole[name] for name in ("stop_reason", "stop_sequence", "stop_details")}
    rows += [{"type": "message_delta", "delta": ending, "usage": USAGE}, {"type": "message_stop"}]
    return b"".join(b"event: %b\ndata: %b\n\n" % (row["type"].encode(), msgspec.json.encode(row)) for row in rows)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("client", ["anthropic", "chat"])
@pytest.mark.parametrize(
    ("category", "content", "billed"),
    [
        ("cyber", [], False),
        ("general_harms", [], False),
        (None, [], False),
        ("bio", [], True),
        ("frontier_llm", [], True),
        ("reasoning_extraction", [], True),
        ("cyber", [TEXT], True),
    ],
)
async def test_a_refusal_costs_what_anthropic_bills(
    lite: Gateway, client: str, stream: bool, category: str | None, content: list[dict[str, Any]], billed: bool
) -> None:
    whole = refusal(category, content)
    async with canned(200, whole, frames(whole)) as upstream:
        await lite.channel(upstream.url, (MODEL,), family="anthropic", secrets=("sk-ant",))
        await lite.price(MODEL, per_1m_usd="1", output_per_1m_usd="2", per_call_usd="0.5")
        key = await lite.key("10")
        asked = ask(client, MODEL, "Tell me. " * 100, stream=stream)
        reply = await lite.ask(key, asked.body, path=asked.path, headers=asked.headers)
        assert reply.status_code == 200, reply.text
        account = await lite.account(reply.headers["x-request-id"], key)
    # 400 + 100 tokens of input, 3 of output, and the call.
    assert account["cost_usd"] == ("0.500506" if billed else "0.00")
    assert (account["flags"], "Not this." in reply.text) == ([], True)
