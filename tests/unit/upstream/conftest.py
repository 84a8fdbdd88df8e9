"""Scripted raw peers on loopback and a clock that moves only when told; each test runs on both event loops."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trustme
import uvloop

from elkapi.upstream import ClientLimits, Deadlines, Origin, UpstreamClient, UpstreamRequest
from tests.unit.upstream.upstream_peers import ManualTimers, Peer, Script


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """uvloop in production, asyncio's own without it; both must agree on every test."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[Peer]]]:
    """`await serve(script)` -> a listening Peer."""
    peers: list[Peer] = []

    async def make(script: Script, **where: Any) -> Peer:
        peer = Peer(script)
        peers.append(peer)
        return await peer.start(**where)

    yield make
    for peer in peers:
        await peer.stop()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Signs the certificates of peers."""
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> Callable[[], ssl.SSLContext]:
    """Makes the context of a client that trusts the authority."""

    def make() -> ssl.SSLContext:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    return make


@pytest.fixture
def timers() -> ManualTimers:
    return ManualTimers()


@pytest.fixture
async def make_client(timers: ManualTimers) -> AsyncIterator[Callable[..., UpstreamClient]]:
    """`make_client(limit=..., resolver=...)` -> a client on the manual clock, closed at the end."""
    clients: list[UpstreamClient] = []

    def make(*, resolver: Any = None, tls: Any = None, clock: Any = None, **limits: Any) -> UpstreamClient:
        more: dict[str, Any] = {}
        if resolver is not None:
            more["resolver"] = resolver
        if tls is not None:
            more["tls"] = tls
        client = UpstreamClient(ClientLimits(**limits), clock=clock or timers, **more)
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.aclose()
        assert client.stats()["open"] == 0


@pytest.fixture
def client(make_client: Callable[..., UpstreamClient]) -> UpstreamClient:
    return make_client()


@pytest.fixture
def ask() -> Callable[..., UpstreamRequest]:
    """`ask(origin, body=b"...")` -> a request with plain defaults."""

    def make(origin: Origin, method: bytes = b"POST", target: bytes = b"/v1/x", **fields: Any) -> UpstreamRequest:
        fields.setdefault("headers", [(b"content-type", b"application/json")])
        fields.setdefault("body", b"" if method in (b"GET", b"HEAD") else b"{}")
        fields.setdefault("deadlines", Deadlines())
        return UpstreamRequest(origin=origin, method=method, target=target, **fields)

    return make
