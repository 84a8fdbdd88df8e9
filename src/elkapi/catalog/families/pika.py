"""Pika by resellers: the universal format. Contract: pika.md; rows: pika.yaml. The pro format is in duomi.py."""

from __future__ import annotations

from typing import Any

from elkapi.catalog.declare import Tasks
from elkapi.catalog.jsonpath import compiled
from elkapi.catalog.operation import Family, Hooks, ModelSource
from elkapi.catalog.task import Made, Meter, TaskSpec
from elkapi.types import State

TASK = TaskSpec(
    id="id",
    state="videos[0].status",
    # No video yet means queued.
    states={
        "": State.QUEUED,
        "queued": State.QUEUED,
        "pending": State.RUNNING,
        "finished": State.SUCCEEDED,
        "error": State.FAILED,
    },
    made=(
        Made("videos[*].resultUrl"),
        Made("videos[*].videoPoster", "image", optional=True),
        Made("videos[*].imageThumb", "image", optional=True),
    ),
    progress="videos[0].progress",
    error=("videos[0].error",),
    fetch="GET /pika/feed/{id}",
    callback="callback_url",
    calls_back=False,
    blank={"id": "{id}", "promptText": "{prompt}", "videos": []},
)
MODEL = ModelSource("body", "model", "pika-1.5", prefix="pika-")
_tasks = Tasks(family="pika", wire="pika", task=TASK, meter=Meter(unit="call"), model=MODEL)


def _prepare(operation: str, body: dict[str, Any], model: str) -> dict[str, Any]:
    """The version is a string here."""
    if isinstance(body.get("model"), int | float):
        body["model"] = f"{body['model']:g}" if body["model"] % 1 else f"{body['model']:.1f}"
    return body


def _shown(body: dict[str, Any]) -> dict[str, Any]:
    """Replace the sharing URL by that of our copy, so that the provider's stays private. A task that failed before
    there was a video is shown as a video without a file.
    """
    for video in compiled("videos[*]")(body):
        if isinstance(video, dict):
            for name, value in (("id", body.get("id")), ("progress", 0), ("resultUrl", "")):
                video.setdefault(name, value)
            if "sharingUrl" in video:
                video["sharingUrl"] = video["resultUrl"]
    return body


FAMILY = Family(
    name="pika",
    dialect="task",
    hooks=Hooks(prepare=_prepare, show=_shown),
    operations=(
        _tasks.submit("generate", "/pika/generate"),
        _tasks.fetch("query", "/pika/feed/{id}", kind="task", aliases=("/pika/feed/",)),
    ),
)
