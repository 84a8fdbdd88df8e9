"""A failure's words as its caller may read them: without who the provider is, and what our account there has left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elkapi.catalog.jsonpath import compiled
from elkapi.catalog.task import TaskSpec
from elkapi.relay.redact import redact
from elkapi.tasks.asking import Account
from elkapi.tasks.record import Task
from elkapi.types import Attempt


def public(text: str, task: Task, account: Account) -> str:
    """What may be told of it."""
    model = task.asked.asked_model or task.row.model
    return redact(text, Attempt(*account, task.told.upstream_model or model, "poll"), model)


def unfit(spec: TaskSpec, reply: Any, task: Task, account: Account) -> Mapping[str, str]:
    """The words of a failure in a decoded answer that nobody is to read as they are, by what is told instead."""
    said = (one for path in spec.error for one in compiled(path)(reply) if isinstance(one, str))
    return {one: told for one in said if (told := public(one, task, account)) != one}
