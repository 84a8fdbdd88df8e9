"""Sora in the reverse format of resellers; OpenAI's own is in video.py. Contract: sora.md; rows: sora.yaml."""

from __future__ import annotations

from elkapi.catalog.declare import Tasks
from elkapi.catalog.operation import Family, ModelSource
from elkapi.catalog.task import InBand, Made, Meter, TaskSpec
from elkapi.types import State

TASK = TaskSpec(
    id="data",
    state="data.status",
    states={
        "QUEUED": State.QUEUED,
        "NOT_START": State.QUEUED,
        "SUBMITTED": State.QUEUED,
        "IN_PROGRESS": State.RUNNING,
        "SUCCESS": State.SUCCEEDED,
        "FAILURE": State.FAILED,
    },
    made=(Made("data.data.generations[*].url"),),
    progress="data.progress",
    error=("data.fail_reason", "data.data.failure_reason"),
    fetch="GET /sora/v1/videos/{id}",
    callback="notify_hook",
    notice="sora",
)
_METER = Meter(
    unit="call",
    seconds=("duration", "seconds"),
    count="n_variants",
    features={"resolution": ("resolution",), "duration": ("duration", "seconds")},
)
_tasks = Tasks(
    family="sora",
    wire="sora-reverse",
    prefix="/sora/v1/videos",
    task=TASK,
    meter=_METER,
    model=ModelSource("body", "model", "sora"),
)

FAMILY = Family(
    name="sora",
    dialect="task",
    in_band=InBand(path="code", good="success", message="message"),
    operations=(
        _tasks.submit("reverse-create", "", form="sora-wrapped", neutral=True, upstream="POST /sora/v1/videos"),
        _tasks.fetch("reverse-query", "/{task_id}", form="sora-wrapped", kind="task"),
    ),
)
