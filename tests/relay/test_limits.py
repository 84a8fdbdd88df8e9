"""Limits of keys and channels, and sessions that keep their channel, through the whole gateway."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from elkapi.types import ChannelLimits, Policy
from tests.canned import Canned, canned
from tests.gateway import Gateway, gateway
from tests.text_calls import CLIENTS, ask
from tests.waiting import until

MODEL = "limited-model"
ANSWER = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "theirs",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "well"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
}


async def post(gate: Gateway, key: str, client: str = "chat", **more: Any) -> Any:
    asked = ask(client, MODEL, "hello")
    return await gate.ask(key, asked.body | more, path=asked.path, headers=asked.headers)


async def under_way(upstream: Canned, count: int) -> None:
    await until(lambda: upstream.waiting >= count)


async def got_in(call: asyncio.Task[Any], upstream: Canned, count: int) -> bool:
    """Whether this call is the one of that number at the upstream, not one that was answered at once."""
    await until(lambda: call.done() or upstream.waiting >= count)
    return not call.done()


async def test_g65_a_key_has_no_more_calls_at_once_than_it_may_and_gets_its_places_back(tmp_path: Path) -> None:
    async with canned(200, ANSWER) as upstream, gateway(tmp_path) as gate:
        await gate.channel(upstream.url, (MODEL,), family="deepseek")
        await gate.price(MODEL, per_1m_usd="1")
        key = await gate.key("1", policy=Policy(parallel_max=2))
        other = await gate.key("1", policy=Policy(parallel_max=2))
        upstream.gate.clear()
        calls = [asyncio.create_task(post(gate, key)) for _ in range(2)]
        await under_way(upstream, 2)
        refused = await post(gate, key)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(refused.headers["retry-after"]) >= 1
        calls.append(asyncio.create_task(post(gate, other)))
        await under_way(upstream, 3)
        # One that leaves gives its place back too.
        calls[0].cancel()
        await asyncio.gather(calls[0], return_exceptions=True)
        again = asyncio.create_task(post(gate, key))
        while not await got_in(again, upstream, 4):
            again = asyncio.create_task(post(gate, key))
        upstream.gate.set()
        replies = await asyncio.gather(*calls[1:], again)
        assert [reply.status_code for reply in replies] == [200, 200, 200]
        assert (await post(gate, key)).status_code == 200
        gate.closed_books()


@pytest.mark.parametrize("client", CLIENTS)
async def test_g64_a_refusal_by_a_limit_is_a_429_of_the_callers_dialect_before_anything_is_held(
    tmp_path: Path, client: str
) -> None:
    async with canned(200, ANSWER) as upstream, gateway(tmp_path) as gate:
        await gate.channel(upstream.url, (MODEL,), family="deepseek")
        await gate.price(MODEL, per_1m_usd="1")
        key = await gate.key("1", policy=Policy(requests_per_min=2))
        assert [(await post(gate, key, client)).status_code for _ in range(3)] == [200, 200, 429]
        tokens = await gate.key("1", policy=Policy(tokens_per_min=1))
        reply = await post(gate, tokens, client)
        assert (reply.status_code, reply.headers["x-should-retry"]) == (429, "false")
        assert "retry-after" not in reply.headers
        assert "may use in a minute (1)" in str(reply.json())
        assert len(upstream.bodies) == 2
        assert gate.sql("select count(*) from requests")[0][0] == 2


async def test_a_channel_at_its_own_limit_is_passed_over_and_not_thought_ill(tmp_path: Path) -> None:
    async with canned(200, ANSWER) as first, canned(200, ANSWER) as second, gateway(tmp_path) as gate:
        limits = ChannelLimits(parallel_max=1)
        await gate.channel(first.url, (MODEL,), family="deepseek", name="first", priority=1, limits=limits)
        await gate.channel(second.url, (MODEL,), family="deepseek", name="second", limits=limits)
        await gate.price(MODEL, per_1m_usd="1")
        key = await gate.key("1")
        first.gate.clear()
        second.gate.clear()
        held = [asyncio.create_task(post(gate, key))]
        await under_way(first, 1)
        held.append(asyncio.create_task(post(gate, key)))
        await under_way(second, 1)
        full = await post(gate, key)
        assert (full.status_code, full.json()["error"]["code"]) == (429, "upstream_rate_limited")
        first.gate.set()
        second.gate.set()
        replies = await asyncio.gather(*held)
        account = await gate.account(replies[1].headers["x-request-id"], key)
        assert [attempt["outcome"] for attempt in account["attempts"]] == ["channel_busy", "ok"]
        assert gate.plane.health.cooling() == {}
        before = len(first.bodies)
        assert (await post(gate, key)).status_code == 200
        assert len(first.bodies) == before + 1


async def test_g61_g62_a_session_keeps_its_channel_until_it_fails_there_and_a_429_is_retried_elsewhere(
    tmp_path: Path,
) -> None:
    async with canned(200, ANSWER) as one, canned(200, ANSWER) as two, gateway(tmp_path) as gate:
        for upstream in (one, two):
            await gate.channel(upstream.url, (MODEL,), family="deepseek")
        await gate.price(MODEL, per_1m_usd="1")
        key = await gate.key("1")
        for _ in range(8):
            assert (await post(gate, key, prompt_cache_key="talk")).status_code == 200
        counts = [len(one.bodies), len(two.bodies)]
        assert sorted(counts) == [0, 8]
        home, other = (one, two) if counts[0] else (two, one)
        home.status = 429
        reply = await post(gate, key, prompt_cache_key="talk")
        account = await gate.account(reply.headers["x-request-id"], key)
        assert [attempt["outcome"] for attempt in account["attempts"]] == ["status_429", "ok"]
        # The preference went with the failure: the session's home is where it was answered now.
        home.status = 200
        for _ in range(4):
            assert (await post(gate, key, prompt_cache_key="talk")).status_code == 200
        assert (len(home.bodies), len(other.bodies)) == (9, 5)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_refusal_of_one_model_leaves_the_channel_first_for_its_other_models(
    tmp_path: Path, status: int
) -> None:
    async with canned(200, ANSWER) as best, canned(200, ANSWER) as spare, gateway(tmp_path) as gate:
        for upstream, priority in ((best, 9), (spare, 0)):
            await gate.channel(upstream.url, (MODEL, "other-model"), family="deepseek", priority=priority)
        for model in (MODEL, "other-model"):
            await gate.price(model, per_1m_usd="1")
        key = await gate.key("1")
        best.status = status
        assert (await post(gate, key)).status_code == 200
        best.status = 200
        asked = [await post(gate, key, model=model) for model in ("other-model", MODEL, "other-model", MODEL)]
        assert {reply.status_code for reply in asked} == {200}
        assert [json.loads(body)["model"] for body in best.bodies] == [MODEL, "other-model", "other-model"]
        assert [json.loads(body)["model"] for body in spare.bodies] == [MODEL] * 3


FAILURES: dict[str, tuple[int, Any]] = {
    "closed": (0, None),
    "html": (200, "<html>busy</html>"),
    "empty": (200, {}),
    "error inside": (200, {"error": {"message": "Network connection lost.", "type": "server_error"}}),
    "down": (503, {"error": {"message": "down"}}),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_g57_the_status_is_that_of_the_outcome_never_a_200_over_a_failure(tmp_path: Path, stream: bool) -> None:
    async with gateway(tmp_path, cooldown_s=0.0) as gate:
        key = await gate.key("1")
        for name, (status, body) in FAILURES.items():
            model = name.replace(" ", "-")
            async with canned(status, body) as upstream:
                await gate.channel(upstream.url, (model,), family="deepseek")
                await gate.price(model, per_1m_usd="1")
                for client in CLIENTS:
                    asked = ask(client, model, "hello", stream=stream)
                    reply = await gate.ask(key, asked.body, path=asked.path, headers=asked.headers)
                    assert 500 <= reply.status_code < 600, (name, client, reply.text)
                    assert reply.headers["content-type"].startswith("application/json")
                    assert reply.json()["error"]
                    account = await gate.account(reply.headers["x-request-id"], key)
                    assert account["status"] == reply.status_code
                    assert float(account["cost_usd"]) == 0
                if name != "empty":  # Not every provider's answer has members that one could miss.
                    reply = await gate.ask(key, {"model": model, "input": "hello"})
                    assert 500 <= reply.status_code < 600, (name, reply.text)


COUNTED = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
BROKE = {"error": {"code": 502, "message": "The provider is gone."}}
SAID: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"message": {"role": "assistant", "content": "Hel"}},
    "/v1/completions": {"text": "Hel"},
}
# Members of an answer beside its choice, and of the choice.
GAVE_UP: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "an error": (BROKE, {"finish_reason": "stop"}),
    "an error of the choice": ({}, {"finish_reason": "error", **BROKE}),
    "OpenRouter": ({"error": None}, {"finish_reason": "error"}),
    "DeepSeek": ({}, {"finish_reason": "insufficient_system_resource"}),
    "Zhipu": ({}, {"finish_reason": "network_error"}),
    "vLLM": ({}, {"finish_reason": "abort"}),
}


@pytest.mark.parametrize("path", SAID)
@pytest.mark.parametrize("case", GAVE_UP)
async def test_g57_an_answer_that_its_provider_gave_up_is_free_whatever_usage_it_names(
    lite: Gateway, path: str, case: str
) -> None:
    beside, told = GAVE_UP[case]
    ended = {"id": "c", "model": "m", "choices": [{"index": 0, **SAID[path], **told}], "usage": COUNTED, **beside}
    good = {"id": "c", "model": "m", "choices": [{"index": 0, **SAID[path], "finish_reason": "stop"}], "usage": COUNTED}
    async with canned(200, ended) as failing, canned(200, good) as working:
        await lite.channel(failing.url, ("m",), priority=1)
        await lite.price("m", per_1m_usd="1", output_per_1m_usd="2")
        key = await lite.key("1")
        asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "prompt": "hi"}
        reply = await lite.ask(key, asked, path=path)
        assert (reply.status_code, reply.json()["error"]["type"]) == (502, "upstream_error")
        assert float((await lite.account(reply.headers["x-request-id"], key))["cost_usd"]) == 0
        await lite.channel(working.url, ("m",))
        assert (await lite.ask(key, asked, path=path)).json() == good


# Their errors in formats of their own, with the status of a success.
NO_ANSWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "no vector": ("/v1/embeddings", {"object": "list", "data": [], "usage": COUNTED}),
    "no list": ("/v1/embeddings", {"object": "list", "data": None, "usage": COUNTED}),
    "a code": ("/v1/embeddings", {"code": 20015, "message": "The parameter is invalid."}),
    "no results": ("/v1/rerank", {"code": "1214", "msg": "The parameter is invalid."}),
    "nothing moderated": ("/v1/moderations", {"status": "busy"}),
}


@pytest.mark.parametrize("case", NO_ANSWERS)
async def test_g57_a_success_without_what_was_asked_for_is_a_failure(lite: Gateway, case: str) -> None:
    path, body = NO_ANSWERS[case]
    async with canned(200, body) as upstream:
        await lite.channel(upstream.url, ("m",))
        await lite.price("m", per_1m_usd="1")
        key = await lite.key("1")
        reply = await lite.ask(key, {"model": "m", "input": "hi", "query": "hi", "documents": ["hi"]}, path=path)
        assert (reply.status_code, reply.json()["error"]["type"]) == (502, "upstream_error")
        assert float((await lite.account(reply.headers["x-request-id"], key))["cost_usd"]) == 0


NOTHING_SAID = {
    "the end alone": b"data: [DONE]\n\n",
    "a role": b'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\ndata: [DONE]\n\n',
    "a usage": b'data: {"id":"c","choices":[],"usage":%b}\n\ndata: [DONE]\n\n' % json.dumps(COUNTED).encode(),
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("case", NOTHING_SAID)
async def test_g57_a_stream_that_ends_without_an_answer_is_a_failure(lite: Gateway, case: str, client: str) -> None:
    async with canned(200, {}, NOTHING_SAID[case]) as upstream:
        await lite.channel(upstream.url, ("m",), family="deepseek")
        await lite.price("m", per_1m_usd="1", output_per_1m_usd="2")
        key = await lite.key("1")
        asked = ask(client, "m", "hello", stream=True)
        reply = await lite.ask(key, asked.body, path=asked.path, headers=asked.headers)
        assert reply.status_code == 502, reply.text
        assert float((await lite.account(reply.headers["x-request-id"], key))["cost_usd"]) == 0


FAILED_RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "failed",
    "model": "gpt-4o",
    "output": [],
    "error": {"code": "server_error", "message": "The server had an error."},
    "usage": {"input_tokens": 9, "output_tokens": 5, "total_tokens": 14},
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_g49_g57_a_response_that_failed_is_free_whatever_usage_it_names(tmp_path: Path, stream: bool) -> None:
    frames = (
        b"event: response.failed\ndata: %b\n\n"
        % json.dumps({"type": "response.failed", "sequence_number": 0, "response": FAILED_RESPONSE}).encode()
    )
    async with gateway(tmp_path) as gate, canned(200, FAILED_RESPONSE, frames) as upstream:
        await gate.channel(upstream.url, ("gpt-4o",))
        await gate.price("gpt-4o", per_1m_usd="1", output_per_1m_usd="2")
        key = await gate.key("1")
        body = {"model": "gpt-4o", "input": "hello", "stream": stream}
        reply = await gate.ask(key, body, path="/v1/responses")
        assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_error")
        account = await gate.account(reply.headers["x-request-id"], key)
        assert float(account["cost_usd"]) == 0
