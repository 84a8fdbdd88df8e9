"""Tasks in the neutral forms: so far one."""

from __future__ import annotations

from elkapi.types import TaskView


def rendered(form: str, view: TaskView) -> dict[str, object]:
    """A task in a form."""
    return {"id": view.id, "status": view.state.value}


def submitted(form: str, view: TaskView) -> dict[str, object]:
    """The answer to its submit in a form."""
    return rendered(form, view)
