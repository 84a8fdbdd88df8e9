"""Answers whose upstream reports no usage, or an impossible one: a translated caller gets the gateway's own count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from elkapi.sandbox.server import Running
from elkapi.types import Policy
from tests.canned import canned
from tests.gateway import Gateway
from tests.text_calls import CLIENTS, UPSTREAMS, Asked, ask, events

MODEL = "test-model"
THEIRS = {"deepseek": "gpt-4o", "anthropic": "claude-sonnet-5-5", "gemini": "gemini-2.5-flash"}
OWN = {("chat", "deepseek"), ("anthropic", "anthropic"), ("gemini", "gemini")}
PAIRS = [(client, upstream) for client in CLIENTS for upstream in THEIRS if (client, upstream) not in OWN]
# (input, output) as each dialect shows them.
COUNTS: dict[str, Callable[[dict[str, Any]], tuple[int, int]]] = {
    "chat": lambda usage: (usage["prompt_tokens"], usage["completion_tokens"]),
    "responses": lambda usage: (usage["input_tokens"], usage["output_tokens"]),
    "anthropic": lambda usage: (usage["input_tokens"], usage["output_tokens"]),
    "gemini": lambda usage: (usage["promptTokenCount"], usage["candidatesTokenCount"]),
}


def shown(client: str, reply: Any, stream: bool) -> tuple[int, int]:
    """The counts in an answer; of a stream those of its last frame that has any."""
    if not stream:
        whole = reply.json()
        return COUNTS[client](whole["usageMetadata" if client == "gemini" else "usage"])
    frames = [frame.get("response", frame) for frame in events(reply.text)]
    found = [usage for frame in frames if (usage := frame.get("usageMetadata") or frame.get("usage"))]
    return COUNTS[client](found[-1])


def call(client: str, stream: bool, fault: str) -> Asked:
    more: dict[str, Any] = {"stream_options": {"include_usage": True}} if client == "chat" and stream else {}
    return ask(client, MODEL, f"[[say: one two three]] [sandbox: {fault}]", stream=stream, **more)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("several", [False, True])
async def test_a_prompt_that_a_completion_repeats_is_none_of_the_output_that_is_counted(
    lite: Gateway, sandbox: Running, several: bool, stream: bool
) -> None:
    await lite.channel(sandbox.base_url, (MODEL,), model_map={MODEL: "gpt-3.5-turbo-instruct"})
    await lite.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
    key = await lite.key("10")
    prompt: Any = "Tell me. " * 100 + "[[say: one two three]] [sandbox: no-usage]"
    more = {"prompt": [prompt, prompt], "n": 2} if several else {"prompt": prompt}
    counts = []
    for echo in (False, True):
        body = {"model": MODEL, "max_tokens": 900, "stream": stream, "echo": echo, **more}
        reply = await lite.ask(key, body, path="/v1/completions")
        assert reply.text.count("Tell me.") == (0 if not echo else 400 if several else 100) or stream
        account = await lite.account(reply.headers["x-request-id"], key)
        assert account["flags"] == ["usage_missing", "estimated_locally"]
        counts.append(account["usage"]["output_tokens"])
    # A text by itself is rounded up to a whole token.
    assert 0 < counts[1] <= counts[0] <= counts[1] + 4


@pytest.mark.parametrize("fault", ["no-usage", "usage=huge"])
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
async def test_a_translated_caller_is_shown_the_count_it_is_charged(
    lite: Gateway, sandbox: Running, client: str, upstream: str, fault: str
) -> None:
    secret, _ = UPSTREAMS[upstream]
    await lite.channel(
        sandbox.base_url, (MODEL,), family=upstream, secrets=(secret,), model_map={MODEL: THEIRS[upstream]}
    )
    await lite.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
    key = await lite.key("10")
    seen = []
    for stream in (False, True):
        asked = call(client, stream, fault)
        reply = await lite.ask(key, asked.body, path=asked.path, headers=asked.headers)
        assert reply.status_code == 200, reply.text
        given, made = shown(client, reply, stream)
        account = await lite.account(reply.headers["x-request-id"], key)
        assert account["flags"] == ["usage_missing", "estimated_locally"]
        assert (account["usage"]["input_tokens"], account["usage"]["output_tokens"]) == (given, made)
        seen.append((given, made))
    assert seen[0] == seen[1]
    assert min(seen[0]) > 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_refusal_that_nobody_betters_keeps_its_first_frames_and_is_counted(lite: Gateway, stream: bool) -> None:
    choice = {"index": 0, "delta": {}, "message": {"content": ""}, "finish_reason": "content_filter"}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "theirs", "choices": [choice]}
    frames = b"data: " + msgspec.json.encode(body) + b"\n\ndata: [DONE]\n\n"
    async with canned(200, body, frames) as refusing, canned(503, {}) as failing:
        await lite.channel(refusing.url, (MODEL,), family="deepseek")
        await lite.channel(failing.url, ("other",), family="deepseek")
        for model in (MODEL, "other"):
            await lite.price(model, per_1m_usd="1", output_per_1m_usd="2")
        key = await lite.key("1", policy=Policy(fallbacks={MODEL: ("other",)}))
        asked = call("anthropic", stream, "no-usage")
        reply = await lite.ask(key, asked.body, path=asked.path, headers=asked.headers)
    assert reply.status_code == 200, reply.text
    account = await lite.account(reply.headers["x-request-id"], key)
    assert account["usage"]["input_tokens"] == shown("anthropic", reply, stream)[0] > 0
    if stream:
        assert [frame["type"] for frame in events(reply.text)] == ["message_start", "message_delta", "message_stop"]


SAID = "How long is a quarter of these words?"
CONTENT = {"content": {"parts": [{"text": SAID}]}, "taskType": "RETRIEVAL_QUERY", "outputDimensionality": 2}
EMBEDS = {
    "openai": ("/v1/embeddings", {"model": MODEL, "input": SAID}),
    "gemini": (f"/v1beta/models/{MODEL}:embedContent", CONTENT),
    "gemini batch": (f"/v1beta/models/{MODEL}:batchEmbedContents", {"requests": [CONTENT]}),
}
VECTORS = {"embeddings": [{"values": [0.5, 0.5]}], "embedding": {"values": [0.5, 0.5]}}
ROWS = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}], "model": "theirs"}
IMPOSSIBLE = 900_000_000


@pytest.mark.parametrize(
    ("family", "answer", "tokens", "flags"),
    [
        ("gemini", VECTORS, 10, ["usage_missing", "estimated_locally"]),
        ("gemini", {**VECTORS, "usageMetadata": {"promptTokenCount": 8}}, 8, []),
        ("gemini", {**VECTORS, "usageMetadata": {}}, 10, ["usage_missing", "estimated_locally"]),
        ("gemini", {**VECTORS, "usageMetadata": {"promptTokenCount": IMPOSSIBLE}}, 10, None),
        ("openai", {**ROWS, "usage": {"prompt_tokens": 8, "total_tokens": 8}}, 8, []),
        ("openai", {**ROWS, "usage": {"prompt_tokens": IMPOSSIBLE, "total_tokens": IMPOSSIBLE}}, 10, None),
    ],
    ids=["no usage", "usage", "empty usage", "impossible usage", "openai usage", "impossible openai usage"],
)
@pytest.mark.parametrize("form", EMBEDS)
async def test_g21_g27_an_embedding_costs_its_text_in_whichever_form_it_is_asked_for(
    lite: Gateway, form: str, family: str, answer: Any, tokens: int, flags: list[str] | None
) -> None:
    path, body = EMBEDS[form]
    async with canned(200, answer) as upstream:
        await lite.channel(upstream.url, (MODEL,), family=family)
        await lite.price(MODEL, per_1m_usd="1")
        key = await lite.key("1")
        reply = await lite.ask(key, body, path=path)
    assert reply.status_code == 200, reply.text
    account = await lite.account(reply.headers["x-request-id"], key)
    assert account["usage"]["input_tokens"] == tokens
    assert account["flags"] == (["usage_missing", "estimated_locally"] if flags is None else flags)
    if (form, family) == ("openai", "gemini"):
        assert reply.json()["usage"]["prompt_tokens"] == tokens


async def test_an_embedding_of_more_than_text_is_counted_by_its_bytes(lite: Gateway) -> None:
    picture = {"inlineData": {"mimeType": "image/png", "data": "aGVsbG8="}}
    async with canned(200, VECTORS) as upstream:
        await lite.channel(upstream.url, (MODEL,), family="gemini")
        await lite.price(MODEL, per_1m_usd="1")
        key = await lite.key("1")
        body = msgspec.json.encode({"content": {"parts": [{"text": SAID}, picture]}})
        reply = await lite.ask(key, body, path=EMBEDS["gemini"][0])
    account = await lite.account(reply.headers["x-request-id"], key)
    assert account["usage"]["input_tokens"] == -(-len(body) // 4)
