"""Tasks as callers see them: the provider's answer with our addresses in it, or one of the neutral forms."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from elkapi.catalog.jsonpath import compiled, first, first_of, put
from elkapi.catalog.operation import Family, Operation
from elkapi.catalog.task import TaskSpec
from elkapi.money import NANO_PER_CENT
from elkapi.tasks.record import Task
from elkapi.translate.task_views import readdressed, rendered, submitted
from elkapi.types import State, TaskAsset, TaskView

_decode = msgspec.json.decode
POLL_AFTER_MS = 5000
Address = Callable[[TaskAsset, str], str]


def native(task: Task, spec: TaskSpec, family: Family, view: TaskView) -> Any:
    """The provider's last answer, updated to our state where they differ. `view` has our addresses."""
    if task.told.reply and (task.told.polled or not spec.blank):
        body: Any = _decode(view.reply)
    else:
        body = _filled(spec.blank, view) if spec.blank else {}
    _put_state(spec, view, body)
    if spec.progress and (said := first(spec.progress, body)) is not None:
        put(spec.progress, body, _progress_like(said, view.progress))
    if spec.link and view.state is State.SUCCEEDED and view.assets:
        put(spec.link, body, view.assets[0].url)
    body = readdressed_all(spec, view, body)
    show = family.hooks.show
    return body if show is None else show(body)


def _put_state(spec: TaskSpec, view: TaskView, body: Any) -> None:
    """Our state and why it failed, where the answer says otherwise or nothing."""
    word = first(spec.state, body) if spec.state else None
    # A state that the provider does not spell out (`accept` derives it) is not written there either.
    told = word is not None or (view.state.is_end and not spec.done)
    differs = told and spec.states.get(str(word)) is not view.state
    if differs and (ours := word_of(spec, view.state)) is not None:
        put(spec.state, body, ours)
    # Also for a cancelled task, if the provider has only a word for failure.
    failed = _told_as(spec, view.state) is State.FAILED
    if failed and view.error and spec.error and (differs or first_of(spec.error, body) is None):
        put(spec.error[0], body, view.error)
    if spec.done and view.state.is_end:
        put(spec.done, body, True)


def readdressed_all(spec: TaskSpec, view: TaskView, body: Any) -> Any:
    """A provider's answer with our addresses and none of its own; a poster that could not be fetched is removed. The
    model has the caller's name, and the cost is what the caller pays."""
    _put_costs(spec, view, body)
    if view.renamed:
        for path in spec.model:
            if first(path, body) is not None:
                put(path, body, view.model)
    places: dict[str, str | None] = {asset.source: asset.url for asset in view.assets if asset.source and asset.url}
    known = set(places.values())
    for made in spec.made:
        if not made.via:
            named = [value for value in compiled(made.path)(body) if isinstance(value, str) and value]
            places |= {value: None for value in named if value not in places and value not in known}
    return readdressed(body, places) if places else body


def _put_costs(spec: TaskSpec, view: TaskView, body: Any) -> None:
    """Replace the provider's cost, which only the operator may see; fractions of a credit count as one."""
    if spec.estimate and (not view.state.is_end or first(spec.estimate, body) is not None):
        put(spec.estimate, body, view.held_nano / NANO_PER_CENT)
    if spec.cost and view.state.is_end:
        put(spec.cost, body, -(-view.charged_nano // NANO_PER_CENT))


def with_addresses(view: TaskView, address: Callable[[TaskAsset], str]) -> TaskView:
    """The view with our addresses of its files."""
    if not view.assets:
        return view
    assets = tuple(msgspec.structs.replace(asset, url=address(asset)) for asset in view.assets)
    return msgspec.structs.replace(view, assets=assets)


def spec_of(operations: Mapping[str, Operation], task: Task) -> TaskSpec:
    """The task declaration of an operation."""
    spec = operations[task.row.operation].task
    assert spec is not None
    return spec


def _told_as(spec: TaskSpec, state: State) -> State:
    """The state that the provider's words can express."""
    if state in (State.CANCELLED, State.EXPIRED) and state not in spec.states.values():
        return State.FAILED
    return state


def word_of(spec: TaskSpec, state: State) -> str | None:
    """The provider's word for a state; None if it has none, or derives it from others."""
    state = _told_as(spec, state)
    return next((word for word, meant in spec.states.items() if meant is state and word), None)


def _progress_like(said: Any, percent: int) -> Any:
    if isinstance(said, str):
        return f"{percent}%" if said.endswith("%") else str(percent)
    return percent / 100 if isinstance(said, float) else percent


def _filled(blank: Any, view: TaskView) -> Any:
    if isinstance(blank, str) and blank.startswith("{") and blank.endswith("}"):
        return _FACTS[blank[1:-1]](view)
    if isinstance(blank, Mapping):
        return {name: _filled(inner, view) for name, inner in blank.items()}
    if isinstance(blank, list):
        return [_filled(inner, view) for inner in blank]
    return blank


_FACTS: dict[str, Callable[[TaskView], Any]] = {
    "id": lambda view: view.native_id,
    "task_id": lambda view: view.id,
    "model": lambda view: view.model,
    "created_s": lambda view: view.created_ns // 1_000_000_000,
    "created_ms": lambda view: view.created_ns // 1_000_000,
    "created_iso": lambda view: iso(view.created_ns),
    "prompt": lambda view: view.asked.get("promptText") or view.asked.get("prompt") or "",
}


def iso(ns: int) -> str:
    """2026-11-22T09:00:00.000Z"""
    moment = datetime.datetime.fromtimestamp(ns // 1_000_000_000, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ns // 1_000_000 % 1000:03d}Z"


class Showing:
    """Renders tasks for callers. `operations` and `families` are keyed by operation id; `address` makes our signed
    address of a file below the origin that the caller used."""

    def __init__(self, operations: Mapping[str, Operation], families: Mapping[str, Family], address: Address) -> None:
        self._operations = operations
        self._families = families
        self._address = address

    def submitted(self, form: str, task: Task, reply: bytes) -> bytes:
        """The answer to an accepted submit: the provider's bytes, or the caller's form."""
        if form != "native":
            view = self.view(task, task.asked.origin, wrapping=form == "wrapped")
            return msgspec.json.encode(submitted(form, view))
        view = task.view()
        show, spec = self._families[task.row.operation].hooks.show, spec_of(self._operations, task)
        if show is None and not view.renamed and not spec.estimate:
            return reply
        body = readdressed_all(spec, view, _decode(reply))
        return msgspec.json.encode(body if show is None else show(body))

    def shown(self, operation: Operation, task: Task, origin: str) -> tuple[int, Any]:
        """(status, body) of the current task."""
        spec = spec_of(self._operations, task)
        form = operation.form
        flat_form = self._operations[task.row.operation].flat_form
        if form == "native" and task.row.form == flat_form and operation.listing is None:
            # A caller who submitted in the neutral form on this provider's route is answered in it; lists have one
            # form.
            form = task.row.form
        if form == "native":
            own = f"{origin}{spec.address}"
            view = with_addresses(
                task.view(),
                lambda asset: own.replace("{asset}", asset.id.hex()) if spec.address else self._address(asset, origin),
            )
            return 200, native(task, spec, self._families[task.row.operation], view)
        return 200, rendered(form, self.view(task, origin, wrapping=form == "wrapped"))

    def view(self, task: Task, origin: str, *, wrapping: bool = False) -> TaskView:
        """The input of renderers, with our addresses of its files, also inside a native answer."""
        view = with_addresses(task.view(), lambda asset: self._address(asset, origin))
        if not wrapping or not view.reply:
            return view
        show = self._families[task.row.operation].hooks.show
        body = readdressed_all(spec_of(self._operations, task), view, _decode(view.reply))
        return msgspec.structs.replace(view, reply=msgspec.json.encode(body if show is None else show(body)))

    def cancelled(self, operation: Operation, task: Task, origin: str) -> tuple[int, bytes]:
        """(status, body) after a task was cancelled or deleted; a native DELETE is answered as its provider does."""
        if operation.form == "native" and operation.method == "DELETE":
            spec = operation.task
            return (204, b"") if spec is None or spec.deleted is None else (200, msgspec.json.encode(spec.deleted))
        if operation.method == "DELETE":
            kind = "video.deleted" if operation.form == "video" else "task.deleted"
            view = task.view()
            return 200, msgspec.json.encode({"id": view.id, "object": kind, "deleted": True})
        status, body = self.shown(operation, task, origin)
        return status, msgspec.json.encode(body)

    def headers(self, operation: Operation, task: Task) -> tuple[tuple[bytes, bytes], ...]:
        """Extra headers: how long OpenAI's helper waits between two polls."""
        if operation.form != "video" or task.state.is_end:
            return ()
        return ((b"openai-poll-after-ms", b"%d" % POLL_AFTER_MS),)
