"""One page for each operation that starts or follows a task, generated from the catalog, so it is never out of date.

What they share is on the pages about tasks, files and webhooks; these describe the single operation.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from elkapi.catalog import CATALOG, Body, ModelSource, Operation, Role
from elkapi.catalog.media import VIDEO_MAPS
from elkapi.control.operation_samples import BODIES, IN_PATHS
from elkapi.translate.task_views import rendered, submitted
from elkapi.types import State, TaskAsset, TaskView

INDEX = "operations"
_ABOUT = {
    Role.SUBMIT: "Submits a task and holds the most it may cost. A task that fails is free.",
    Role.FETCH: "Shows the current state of a task, from the gateway's own tables. Free.",
    Role.CANCEL: "Cancels an open task if its provider can, and deletes one that ended. Free.",
    Role.LIST: "Lists the key's own tasks. Free.",
}
_AT_ONCE = "Answers at once, without a task. Later calls refer to its result."
_CANCELS_ALONE = "Cancels an open task if its provider can, and shows one that ended. Free."
# Forms that are not a JSON object of the task.
_IN_WORDS = {
    "neutral-events": "The answer is a stream of events, each with the task as `GET /v1/tasks/{id}` shows it.",
    "video-content": "The answer is the file.",
}
_BEGUN = TaskView(
    id="task_0123456789abcdef0123456789abcdef",
    native_id="video_123",
    operation="sora.create",
    wire="videos",
    model="sora-2",
    state=State.QUEUED,
    progress=0,
    created_ns=1_790_000_000_000_000_000,
)
_CANCELLED = msgspec.structs.replace(
    _BEGUN, state=State.CANCELLED, error_code="cancelled", error="The task was cancelled."
)
_MADE = msgspec.structs.replace(
    _BEGUN,
    state=State.SUCCEEDED,
    progress=100,
    started_ns=1_790_000_002_000_000_000,
    finished_ns=1_790_000_060_000_000_000,
    assets=(
        TaskAsset(
            id=bytes(16),
            kind="video",
            content_type="video/mp4",
            size_bytes=1_048_576,
            source="",
            url="http://127.0.0.1:8000/v1/assets/...",
            duration_ms=4000,
            width=1280,
            height=720,
        ),
    ),
)


def task_operations() -> dict[str, Operation]:
    """The operations that have a page, by id."""
    return {name: one for name, one in CATALOG.by_id.items() if one.role in _ABOUT}


def index_markdown() -> str:
    """The index page, one line per operation."""
    rows = [
        f"| [`{one.id}`]({INDEX}/{one.id}) | `{one.method}` | `{one.path}` | {one.unit} |"
        for one in task_operations().values()
    ]
    head = "# Operations of tasks\n\nEvery route that submits, follows, lists or cancels a task, each with a page.\n\n"
    return head + "| operation | method | path | unit |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"


def markdown(operation: Operation) -> str:
    """The page of one operation."""
    lines = [f"# `{operation.id}`", "", f"`{operation.method} {operation.path}`", "", _about(operation), ""]
    if operation.aliases:
        lines += ["Also at " + ", ".join(f"`{path}`" for path in operation.aliases) + ".", ""]
    if operation.also:
        names = ", ".join(f"`{id_}`" for id_, _ in operation.also)
        lines += [f"`elkapi operations` also lists it as {names}.", ""]
    if operation.role is Role.SUBMIT:
        lines += _submit(operation)
    lines += ["## Call it", "", "```sh", _sample(operation), "```", ""]
    lines += _answer(operation)
    lines += ["See [Tasks](../tasks), [Files of tasks](../assets), [Webhooks](../webhooks), [Errors](../errors).", ""]
    return "\n".join(lines)


def _about(operation: Operation) -> str:
    if operation.role is Role.SUBMIT and operation.task is not None and operation.task.at_once:
        return _AT_ONCE
    alone = operation.role is Role.CANCEL and operation.method != "DELETE"
    return _CANCELS_ALONE if alone else _ABOUT[operation.role]


def _submit(operation: Operation) -> list[str]:
    source, meter, task = operation.model, operation.meter, operation.task
    assert meter is not None
    assert task is not None
    where = {
        "body": f"the field `{source.name}`",
        "path": "the path",
        "body_or_path": f"the field `{source.name}`, or the path",
        "source": "the model of the task that it continues",
        "none": "its own",
        "any": "any model of this provider that the key may use",
    }[source.where]
    rows = [
        ("model", where + (f"; {_default(source)}" if source.default else "")),
        ("body", "multipart/form-data or JSON" if operation.body is Body.FORM else "JSON"),
        ("price", "free" if operation.unit == "free" else f"per {operation.unit}"),
    ]
    if meter.seconds:
        length = ", ".join(f"`{path}`" for path in meter.seconds)
        rows.append(("length", f"{length}; {meter.seconds_default:g} s by default"))
    rows += [(f"feature `{name}`", _found_at(paths)) for name, paths in meter.features.items()]
    rows += [(f"feature `{name}`", "`true` or `false`, by the whole request") for name in meter.judged]
    if task.callback:
        rows.append(("callback", f"`{task.callback}`, in the {task.notice} format"))
    if operation.neutral:
        rows.append(("served by", "any video provider: " + ", ".join(VIDEO_MAPS)))
    return ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows), ""]


def _default(source: ModelSource) -> str:
    return f"`{source.default}`" if source.where == "none" else f"`{source.default}` by default"


def _found_at(paths: tuple[str, ...]) -> str:
    """The fields of a feature in the request, and its default."""
    members = " or ".join(f"`{path}`" for path in paths if not path.startswith("="))
    default = next((f"`{path[1:]}`" for path in paths if path.startswith("=")), "")
    if members and default:
        return f"{members}; {default} by default"
    return members or f"always {default}"


def _answer(operation: Operation) -> list[str]:
    task, form, role = operation.task, operation.form, operation.role
    if task is None or form in _IN_WORDS:
        return [_IN_WORDS.get(form, "The answer is the provider's own."), ""]
    if role is Role.CANCEL and operation.method == "DELETE":
        return _forgotten(operation)
    if form != "native":
        return _in_form(role, form)
    own = "The answer is the provider's own, with file addresses at this gateway."
    if task.at_once:
        return ["The answer is the provider's own.", ""]
    if role is Role.LIST:
        own = "Each task in the list is in its provider's own format."
    words = ", ".join(f"`{word}` ({state.value})" for word, state in _words(task.states).items())
    state = f"It has ended once `{task.done}` is true." if task.done else f"State at `{task.state}`: {words}."
    return [own, "", state, ""]


def _forgotten(operation: Operation) -> list[str]:
    spec, form = operation.task, operation.form
    if form == "native" and (spec is None or spec.deleted is None):
        return ["The answer is 204, without a body.", ""]
    ours = {"id": _BEGUN.id, "object": "video.deleted" if form == "video" else "task.deleted", "deleted": True}
    return _shown("The answer:", spec.deleted if form == "native" and spec is not None else ours)


def _in_form(role: Role, form: str) -> list[str]:
    if role is Role.SUBMIT:
        return _shown("The answer:", submitted(form, _BEGUN))
    if role is Role.CANCEL:
        return _shown("The answer:", rendered(form, _CANCELLED))
    title = "A task in the list:" if role is Role.LIST else "The answer once the task has succeeded:"
    return _shown(title, rendered(form, _MADE))


def _shown(title: str, body: object) -> list[str]:
    text = msgspec.json.format(msgspec.json.encode(body), indent=2).decode()
    return [title, "", "```json", text, "```", ""]


def _words(states: Mapping[str, State]) -> dict[str, State]:
    return {word or "(absent)": state for word, state in states.items()}


def _sample(operation: Operation) -> str:
    url = f"http://127.0.0.1:8000{_path(operation)}"
    lines = [f'curl -X {operation.method} "{url}"', '-H "Authorization: Bearer $ELKAPI_KEY"']
    if operation.method == "POST" and operation.body is not Body.NONE and (body := sample_body(operation)):
        if operation.body is Body.FORM and any(str(value).startswith("@") for value in body.values()):
            lines += [f"-F '{name}={value}'" for name, value in body.items()]
        else:
            lines += ['-H "Content-Type: application/json"', f"-d '{msgspec.json.encode(body).decode()}'"]
    return " \\\n  ".join(lines)


def _path(operation: Operation) -> str:
    path = operation.path
    for name, word in IN_PATHS.get(operation.id, {}).items():
        path = path.replace(f"{{{name}}}", word)
    if operation.role is Role.FETCH and "{" not in operation.path and operation.method == "GET":
        path = f"{path}?{operation.asked_by}={{{operation.asked_by}}}"
    return path.replace("{", "${")


def sample_body(operation: Operation) -> Mapping[str, object]:
    """The body of a page's sample."""
    return {"task_id": "..."} if operation.role is Role.FETCH else BODIES.get(operation.id, {})
