"""Tasks of all keys for operators: list, show, poll at once, or end without charge."""

from __future__ import annotations

import asyncio

import msgspec

from elkapi.admin.context import Admin
from elkapi.admin.errors import InvalidInput, Missing, Refused
from elkapi.admin.keys import show_key
from elkapi.catalog import CATALOG
from elkapi.errors import Unavailable
from elkapi.ids import new_id, parse_request_id
from elkapi.ledger import open_ledger
from elkapi.storage.repos import audit, tasks
from elkapi.storage.repos.tasks import TaskRow, task_id_text
from elkapi.storage.secrets import SealError
from elkapi.tasks import ending
from elkapi.tasks.addresses import Addresses
from elkapi.tasks.record import Task, opened
from elkapi.tasks.telling import Teller
from elkapi.types import State, TaskStep

REASON_CHARACTERS_MAX = 500
ENDED_BY_OPERATOR = "ended_by_operator"
STATES = ("open", *(state.value for state in State))


class TaskFacts(msgspec.Struct, frozen=True):
    """A task; `task` is None if it was sealed with another secret key."""

    row: TaskRow
    task: Task | None


def list_tasks(
    admin: Admin, *, state: str | None = None, key: str | None = None, limit: int = 100, before: str | None = None
) -> list[TaskRow]:
    """Tasks, newest first, after `before`; the state `open` means not ended. Raises InvalidInput, Missing for an
    unknown key.
    """
    if state is not None and state not in STATES:
        raise InvalidInput(f"it must be one of {', '.join(STATES)}", field="state")
    key_id = None if key is None else show_key(admin, key).row.id
    states = None if state is None else tasks.OPEN if state == "open" else (state,)
    behind = None if before is None else _parsed(before)
    with admin.database.read() as connection:
        return tasks.newest(connection, key_id=key_id, states=states, limit=limit, before=behind)


def show_task(admin: Admin, task_id: str) -> TaskFacts:
    """One task by our id (`task_...`, or the `req_...` of its submit). Raises InvalidInput, Missing."""
    parsed = _parsed(task_id)
    with admin.database.read() as connection:
        row = tasks.read(connection, parsed)
    if row is None:
        raise Missing(f"the task {task_id} does not exist")
    try:
        return TaskFacts(row, opened(admin.sealer, row))
    except SealError:
        return TaskFacts(row, None)


def poll_task(admin: Admin, task_id: str) -> None:
    """Have a task polled now. Raises InvalidInput, Missing, Refused for one that ended."""
    row = show_task(admin, task_id).row
    with admin.database.write() as connection:
        if not tasks.poke(connection, row.id):
            raise Refused(f"{task_id} has already ended: it is {row.state}")
        audit.write(connection, **admin.who(), action="task.poll", subject=f"task:{task_id_text(row.id)}", detail={})


def end_task(admin: Admin, task_id: str, reason: str) -> Task:
    """End an open task without charge, whatever its provider does: the hold is released and the caller notified.

    Returns the ended task. Raises InvalidInput, Missing, Refused if it ended, is being submitted, or changed meanwhile.
    """
    reason = reason.strip()
    if not reason or len(reason) > REASON_CHARACTERS_MAX or not reason.isprintable():
        raise InvalidInput(f"it must have 1 to {REASON_CHARACTERS_MAX} printable characters", field="reason")
    found = show_task(admin, task_id)
    task = found.task
    if task is None:
        raise Refused("this task was encrypted with another ELKAPI_SECRET_KEY")
    if task.state.is_end:
        raise Refused(f"{task_id} has already ended: it is {found.row.state}")
    if found.row.worker is not None:
        raise Refused(f"{task_id} is being submitted right now")
    step = ending.ended(
        task,
        State.FAILED,
        ENDED_BY_OPERATOR,
        "The operator of this gateway ended the task.",
        b"",
        admin.clock.now_ns(),
        # The provider may still finish the task and bill it.
        unknown=True,
    )
    addresses = Addresses(admin.settings, admin.sealer, admin.clock)
    step = Teller(admin.settings, CATALOG.by_id, CATALOG.family_of, addresses.assets.url).told(task, step)
    # Write the audit row first, so that no task ends without a recorded reason.
    with admin.database.write() as connection:
        detail = {"reason": reason, "held_nano": task.asked.held_nano}
        audit.write(
            connection, **admin.who(), action="task.end", subject=f"task:{task_id_text(task.row.id)}", detail=detail
        )
    if not asyncio.run(_made(admin, step)):
        raise Refused(f"{task_id} changed meanwhile; look at it and try again")
    after = show_task(admin, task_id).task
    assert after is not None
    return after


async def _made(admin: Admin, step: TaskStep) -> bool:
    ledger = open_ledger(admin.settings, admin.database, new_id(), in_process=True, sealer=admin.sealer)
    try:
        await ledger.start()
        return await ledger.step(step)
    except Unavailable as error:
        raise Refused(str(error)) from None
    finally:
        await ledger.aclose()


def _parsed(task_id: str) -> bytes:
    parsed = parse_request_id(task_id)
    if parsed is None:
        raise InvalidInput("a task id must be `task_` followed by 32 hex digits", field="id")
    return parsed
