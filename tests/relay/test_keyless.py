"""Without a key nothing is served but what is meant for everybody: the whole catalog, every path, every method."""

from __future__ import annotations

import asyncio
import re

import pytest

from elkapi.catalog import CATALOG
from elkapi.catalog.operation import Role
from tests.gateway import Gateway


async def test_cve_2026_12773_every_route_but_those_for_everybody_wants_a_key(gate: Gateway) -> None:
    for_everybody = [one for one in CATALOG.operations if one.role in (Role.OPEN, Role.CONTROL)]
    # Pages, health, and metrics, which show money only to the operator's own token: none of them reaches an upstream.
    assert {one.family for one in for_everybody} == {"platform"}
    for operation in CATALOG.operations:
        if operation not in for_everybody:
            for path in (operation.path, *operation.aliases):
                reply = await gate.http.request(operation.method, re.sub(r"\{[^}]*\}", "x", path), json={})
                assert reply.status_code == 401, (operation.id, path, reply.text)


@pytest.mark.parametrize("path", ["/", "/docs", "/console", "/api/status", "/healthz"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_page_for_everybody_waits_for_no_body_that_its_reader_announces(
    gate: Gateway, method: str, path: str
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gate.origin.rpartition(":")[2]))
    writer.write(f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 30000000\r\n\r\n".encode() + b"x" * 1000)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    assert head.split()[1] in (b"200", b"503")  # There is no control process here.
    writer.close()
