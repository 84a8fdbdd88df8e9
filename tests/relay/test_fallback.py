"""Aliases, and other models that stand in: for which reasons, at whose price, and never after content."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest

from elkapi.money import format_usd
from elkapi.sandbox.server import Running
from elkapi.types import NO_POLICY, Amounts, Policy, Variant
from tests.canned import canned
from tests.gateway import Gateway
from tests.relay.test_text_usage import priced, whole_of
from tests.text_calls import CLIENTS, ask, has_error, is_whole, streamed_text, text_of

FIRST, SECOND, THIRD = "first-model", "second-model", "third-model"
RECORDINGS = Path(__file__).parents[1] / "unit" / "translate" / "recordings"
SAY = "[[say: I stood in.]]"


def refusal_of(error: dict[str, Any]) -> dict[str, Any]:
    return {"error": error}


OVERFLOWS = {
    "openai": refusal_of({"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}),
    "vllm": {"object": "error", "message": "This model's maximum context length is 4096 tokens.", "code": 400},
    "anthropic": {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "prompt is too long: 210000 tokens > 200000 maximum"},
    },
    "gemini": refusal_of(
        {
            "code": 400,
            "message": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
            "status": "INVALID_ARGUMENT",
        }
    ),
    "bedrock": {"message": "Input is too long for requested model."},
}
WRONG = refusal_of({"message": "temperature is too high", "type": "invalid_request_error", "param": "temperature"})
FILTERED = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "theirs",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "content_filter"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11},
}
REFUSED = {
    **FILTERED,
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "refusal": "I cannot."},
            "finish_reason": "stop",
        }
    ],
}
FILTERED_STREAM = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"theirs","choices":[{"index":0,'
    b'"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"theirs","choices":[{"index":0,'
    b'"delta":{},"finish_reason":"content_filter"}]}\n\n'
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"theirs","choices":[],'
    b'"usage":{"prompt_tokens":10,"completion_tokens":1,"total_tokens":11}}\n\n'
    b"data: [DONE]\n\n"
)
POLICY = Policy(fallbacks={FIRST: (SECOND,)})
HOUR = {"type": "ephemeral", "ttl": "1h"}


async def staged(gate: Gateway, sandbox: Running, first_url: str, **channel: Any) -> None:
    """FIRST at an upstream of the test's, SECOND at the sandbox and five times as dear."""
    await gate.channel(first_url, (FIRST,), **channel)
    await gate.channel(sandbox.base_url, (SECOND,), model_map={SECOND: "gpt-4o"})
    await gate.price(FIRST, per_1m_usd="1", output_per_1m_usd="2")
    await gate.price(SECOND, per_1m_usd="5", output_per_1m_usd="10")


async def post(gate: Gateway, key: str, client: str, *, stream: bool = False, **headers: str) -> Any:
    asked = ask(client, FIRST, SAY, stream=stream)
    return await gate.ask(key, asked.body, path=asked.path, headers={**asked.headers, **headers})


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("client", CLIENTS)
async def test_another_model_answers_when_every_attempt_failed_and_is_named_and_priced(
    gate: Gateway, sandbox: Running, client: str, stream: bool
) -> None:
    async with canned(503, {"error": {"message": "down"}}) as first:
        await staged(gate, sandbox, first.url)
        key = await gate.key("1", policy=POLICY)
        reply = await post(gate, key, client, stream=stream)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-elkapi-model"] == SECOND
    if stream:
        assert streamed_text(client, reply.text) == "I stood in."
        assert is_whole(client, reply.text)
    else:
        assert text_of(client, reply.json()) == "I stood in."
        assert reply.json()["modelVersion" if client == "gemini" else "model"] == SECOND
    account = await gate.account(reply.headers["x-request-id"], key)
    assert (account["model"], account["asked_model"], account["status"]) == (SECOND, FIRST, 200)
    assert [(attempt["outcome"], attempt.get("model")) for attempt in account["attempts"]] == [
        ("status_503", None),
        ("ok", SECOND),
    ]
    terms = {term["class"]: term["nano_usd"] for term in account["price"]["arithmetic"]}
    assert terms["input_tokens"] == 5 * 10**9
    assert 0 < float(account["cost_usd"]) <= float(account["held_usd"])
    gate.closed_books()


async def test_the_hold_covers_the_dearest_candidate(gate: Gateway, sandbox: Running) -> None:
    await gate.channel(sandbox.base_url, (FIRST, SECOND), model_map={FIRST: "gpt-4o", SECOND: "gpt-4o"})
    await gate.price(FIRST, per_1m_usd="1", output_per_1m_usd="2")
    await gate.price(SECOND, per_1m_usd="5", output_per_1m_usd="10")
    held = {}
    for name, policy in {"with": POLICY, "without": Policy()}.items():
        key = await gate.key("1", policy=policy)
        reply = await post(gate, key, "chat")
        assert "x-elkapi-model" not in reply.headers
        held[name] = float((await gate.account(reply.headers["x-request-id"], key))["held_usd"])
    # The fallback's body differs by the length of its name alone.
    assert held["with"] == pytest.approx(5 * held["without"], rel=0.05)


async def test_a_balance_that_covers_only_the_model_asked_for_still_buys_it(gate: Gateway, sandbox: Running) -> None:
    await gate.channel(sandbox.base_url, (FIRST, SECOND), model_map={FIRST: "gpt-4o", SECOND: "gpt-4o"})
    await gate.price(FIRST, per_1m_usd="1", output_per_1m_usd="2")
    await gate.price(SECOND, per_1m_usd="5000", output_per_1m_usd="10000")
    key = await gate.key("0.01", policy=POLICY)
    reply = await post(gate, key, "chat")
    assert reply.status_code == 200, reply.text
    assert float((await gate.account(reply.headers["x-request-id"], key))["held_usd"]) <= 0.01


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("dialect", OVERFLOWS)
async def test_a_prompt_too_long_for_one_model_goes_to_another(
    gate: Gateway, sandbox: Running, dialect: str, stream: bool
) -> None:
    async with canned(400, OVERFLOWS[dialect]) as first:
        await staged(gate, sandbox, first.url)
        key = await gate.key("1", policy=Policy(fallbacks={"*": (SECOND,)}, fallback_on=("context",)))
        reply = await post(gate, key, "chat", stream=stream)
        assert reply.status_code == 200, reply.text
        assert reply.headers["x-elkapi-model"] == SECOND
        strict = await gate.key("1", policy=Policy(fallbacks={"*": (SECOND,)}, fallback_on=("error", "refusal")))
        reply = await post(gate, strict, "chat", stream=stream)
        assert reply.status_code == 400


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "told",
    [
        refusal_of({"type": "BadRequestError", "code": 400, "message": OVERFLOWS["vllm"]["message"]}),
        OVERFLOWS["openai"],
    ],
    ids=["in its message", "in its code"],
)
async def test_a_prompt_too_long_that_is_told_inside_a_success_is_told_as_such_and_goes_to_another_model_too(
    gate: Gateway, sandbox: Running, told: dict[str, Any], stream: bool
) -> None:
    async with canned(200, told, b"data: " + msgspec.json.encode(told) + b"\n\n") as first:
        await staged(gate, sandbox, first.url)
        key = await gate.key("1", policy=Policy(fallbacks={"*": (SECOND,)}, fallback_on=("context",)))
        reply = await post(gate, key, "chat", stream=stream)
        assert reply.status_code == 200, reply.text
        assert reply.headers["x-elkapi-model"] == SECOND
        alone = await post(gate, key, "chat", stream=stream, **{"x-elkapi-fallback": "none"})
        other = await post(gate, key, "anthropic", stream=stream, **{"x-elkapi-fallback": "none"})
    # The one word for it that agents shorten the conversation at, as where it came with a status of its own.
    assert (alone.status_code, alone.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert "prompt is too long" in other.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_filters_refusal_that_is_told_inside_a_success_goes_to_another_model_too(
    gate: Gateway, sandbox: Running, stream: bool
) -> None:
    told = refusal_of({"type": "invalid_request_error", "code": "content_filter", "message": "It was filtered."})
    async with canned(200, told, b"data: " + msgspec.json.encode(told) + b"\n\n") as first:
        await staged(gate, sandbox, first.url)
        key = await gate.key("1", policy=Policy(fallbacks={"*": (SECOND,)}, fallback_on=("refusal",)))
        reply = await post(gate, key, "chat", stream=stream)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-elkapi-model"] == SECOND


async def test_a_wrong_parameter_is_the_callers_to_know_whatever_model_is_asked(
    gate: Gateway, sandbox: Running
) -> None:
    async with canned(400, WRONG) as first:
        await staged(gate, sandbox, first.url)
        key = await gate.key("1", policy=POLICY)
        reply = await post(gate, key, "chat")
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "temperature")
    assert not sandbox.sandbox.recorder.shown()


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("answer", [FILTERED, REFUSED], ids=["filtered", "refused"])
async def test_a_refusal_goes_to_another_model_and_its_bill_is_the_operators(
    gate: Gateway, sandbox: Running, client: str, answer: dict[str, Any]
) -> None:
    async with canned(200, answer) as first:
        await staged(gate, sandbox, first.url, family="deepseek")
        key = await gate.key("1", policy=POLICY)
        reply = await post(gate, key, client)
    assert reply.status_code == 200, reply.text
    assert text_of(client, reply.json()) == "I stood in."
    account = await gate.account(reply.headers["x-request-id"], key)
    assert [attempt["outcome"] for attempt in account["attempts"]] == ["refusal", "ok"]
    (loss,) = [row[0] for row in gate.sql("select loss_nano from requests")]
    assert loss == 10 * 1_000 + 1 * 2_000
    gate.closed_books()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_refusal_whose_usage_is_missing_is_the_operators_loss_by_our_own_count(
    gate: Gateway, sandbox: Running, stream: bool
) -> None:
    answer = {name: value for name, value in FILTERED.items() if name != "usage"}
    frames = b"".join(frame + b"\n\n" for frame in FILTERED_STREAM.split(b"\n\n") if frame and b'"usage"' not in frame)
    async with canned(200, answer, frames) as first:
        await staged(gate, sandbox, first.url, family="deepseek")
        shown = await post(gate, alone := await gate.key("1"), "chat", stream=stream)
        charged = await gate.account(shown.headers["x-request-id"], alone)
        bettered = await post(gate, await gate.key("1", policy=POLICY), "chat", stream=stream)
    assert "I stood in." in (streamed_text("chat", bettered.text) if stream else bettered.text)
    (loss,) = [row[0] for row in gate.sql("select loss_nano from requests where loss_nano > 0")]
    # What its caller would have been charged for it, had nobody stood in.
    assert format_usd(loss) == charged["cost_usd"]
    assert charged["flags"] == ["usage_missing", "estimated_locally"]
    gate.closed_books()


async def test_the_cache_writes_of_a_refusal_are_lost_as_they_would_be_charged(gate: Gateway, sandbox: Running) -> None:
    """Of unknown life, they may be those that live an hour; and at the speed that they were served at."""
    usage = {"input_tokens": 10, "cache_creation_input_tokens": 400, "output_tokens": 1, "speed": "fast"}
    billed = {"type": "refusal", "category": "bio", "explanation": None}
    answer = {**whole_of("anthropic", usage), "content": [], "stop_reason": "refusal", "stop_details": billed}
    async with canned(200, answer) as first:
        await staged(gate, sandbox, first.url, family="anthropic")
        rates = {"cache_write_5m_nano_per_1m": 1_250_000_000, "cache_write_1h_nano_per_1m": 2_000_000_000}
        variant = Variant(when={"speed": ("fast",)}, input_nano_per_1m=10**9, **rates)
        await priced(gate, FIRST, "anthropic", first.url, Amounts(input_nano_per_1m=1, variants=(variant,)))
        long = [{"type": "text", "text": "Long. " * 500, "cache_control": HOUR}]
        asked = ask("anthropic", FIRST, SAY, system=long, speed="fast")
        for policy in (NO_POLICY, POLICY):
            key = await gate.key("1", policy=policy)
            reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
            assert reply.status_code == 200, reply.text
            await gate.account(reply.headers["x-request-id"], key)
    charged, lost = gate.sql("select charge_nano, loss_nano from requests order by created_ns")
    assert charged == (10 * 1_000 + 400 * 2_000, 0)
    assert lost[1] == charged[0]
    gate.closed_books()


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    "frames",
    [FILTERED_STREAM, (RECORDINGS / "chat-refusal.sse").read_bytes()],
    ids=["filtered", "refused"],
)
async def test_a_streamed_refusal_before_any_content_goes_to_another_model(
    gate: Gateway, sandbox: Running, client: str, frames: bytes
) -> None:
    async with canned(200, FILTERED, frames) as first:
        await staged(gate, sandbox, first.url, family="deepseek")
        key = await gate.key("1", policy=POLICY)
        reply = await post(gate, key, client, stream=True)
        assert streamed_text(client, reply.text) == "I stood in."
        assert is_whole(client, reply.text)
        alone = await gate.key("1")
        shown = await post(gate, alone, client, stream=True)
    assert shown.status_code == 200
    assert "I stood in." not in shown.text
    gate.closed_books()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_refusal_that_nobody_betters_is_the_answer_and_is_charged_as_such(gate: Gateway, stream: bool) -> None:
    async with canned(200, FILTERED, FILTERED_STREAM) as first, canned(503, {}) as second:
        await gate.channel(first.url, (FIRST,))
        await gate.channel(second.url, (SECOND,))
        for model in (FIRST, SECOND):
            await gate.price(model, per_1m_usd="1", output_per_1m_usd="2")
        key = await gate.key("1", policy=POLICY)
        reply = await post(gate, key, "chat", stream=stream)
    assert reply.status_code == 200
    assert "content_filter" in reply.text
    assert is_whole("chat", reply.text) if stream else reply.json()["usage"]["prompt_tokens"] == 10
    account = await gate.account(reply.headers["x-request-id"], key)
    assert account["model"] == FIRST
    assert [attempt["outcome"] for attempt in account["attempts"]] == ["refusal", "status_503"]
    assert account["cost_usd"] == "0.000012"
    gate.closed_books()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("client", CLIENTS)
async def test_g52_the_callers_no_to_fallbacks_holds_on_every_path(
    gate: Gateway, sandbox: Running, client: str, stream: bool
) -> None:
    async with canned(503, {"error": {"message": "down"}}) as first:
        await staged(gate, sandbox, first.url)
        key = await gate.key("1", policy=POLICY)
        reply = await post(gate, key, client, stream=stream, **{"x-elkapi-fallback": "none"})
        assert reply.status_code == 502
        assert not sandbox.sandbox.recorder.shown()
        account = await gate.account(reply.headers["x-request-id"], key)
        assert (account["model"], len(account["attempts"])) == (FIRST, 1)
        wrong = await post(gate, key, client, stream=stream, **{"x-elkapi-fallback": "maybe"})
        assert wrong.status_code == 400
    gate.closed_books()


async def test_g52_a_stream_that_breaks_after_content_never_goes_on_with_another_model(
    gate: Gateway, sandbox: Running
) -> None:
    whole = (RECORDINGS / "chat-text.sse").read_bytes()
    async with canned(200, {}, whole[: whole.index(b"data: [DONE]") // 2]) as first:
        await staged(gate, sandbox, first.url)
        key = await gate.key("1", policy=POLICY)
        reply = await post(gate, key, "chat", stream=True)
    assert has_error("chat", reply.text)
    assert not sandbox.sandbox.recorder.shown()
    gate.closed_books()


async def test_when_nobody_answers_the_error_is_that_of_the_model_asked_for(gate: Gateway) -> None:
    async with canned(400, OVERFLOWS["openai"]) as first, canned(503, {}) as second:
        await gate.channel(first.url, (FIRST,))
        await gate.channel(second.url, (SECOND, THIRD))
        for model in (FIRST, SECOND, THIRD):
            await gate.price(model, per_1m_usd="1")
        key = await gate.key("1", policy=Policy(fallbacks={FIRST: (SECOND, THIRD)}))
        reply = await post(gate, key, "chat")
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "context_length_exceeded")
    account = await gate.account(reply.headers["x-request-id"], key)
    assert [attempt.get("model") for attempt in account["attempts"]] == [None, SECOND, THIRD]
    assert (account["model"], account["cost_usd"]) == (FIRST, "0.00")
    gate.closed_books()


async def test_a_fallback_that_the_key_may_not_use_or_nobody_serves_or_priced_is_passed_over(
    gate: Gateway, sandbox: Running
) -> None:
    await gate.channel(sandbox.base_url, (SECOND, THIRD, "unpriced"), model_map={SECOND: "gpt-4o"})
    await gate.price(FIRST, per_1m_usd="1")
    await gate.price(SECOND, per_1m_usd="1")
    await gate.price(THIRD, per_1m_usd="1")
    rows: dict[str, tuple[str, ...]] = {FIRST: (THIRD, "nowhere", "unpriced", SECOND)}
    key = await gate.key("1", models=(FIRST, SECOND, "nowhere", "unpriced"), policy=Policy(fallbacks=rows))
    reply = await post(gate, key, "chat")
    # Nothing serves FIRST at all, which is a failure of its channels too.
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-elkapi-model"] == SECOND
    # With nobody to stand in it is what it would be without a fallback.
    lost = await gate.key("1", policy=Policy(fallbacks={FIRST: ("nowhere", "unpriced")}))
    refused = await post(gate, lost, "chat")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_not_found")


@pytest.mark.parametrize("client", CLIENTS)
async def test_an_alias_is_the_model_in_price_in_body_and_in_the_reply(
    gate: Gateway, sandbox: Running, client: str
) -> None:
    await gate.channel(sandbox.base_url, ("gpt-4o",))
    await gate.price("gpt-4o", per_1m_usd="1", output_per_1m_usd="2")
    await gate.group("vip", 1_000_000, Policy(aliases={FIRST: "gpt-4o"}))
    await gate.channel(sandbox.base_url, ("gpt-4o",), groups=("vip",))
    key = await gate.key("1", group="vip", models=("gpt-4o",))
    reply = await post(gate, key, client)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-elkapi-model"] == "gpt-4o"
    received = msgspec.json.decode(base64.b64decode(sandbox.sandbox.recorder.shown()[-1].body_base64))
    assert received.get("model", "gpt-4o") == "gpt-4o"
    listed = await gate.http.get("/v1/models", headers={"authorization": f"Bearer {key}"})
    assert [model["id"] for model in listed.json()["data"]] == [FIRST, "gpt-4o"]
    stranger = await gate.key("1", models=("gpt-4o",))
    assert (await post(gate, stranger, client)).status_code == 403
