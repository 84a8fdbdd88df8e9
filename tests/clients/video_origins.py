"""Where the suites of the video SDKs make their calls: straight at a sandbox, or at a gateway in front of one.

A suite asks for `origin` and knows nothing of which it is. `ORIGINS` are the ways it is run; a way is a fixture of its
own name that gives an `Origin`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from elkapi.sandbox.server import Running, running

ORIGINS = ["sandbox_origin"]


class Origin(NamedTuple):
    """One place that speaks every provider's protocol. `keys` are by provider.

    `sandbox` is what makes the videos in the end.
    """

    base_url: str
    keys: dict[str, str]
    sandbox: Running


@pytest.fixture(scope="module")
def sandbox_origin() -> Iterator[Origin]:
    keys = {
        "openai": "sk-anything",
        "gemini": "AIza-given",
        "vertex": "ya29.given",
        "ark": "ark-given",
        "runway": "key_given",
        "luma": "luma-given",
    }
    with running() as sandbox:
        yield Origin(sandbox.base_url, keys, sandbox)


@pytest.fixture(params=ORIGINS)
def origin(request: pytest.FixtureRequest) -> Origin:
    found: Origin = request.getfixturevalue(request.param)
    return found
