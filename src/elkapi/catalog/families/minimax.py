"""MiniMax Hailuo videos. Contract: minimax.md; rows: minimax.yaml. Errors are in `base_resp` with HTTP 200."""

from __future__ import annotations

from typing import Any

from elkapi.catalog.declare import Tasks
from elkapi.catalog.operation import Family, Hooks
from elkapi.catalog.task import InBand, Made, Meter, TaskSpec
from elkapi.types import State

TASK = TaskSpec(
    id="task_id",
    state="status",
    states={
        "Preparing": State.QUEUED,
        "Queueing": State.QUEUED,
        "Processing": State.RUNNING,
        "Success": State.SUCCEEDED,
        "Fail": State.FAILED,
    },
    made=(Made("file_id", via="GET /v1/files/retrieve?file_id={value}", then="file.download_url"),),
    error=("base_resp.status_msg",),
    fetch="GET /v1/query/video_generation?task_id={id}",
    refs=("file_id",),
    callback="callback_url",
    notice="minimax",
    challenge=True,
    link="file.download_url",
    blank={"task_id": "{id}", "status": "Queueing", "base_resp": {"status_code": 0, "status_msg": "success"}},
)
_FEATURES: dict[str, tuple[str, ...]] = {"duration": ("duration", "=6"), "resolution": ("resolution", "=768P")}
_tasks = Tasks(
    family="minimax",
    wire="minimax-video",
    prefix="/minimax",
    aliases=("",),
    task=TASK,
    meter=Meter(unit="call", seconds=("duration",), seconds_default=6.0, features=_FEATURES),
)


def _shown(body: dict[str, Any]) -> dict[str, Any]:
    """Give a failure without a MiniMax code the code 1000, unknown."""
    told = body.get("base_resp")
    if body.get("status") == "Fail" and isinstance(told, dict) and not told.get("status_code"):
        told["status_code"] = 1000
    return body


FAMILY = Family(
    name="minimax",
    dialect="minimax",
    hooks=Hooks(show=_shown),
    in_band=InBand(
        path="base_resp.status_code",
        good=0,
        message="base_resp.status_msg",
        # 2056: the plan's usage of these hours is used up.
        elsewhere=frozenset({1000, 1001, 1004, 1008, 1024, 1033, 2049, 2056}),
        # Calls per minute, connections, and how fast the calls become more.
        busy=frozenset({1002, 1041, 2045}),
        # A fetch of a failed task has the same code, although the fetch succeeded.
        fetched=False,
    ),
    operations=(
        _tasks.submit("generate", "/v1/video_generation"),
        _tasks.fetch("query", "/v1/query/video_generation", kind="task"),
        _tasks.fetch("file", "/v1/files/retrieve", kind="file", form="minimax-file", asked_by="file_id"),
    ),
)
