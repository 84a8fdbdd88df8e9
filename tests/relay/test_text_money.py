"""Text calls at the edge of a balance: what is not covered is not asked for, and nobody ends below zero."""

from __future__ import annotations

import base64

import msgspec
import pytest

from elkapi.sandbox.server import Running
from tests.canned import canned
from tests.gateway import Gateway
from tests.text_calls import CLIENTS, UPSTREAMS, Asked, ask

MODEL = "test-model"
# Where each upstream's own limit stands in what it received.
LIMITS = {
    "openai": lambda body: body.get("max_tokens") or body.get("max_completion_tokens") or body["max_output_tokens"],
    "anthropic": lambda body: body["max_tokens"],
    "gemini": lambda body: body["generationConfig"]["maxOutputTokens"],
}
THEIRS = {"anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-pro", "openai": "gpt-4o"}


def unlimited(client: str, prompt: str) -> Asked:
    """The call without an output limit of its own, where the dialect allows that."""
    asked = ask(client, MODEL, prompt)
    for name in ("max_tokens", "max_output_tokens", "generationConfig"):
        asked.body.pop(name, None)
    return asked


@pytest.mark.parametrize("upstream", LIMITS)
@pytest.mark.parametrize("client", [client for client in CLIENTS if client != "anthropic"])
async def test_without_a_limit_the_balance_is_the_limit_and_the_upstream_is_told(
    gate: Gateway, sandbox: Running, client: str, upstream: str
) -> None:
    secret, _ = UPSTREAMS[upstream]
    await gate.channel(
        sandbox.base_url, (MODEL,), family=upstream, secrets=(secret,), model_map={MODEL: THEIRS[upstream]}
    )
    # A cent buys 1,000 tokens of output; the model could write many more.
    await gate.price(MODEL, per_1m_usd="0", output_per_1m_usd="10")
    key = await gate.key("0.01")
    asked = unlimited(client, "[[tokens: 4000]]")
    reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
    assert reply.status_code == 200, reply.text
    (received,) = sandbox.sandbox.recorder.shown()
    assert LIMITS[upstream](msgspec.json.decode(base64.b64decode(received.body_base64))) == 1000
    assert 0 <= gate.closed_books().customers_posted_nano < 10_000_000


async def test_g36_what_a_channel_adds_to_a_call_is_held_for_and_charged(gate: Gateway) -> None:
    prompt, words = "Answer like a pirate. " * 2_000, 9_000
    usage = {"prompt_tokens": words + 3, "completion_tokens": 1, "total_tokens": words + 4}
    message = {"role": "assistant", "content": "Arr."}
    answer = {"id": "x", "object": "chat.completion", "created": 1, "model": MODEL, "usage": usage}
    answer["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
    asked = ask("chat", MODEL, "hello")
    async with canned(200, answer) as upstream:
        await gate.channel(upstream.url, (MODEL,), system_prompt=prompt, param_default={"seed": msgspec.Raw(b"1")})
        await gate.price(MODEL, per_1m_usd="1", output_per_1m_usd="0")
        reply = await gate.ask(key := await gate.key("1"), asked.body, path=asked.path)
        account = await gate.account(reply.headers["x-request-id"], key)
        assert (account["flags"], account["cost_usd"]) == ([], "0.009003")
        # A balance that covers the caller's own words alone covers no such call, however closely it is looked at.
        poor = await gate.ask(await gate.key("0.002"), asked.body, path=asked.path)
        assert (poor.status_code, len(upstream.bodies)) == (403, 1)


async def test_a_balance_for_no_answer_at_all_is_refused_before_the_upstream(gate: Gateway, sandbox: Running) -> None:
    await gate.channel(sandbox.base_url, (MODEL,), model_map={MODEL: "gpt-4o"})
    await gate.price(MODEL, per_1m_usd="0", output_per_1m_usd="10")
    asked = unlimited("chat", "hello")
    # Sixteen tokens are an answer, and one less is none.
    reply = await gate.ask(await gate.key("0.00015"), asked.body, path=asked.path)
    assert reply.status_code == 403
    assert reply.json()["error"]["code"] == "insufficient_user_quota"
    assert not sandbox.sandbox.recorder.shown()
    reply = await gate.ask(await gate.key("0.00016"), asked.body, path=asked.path)
    assert reply.status_code == 200, reply.text
    (received,) = sandbox.sandbox.recorder.shown()
    assert LIMITS["openai"](msgspec.json.decode(base64.b64decode(received.body_base64))) == 16


async def test_the_callers_own_limit_is_never_changed(gate: Gateway, sandbox: Running) -> None:
    await gate.channel(sandbox.base_url, (MODEL,), model_map={MODEL: "gpt-4o"})
    await gate.price(MODEL, per_1m_usd="0", output_per_1m_usd="10")
    key = await gate.key("0.01")
    asked = ask("chat", MODEL, "hello", max_tokens=5000)
    reply = await gate.ask(key, asked.body, path=asked.path)
    assert reply.status_code == 403
    assert not sandbox.sandbox.recorder.shown()


@pytest.mark.parametrize(
    ("given", "name", "limit"),
    [
        ({"generationConfig": None}, "generationConfig", "maxOutputTokens"),
        ({"generation_config": None}, "generationConfig", "maxOutputTokens"),
        ({"generation_config": None, "generationConfig": {"topK": 1}}, "generationConfig", "maxOutputTokens"),
        ({"generationConfig": None, "generation_config": {"topK": 1}}, "generation_config", "max_output_tokens"),
    ],
)
async def test_a_limit_is_added_to_the_generation_config_that_says_something(
    gate: Gateway, sandbox: Running, given: dict[str, object], name: str, limit: str
) -> None:
    await gate.channel(sandbox.base_url, (MODEL,), family="gemini", model_map={MODEL: THEIRS["gemini"]})
    await gate.price(MODEL, per_1m_usd="0", output_per_1m_usd="10")
    asked = ask("gemini", MODEL, "hello")
    body = {"contents": asked.body["contents"], **given}
    await gate.ask(await gate.key("0.01"), body, path=asked.path)
    (received,) = sandbox.sandbox.recorder.shown()
    assert msgspec.json.decode(base64.b64decode(received.body_base64))[name][limit] == 1000
