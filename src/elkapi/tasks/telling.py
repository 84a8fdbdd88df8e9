"""The events of a task's step, and their form: one per change of state, for the address that the caller gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from elkapi.catalog.operation import Family, Operation
from elkapi.settings import Settings
from elkapi.storage.repos.tasks import TaskRow
from elkapi.tasks import callback_forms, record
from elkapi.tasks.record import Task
from elkapi.tasks.showing import Address, native, with_addresses, word_of
from elkapi.types import Notice, NoticeForm, TaskStep

_told = msgspec.json.Decoder(record.Told)
# Our own forms with a contract for callbacks.
_OF_FORMS: Mapping[str, NoticeForm] = {"sora-wrapped": "sora", "task-submit": "guide"}
_CHANGED = ("native_id", "started_ns", "finished_ns", "error_code")


class Teller:
    """Creates the notices of steps; `notify` sends them. `operations` and `families` are keyed by operation id,
    `address` makes our address of a file."""

    def __init__(
        self,
        settings: Settings,
        operations: Mapping[str, Operation],
        families: Mapping[str, Family],
        address: Address,
    ) -> None:
        self._retry_ns = round(settings.webhook_retry_s * 1e9)
        self._operations = operations
        self._families = families
        self._address = address

    def told(self, task: Task, step: TaskStep) -> TaskStep:
        """The step with its notices; `task` is the task before it."""
        if not task.asked.callback_url or step.state is task.state:
            return step
        operation = self._operations[task.row.operation]
        spec = operation.task
        form = _OF_FORMS.get(task.row.form, "standard")
        if spec is not None and task.row.form in ("native", operation.flat_form):
            form = spec.notice
        after = after_step(task, step)
        view = with_addresses(after.view(), lambda asset: self._address(asset, task.asked.origin))
        if spec is not None:
            shown = native(after, spec, self._families[operation.id], view)
            view = msgspec.structs.replace(view, reply=record.encode(shown))
        word = "" if spec is None else word_of(spec, view.state) or ""
        notice = Notice(
            task_id=task.row.id,
            number=after.row.version,
            key_id=task.row.key_id,
            owner_id=task.row.owner_id,
            url=task.asked.callback_url,
            form=form,
            body=callback_forms.body(form, view, word),
            created_ns=step.now_ns,
            until_ns=step.now_ns + self._retry_ns,
        )
        return msgspec.structs.replace(step, notices=(notice,))


def after_step(task: Task, step: TaskStep) -> Task:
    """The task after the step."""
    changed = {name: value for name in _CHANGED if (value := getattr(step, name)) is not None}
    row: TaskRow = msgspec.structs.replace(
        task.row,
        state=step.state.value,
        progress=step.progress,
        version=step.version + 1,
        updated_ns=step.now_ns,
        **changed,
    )
    return Task(row, task.asked, task.told if step.told is None else _told.decode(step.told))


Tell = Callable[[Task, TaskStep], TaskStep]
