"""The official @runwayml/sdk package for Node, unmodified, making videos: node/videos_runway.mjs makes the calls."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.clients.video_origins import Origin

pytestmark = pytest.mark.slow

RUN_S = 90
EXPECTED = {
    "begun": "PENDING",
    "made": ["SUCCEEDED", "ftyp"],
    "picture": "image/png",
    "failed": [[True, "FAILED", "INTERNAL.BAD_OUTPUT.CODE01"], [True, "FAILED", "SAFETY.OUTPUT.VIDEO"]],
    "gone": ["NotFoundError", 404],
    "wrong": ["BadRequestError", 400],
}


def test_the_node_sdk_makes_awaits_and_deletes_tasks(node: Path, node_packages: Path, origin: Origin) -> None:
    script = node_packages.parent / "videos_runway.mjs"
    done = subprocess.run(
        [node, script, origin.base_url, origin.keys["runway"]],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == EXPECTED
