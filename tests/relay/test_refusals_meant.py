"""Refusals whose status blames the wrong one: of the operator's key or account, and of what only the caller can mend.

A caller's words that a refusal repeats change nothing: whoever could write them could take an operator's keys out.
"""

from __future__ import annotations

from typing import Any

import pytest

from elkapi.sandbox.server import Running, running
from tests.canned import canned
from tests.gateway import Gateway
from tests.text_calls import ask, text_of
from tests.waiting import until

MODEL = "test-model"
GOOGLE: dict[str, Any] = {
    "error": {
        "code": 400,
        "message": "API key expired. Please renew the API key.",
        "status": "INVALID_ARGUMENT",
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "API_KEY_INVALID",
                "domain": "googleapis.com",
            },
            {"@type": "type.googleapis.com/google.rpc.LocalizedMessage", "locale": "en-US", "message": "Renew it."},
        ],
    }
}
XAI = {
    "code": "Client specified an invalid argument",
    "error": "Incorrect API key provided: xa***ey. You can obtain an API key from https://console.x.ai.",
}
ANTHROPIC: dict[str, Any] = {
    "type": "error",
    "error": {
        "type": "invalid_request_error",
        "message": "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing.",
    },
}
ALIBABA: dict[str, Any] = {
    "error": {
        "message": "Access denied, please make sure your account is in good standing.",
        "type": "Arrearage",
        "param": None,
        "code": "Arrearage",
    },
    "request_id": "f9fdb027-830c-9e05-8366-ce479a878825",
}
GROQ: dict[str, Any] = {
    "error": {"message": "API access is blocked.", "type": "invalid_request_error", "code": "blocked_api_access"}
}
REFUSALS = {
    "google": ("gemini", GOOGLE, "refused this key"),
    # Its endpoint of OpenAI's form answers with an array of one.
    "google-openai": ("compatible", [GOOGLE], "refused this key"),
    "xai": ("xai", XAI, "refused this key"),
    "anthropic": ("anthropic", ANTHROPIC, "out of funds"),
    "alibaba": ("qwen", ALIBABA, "out of funds"),
    "groq": ("groq", GROQ, "out of funds"),
}


async def reason_of(lite: Gateway) -> str:
    """Why the first key that was taken out of service was."""
    rows = await until(lambda: lite.sql("select reason from channel_keys where not enabled order by id"))
    return str(rows[0][0])


async def test_what_a_refusal_in_an_array_says_reaches_its_caller(lite: Gateway) -> None:
    refusal = [
        {"error": {"code": 400, "message": "Please use a valid role: user, model.", "status": "INVALID_ARGUMENT"}}
    ]
    async with canned(400, refusal) as upstream:
        await lite.channel(upstream.url, (MODEL,), family="compatible")
        await lite.price(MODEL, per_1m_usd="1")
        asked = ask("chat", MODEL, "hi")
        reply = await lite.ask(await lite.key("1"), asked.body, path=asked.path)
    assert reply.status_code == 400
    assert "Please use a valid role: user, model." in reply.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("provider", REFUSALS)
async def test_a_key_or_an_account_refused_with_400_is_the_operators(
    lite: Gateway, sandbox: Running, provider: str, stream: bool
) -> None:
    family, refusal, reason = REFUSALS[provider]
    async with canned(400, refusal) as upstream:
        await lite.channel(upstream.url, (MODEL,), family=family, priority=5)
        await lite.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
        key = await lite.key("1")
        asked = ask("chat", MODEL, "[[say: yes]]", stream=stream)
        alone = await lite.ask(key, asked.body, path=asked.path)
        told = alone.json()["error"]
        assert (alone.status_code, told["code"]) == (502, "upstream_error")
        assert "key" not in told["message"]
        assert reason in await reason_of(lite)
        await lite.channel(upstream.url, (MODEL,), family=family, priority=5)
        await lite.channel(sandbox.base_url, (MODEL,), model_map={MODEL: "gpt-4o"})
        beside = await lite.ask(key, asked.body, path=asked.path)
    assert beside.status_code == 200, beside.text
    assert stream or text_of("chat", beside.json()) == "yes"
    assert len(upstream.bodies) == 2


async def test_an_empty_balance_is_no_limit_that_waiting_lifts(lite: Gateway) -> None:
    said = {"message": "Add credits.", "type": "insufficient_quota", "param": None, "code": "credit_balance_exhausted"}
    async with canned(429, {"error": said}) as upstream:
        await lite.channel(upstream.url, (MODEL,))
        await lite.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
        asked = ask("chat", MODEL, "hi")
        reply = await lite.ask(await lite.key("1"), asked.body, path=asked.path)
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_error")
    assert "retry-after" not in reply.headers
    assert "out of funds" in await reason_of(lite)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"message": "Too many at once.", "metadata": {"reason": "in_flight_budget_exhausted"}}, 429),
        ({"message": "Too large.", "metadata": {"reason": "weight_exceeds_budget"}}, 502),
        ({"message": "This request requires more credits, or fewer max_tokens. You can only afford 9."}, 502),
    ],
)
async def test_a_402_that_is_about_one_call_takes_no_key_out(
    lite: Gateway, monkeypatch: pytest.MonkeyPatch, error: dict[str, Any], status: int
) -> None:
    taken_out: list[object] = []
    async with canned(402, {"error": {"code": 402, **error}}) as upstream:
        upstream.extra = b"retry-after: 7\r\n"
        await lite.channel(upstream.url, (MODEL,), family="openrouter")
        await lite.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
        key = await lite.key("1")
        asked = ask("chat", MODEL, "hi", max_tokens=9_000)
        monkeypatch.setattr(lite.plane.judge, "disable", lambda *asked: taken_out.append(asked))
        reply = await lite.ask(key, asked.body, path=asked.path)
    assert (reply.status_code, taken_out) == (status, [])
    assert reply.headers.get("retry-after") == ("7" if status == 429 else None)


@pytest.mark.parametrize("words", ["API_KEY_INVALID", XAI["error"], ANTHROPIC["error"]["message"]])
async def test_a_callers_words_in_a_refusal_take_no_key_out(
    lite: Gateway, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    taken_out: list[object] = []
    said = {"error": {"message": f"Invalid value: '{words}'", "type": "invalid_request_error", "param": "stop"}}
    async with canned(400, said) as upstream:
        await lite.channel(upstream.url, (MODEL,))
        await lite.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
        key = await lite.key("1")
        asked = ask("chat", MODEL, "hi", stop=words)
        monkeypatch.setattr(lite.plane.judge, "disable", lambda *asked: taken_out.append(asked))
        reply = await lite.ask(key, asked.body, path=asked.path)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "stop")
    assert taken_out == []


async def test_a_key_refused_with_400_at_a_submit_goes_out_too(lite: Gateway) -> None:
    model = "veo-3.0-generate-001"
    async with canned(400, GOOGLE) as upstream:
        await lite.channel(upstream.url, (model,), family="gemini")
        await lite.price(model, per_second_usd="0.4")
        body = {"instances": [{"prompt": "a cat"}], "parameters": {"durationSeconds": 4}}
        reply = await lite.ask(await lite.key("10"), body, path=f"/v1beta/models/{model}:predictLongRunning")
    assert reply.status_code == 502, reply.text
    assert "refused this key" in await reason_of(lite)


@pytest.mark.parametrize(
    "words",
    [
        "CachedContent not found (or permission denied)",
        "You do not have permission to access the File abc or it may not exist.",
    ],
)
async def test_what_a_caller_names_and_google_does_not_know_is_no_fault_of_the_key(
    lite: Gateway, sandbox: Running, words: str
) -> None:
    refusal = {"error": {"code": 403, "message": words, "status": "PERMISSION_DENIED"}}
    async with canned(403, refusal) as upstream:
        await lite.channel(upstream.url, (MODEL,), family="gemini", priority=5)
        await lite.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
        key = await lite.key("1")
        asked = ask("gemini", MODEL, "hi")
        for _ in range(2):
            reply = await lite.ask(key, asked.body, path=asked.path)
            assert (reply.status_code, reply.json()["error"]["status"]) == (403, "PERMISSION_DENIED")
            assert reply.json()["error"]["message"].startswith(words)
        assert lite.plane.health.cooling() == {}
        # Another channel may know it.
        mapped = {MODEL: "gemini-2.5-pro"}
        await lite.channel(sandbox.base_url, (MODEL,), family="gemini", secrets=("AIzaUp",), model_map=mapped)
        beside = await lite.ask(key, asked.body, path=asked.path)
        assert beside.status_code == 200, beside.text
    assert len(upstream.bodies) == 3


@pytest.mark.parametrize("family_model", ["us.anthropic.claude-sonnet-4-5-20250929-v1:0", "us.amazon.nova-pro-v1:0"])
@pytest.mark.parametrize(("fault", "stream"), [("status=424", False), ("status=424", True), ("error-before", True)])
async def test_a_model_that_failed_at_bedrock_is_no_mistake_of_the_caller(
    lite: Gateway, sandbox: Running, family_model: str, fault: str, stream: bool
) -> None:
    """AWS has 424 for it, whole and inside a stream."""
    sandbox.sandbox.stand(fault)
    key = await lite.key("1")
    aws: dict[str, Any] = {"secrets": ("AKIDSANDBOX:sandbox-secret",), "options": {"region": "us-east-1"}}
    bedrock = {**aws, "family": "bedrock", "model_map": {MODEL: family_model}}
    await lite.channel(sandbox.base_url, (MODEL,), priority=5, **bedrock)
    await lite.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
    asked = ask("chat", MODEL, "[[say: yes]]", stream=stream)
    alone = await lite.ask(key, asked.body, path=asked.path)
    assert (alone.status_code, alone.json()["error"]["code"]) == (502, "upstream_error")
    with running() as spare:
        await lite.channel(spare.base_url, (MODEL,), model_map={MODEL: "gpt-4o"})
        beside = await lite.ask(key, asked.body, path=asked.path)
    assert beside.status_code == 200, beside.text
