"""The gateway's own task format: one for every provider. Contract: platform.md ("Unified async task API")."""

from __future__ import annotations

from elkapi.catalog.declare import Tasks
from elkapi.catalog.families.video import TASK
from elkapi.catalog.operation import Family
from elkapi.catalog.task import Meter

_METER = Meter(unit="second", seconds=("input.seconds", "input.duration"))
_tasks = Tasks(family="tasks", wire="videos", prefix="/v1/tasks", task=TASK, meter=_METER)

FAMILY = Family(
    name="tasks",
    dialect="task",
    operations=(
        _tasks.submit("create", "", form="neutral", neutral=True),
        _tasks.list("list", "", form="neutral"),
        _tasks.fetch("get", "/{id}", form="neutral", kind="task"),
        _tasks.fetch("events", "/{id}/events", form="neutral-events", kind="stream"),
        _tasks.cancel("cancel", "/{id}/cancel", method="POST", form="neutral"),
        _tasks.cancel("delete", "/{id}", form="neutral"),
    ),
)
