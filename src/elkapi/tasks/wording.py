"""A failure's message as callers may read it: without the provider's identity or the state of our account there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elkapi.catalog.jsonpath import compiled
from elkapi.catalog.jsontexts import texts_in
from elkapi.catalog.task import TaskSpec
from elkapi.relay.redact import recorded, redact
from elkapi.tasks.asking import Account
from elkapi.tasks.record import Task
from elkapi.types import Attempt


def public(text: str, task: Task, account: Account) -> str:
    """The message for callers."""
    return redact(text, _attempt(task, account), _model(task))


def kept(text: str, task: Task, account: Account) -> str:
    """The message for the operator: everything but the provider's key."""
    return recorded(text, _attempt(task, account))


def unfit(spec: TaskSpec, reply: Any, task: Task, account: Account) -> Mapping[str, str]:
    """The texts of a failure in a decoded answer that must not be shown as they are, with their replacements."""
    # What is mostly one text, and may be an object or a list of some.
    said = (text for path in spec.error for one in compiled(path)(reply) for text in texts_in(one))
    return {one: told for one in said if (told := public(one, task, account)) != one}


def _attempt(task: Task, account: Account) -> Attempt:
    return Attempt(*account, task.told.upstream_model or _model(task), "poll")


def _model(task: Task) -> str:
    return task.asked.asked_model or task.row.model
