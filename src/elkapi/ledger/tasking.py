"""Tasks inside the books' transactions: their rows begin with their holds and end with their settlements.

`tasks.machine` decides what a step says; here it is written exactly once, or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elkapi.ledger.noticing import Noticer
from elkapi.ledger.orders import Hold, Refusal, Step, TaskRow
from elkapi.ledger.statements import Statements
from elkapi.storage.repos.tasks import asked_context, told_context
from elkapi.storage.secrets import Sealer
from elkapi.types import NewTask, TaskStep


async def seal_task(sealer: Sealer, task: NewTask, worker: bytes) -> TaskRow:
    """The row of a task that `worker` submits."""
    return TaskRow(
        task.owner_id,
        task.key_id,
        task.operation,
        task.wire,
        task.form,
        task.model,
        worker,
        task.created_ns,
        await sealer.seal_beside(task.asked, asked_context(task.id)),
        task.own_mark,
    )


async def seal_told(sealer: Sealer, step: TaskStep) -> bytes | None:
    """The provider's report on a task, sealed for its row."""
    return None if step.told is None else await sealer.seal_beside(step.told, told_context(step.id))


class Tasker:
    """The tables of tasks on the books' own cursor."""

    def __init__(self, cursor: Any, sql: Statements) -> None:
        self._cursor = cursor
        self._sql = sql
        self._noticer = Noticer(cursor, sql)

    def name_all(self, holds: Sequence[tuple[int, Hold]], outcomes: Sequence[Refusal | None]) -> list[tuple[int, Hold]]:
        """Give the tasks of those (index, hold) that are not refused yet their callers' own names; returns those whose
        name another task has. In the order of the names, so that two writers never deadlock."""
        named = [
            (order.task.key_id, order.task.own_mark, index, order)
            for index, order in holds
            if order.task is not None and order.task.own_mark and outcomes[index] is None
        ]
        named.sort(key=lambda each: each[:3])
        return [(index, hold) for key_id, mark, index, hold in named if not self._name(key_id, mark, hold.request_id)]

    def _name(self, key_id: int, mark: str, task_id: bytes) -> bool:
        cursor, sql, key = self._cursor, self._sql, (key_id, mark)
        sql.task_refs.insert(cursor, [*key, task_id])
        if cursor.rowcount:
            return True
        cursor.execute(sql.task_ref_drop_deleted, key)
        if cursor.rowcount:
            sql.task_refs.insert(cursor, [*key, task_id])
        cursor.execute(sql.task_ref, key)
        found = cursor.fetchone()
        return found is not None and found[0] == task_id

    def unname(self, task_id: bytes) -> None:
        """Free the name of a task that did not begin."""
        self._cursor.execute(self._sql.task_refs_forget, (task_id,))

    def begin(self, holds: Sequence[Hold]) -> None:
        """Insert the rows of tasks whose holds were made; repeating it changes nothing."""
        flat: list[Any] = []
        for hold in holds:
            if (row := hold.task) is not None:
                flat += (hold.request_id, row.owner_id, row.key_id, row.operation, row.wire, row.form, row.model)
                flat += (row.worker, False, row.created_ns, row.created_ns, row.asked_sealed)
        self._sql.tasks.insert(self._cursor, flat)

    def step(self, step: Step) -> bool:
        """Write the step; False, with nothing written, if the task is no longer at the version where the step
        begins."""
        values = [getattr(step, name) for name in self._sql.task_step_columns]
        self._cursor.execute(self._sql.task_step, (*values, step.request_id, step.version))
        if self._cursor.rowcount != 1:
            return False
        flat: list[Any] = []
        for ref in step.refs:
            flat += (step.key_id, ref, step.request_id)
        self._sql.task_refs.insert(self._cursor, flat)
        if step.unnamed:
            self.unname(step.request_id)
        self._noticer.write(step.notices)
        return True
