"""A caller who leaves after the upstream answered in full, while its input is still being counted, has been served."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import msgspec
import pytest

from elkapi.sandbox.server import Running
from tests.gateway import SMALL, gateway
from tests.text_calls import Asked, ask
from tests.waiting import until

EMBEDDING = Asked("/v1/embeddings", {"model": SMALL, "input": "eight bytes of text and some more"}, {})
# The words of the answer that the model makes of it, and of the question, a token for every four bytes.
CHAT = ask("chat", "gpt-4o", "[[say: sixteen letters.]]")


@pytest.mark.parametrize(("asked", "tokens"), [(EMBEDDING, (9, 0)), (CHAT, (11, 4))], ids=["embedding", "chat"])
async def test_g39_a_call_without_usage_is_charged_although_its_caller_left_meanwhile(
    tmp_path: Path, sandbox: Running, asked: Asked, tokens: tuple[int, int]
) -> None:
    counting = asyncio.Event()

    async def never_counts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        counting.set()
        await reader.read()  # until the gateway gives up
        writer.close()

    async with gateway(tmp_path) as gate:
        path = gate.plane.settings.socket_path("models")
        async with await asyncio.start_unix_server(never_counts, path):
            await gate.channel(sandbox.base_url, (SMALL, "gpt-4o"))
            await gate.price("gpt-4o", per_1m_usd="1", output_per_1m_usd="2")
            key = await gate.key("1")
            sandbox.sandbox.stand("no-usage")
            call = asyncio.create_task(gate.ask(key, asked.body, path=asked.path, headers=asked.headers))
            await counting.wait()
            call.cancel()
            with pytest.raises((asyncio.CancelledError, httpx.HTTPError)):
                await call
            ((charge_nano, record),) = await until(lambda: gate.sql("select charge_nano, record from requests"))
    assert charge_nano > 0
    usage = msgspec.json.decode(record)["usage"]
    assert (usage["input_tokens"], usage.get("output_tokens", 0)) == tokens
    for flag in (b"usage_missing", b"client_gone", b"estimated_locally"):
        assert flag in record
    assert b'"fate":"complete"' in record
