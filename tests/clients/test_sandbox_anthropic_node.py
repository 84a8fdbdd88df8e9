"""The official Anthropic package for Node, unmodified, at the sandbox: node/sandbox_anthropic.mjs makes the calls."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from elkapi.sandbox.server import running

pytestmark = pytest.mark.slow

RUN_S = 90
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


def test_the_node_sdk_uses_every_part_of_anthropics_protocol(node: Path, node_packages: Path) -> None:
    script = node_packages.parent / "sandbox_anthropic.mjs"
    with running() as sandbox:
        done = subprocess.run(
            [node, script, sandbox.base_url], capture_output=True, text=True, timeout=RUN_S, check=False
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == EXPECTED
