"""Shorthands for declaring families of tasks: one line per submit or fetch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from elkapi.catalog.jsonpath import compiled
from elkapi.catalog.operation import Body, ModelSource, Operation, Role, Wire
from elkapi.catalog.task import Meter, TaskSpec

# No provider makes videos as long as this.
SHOTS_S_MAX = 3600.0
MODEL = ModelSource("body")
ANY_MODEL = ModelSource("any")


def at_once(id: str) -> TaskSpec:
    """The task of a submit whose answer is complete; `id` is the path of the result's id at the provider."""
    return TaskSpec(id=id, state="", states={}, made=(), fetch="", at_once=True)


def lasting(path: str) -> Callable[[Mapping[str, Any]], float]:
    """For `Meter.frames_s`: how long the shots together last whose durations are at `path`, as numbers or text."""

    def lasts_s(body: Mapping[str, Any]) -> float:
        return min(sum(map(_seconds, compiled(path)(body))), SHOTS_S_MAX)

    return lasts_s


def _seconds(value: Any) -> float:
    """The seconds of one shot, 0 for what is no duration, which its provider refuses."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return 0.0
    return seconds if 0 < seconds < SHOTS_S_MAX else 0.0


class Tasks(msgspec.Struct, frozen=True, kw_only=True):
    """What the operations of one family share; `prefix` precedes the provider's own paths on the gateway.

    `aliases` are further prefixes for all of them.
    """

    family: str
    wire: Wire
    prefix: str = ""
    aliases: tuple[str, ...] = ()
    task: TaskSpec
    meter: Meter = Meter()
    model: ModelSource = MODEL

    def submit(
        self,
        name: str,
        path: str,
        *,
        task: TaskSpec | None = None,
        meter: Meter | None = None,
        model: ModelSource | str | None = None,
        upstream: str = "",
        aliases: tuple[str, ...] = (),
        **more: Any,
    ) -> Operation:
        """`POST {prefix}{path}`, sent to `upstream` (default: the same path); a string `model` is a fixed name."""
        if isinstance(model, str):
            model = ModelSource("none", default=model)
        return Operation(
            id=f"{self.family}.{name}",
            method="POST",
            path=self.prefix + path,
            aliases=(*(prefix + path for prefix in self.aliases), *aliases),
            family=self.family,
            role=Role.SUBMIT,
            kind="task",
            body=more.pop("body", Body.JSON),
            model=model or self.model,
            wire=more.pop("wire", self.wire),
            unit=(meter or self.meter).unit,
            task=task or self.task,
            meter=meter or self.meter,
            upstream=upstream or f"POST {path}",
            **more,
        )

    def once(self, name: str, path: str, *, id: str, free: bool = False, **more: Any) -> Operation:
        """A submit whose answer is complete; later calls that refer to the value at `id` reach the same account."""
        made = self.submit(name, path, task=at_once(id), meter=Meter(unit="call"), **more)
        return msgspec.structs.replace(made, kind="sync", unit="free" if free else "call")

    def fetch(self, name: str, path: str, *, method: str = "GET", **more: Any) -> Operation:
        """Fetch a task by the `{id}` in the path, query or body, shown in `form`."""
        return self._about(Role.FETCH, name, method, path, more)

    def cancel(self, name: str, path: str, *, method: str = "DELETE", **more: Any) -> Operation:
        """Cancel an open task, delete one that ended."""
        return self._about(Role.CANCEL, name, method, path, more)

    def list(self, name: str, path: str, **more: Any) -> Operation:
        """List the caller's own tasks of this family, from our tables."""
        return self._about(Role.LIST, name, "GET", path, more)

    def _about(self, role: Role, name: str, method: str, path: str, more: dict[str, Any]) -> Operation:
        own = more.pop("aliases", ())
        return Operation(
            id=f"{self.family}.{name}",
            method=method,
            path=self.prefix + path,
            aliases=(*(prefix + path for prefix in self.aliases), *own),
            family=self.family,
            role=role,
            kind=more.pop("kind", "sync"),
            body=Body.JSON if method == "POST" else Body.NONE,
            wire=more.pop("wire", self.wire),
            task=more.pop("task", self.task),
            **more,
        )
