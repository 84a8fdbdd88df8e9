"""Counts of our own, exact: the real model process holds the vocabularies; money and free counts ask it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from elkapi.local import vocabulary
from elkapi.money import parse_usd
from elkapi.relay import hold
from elkapi.relay.hold import FRAME_SHARE, FRAME_TOKENS
from elkapi.translate.estimate import MESSAGE_TOKENS
from tests.canned import canned
from tests.gateway import SMALL, Gateway, gateway

MODEL = "gpt-4o"
WORDS = "Counting tokens exactly needs the vocabulary of the model that is named. " * 40


def tokens_of(text: str, name: str = "o200k_base") -> int:
    return vocabulary.count(text, name)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A data directory with the model process on its socket, whose path the kernel wants short."""
    with tempfile.TemporaryDirectory(prefix="elk-") as name:
        command = [sys.executable, "-m", "elkapi.local", "--socket", f"{name}/models.sock"]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            assert process.stderr
            try:
                assert b"ready in" in process.stderr.readline()
                yield Path(name)
            finally:
                process.kill()


@pytest.fixture
async def gate(folder: Path, tmp_path: Path) -> AsyncIterator[Gateway]:
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    async with gateway(folder, database_url=url) as served:
        yield served


def chat(content: Any = WORDS, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 20, **more}


def completion(content: str, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice], **more}


async def test_a_free_count_is_the_vocabularys(gate: Gateway) -> None:
    async with canned(503, {}) as failing:
        await gate.channel(failing.url, (MODEL,), family="deepseek")
        await gate.price(MODEL, per_1m_usd="1")
        key = await gate.key()
        asked = {"model": MODEL, "messages": [{"role": "user", "content": WORDS}]}
        reply = await gate.ask(key, asked, path="/v1/messages/count_tokens")
    assert reply.json() == {"input_tokens": tokens_of(WORDS) + 4}


async def test_g48_an_answer_without_usage_is_counted_by_the_vocabulary(gate: Gateway) -> None:
    said = "Antidisestablishmentarianism, said twice over."
    async with canned(200, completion(said)) as silent:
        await gate.channel(silent.url, (MODEL,), family="deepseek")
        await gate.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
        key = await gate.key("1")
        reply = await gate.ask(key, chat(), path="/v1/chat/completions")
        account = await gate.account(reply.headers["x-request-id"], key)
    assert account["flags"] == ["usage_missing", "counted_locally"]
    assert account["usage"]["input_tokens"] == tokens_of(WORDS) + 4
    assert account["usage"]["output_tokens"] == tokens_of(said)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/embeddings", {"model": SMALL, "input": WORDS}),
        (f"/v1beta/models/{SMALL}:embedContent", {"content": {"parts": [{"text": WORDS}]}}),
    ],
    ids=["openai", "gemini"],
)
async def test_a_balance_too_short_for_the_bytes_covers_an_embedding_of_as_many_tokens(
    gate: Gateway, path: str, asked: dict[str, Any]
) -> None:
    tokens = tokens_of(WORDS, "cl100k_base")
    body = {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
        "model": SMALL,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    async with canned(200, body) as upstream:
        await gate.channel(upstream.url)
        await gate.price(SMALL, per_1m_usd="1")
        key = await gate.key("0.001")
        reply = await gate.ask(key, asked, path=path)
        assert reply.status_code == 200, reply.text
        account = await gate.account(reply.headers["x-request-id"], key)
    assert parse_usd(account["held_usd"]) == parse_usd(account["cost_usd"]) == tokens * 1000


@pytest.mark.parametrize(
    ("path", "asked", "price", "funds"),
    [
        ("/v1/embeddings", {"model": SMALL, "input": WORDS}, {"per_1m_usd": "1"}, ""),
        ("/v1/embeddings", {"model": SMALL, "input": WORDS}, {"per_call_usd": "0.5"}, "0.4"),
        ("/v1/chat/completions", chat(max_tokens=1000), {"per_1m_usd": "1", "output_per_1m_usd": "9"}, "0.008"),
    ],
    ids=["no money", "by the call", "too little for the output alone"],
)
async def test_nothing_is_counted_for_a_balance_that_no_count_makes_enough(
    gate: Gateway, monkeypatch: pytest.MonkeyPatch, path: str, asked: dict[str, Any], price: dict[str, str], funds: str
) -> None:
    async def counted(*_: Any) -> None:
        pytest.fail("it was counted")

    monkeypatch.setattr(hold, "count_exactly", counted)
    async with canned(503, {}) as upstream:
        await gate.channel(upstream.url, (SMALL, MODEL))
        await gate.price(asked["model"], **price)
        reply = await gate.ask(await gate.key(*([funds] if funds else [])), asked, path=path)
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "insufficient_user_quota")


PICTURE = {"type": "image_url", "image_url": {"url": "https://pictures.example/large.png"}}
DOCUMENT = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64," + "JVBE" * 900}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object", "description": WORDS}}}


@pytest.mark.parametrize(
    "more",
    [
        {"content": [{"type": "text", "text": WORDS}, PICTURE]},
        {"content": [{"type": "text", "text": WORDS}, DOCUMENT]},
        {"content": WORDS, "web_search_options": {}},
        {"content": WORDS, "response_format": SCHEMA},
    ],
    ids=["picture", "document", "web search", "schema"],
)
async def test_g36_a_hold_is_lowered_to_a_count_only_where_all_of_the_call_is_text(
    gate: Gateway, more: dict[str, Any]
) -> None:
    async with canned(200, completion("Yes.", usage={"prompt_tokens": 3000, "completion_tokens": 2})) as upstream:
        await gate.channel(upstream.url, (MODEL,), family="deepseek")
        await gate.price(MODEL, per_1m_usd="1", output_per_1m_usd="1")
        key = await gate.key("0.002")
        refused = await gate.ask(key, chat(**more), path="/v1/chat/completions")
        assert refused.status_code == 403, refused.text
        text = await gate.ask(key, chat(), path="/v1/chat/completions")
        assert text.status_code == 200, text.text
        account = await gate.account(text.headers["x-request-id"], key)
    # What a provider puts around messages is on top of the count, then 20 tokens of output.
    counted = tokens_of(WORDS) + MESSAGE_TOKENS
    assert parse_usd(account["held_usd"]) == (counted + counted // FRAME_SHARE + FRAME_TOKENS + 20) * 1000
