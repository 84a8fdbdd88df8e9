"""Where the suites of the video SDKs make their calls: straight at a sandbox, and at a gateway in front of one.

A suite asks for `origin` and knows nothing of which it is. `ORIGINS` are the ways it is run; a way is a fixture of its
own name that gives an `Origin`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from elkapi.sandbox.server import running
from tests.live import running_gateway

ORIGINS = ["sandbox_origin", "gateway_origin"]
PROVIDERS = ("openai", "gemini", "vertex", "ark", "runway", "luma")


class Origin(NamedTuple):
    """One place that speaks every provider's protocol. `keys` are by provider.

    `is_gateway`: what is asked for is made by the sandbox behind it, and what the provider refuses may be refused here.
    """

    base_url: str
    keys: dict[str, str]
    is_gateway: bool = False


@pytest.fixture(scope="session")
def sandbox_origin() -> Iterator[Origin]:
    keys = ("sk-anything", "AIza-given", "ya29.given", "ark-given", "key_given", "luma-given")
    with running() as sandbox:
        yield Origin(sandbox.base_url, dict(zip(PROVIDERS, keys, strict=True)))


@pytest.fixture(scope="session")
def gateway_origin() -> Iterator[Origin]:
    """A whole gateway, its poller and its own sandbox; one test key for every provider."""
    with running_gateway(ELKAPI_TASK_POLL_EVERY_S="0.1") as gateway:
        key = gateway.make_key("videos", "--test")
        yield Origin(gateway.base_url, dict.fromkeys(PROVIDERS, key), is_gateway=True)


@pytest.fixture(params=ORIGINS)
def origin(request: pytest.FixtureRequest) -> Origin:
    found: Origin = request.getfixturevalue(request.param)
    return found
