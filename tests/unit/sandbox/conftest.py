"""Owns a live sandbox on loopback for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from elkapi.sandbox.app import Options
from elkapi.sandbox.server import Running, running

from .exchanging import KEY, READERS, Clock, Exchange, connected, embedding_body, request_bytes


@pytest.fixture(scope="session")
def served() -> Iterator[Running]:
    with running(Options(hang_limit_s=0.05)) as served:
        yield served


@pytest.fixture
def sandbox(served: Running) -> Running:
    """The live sandbox with an empty bill, an empty record and no standing fault."""
    served.sandbox.bill.reset()
    served.sandbox.recorder.reset()
    served.sandbox.stand("")
    return served


@pytest.fixture
def http(sandbox: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=sandbox.base_url, headers={"authorization": f"Bearer {KEY}"}) as client:
        yield client


@pytest.fixture
def exchange(sandbox: Running) -> Callable[..., Exchange]:
    """Send one request with a fault in its header and read the connection up to the end that is expected of it."""

    def send(fault: str, end: str = "open", body: bytes | None = None) -> Exchange:
        with connected(sandbox.base_url) as connection:
            connection.sendall(request_bytes(embedding_body() if body is None else body, fault))
            return READERS[end](connection)

    return send


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(clock: Clock) -> Iterator[httpx.Client]:
    """A client of a sandbox of its own, whose time stands still but for the test."""
    with running(Options(now=clock)) as served:
        with httpx.Client(base_url=served.base_url, headers={"authorization": f"Bearer {KEY}"}) as client:
            yield client
