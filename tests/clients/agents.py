"""What the suites of coding agents share: `agents_inside.py`, cut off from the network where that may be."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clients.client_stage import from_npm
from tests.isolation import without_network

ROOT = Path(__file__).parents[2]
INSIDE = Path(__file__).parent / "agents_inside.py"
RUN_S = 110
QUESTION = "What is seven times six?"


def installed(name: str, package: str) -> Path:
    """The agent's command that `make test` installs."""
    return from_npm(f".bin/{name}", package)


def watched(plan: dict[str, Any]) -> Any:
    """What came of the plan's tasks."""
    cut, why_not = without_network()
    done = subprocess.run(
        [*cut, sys.executable, str(INSIDE)],
        input=json.dumps({**plan, "isolated": why_not is None}),
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def documented(page: str, title: str) -> str:
    """The fenced block of a page that follows this line of its text, so that tests run what readers copy."""
    text = (ROOT / f"docs/{page}.md").read_text("utf-8")
    found = re.search(rf"{re.escape(title)}\n\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/{page}.md has no block after {title!r}"
    return found[1]


def assert_cut_off(found: Any) -> None:
    """Only loopback could be reached; skips where this machine allows no network namespace."""
    if not found["interfaces"]:
        pytest.skip("this machine does not allow a network namespace")
    assert found["interfaces"] == ["lo"]
    assert found["outside"] == "Network is unreachable"


def outcomes(found: Any) -> list[tuple[str, str, int]]:
    """(operation, model, status) of every relayed call that the gateway logged."""
    return [(row["operation"], row["model"], row["status"]) for row in found["log"] if row["event"] == "request"]
