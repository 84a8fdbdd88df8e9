"""The official openai package for Node, unmodified, making videos: node/videos_openai.mjs makes the calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.clients.video_origins import Origin

pytestmark = pytest.mark.slow

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


def test_the_node_sdk_makes_lists_remixes_and_deletes_videos(node_says: Callable[..., Any], origin: Origin) -> None:
    assert node_says("videos_openai.mjs", origin.base_url, origin.keys["openai"]) == EXPECTED
