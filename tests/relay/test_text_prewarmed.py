"""Calls that fill a provider's prompt cache and write nothing: they pass as they came, and cost what was cached."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.canned import canned
from tests.gateway import Gateway
from tests.text_calls import ask

MODEL = "claude-sonnet-4-5"
LONG = "All work and no play makes Jack a dull boy. " * 120
WRITTEN, READ_FRESH = 1300, 4
USAGE = {
    "input_tokens": READ_FRESH,
    "cache_creation_input_tokens": WRITTEN,
    "cache_read_input_tokens": 0,
    "cache_creation": {"ephemeral_5m_input_tokens": WRITTEN, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 0,
}
HEAD: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": []}
ENDED = {"stop_reason": "max_tokens", "stop_sequence": None}
EVENTS = (
    {"type": "message_start", "message": HEAD | {"stop_reason": None, "stop_sequence": None, "usage": USAGE}},
    {"type": "message_delta", "delta": ENDED, "usage": USAGE},
    {"type": "message_stop"},
)
FRAMES = b"".join(b"event: %b\ndata: %b\n\n" % (str(e["type"]).encode(), msgspec.json.encode(e)) for e in EVENTS)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_message_of_no_tokens_fills_the_cache_and_is_charged_for_it(gate: Gateway, stream: bool) -> None:
    async with canned(200, HEAD | ENDED | {"usage": USAGE}, FRAMES) as upstream:
        await gate.channel(upstream.url, (MODEL,), family="anthropic")
        await gate.price(MODEL, per_1m_usd="3", output_per_1m_usd="15")
        key = await gate.key("1")
        asked = ask("anthropic", MODEL, LONG, stream=stream, max_tokens=0)
        reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
        assert reply.status_code == 200, reply.text
        assert reply.content == (FRAMES if stream else msgspec.json.encode(HEAD | ENDED | {"usage": USAGE}))
        (sent,) = upstream.bodies
    assert json.loads(sent)["max_tokens"] == 0
    account = await gate.account(reply.headers["x-request-id"], key)
    assert account["outcome"] == "ok"
    spent = 10**9 - gate.closed_books().customers_posted_nano
    assert spent == (WRITTEN + READ_FRESH) * 3_000


async def test_a_cache_is_not_filled_where_the_upstream_speaks_another_dialect(gate: Gateway) -> None:
    """Its model would answer instead."""
    async with canned(200, {}) as upstream:
        await gate.channel(upstream.url, (MODEL,))
        await gate.price(MODEL, per_1m_usd="3", output_per_1m_usd="15")
        asked = ask("anthropic", MODEL, LONG, max_tokens=0)
        reply = await gate.ask(await gate.key("1"), asked.body, path=asked.path, headers=asked.headers)
    assert reply.status_code == 400, reply.text
    assert "max_tokens" in reply.json()["error"]["message"]
    assert upstream.bodies == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_prewarmed_response_without_output_is_charged_for_what_was_cached(gate: Gateway, stream: bool) -> None:
    model = "gpt-5.6"
    usage = {
        "input_tokens": 1304,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 1300},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 1304,
    }
    head = {"id": "resp_1", "object": "response", "created_at": 1, "model": model, "error": None, "output": []}
    done = head | {"status": "completed", "usage": usage}
    begun = {"type": "response.created", "sequence_number": 0, "response": head | {"status": "in_progress"}}
    ended = {"type": "response.completed", "sequence_number": 1, "response": done}
    frames = b"".join(
        b"event: %b\ndata: %b\n\n" % (str(e["type"]).encode(), msgspec.json.encode(e)) for e in (begun, ended)
    )
    async with canned(200, done, frames) as upstream:
        await gate.channel(upstream.url, (model,))
        await gate.price(model, per_1m_usd="3", output_per_1m_usd="15")
        key = await gate.key("10")
        body = {"model": model, "input": LONG, "store": False, "stream": stream}
        reply = await gate.ask(key, body | {"prompt_cache_options": {"prewarm": True}}, path="/v1/responses")
        assert reply.status_code == 200, reply.text
        assert reply.content == (frames if stream else msgspec.json.encode(done))
    spent = 10 * 10**9 - gate.closed_books().customers_posted_nano
    assert spent == 1304 * 3_000
