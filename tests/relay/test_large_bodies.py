"""Large bodies are gone through on threads: whoever sends one, or answers with one, keeps nobody else waiting."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from elkapi.catalog import text
from elkapi.relay import caching, count, counting, exchange, follow, guarding, keep
from elkapi.relay.large import INLINE_BYTES
from elkapi.translate import kept
from elkapi.types import Guard, Policy
from tests.canned import canned
from tests.gateway import Gateway, gateway
from tests.text_calls import ask, streamed_text
from tests.waiting import until

MODEL = "gpt-4o"
MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 6000 + [
    {"role": "user", "content": "c"}
]


def noted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[int]:
    """The threads that this function is called on from here on."""
    threads: list[int] = []
    work = getattr(owner, name)

    def note(*args: Any, **more: Any) -> Any:
        threads.append(threading.get_ident())
        return work(*args, **more)

    monkeypatch.setattr(owner, name, note)
    return threads


def claude(said: str) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [{"type": "text", "text": said}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 9, "output_tokens": 1},
    }


async def prepared(gate: Gateway, url: str, family: str) -> str:
    await gate.channel(url, (MODEL,), family=family)
    await gate.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
    return await gate.key("10")


@pytest.mark.parametrize("large", [True, False])
async def test_a_large_body_is_read_and_translated_and_its_answer_written_on_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    loop_thread = threading.get_ident()
    steps = [noted(monkeypatch, text, "bounded")]
    steps += [noted(monkeypatch, exchange.Text, name) for name in ("__init__", "body", "whole")]
    async with canned(200, claude("x")) as upstream, gateway(tmp_path) as gate:
        key = await prepared(gate, upstream.url, "anthropic")
        more: dict[str, Any] = {"messages": MESSAGES} if large else {}
        asked = ask("chat", MODEL, "hi", **more)
        reply = await gate.ask(key, asked.body, path=asked.path)
    assert reply.status_code == 200, reply.text
    assert [len(threads) for threads in steps] == [1, 1, 1, 1]
    assert [threads[0] == loop_thread for threads in steps] == [not large] * 4


async def test_a_large_body_inside_another_is_read_on_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = noted(monkeypatch, text, "bounded")
    async with gateway(tmp_path) as gate:
        key = await prepared(gate, "http://127.0.0.1:9", "openai")
        asked = ask("chat", MODEL, "hi", messages=MESSAGES)
        reply = await gate.ask(key, {"path": asked.path, "body": asked.body}, path="/v1/quote")
    assert reply.status_code == 200, reply.text
    assert len(steps) == 1
    assert threading.get_ident() not in steps


async def test_a_large_answer_is_translated_on_a_thread_streamed_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop_thread, said = threading.get_ident(), "x" * INLINE_BYTES
    async with canned(200, claude(said)) as upstream, gateway(tmp_path) as gate:
        key = await prepared(gate, upstream.url, "anthropic")
        steps = [noted(monkeypatch, exchange.Text, name) for name in ("whole", "read_whole")]
        for stream in (False, True):
            asked = ask("chat", MODEL, "hi", stream=stream)
            reply = await gate.ask(key, asked.body, path=asked.path)
            assert said in reply.text
    assert [len(threads) for threads in steps] == [1, 1]
    assert all(threads[0] != loop_thread for threads in steps)


async def test_a_caller_who_leaves_before_anything_was_sent_leaves_no_unknown_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, going = threading.Event(), threading.Event()
    body = exchange.Text.body

    def slow(self: exchange.Text) -> bytes:
        begun.set()
        going.wait(10)
        return body(self)

    monkeypatch.setattr(exchange.Text, "body", slow)
    async with canned(200, claude("x")) as upstream, gateway(tmp_path) as gate:
        key = await prepared(gate, upstream.url, "anthropic")
        asked = ask("chat", MODEL, "hi", messages=MESSAGES)
        call = asyncio.create_task(gate.ask(key, asked.body, path=asked.path))
        await asyncio.to_thread(begun.wait, 10)
        call.cancel()
        with pytest.raises((asyncio.CancelledError, httpx.HTTPError)):
            await call
        rows = await until(lambda: gate.sql("select charge_nano, record from requests"))
        going.set()
        ((charge_nano, record),) = rows
    assert charge_nano == 0
    assert b'"fate":"none"' in record
    assert not upstream.bodies


async def test_what_a_large_body_comes_to_is_counted_on_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop_thread = threading.get_ident()
    steps = [noted(monkeypatch, count, "_input_texts"), noted(monkeypatch, counting, "texts_of")]
    uncounted = {"id": "c", "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}}]}
    async with canned(200, uncounted) as upstream, gateway(tmp_path) as gate:
        key = await prepared(gate, upstream.url, "openai")
        for client, path in (("chat", "/v1/chat/completions"), ("anthropic", "/v1/messages/count_tokens")):
            asked = ask(client, MODEL, "hi", messages=MESSAGES)
            reply = await gate.ask(key, asked.body, path=path, headers=asked.headers)
            assert reply.status_code == 200, reply.text
    assert all(steps)
    assert all(loop_thread not in threads for threads in steps)


async def test_a_large_body_and_a_large_answer_are_walked_through_for_guardrails_on_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop_thread, said = threading.get_ident(), "x" * INLINE_BYTES
    answer = {
        "id": "c",
        "object": "chat.completion",
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
    }
    async with canned(200, answer) as upstream, gateway(tmp_path) as gate:
        await prepared(gate, upstream.url, "openai")
        await gate.guard(Guard(name="no-mail", kind="pii", find=("email",), action="mask"))
        key = await gate.key("10", policy=Policy(guards=("no-mail",)))
        steps = [noted(monkeypatch, guarding, "walked"), noted(monkeypatch, guarding, "events_of")]
        asked = ask("chat", MODEL, "hi", stream=True, messages=MESSAGES)
        reply = await gate.ask(key, asked.body, path=asked.path)
    assert said in streamed_text("chat", reply.text)
    assert [len(threads) for threads in steps] == [2, 1]
    assert all(loop_thread not in threads for threads in steps)


async def test_a_large_stored_response_is_gone_on_from_listed_and_told_without_keeping_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, loop_thread = asyncio.get_running_loop(), threading.get_ident()
    call = {"type": "function_call", "name": "f", "arguments": "{}", "status": "completed"}
    output = [{**call, "id": f"fc_{number}", "call_id": f"call_{number}"} for number in range(4000)]
    usage = {"input_tokens": 9, "output_tokens": 1, "total_tokens": 10}
    answer = {"id": "r", "object": "response", "status": "completed", "model": MODEL, "output": output, "usage": usage}
    told = most = 0

    def others() -> None:
        nonlocal told
        told = 0

    def number(frame: bytes) -> int:
        nonlocal told, most
        told += 1
        most = max(most, told)
        loop.call_soon(others)
        return number_of(frame)

    number_of = follow._number
    async with canned(200, answer) as upstream, gateway(tmp_path) as gate:
        key = await prepared(gate, upstream.url, "openai")
        asked: dict[str, Any] = {"model": MODEL, "input": MESSAGES}
        first = (await gate.ask(key, asked, path="/v1/responses")).json()["id"]
        steps = [noted(monkeypatch, keep, "_joined"), noted(monkeypatch, kept, "input_items")]
        steps.append(noted(monkeypatch, follow, "replayed"))
        monkeypatch.setattr(follow, "_number", number)
        asked = {"model": MODEL, "input": "x", "previous_response_id": first}
        assert (await gate.ask(key, asked, path="/v1/responses")).status_code == 200
        headers = {"authorization": f"Bearer {key}"}
        items = await gate.http.get(f"/v1/responses/{first}/input_items", headers=headers)
        assert len(items.json()["data"]) == 20
        stream = await gate.http.get(f"/v1/responses/{first}?stream=true", headers=headers)
        assert stream.text.count("event: response.output_item.done") == len(output)
    assert [len(threads) for threads in steps] == [1, 1, 1]
    assert all(loop_thread not in threads for threads in steps)
    assert most <= follow.FRAMES_A_TURN


async def test_what_a_large_body_means_to_the_cache_is_found_on_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop_thread, steps = threading.get_ident(), noted(monkeypatch, caching, "meaning_of")
    async with canned(200, claude("x")) as upstream, gateway(tmp_path) as gate:
        key = await prepared(gate, upstream.url, "anthropic")
        asked = ask("chat", MODEL, "hi", messages=MESSAGES)
        for found in ("miss", "hit"):
            reply = await gate.ask(key, asked.body, path=asked.path, headers={"x-elkapi-cache": "on"})
            assert reply.headers["x-elkapi-cache"] == found
            await gate.plane.answers.idle()
    assert len(steps) == 2
    assert loop_thread not in steps
