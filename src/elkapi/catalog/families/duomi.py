"""Runway and Pika in DuoMi's reverse format. Contracts: runway.md, pika.md; rows: their YAML files."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from elkapi.catalog.declare import Tasks
from elkapi.catalog.families.pika import MODEL as PIKA_MODEL
from elkapi.catalog.operation import Family, Hooks
from elkapi.catalog.task import InBand, Made, Meter, TaskSpec
from elkapi.types import State

RUNWAY_TASK = TaskSpec(
    id="data.task_id",
    state="data.state",
    states={
        "pending": State.QUEUED,
        "running": State.RUNNING,
        "succeeded": State.SUCCEEDED,
        "error": State.FAILED,
    },
    made=(
        Made("data.video_url"),
        Made("data.poster", "image", optional=True),
        Made("data.last_frame", "image", optional=True),
    ),
    error=("data.msg", "msg"),
    fetch="GET /api/video/runway/feed?task_id={id}",
    callback="callback_url",
    notice="duomi",
)
PIKA_TASK = msgspec.structs.replace(RUNWAY_TASK, fetch="GET /api/video/pika/feed?task_id={id}")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)
NOWHERE = "https://callback.invalid/"
_UPSTREAM = "POST /api/video"
_SECONDS: dict[str, tuple[str, ...]] = {"duration": ("options.seconds", "=5")}
_CALL = Meter(unit="call", seconds=("options.seconds",), features=_SECONDS)
_runway = Tasks(family="runway", wire="duomi-runway", task=RUNWAY_TASK, meter=_CALL)
_pika = Tasks(family="pika", wire="duomi-pika", task=PIKA_TASK, meter=Meter(unit="call"), model=PIKA_MODEL)


def _prepare(operation: str, body: dict[str, Any], model: str) -> dict[str, Any]:
    """Pika's version is a number here; a `key` in the body would select another account, so it is removed."""
    body.pop("key", None)
    # A callback URL is required; if the gateway is not publicly reachable, it is one that leads nowhere.
    body.setdefault("callback_url", NOWHERE)
    if operation == "pika.pro-text" and isinstance(body.get("model"), str):
        body["model"] = _version(body["model"].removeprefix("pika-"))
    return body


def _version(name: str) -> float | str:
    """1.5 for "1.5"; a version that is not a number stays a string."""
    return float(name) if _NUMBER.fullmatch(name) else name


FAMILY = Family(
    name="duomi",
    dialect="task",
    in_band=InBand(path="code", good=200, message="msg", also_good=0),
    hooks=Hooks(prepare=_prepare),
    operations=(
        _runway.submit(
            "generate-text",
            "/runway/pro/generate",
            upstream=f"{_UPSTREAM}/runway/pro/generate",
            also=(("runway.generate-image", "task"),),
        ),
        _runway.submit(
            "video2video",
            "/runway/pro/video2video",
            upstream=f"{_UPSTREAM}/runway/pro/video2video",
            model="runway-video2video",
        ),
        _runway.submit(
            "act-one", "/runway/pro/act_one", upstream=f"{_UPSTREAM}/runway/pro/act_one", model="runway-act-one"
        ),
        _runway.fetch("feed", "/runway/feed", method="POST", kind="task", form="wrapped"),
        _runway.fetch("feed-get", "/runway/feed", kind="task", form="wrapped", aliases=("/runway/feed/{task_id}",)),
        _pika.submit(
            "pro-text",
            "/pika/pro/generate",
            upstream=f"{_UPSTREAM}/pika/pro/generate",
            also=(("pika.pro-image", "task"), ("pika.pro-video", "task")),
        ),
        _pika.fetch("feed", "/pika/feed", kind="task", form="wrapped"),
        _pika.fetch("feed-post", "/pika/feed", method="POST", kind="task", form="wrapped"),
    ),
)
