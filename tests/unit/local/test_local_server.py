"""The model process as its callers see it: over a real unix socket, under load, broken, full, draining and killed."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from elkapi.local import server
from elkapi.local.batcher import Limits
from elkapi.local.engine import Engine, Vectors
from elkapi.local.server import ModelApp
from elkapi.local.serving import EXIT_NO_MODEL, Bodies, Overloaded
from tests.waiting import until, until_blocking

MODEL = "all-MiniLM-L6-v2"


def _start(path: Path, *flags: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "elkapi.local", "--socket", str(path), *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def _ready_line(process: subprocess.Popen[bytes]) -> str:
    assert process.stderr
    return process.stderr.readline().decode()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert process.stderr
    process.stderr.close()


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    # The kernel takes socket paths of at most 107 bytes, so not pytest's long temporary folders.
    with tempfile.TemporaryDirectory() as folder:
        socket_path = Path(folder) / "model.sock"
        process = _start(socket_path)
        try:
            assert "ready in" in _ready_line(process)
            yield socket_path
        finally:
            _end(process)


@pytest.fixture
async def client(path: Path) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.AsyncHTTPTransport(uds=str(path))
    async with httpx.AsyncClient(transport=transport, base_url="http://local", timeout=60) as opened:
        yield opened


async def _embed(client: httpx.AsyncClient, texts: Any, **fields: Any) -> tuple[Vectors, int]:
    body = {"model": MODEL, "input": texts, "encoding_format": "base64"} | fields
    response = await client.post("/v1/embeddings", json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert [one["index"] for one in answer["data"]] == list(range(len(answer["data"])))
    vectors = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in answer["data"]]
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"]
    return np.stack(vectors), answer["usage"]["prompt_tokens"]


async def test_golden_rows_alone_together_and_mixed_over_the_socket(client: httpx.AsyncClient, golden: Any) -> None:
    together, tokens = await _embed(client, golden.texts)
    assert tokens == sum(golden.tokens)
    assert np.abs(together - golden.vectors).max() <= 1e-5
    bulk = asyncio.create_task(_embed(client, golden.texts[::-1]))
    alone = await asyncio.gather(*(_embed(client, text) for text in golden.texts[:60]))
    assert np.abs(np.concatenate([vector for vector, _ in alone]) - golden.vectors[:60]).max() <= 1e-5
    assert [tokens for _, tokens in alone] == golden.tokens[:60]
    assert np.abs((await bulk)[0] - golden.vectors[::-1]).max() <= 1e-5


async def test_floats_equal_base64_to_the_bit_over_the_socket(client: httpx.AsyncClient, golden: Any) -> None:
    response = await client.post("/v1/embeddings", json={"model": MODEL, "input": golden.texts[0]})
    (floats,) = [one["embedding"] for one in response.json()["data"]]
    (exact,), _ = await _embed(client, golden.texts[0])
    assert floats == exact.tolist()


async def test_token_ids_over_the_socket_give_the_texts_vector(client: httpx.AsyncClient) -> None:
    by_text, _ = await _embed(client, ["Hello world", "!"])
    by_ids, _ = await _embed(client, [[9906, 1917], [0]])
    assert np.array_equal(by_text, by_ids)
    assert np.array_equal((await _embed(client, [9906, 1917]))[0], by_text[:1])


async def test_models_health_and_counts_are_answered(client: httpx.AsyncClient) -> None:
    (model,) = (await client.get("/v1/models")).json()["data"]
    assert (model["id"], model["object"], model["dimensions"], model["context_length"]) == (MODEL, "model", 384, 256)
    health = (await client.get("/healthz")).json()
    assert health == {"status": "ok", "queued_texts": 0, "queued_tokens": 0}
    counted = await client.post("/v1/tokenize/count", json={"vocabulary": "o200k_base", "input": ["hello world"]})
    assert counted.json() == {"tokens": [2]}


@pytest.mark.parametrize(
    ("method", "where", "body", "status", "code"),
    [
        ("POST", "/v1/embeddings", b"{", 400, "invalid_request"),
        ("POST", "/v1/embeddings", b'{"model":"m","input":"a"}', 404, "model_not_found"),
        ("POST", "/v1/embeddings", b'{"model":"all-MiniLM-L6-v2","input":[]}', 400, "invalid_request"),
        ("GET", "/v1/embeddings", b"", 405, "method_not_allowed"),
        ("POST", "/v1/models", b"", 405, "method_not_allowed"),
        ("GET", "/nothing", b"", 404, "not_found"),
    ],
)
async def test_errors_have_the_openai_shape(
    client: httpx.AsyncClient, method: str, where: str, body: bytes, status: int, code: str
) -> None:
    response = await client.request(method, where, content=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert error["type"] == "invalid_request_error"


async def test_a_body_over_the_limit_is_413_and_the_process_lives(client: httpx.AsyncClient, golden: Any) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b'{"model":"all-MiniLM-L6-v2","input":"'
        for _ in range(33):
            yield b"a" * 1024 * 1024

    response = await client.post("/v1/embeddings", content=endless())
    assert response.status_code == 413
    assert (await _embed(client, golden.texts[:1]))[1] == golden.tokens[0]


async def test_garbage_on_the_socket_hurts_nobody(path: Path, client: httpx.AsyncClient, golden: Any) -> None:
    for garbage in (b"\x00\xff" * 500, b"POST /v1/embeddings HTTP/1.1\r\ncontent-length: 99\r\n\r\n{", b"GET"):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(path))
            raw.sendall(garbage)
    assert (await _embed(client, golden.texts[:1]))[1] == golden.tokens[0]


def test_the_socket_is_for_this_user_only(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


class _Stalled:
    """A real engine whose model waits for `go` before each batch, and fails when told to."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.row = engine.row
        self.tokens, self.truncate, self.characters_max = engine.tokens, engine.truncate, engine.characters_max
        self.go = threading.Event()
        self.started = threading.Event()
        self.fail_beyond_tokens = 10_000

    def embed(self, batch: Sequence[Sequence[int]], wide: bool = False) -> Vectors:
        self.started.set()
        assert self.go.wait(30)
        if len(batch[0]) > self.fail_beyond_tokens:
            raise RuntimeError("the model broke")
        return self._engine.embed(batch)


@pytest.fixture
def stalled(engine: Engine) -> _Stalled:
    return _Stalled(engine)


@pytest.fixture
def app(stalled: _Stalled) -> Iterator[ModelApp]:
    limits = Limits(queue_items_max=4, queue_tokens_max=600)
    engines: dict[str, Any] = {MODEL: stalled}
    opened = ModelApp(engines, 1, limits)
    yield opened
    stalled.go.set()
    opened.close()


async def _post(app: ModelApp, texts: Any) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://local") as client:
        return await client.post("/v1/embeddings", json={"model": MODEL, "input": texts})


async def test_a_full_queue_is_529_with_retry_after_and_the_queued_are_answered(
    app: ModelApp, stalled: _Stalled
) -> None:
    first = asyncio.create_task(_post(app, "a"))
    await until(stalled.started.is_set)
    queued = [asyncio.create_task(_post(app, ["b", "c"])) for _ in range(2)]
    await until(lambda: app._lanes[MODEL].queued()[0] >= 4)
    refused = await _post(app, "d")
    assert refused.status_code == 529
    assert refused.json()["error"]["code"] == "model_overloaded"
    assert int(refused.headers["retry-after"]) >= 1
    stalled.go.set()
    assert [response.status_code for response in await asyncio.gather(first, *queued)] == [200] * 3
    assert (await _post(app, "d")).status_code == 200


async def test_a_failing_batch_is_500_for_its_requests_only(
    app: ModelApp, stalled: _Stalled, caplog: pytest.LogCaptureFixture
) -> None:
    stalled.fail_beyond_tokens = 50
    stalled.go.set()
    responses = await asyncio.gather(_post(app, "word " * 100), _post(app, "short"))
    assert [response.status_code for response in responses] == [500, 200]
    assert responses[0].json()["error"]["code"] == "local_inference_failed"
    assert "broke" not in responses[0].text
    assert "the model broke" in caplog.text


async def test_a_client_that_leaves_takes_its_texts_out_of_the_queue(app: ModelApp, stalled: _Stalled) -> None:
    running = asyncio.create_task(_post(app, "a"))
    await until(stalled.started.is_set)
    body = json.dumps({"model": MODEL, "input": ["b", "c", "d"]}).encode()
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": body})
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/v1/embeddings", "method": "POST"}
    leaving = asyncio.create_task(app(scope, incoming.get, send))
    await until(lambda: app._lanes[MODEL].queued()[0] >= 3)
    incoming.put_nowait({"type": "http.disconnect"})
    await leaving
    assert app._lanes[MODEL].queued() == (0, 0)
    assert sent == []
    stalled.go.set()
    assert (await running).status_code == 200


async def test_too_many_large_bodies_at_once_are_529(app: ModelApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app._bodies, "in_flight_bytes_max", 100)
    refused = await _post(app, "x" * 200)
    assert refused.status_code == 529
    assert refused.json()["error"]["code"] == "model_overloaded"


async def test_a_body_that_is_still_arriving_counts_among_those_that_are_held() -> None:
    bodies = Bodies(1_000, 100)
    arriving: asyncio.Queue[Any] = asyncio.Queue()
    arriving.put_nowait({"body": b"x" * 60, "more_body": True, "type": "http.request"})
    first = asyncio.create_task(_size_of(bodies, arriving))
    while not arriving.empty():
        await asyncio.sleep(0)
    other: asyncio.Queue[Any] = asyncio.Queue()
    other.put_nowait({"body": b"x" * 60, "more_body": False, "type": "http.request"})
    with pytest.raises(Overloaded):
        await _size_of(bodies, other)
    arriving.put_nowait({"body": b"x" * 40, "more_body": False, "type": "http.request"})
    assert await first == 100
    other.put_nowait({"body": b"x" * 100, "more_body": False, "type": "http.request"})
    assert await _size_of(bodies, other) == 100


async def _size_of(bodies: Bodies, incoming: asyncio.Queue[Any]) -> int:
    async with bodies.received(incoming.get) as body:
        return len(body)


def _wait_for_work(path: Path) -> None:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://local", timeout=60) as client:
        until_blocking(lambda: client.get("/healthz").json()["queued_texts"])


def _kill_at_work(path: Path, pid: int) -> None:
    _wait_for_work(path)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_answers_what_is_under_way_and_ends_cleanly(with_signal: signal.Signals) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.sock"
        path.write_bytes(b"left by a dead process")
        process = _start(path)
        try:
            assert "ready in" in _ready_line(process)
            statuses: list[int] = []

            def call() -> None:
                with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://local") as client:
                    body = {"model": MODEL, "input": ["word " * 200] * 20}
                    statuses.append(client.post("/v1/embeddings", json=body, timeout=60).status_code)

            caller = threading.Thread(target=call)
            caller.start()
            _wait_for_work(path)
            process.send_signal(with_signal)
            caller.join()
            assert process.wait(30) == 0
            assert statuses == [200]
            assert not path.exists()
        finally:
            _end(process)


def test_a_killed_process_breaks_the_call_at_once_and_the_next_one_starts_on_the_same_path() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.sock"
        for _ in range(2):
            process = _start(path, "--threads", "1")
            try:
                assert "ready in" in _ready_line(process)
                with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://local") as client:
                    killer = threading.Thread(target=_kill_at_work, args=(path, process.pid))
                    killer.start()
                    body = {"model": MODEL, "input": ["word " * 200] * 2000}
                    with pytest.raises(httpx.TransportError):
                        client.post("/v1/embeddings", json=body, timeout=60)
                    killer.join()
            finally:
                _end(process)


def test_without_any_usable_model_the_process_says_why_and_ends_with_78(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from elkapi.local import models

    monkeypatch.setattr(models, "BUNDLED", (msgspec.structs.replace(models.BUNDLED[0], weights_sha256="0" * 64),))
    assert server.run(str(tmp_path / "x.sock")) == EXIT_NO_MODEL == 78
    assert "0" * 64 in caplog.text
    assert models.BUNDLED[0].tokenizer_sha256 not in caplog.text
    assert not (tmp_path / "x.sock").exists()


def test_a_broken_row_file_ends_the_process_naming_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.json").write_bytes(b"{")
    assert server.run(str(tmp_path / "x.sock"), models_dir=str(tmp_path)) == EXIT_NO_MODEL
    assert "mine/model.json is not a model row" in caplog.text


async def test_only_http_is_spoken(app: ModelApp) -> None:
    with pytest.raises(RuntimeError, match="speaks http only"):
        await app({"type": "websocket"}, asyncio.Queue[Any]().get, asyncio.Queue[Any]().put)
