"""The bodies of callbacks, in the neutral form or in the shape of the provider whose route was called; pure.

A provider's shape is built from the answer of its route to a query (`TaskView.reply`). Without an answer yet, the body
contains what little is known, in the provider's terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from elkapi.tasks.showing import iso
from elkapi.translate.task_views import rendered
from elkapi.types import NoticeForm, State, TaskView

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

# MiniMax's queries say `Success`, its callbacks `success`; whatever failed is `failed`.
MINIMAX: Mapping[State, str] = {
    State.QUEUED: "processing",
    State.RUNNING: "processing",
    State.SUCCEEDED: "success",
}


def body(form: NoticeForm, view: TaskView, word: str) -> bytes:
    """The JSON of a callback. `word` is the provider's word for the state; `view.reply` is the answer to a native
    query, with the gateway's addresses."""
    return _encode(SHAPES[form](view, word))


def standard(view: TaskView, word: str) -> dict[str, Any]:
    """A Standard Webhooks event: `task.queued`, `task.running`, `task.succeeded`, `task.failed`, ..."""
    return {
        "type": f"task.{view.state.value}",
        "timestamp": iso(_moved_ns(view)),
        "data": rendered("neutral", view),
    }


def kling(view: TaskView, word: str) -> dict[str, Any]:
    """The task object alone, without the code and message of an answer."""
    task = _data(_answer(view))
    task.setdefault("task_id", _id(view))
    task["task_status"] = word
    task["task_status_msg"] = task.get("task_status_msg") or ""
    task.setdefault("task_info", {})
    task.setdefault("created_at", view.created_ns // 1_000_000)
    task.setdefault("updated_at", _moved_ns(view) // 1_000_000)
    return task


def minimax(view: TaskView, word: str) -> dict[str, Any]:
    """The answer to a query, with its status in lower case."""
    task = {"task_id": _id(view)} | _answer(view)
    task["status"] = MINIMAX.get(view.state, "failed")
    return task


def runway(view: TaskView, word: str) -> dict[str, Any]:
    """The task object."""
    task = {"id": _id(view), "createdAt": iso(view.created_ns)} | _answer(view)
    task["status"] = word
    return task


def luma(view: TaskView, word: str) -> dict[str, Any]:
    """The Generation object."""
    task = {"id": _id(view), "created_at": iso(view.created_ns), "model": view.model} | _answer(view)
    task["state"] = word
    task.setdefault("failure_reason", None)
    task.setdefault("assets", None)
    return task


def ark(view: TaskView, word: str) -> dict[str, Any]:
    """The answer to a query; Seedance's."""
    task = {"id": _id(view), "model": view.model, "created_at": view.created_ns // 1_000_000_000} | _answer(view)
    task["status"] = word
    task.setdefault("updated_at", _moved_ns(view) // 1_000_000_000)
    return task


def duomi(view: TaskView, word: str) -> dict[str, Any]:
    """The feed's `data` object, for Pika's and Runway's tasks at this reseller, whose times are strings."""
    task = {"task_id": _id(view), "create_time": str(view.created_ns // 1_000_000_000)}
    task |= _data(_answer(view))
    task["state"] = word
    if task["state"] == "error":
        task["msg"] = task.get("msg") or view.error
    task.setdefault("update_time", str(_moved_ns(view) // 1_000_000_000))
    return task


def sora(view: TaskView, word: str) -> dict[str, Any]:
    """The object inside the answer to the reverse query."""
    wrapped: dict[str, Any] = rendered("sora-wrapped", view)["data"]
    return wrapped


def guide(view: TaskView, word: str) -> dict[str, Any]:
    """The object that `/v1/task/{id}` shows."""
    return rendered("task-submit", view)


SHAPES: Mapping[NoticeForm, Callable[[TaskView, str], dict[str, Any]]] = {
    "standard": standard,
    "kling": kling,
    "minimax": minimax,
    "runway": runway,
    "luma": luma,
    "ark": ark,
    "duomi": duomi,
    "sora": sora,
    "guide": guide,
}


def _moved_ns(view: TaskView) -> int:
    """The time of the last change of state."""
    return view.finished_ns or view.started_ns or view.created_ns


def _id(view: TaskView) -> str:
    return view.native_id or view.id


def _answer(view: TaskView) -> dict[str, Any]:
    """The provider's last answer, {} if there is none."""
    answer = _decode(view.reply) if view.reply else {}
    return answer if isinstance(answer, dict) else {}


def _data(answer: dict[str, Any]) -> dict[str, Any]:
    """The object that an answer wraps, or the answer itself if it wraps none."""
    inner = answer.get("data")
    return dict(inner) if isinstance(inner, dict) else answer
