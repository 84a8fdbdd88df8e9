"""Where the suites of several clients make their calls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from elkapi.sandbox.server import Running, running
from tests.clients.client_stage import lane as lane
from tests.clients.client_stage import node_packages as node_packages
from tests.clients.client_stage import node_says as node_says
from tests.clients.client_stage import relayed as relayed
from tests.clients.client_stage import stage as stage
from tests.clients.video_origins import gateway_origin as gateway_origin
from tests.clients.video_origins import origin as origin
from tests.clients.video_origins import sandbox_origin as sandbox_origin


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    """A sandbox for each file: what runs on in it is nobody else's."""
    with running() as served:
        yield served


@pytest.fixture
def sandbox(served: Running) -> Running:
    """A sandbox with an empty bill and an empty record."""
    served.sandbox.bill.reset()
    served.sandbox.recorder.reset()
    return served
