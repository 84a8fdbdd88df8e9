"""The official openai package for Node, unmodified, making videos: node/videos_openai.mjs makes the calls."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.clients.video_origins import Origin

pytestmark = pytest.mark.slow

RUN_S = 90
EXPECTED = {
    "made": ["completed", 100, "8", "1280x720"],
    "content": "ftyp",
    "thumbnail": "image/webp",
    "retrieved": True,
    "remix": [True, "completed"],
    "edit": "completed",
    "extended": ["12", "completed"],
    "listed": [True, True, True],
    "refused": ["failed", "moderation_blocked"],
    "deleted": True,
    "gone": ["NotFoundError", 404],
    "wrong": ["BadRequestError", "seconds"],
}


def test_the_node_sdk_makes_lists_remixes_and_deletes_videos(node: Path, node_packages: Path, origin: Origin) -> None:
    script = node_packages.parent / "videos_openai.mjs"
    done = subprocess.run(
        [node, script, origin.base_url, origin.keys["openai"]],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == EXPECTED
