"""The bundled embedding model through the whole gateway: what is charged is what its own tokenizer counted."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from elkapi.relay import count
from elkapi.upstream import Deadlines
from tests.gateway import Gateway, gateway

pytestmark = pytest.mark.slow

MODEL = "all-MiniLM-L6-v2"
START_S = 60
# One token of cl100k, <|endoftext|>, is eight of the model's own; two more frame each text.
END_OF_TEXT, END_OF_TEXT_TOKENS = 100257, 8
FRAME_TOKENS = 2


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    # The kernel takes socket paths of at most 107 bytes, so not pytest's long temporary folders.
    folder = Path(tempfile.mkdtemp(prefix="elk-"))
    path = folder / "models.sock"
    command = [sys.executable, "-m", "elkapi.local", "--socket", str(path), "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + START_S
    while not _accepts(path):
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    yield folder
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) == 0
    shutil.rmtree(folder)


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


@pytest.fixture
async def gate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    # On a machine that stands still the model is the one to count all the same.
    monkeypatch.setattr(count, "COUNT_DEADLINES", Deadlines())
    for name in folder.glob("elkapi.sqlite3*"):
        name.unlink()
    async with gateway(folder, bundled=(MODEL,)) as served:
        await served.price(MODEL, per_1m_usd="1000")
        yield served


async def embed(gate: Gateway, key: str, given: Any, path: str = "/v1/embeddings", **more: Any) -> dict[str, Any]:
    """The call's account, with the tokens and dollars that its answer told as `told`."""
    named = {"model": MODEL} if path == "/v1/embeddings" else {}
    headers = {"authorization": f"Bearer {key}"}
    reply = await gate.http.post(path, json={**named, "input": given, **more}, headers=headers)
    assert reply.status_code == 200, reply.text
    shown = await gate.http.get(f"/v1/requests/{reply.headers['x-request-id']}", headers=headers)
    told = (reply.json()["usage"]["prompt_tokens"], reply.headers["x-elkapi-cost-usd"])
    account: dict[str, Any] = shown.json()
    return account | {"told": told}


@pytest.mark.parametrize("ids", [[END_OF_TEXT], [END_OF_TEXT] * 20, [[END_OF_TEXT], [END_OF_TEXT] * 2]])
async def test_token_ids_are_charged_as_the_tokens_of_their_text(gate: Gateway, ids: list[Any]) -> None:
    texts = ids if isinstance(ids[0], list) else [ids]
    tokens = sum(END_OF_TEXT_TOKENS * len(one) + FRAME_TOKENS for one in texts)
    account = await embed(gate, await gate.key("100"), ids)
    assert account["told"] == (tokens, f"{tokens / 1000:.9f}".rstrip("0"))
    assert (account["usage"]["input_tokens"], account["flags"]) == (tokens, [])
    assert float(account["cost_usd"]) <= float(account["held_usd"])


@pytest.mark.parametrize("path", ["/v1/embeddings", f"/v1/engines/{MODEL}/embeddings"])
@pytest.mark.parametrize(
    ("given", "tokens", "more"),
    [
        ([END_OF_TEXT], END_OF_TEXT_TOKENS + FRAME_TOKENS, {}),
        ("hello world", 4, {}),
        (["word " * 5_000, "a"], 256 + 3, {"truncate": True}),
    ],
)
async def test_a_balance_for_just_what_the_model_counts_is_enough(
    gate: Gateway, given: Any, tokens: int, more: dict[str, Any], path: str
) -> None:
    account = await embed(gate, await gate.key(f"{tokens / 1000}"), given, path, **more)
    assert account["told"][0] == account["usage"]["input_tokens"] == tokens
    assert account["held_usd"] == account["cost_usd"]


async def test_a_token_less_than_the_model_counts_is_not_enough(gate: Gateway) -> None:
    for given, tokens in ((["hello world"], 4), ([END_OF_TEXT], END_OF_TEXT_TOKENS + FRAME_TOKENS)):
        headers = {"authorization": f"Bearer {await gate.key(f'{(tokens - 1) / 1000}')}"}
        reply = await gate.http.post("/v1/embeddings", json={"model": MODEL, "input": given}, headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "insufficient_user_quota")


async def test_a_full_queue_tells_the_caller_to_wait_and_how_long(gate: Gateway, folder: Path) -> None:
    headers = {"authorization": f"Bearer {await gate.key('100000')}"}
    # Two of them are all that the queue takes.
    largest = {"model": MODEL, "input": ["word " * 254] * 2048}
    callers = [asyncio.ensure_future(gate.http.post("/v1/embeddings", json=largest, headers=headers)) for _ in range(2)]
    transport = httpx.AsyncHTTPTransport(uds=str(folder / "models.sock"))
    async with httpx.AsyncClient(transport=transport, base_url="http://local") as models:
        while (await models.get("/healthz")).json()["queued_texts"] < 3_000:
            await asyncio.sleep(0.05)
    refused = await gate.http.post("/v1/embeddings", json=largest, headers=headers)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "upstream_overloaded")
    assert int(refused.headers["retry-after"]) >= 1
