"""The official openai package for Node, unmodified, at the sandbox: node/sandbox_openai.mjs makes the calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from elkapi.sandbox.server import running

pytestmark = pytest.mark.slow

EXPECTED = {
    "chat": ["You said: hi", 4],
    "stream": ["so", [["f", '{"a":1}'], ["g", '{"b":2}']], 6 + 5],
    "loop false": "sum answered 3; sum answered 7",
    "loop true": "sum answered 3; sum answered 7",
    "responses": [["reasoning", "message", "function_call"], "x y", 2 + 2 + 2],
    "background": ["queued", "cancelled"],
    "batch": [3, "{}\n", "validating"],
    "moderation": True,
    "completion": "You said: p",
    "azure": "You said: hi",
    "error-before": "APIError",
    "error-after=1": "APIError",
    "invalid-json": "SyntaxError",
    "cut-after=2": "TypeError",
    "status=529": "InternalServerError",
}


def test_the_node_sdk_uses_every_text_feature_of_the_sandbox(node_says: Callable[..., Any]) -> None:
    with running() as sandbox:
        # The package says on standard error which event it could not parse.
        assert node_says("sandbox_openai.mjs", sandbox.base_url, quietly=False) == EXPECTED
