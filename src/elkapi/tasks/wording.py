"""A failure's words as its caller may read them: without who the provider is, and what our account there has left."""

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
    """What may be told of it."""
    return redact(text, _attempt(task, account), _model(task))


def kept(text: str, task: Task, account: Account) -> str:
    """What its operator reads: all but the provider's key, which nobody sees."""
    return recorded(text, _attempt(task, account))


def unfit(spec: TaskSpec, reply: Any, task: Task, account: Account) -> Mapping[str, str]:
    """The words of a failure in a decoded answer that nobody is to read as they are, by what is told instead."""
    # What is mostly one text, and may be an object or a list of some.
    said = (text for path in spec.error for one in compiled(path)(reply) for text in texts_in(one))
    return {one: told for one in said if (told := public(one, task, account)) != one}


def _attempt(task: Task, account: Account) -> Attempt:
    return Attempt(*account, task.told.upstream_model or _model(task), "poll")


def _model(task: Task) -> str:
    return task.asked.asked_model or task.row.model
