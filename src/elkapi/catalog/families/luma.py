"""Luma's Dream Machine. Contract: luma.md; rows: luma.yaml."""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.catalog.declare import Tasks
from elkapi.catalog.jsonpath import first
from elkapi.catalog.operation import Family, Hooks, ModelSource, Operation, Role
from elkapi.catalog.task import Listing, Made, Meter, TaskSpec
from elkapi.types import State

TASK = TaskSpec(
    id="id",
    state="state",
    states={
        "queued": State.QUEUED,
        "pending": State.QUEUED,
        "dreaming": State.RUNNING,
        "processing": State.RUNNING,
        "completed": State.SUCCEEDED,
        "failed": State.FAILED,
    },
    # A video has a thumbnail, and may have one of its progress.
    made=(
        Made("assets.video"),
        Made("assets.image", "image", optional=True),
        Made("assets.progress_video", optional=True),
    ),
    error=("failure_reason",),
    model=("model", "request.model"),
    fetch="GET /dream-machine/v1/generations/{id}",
    cancel="DELETE /dream-machine/v1/generations/{id}",
    callback="callback_url",
    notice="luma",
)
_PICTURE = msgspec.structs.replace(TASK, made=(Made("assets.image", "image"),))
_AWAITED = msgspec.structs.replace(_PICTURE, sync="sync")
_FEATURES: dict[str, tuple[str, ...]] = {"resolution": ("resolution", "=720p"), "duration": ("duration", "=5s")}
_VIDEO = Meter(unit="call", seconds=("duration",), features=_FEATURES)
# As long as the source, whose duration is unknown: hold the maximum, charge the result.
_MODIFIED, _REFRAMED = (
    Meter(unit="call", seconds=("duration",), seconds_default=most_s, features={"resolution": ("=720p",)})
    for most_s in (15.0, 30.0)
)
_UPSCALED = Meter(unit="call", features={"resolution": ("resolution",)})
_ONE = Meter(unit="call")
_BASE = "/dream-machine/v1"
_ROOT = f"{_BASE}/generations"
_tasks = Tasks(
    family="luma", wire="luma", prefix=_ROOT, task=TASK, meter=_VIDEO, model=ModelSource("body", "model", "ray-1-6")
)


def _prepare(operation: str, body: dict[str, Any], model: str) -> dict[str, Any]:
    """The gateway does the waiting for a finished image: the provider's answer would contain the provider's URL."""
    body.pop("sync", None)
    body.pop("sync_timeout", None)
    return body


def _shown(body: dict[str, Any]) -> dict[str, Any]:
    """Add `video`, where older clients look for the URL."""
    video = first("assets.video", body)
    return body | {"video": {"url": video, "download_url": video}} if video else body


FAMILY = Family(
    name="luma",
    dialect="luma",
    hooks=Hooks(prepare=_prepare, show=_shown),
    operations=(
        _tasks.submit("generate", "", aliases=(f"{_ROOT}/video",), upstream=f"POST {_ROOT}/video"),
        _tasks.submit("image", "/image", upstream=f"POST {_ROOT}/image", meter=_ONE, task=_AWAITED),
        _tasks.submit(
            "image-reframe", "/image/reframe", upstream=f"POST {_ROOT}/image/reframe", meter=_ONE, task=_PICTURE
        ),
        _tasks.submit("video-modify", "/video/modify", upstream=f"POST {_ROOT}/video/modify", meter=_MODIFIED),
        _tasks.submit("video-reframe", "/video/reframe", upstream=f"POST {_ROOT}/video/reframe", meter=_REFRAMED),
        _tasks.submit(
            "upscale", "/{id}/upscale", upstream=f"POST {_ROOT}/{{ref}}/upscale", model="luma-upscale", meter=_UPSCALED
        ),
        _tasks.submit("audio", "/{id}/audio", upstream=f"POST {_ROOT}/{{ref}}/audio", model="luma-audio", meter=_ONE),
        _tasks.list(
            "list",
            "",
            listing=Listing(
                items="generations",
                limit_default=100,
                offset="offset",
                more="has_more",
                envelope={"generations": [], "count": 0, "limit": 100, "offset": 0, "has_more": False},
            ),
        ),
        Operation(
            id="luma.concepts",
            method="GET",
            path=f"{_ROOT}/concepts/list",
            family="luma",
            role=Role.GATEWAY,
            wire="luma",
            upstream=f"GET {_ROOT}/concepts/list",
        ),
        *(
            Operation(id=f"luma.{name}", method="GET", path=f"{_BASE}/{name}", family="luma", role=Role.GATEWAY)
            for name in ("credits", "ping")
        ),
        _tasks.fetch("query", "/{id}", kind="task"),
        _tasks.cancel("delete", "/{id}"),
    ),
)
