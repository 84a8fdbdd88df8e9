"""The official @runwayml/sdk package for Node, unmodified, making videos: node/videos_runway.mjs makes the calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.clients.video_origins import Origin

pytestmark = pytest.mark.slow

EXPECTED = {
    "begun": "PENDING",
    "made": ["SUCCEEDED", "ftyp"],
    "picture": "image/png",
    "failed": [[True, "FAILED", "INTERNAL.BAD_OUTPUT.CODE01"], [True, "FAILED", "SAFETY.OUTPUT.VIDEO"]],
    "gone": ["NotFoundError", 404],
    "wrong": ["BadRequestError", 400],
}


def test_the_node_sdk_makes_awaits_and_deletes_tasks(node_says: Callable[..., Any], origin: Origin) -> None:
    assert node_says("videos_runway.mjs", origin.base_url, origin.keys["runway"]) == EXPECTED
