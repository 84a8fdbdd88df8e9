"""The chat process's server over a runtime of the tests' own: turns, leaving, errors, and the shapes of its answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from elkapi.errors import Unavailable
from elkapi.local.chat.engine import EngineRefused, OnChunk
from elkapi.local.chat.rows import BUNDLED_CHAT
from elkapi.local.chat.server import ChatApp, ChatLimits
from elkapi.local.chat.slots import Slots
from tests.waiting import until

NAME = BUNDLED_CHAT.id
CHAT = "/v1/chat/completions"
LIMITS = ChatLimits(window=512, slots=1, queue_max=1)


@pytest.mark.parametrize(("asked", "had"), [(256, 256), (300, 512), (4096, 4096), (8000, 8192), (100_000, 8192)])
def test_a_window_is_told_as_the_runtime_has_it(asked: int, had: int) -> None:
    assert BUNDLED_CHAT.window(asked) == had


def chunk(text: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text} if text is not None else {}, "finish_reason": finish}
    return {"model": "/a/path/of/this/machine.gguf", "choices": [choice | more]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}, "timings": {}}
ANSWER = (chunk(), chunk("Hel"), chunk("lo"), chunk(finish="stop"), USAGE)


class Scripted:
    """A runtime that gives `script`, waiting for `go` before each chunk; an exception in it is raised."""

    def __init__(self, *script: Any) -> None:
        self.script = script or ANSWER
        self.go = threading.Semaphore(10_000)
        self.began = threading.Event()
        self.stopped_after: int | None = None
        self.bodies: list[dict[str, Any]] = []
        self.closed = False

    def write(self, body: bytes, on_chunk: OnChunk) -> None:
        self.bodies.append(msgspec.json.decode(body))
        self.began.set()
        for place, one in enumerate(self.script):
            assert self.go.acquire(timeout=30)
            if isinstance(one, Exception):
                raise one
            if on_chunk(msgspec.json.encode(one)):
                self.stopped_after = place
                return

    def count(self, messages: list[dict[str, str]]) -> int:
        return sum(len(one["content"].split()) for one in messages)

    def close(self) -> None:
        self.closed = True


async def served(engine: Scripted | None, limits: ChatLimits = LIMITS) -> AsyncIterator[httpx.AsyncClient]:
    app = ChatApp(engine, BUNDLED_CHAT, limits, "no model here")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://local") as client:
        yield client
    app.close()
    assert engine is None or engine.closed


def body(**more: Any) -> dict[str, Any]:
    return {"model": NAME, "messages": [{"role": "user", "content": "two words"}]} | more


async def post(engine: Scripted | None, path: str = CHAT, **more: Any) -> httpx.Response:
    async for client in served(engine):
        return await client.post(path, json=body(**more))
    raise AssertionError


def frames(text: str) -> list[Any]:
    assert text.endswith("\n\n")
    return [one.removeprefix("data: ") for one in text.split("\n\n")[:-1]]


async def test_a_whole_answer_has_openais_shape_and_nothing_of_the_machine() -> None:
    answer = (await post(Scripted())).json()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == NAME
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hello", "refusal": None}
    assert (choice["finish_reason"], choice["logprobs"]) == ("stop", None)
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    assert set(answer) == {"id", "object", "created", "model", "choices", "usage"}


@pytest.mark.parametrize("include_usage", [True, False])
async def test_a_stream_says_the_same_one_chunk_a_frame(include_usage: bool) -> None:
    response = await post(Scripted(), stream=True, stream_options={"include_usage": include_usage})
    assert response.headers["content-type"] == "text/event-stream"
    *told, done = frames(response.text)
    assert done == "[DONE]"
    said = [msgspec.json.decode(one) for one in told]
    assert [one["choices"][0]["delta"] for one in said if one["choices"]] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    usages = [one["usage"] for one in said if "usage" in one]
    assert usages == ([USAGE["usage"]] if include_usage else [])
    assert len({one["id"] for one in said}) == 1
    assert "machine" not in response.text


async def test_log_probabilities_are_cut_to_the_number_asked_for() -> None:
    other = {"token": "Ho", "logprob": -2.0, "bytes": [72], "id": 4}
    told = {"content": [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "id": 3, "top_logprobs": [other]}]}
    script = (chunk("Hi", logprobs=told), chunk(finish="length"), USAGE)
    for asked, alternatives in ((0, []), (1, [{"token": "Ho", "logprob": -2.0, "bytes": [72]}])):
        answer = (await post(Scripted(*script), logprobs=True, top_logprobs=asked)).json()
        (token,) = answer["choices"][0]["logprobs"]["content"]
        assert token["top_logprobs"] == alternatives
        assert (token["token"], token["logprob"]) == ("Hi", -0.5)


TOO_LONG = {"error": {"code": 400, "message": "try increasing it", "type": "exceed_context_size_error",
                      "n_prompt_tokens": 600, "n_ctx": 512}}  # fmt: skip
BROKEN = {"error": {"code": 500, "message": "secret reason", "type": "server_error"}}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("script", "status", "code", "says"),
    [
        ((TOO_LONG,), 400, "context_length_exceeded", "600 tokens"),
        ((EngineRefused("bad schema"),), 400, "invalid_request", "bad schema"),
        ((RuntimeError("secret reason"),), 500, "local_inference_failed", "failed"),
        ((BROKEN,), 500, "local_inference_failed", "failed"),
    ],
    ids=["too long", "refused", "raised", "broken"],
)
async def test_an_error_before_the_first_chunk_has_a_status_of_its_own(
    script: Any, status: int, code: str, says: str, stream: bool
) -> None:
    response = await post(Scripted(*script), stream=stream)
    assert response.status_code == status
    error = response.json()["error"]
    assert (error["code"], says in error["message"]) == (code, True)
    assert "secret" not in response.text
    assert "increasing" not in response.text


@pytest.mark.parametrize("trouble", [RuntimeError("secret reason"), BROKEN, None], ids=["raised", "broken", "no end"])
async def test_an_error_inside_a_stream_is_an_event_and_never_a_clean_end(trouble: Any) -> None:
    script = (chunk("Hel"), *([trouble] if trouble is not None else []))
    *_, last = frames((await post(Scripted(*script), stream=True)).text)
    assert msgspec.json.decode(last)["error"]["code"] == "local_inference_failed"
    assert "secret" not in last
    assert (await post(Scripted(*script))).status_code == 500


async def test_a_model_that_cannot_be_used_says_so_to_each_caller() -> None:
    response = await post(None)
    assert response.status_code == 503
    assert response.json()["error"] == {
        "message": "no model here",
        "type": "api_error",
        "param": None,
        "code": "local_model_unusable",
    }


async def test_models_health_counts_and_wrong_ways_are_answered() -> None:
    async for client in served(Scripted()):
        (model,) = (await client.get("/v1/models")).json()["data"]
        assert (model["id"], model["context_length"]) == (NAME, 512)
        assert (await client.get("/healthz")).json() == {"status": "ok", "running": 0, "waiting": 0}
        assert (await client.post("/v1/chat/count", json=body())).json() == {"input_tokens": 2}
        assert (await client.get(CHAT)).status_code == 405
        assert (await client.post("/v1/nothing", json={})).status_code == 404
        assert (await client.post(CHAT, content=b"x" * (4 * 1024 * 1024 + 1))).status_code == 413


async def test_a_full_queue_is_529_and_the_waiting_are_answered_in_turn() -> None:
    engine = Scripted()
    engine.go = threading.Semaphore(0)
    async for client in served(engine):
        first = asyncio.create_task(client.post(CHAT, json=body()))
        await until(engine.began.is_set)
        second = asyncio.create_task(client.post(CHAT, json=body()))
        while (await client.get("/healthz")).json() != {"status": "ok", "running": 1, "waiting": 1}:
            await asyncio.sleep(0.001)
        refused = await client.post(CHAT, json=body())
        assert refused.status_code == 529
        assert refused.json()["error"]["code"] == "model_overloaded"
        assert int(refused.headers["retry-after"]) >= 1
        assert len(engine.bodies) == 1
        engine.go.release(100)
        assert [one.status_code for one in await asyncio.gather(first, second)] == [200, 200]


async def _leaving(app: ChatApp, engine: Scripted, when: threading.Event | None) -> list[Any]:
    """A caller who goes away once `when` is set (at once for None); answers what it was sent."""
    sent: list[Any] = []
    said = iter([{"type": "http.request", "body": msgspec.json.encode(body(stream=True))}])

    async def receive() -> Any:
        for message in said:
            return message
        if when is not None:
            await until(when.is_set)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "method": "POST", "path": CHAT}, receive, send)
    return sent


async def test_a_caller_who_leaves_stops_the_runtime_at_its_next_chunk_and_frees_the_slot() -> None:
    engine = Scripted(*[chunk("a") for _ in range(50)])
    engine.go = threading.Semaphore(0)
    app = ChatApp(engine, BUNDLED_CHAT, LIMITS)
    slots = app.slots
    assert slots is not None
    sent = await _leaving(app, engine, engine.began)
    assert not any(one.get("body", b"").startswith(b"data: [DONE]") for one in sent)
    engine.go.release(1)
    await until(lambda: not slots.running)
    assert engine.stopped_after == 0
    engine.go.release(100)
    app.close()


async def test_a_caller_who_leaves_the_queue_never_reaches_the_runtime() -> None:
    engine = Scripted()
    engine.go = threading.Semaphore(0)
    app = ChatApp(engine, BUNDLED_CHAT, LIMITS)
    assert app.slots is not None
    stay = threading.Event()
    running = asyncio.create_task(_leaving(app, engine, stay))
    await until(engine.began.is_set)
    assert await _leaving(app, engine, None) == []
    assert app.slots.waiting == 0
    engine.go.release(100)
    sent = await running
    assert sent[-1]["body"] == b"data: [DONE]\n\n"
    assert len(engine.bodies) == 1
    app.close()


class Clock:
    """Time as the test tells it."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s

    def now_ns(self) -> int:
        return int(self.now_s * 1e9)


async def test_a_runtime_that_does_not_move_is_noticed_and_idleness_counted() -> None:
    engine, clock = Scripted(), Clock()
    engine.go = threading.Semaphore(0)
    slots = Slots(engine, 1, 0, clock)
    clock.now_s += 30
    assert slots.idle_s() == 30
    await slots.enter()
    with slots.run(b"{}") as generation:
        assert slots.idle_s() == 0
        clock.now_s += 61
        assert slots.stalled(60)
        engine.go.release(1)
        await anext(generation.chunks())
        assert not slots.stalled(60)
        with pytest.raises(Unavailable):
            await slots.enter()
        engine.go.release(100)
    slots.close()
