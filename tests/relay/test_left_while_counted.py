"""A caller who leaves after the upstream answered in full, while its input is still being counted, has been served."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from elkapi.sandbox.server import Running
from tests.gateway import SMALL, gateway


async def test_g39_a_call_without_usage_is_charged_although_its_caller_left_meanwhile(
    tmp_path: Path, sandbox: Running
) -> None:
    asked = asyncio.Event()

    async def never_counts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()  # until the gateway gives up
        writer.close()

    async with gateway(tmp_path) as gate:
        path = gate.plane.settings.socket_path("models")
        async with await asyncio.start_unix_server(never_counts, path):
            await gate.channel(sandbox.base_url)
            key = await gate.key("1")
            sandbox.sandbox.stand("no-usage")
            call = asyncio.create_task(gate.ask(key, {"model": SMALL, "input": "eight bytes of text and some more"}))
            await asyncio.wait_for(asked.wait(), 10)
            call.cancel()
            with pytest.raises((asyncio.CancelledError, httpx.HTTPError)):
                await call
            for _ in range(400):
                rows = gate.sql("select charge_nano, record from requests")
                if rows:
                    break
                await asyncio.sleep(0.01)
            ((charge_nano, record),) = rows
    assert charge_nano > 0
    for flag in (b"usage_missing", b"client_gone", b"estimated_locally"):
        assert flag in record
    assert b'"fate":"complete"' in record
