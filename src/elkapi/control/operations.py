"""One page for each operation that begins or follows a task, made from the catalog, so that it cannot be out of date.

What all of them have alike stands in the pages on tasks, files and webhooks; here is what the one operation takes.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from elkapi.catalog import CATALOG, Body, Operation, Role
from elkapi.catalog.media import VIDEO_MAPS
from elkapi.types import State

INDEX = "operations"
_ABOUT = {
    Role.SUBMIT: "Begins a task. It holds the most the task may cost; a task that fails is free.",
    Role.FETCH: "Tells of a task as it stands, from the gateway's own tables. Free.",
    Role.CANCEL: "Cancels an open task where its provider can, and forgets one that ended. Free.",
    Role.LIST: "Lists the key's own tasks. Free.",
}


def task_operations() -> dict[str, Operation]:
    """The operations that have a page, by id."""
    return {name: one for name, one in CATALOG.by_id.items() if one.role in _ABOUT}


def index_markdown() -> str:
    """All of them, a line each."""
    rows = [
        f"| [`{one.id}`]({INDEX}/{one.id}) | `{one.method}` | `{one.path}` | {one.unit} |"
        for one in task_operations().values()
    ]
    head = "# Operations of tasks\n\nEvery route that begins, follows, lists or cancels a task; each has a page.\n\n"
    return head + "| operation | method | path | unit |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"


def markdown(operation: Operation) -> str:
    """The page of one."""
    lines = [f"# `{operation.id}`", "", f"`{operation.method} {operation.path}`", "", _ABOUT[operation.role], ""]
    if operation.aliases:
        lines += ["Also at " + ", ".join(f"`{path}`" for path in operation.aliases) + ".", ""]
    if operation.also:
        lines += ["Rows of the contract that it serves too: " + ", ".join(f"`{id_}`" for id_, _ in operation.also), ""]
    if operation.role is Role.SUBMIT:
        lines += _submit(operation)
    lines += ["## Call it", "", "```sh", _sample(operation), "```", ""]
    lines += _answer(operation)
    lines += ["See [Tasks](../tasks), [Files of tasks](../assets), [Webhooks](../webhooks), [Errors](../errors).", ""]
    return "\n".join(lines)


def _submit(operation: Operation) -> list[str]:
    source, meter, task = operation.model, operation.meter, operation.task
    assert meter is not None
    assert task is not None
    where = {
        "body": f"the member `{source.name}`",
        "path": "the path",
        "body_or_path": f"the member `{source.name}`, or the path",
        "source": "the task that it goes on from",
        "none": "fixed",
        "any": "any of the key's of this provider",
    }[source.where]
    rows = [
        ("model", where + (f"; `{source.default}` when it names none" if source.default else "")),
        ("body", "multipart/form-data or JSON" if operation.body is Body.FORM else "JSON"),
        ("price", f"by the {meter.unit}"),
    ]
    if meter.seconds:
        length = ", ".join(f"`{path}`" for path in meter.seconds)
        rows.append(("length", f"{length}; {meter.seconds_default:g} s when it says none"))
    rows += [
        (f"feature `{name}`", " or ".join(f"`{path}`" for path in paths)) for name, paths in meter.features.items()
    ]
    if task.callback:
        rows.append(("callback", f"`{task.callback}`, in the {task.notice} form"))
    if operation.neutral:
        rows.append(("served by", "any provider of videos: " + ", ".join(VIDEO_MAPS)))
    return ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows), ""]


def _answer(operation: Operation) -> list[str]:
    task = operation.task
    if operation.form != "native" or task is None:
        return [f"The answer has the form `{operation.form}`; [Videos](../videos) shows the forms.", ""]
    words = ", ".join(f"`{word}` ({state.value})" for word, state in _words(task.states).items())
    return [
        "The answer is the provider's own, with this gateway's addresses of the files in it.",
        "",
        f"State at `{task.state}`: {words}.",
        "",
    ]


def _words(states: Mapping[str, State]) -> dict[str, State]:
    return {word or "(absent)": state for word, state in states.items()}


def _sample(operation: Operation) -> str:
    path = operation.path.replace("{", "$").replace("}", "")
    lines = [f'curl -X {operation.method} "http://127.0.0.1:8000{path}"', '-H "Authorization: Bearer $ELKAPI_KEY"']
    if operation.method == "POST" and operation.body is not Body.NONE:
        body = {"task_id": "..."} if operation.role is not Role.SUBMIT else _body(operation)
        lines += ['-H "Content-Type: application/json"', f"-d '{msgspec.json.encode(body).decode()}'"]
    return " \\\n  ".join(lines)


def _body(operation: Operation) -> dict[str, object]:
    source = operation.model
    prompt = {"prompt": "paper boats on a canal"}
    named: dict[str, object] = {source.name: source.default or "MODEL"} if source.where == "body" else {}
    return named | ({"input": prompt} if operation.form in ("neutral", "task-submit") else prompt)
