"""A submit whose caller waits for its result: Luma's `sync`. A caller who stops waiting does not end the task."""

from __future__ import annotations

import msgspec

from elkapi.errors import BadRequest
from elkapi.relay.asking import Asked
from elkapi.relay.call import Call
from elkapi.relay.plane import DataPlane
from elkapi.relay.task_store import FOLLOW_S
from elkapi.storage.repos.tasks import task_id_text
from elkapi.types import Grant

SYNC_S, SYNC_S_MAX = 60.0, 600.0


def wait_s_of(asked: Asked) -> float:
    """How many seconds a submit wants to wait, 0 for none. Raises BadRequest."""
    if not asked.task.sync or asked.form != "native":
        return 0.0
    wanted, timeout_s = asked.body.get(asked.task.sync), asked.body.get(f"{asked.task.sync}_timeout")
    if not isinstance(wanted, bool | None):
        raise BadRequest(f"`{asked.task.sync}` must be true or false.", param=asked.task.sync)
    if timeout_s is None:
        timeout_s = SYNC_S
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or timeout_s < 0:
        raise BadRequest(
            f"`{asked.task.sync}_timeout` must be a number of seconds.", param=f"{asked.task.sync}_timeout"
        )
    return min(timeout_s, SYNC_S_MAX) if wanted else 0.0


async def waited(plane: DataPlane, grant: Grant, call: Call, task_id: bytes, wait_s: float) -> bytes:
    """The task as a fetch would show it, after it ended or `wait_s` passed. Raises NotFound, Unavailable."""
    task = await plane.tasks.find(grant, task_id_text(task_id))
    until_s = plane.clock.monotonic_s() + wait_s
    async for now in plane.tasks.moves(task, FOLLOW_S):
        task = now or task
        if plane.clock.monotonic_s() >= until_s:
            break
    return msgspec.json.encode(
        plane.showing.shown(plane.catalog.by_id[task.row.operation], task, plane.origin(call))[1]
    )
