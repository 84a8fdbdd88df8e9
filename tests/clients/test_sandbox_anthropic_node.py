"""The official Anthropic package for Node, unmodified, at the sandbox: node/sandbox_anthropic.mjs makes the calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from elkapi.sandbox.server import running

pytestmark = pytest.mark.slow

EXPECTED = {
    "message": ["You said: hi", "end_turn", 1, 3],
    "loop": [[["weather", "clock"], ["clock"]], ["thinking", "text"], "all done"],
    "count": 2,
    "models": True,
    "batch": "a",
    "file": [5, "hello"],
    "error-before": ["APIError", "overloaded_error"],
    "error-after=1": ["APIError", "overloaded_error"],
    "status=529": ["OverloadedError", "overloaded_error"],
    "status=429": ["RateLimitError", "rate_limit_error"],
}


def test_the_node_sdk_uses_every_part_of_anthropics_protocol(node_says: Callable[..., Any]) -> None:
    with running() as sandbox:
        assert node_says("sandbox_anthropic.mjs", sandbox.base_url) == EXPECTED
