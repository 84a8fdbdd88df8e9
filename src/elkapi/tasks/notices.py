"""The notices of one step of a task: an event for each address that its caller gave; the ledger writes them with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from elkapi.tasks.callback_forms import Neutral, body
from elkapi.types import Notice, NoticeForm, TaskView

# What wires call their callbacks' shape by; one that is not here has none of its own. Pika's resellers and Runway's
# reverse form are one maker's.
_OF_WIRE: Mapping[str, NoticeForm] = {
    "kling": "kling",
    "minimax-video": "minimax",
    "runway": "runway",
    "luma": "luma",
    "ark-video": "ark",
    "pika": "duomi",
    "duomi-pika": "duomi",
    "duomi-runway": "duomi",
    "sora": "sora",
}


class Callback(msgspec.Struct, frozen=True):
    """Where a caller wants to be told of a task, and in which form."""

    url: str
    form: NoticeForm = "standard"


def form_of(view: TaskView) -> NoticeForm:
    """A caller who used a provider's own route is told in that provider's shape, everybody else in the standard one."""
    return _OF_WIRE.get(view.wire, "standard") if view.form == "native" else "standard"


def notices_of(
    view: TaskView,
    *,
    task_id: bytes,
    version: int,
    key_id: int,
    owner_id: int,
    callbacks: Sequence[Callback],
    neutral: Neutral,
    now_ns: int,
    retry_s: float,
) -> tuple[Notice, ...]:
    """What is told of the step to `view`, its files under our addresses. `version` is the row's after the step.

    The event's id is made of the task and the version, so a step that is written twice is told once. `retry_s` is
    settings.webhook_retry_s.
    """
    return tuple(
        Notice(
            task_id=task_id,
            number=version,
            place=place,
            key_id=key_id,
            owner_id=owner_id,
            url=callback.url,
            form=callback.form,
            body=body(callback.form, view, neutral),
            created_ns=now_ns,
            until_ns=now_ns + round(retry_s * 1_000_000_000),
        )
        for place, callback in enumerate(callbacks)
    )
