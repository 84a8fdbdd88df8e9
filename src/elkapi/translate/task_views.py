"""Render a `TaskView` in the neutral and wrapped forms; native answers are the provider's own.

Contracts: the shared rules of the video families (wrapped envelope, its words), sora.md (the video object), veo.md (the
pairs), seedance.md (the flat superset).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from elkapi.catalog.jsontexts import with_texts
from elkapi.errors import TaskFailed
from elkapi.types import State, TaskView

_WRAPPED = {
    State.QUEUED: "QUEUED",
    State.RUNNING: "IN_PROGRESS",
    State.SUCCEEDED: "SUCCESS",
}
_VIDEO = {State.QUEUED: "queued", State.RUNNING: "in_progress", State.SUCCEEDED: "completed"}
_VEO = {State.QUEUED: "pending", State.RUNNING: "processing", State.SUCCEEDED: "completed"}
SECONDS_DEFAULT, SIZE_DEFAULT = "4", "720x1280"


def rendered(form: str, view: TaskView) -> dict[str, Any]:
    """A task in a form. Raises KeyError for an unknown form."""
    return _FORMS[form](view)


def submitted(form: str, view: TaskView) -> dict[str, Any]:
    """The answer to a submit in a form, which for some forms is only the id."""
    return _SUBMITTED.get(form, _FORMS.get(form, neutral))(view)


def neutral(view: TaskView) -> dict[str, Any]:
    """The gateway's own task object, for `/v1/tasks` and webhooks."""
    return {
        "id": view.id,
        "object": "task",
        "model": view.model,
        "operation": view.operation,
        "status": view.state.value,
        "progress": _progress(view),
        "created_at": _s(view.created_ns),
        "started_at": _s(view.started_ns) or None,
        "completed_at": _s(view.finished_ns) or None,
        "native_id": view.native_id or None,
        "output": [
            {
                "type": asset.kind,
                "url": asset.url,
                "content_type": asset.content_type,
                "size_bytes": asset.size_bytes,
                "width": asset.width,
                "height": asset.height,
                "duration_s": None if asset.duration_ms is None else asset.duration_ms / 1000,
            }
            for asset in view.assets
        ],
        "error": _error(view),
    }


def wrapped(view: TaskView) -> dict[str, Any]:
    """The generic envelope `{"code":"success","message":"","data":{...}}` around the provider's last answer."""
    return {"code": "success", "message": "", "data": _dto(view)}


def _dto(view: TaskView) -> dict[str, Any]:
    return {
        "task_id": view.native_id or view.id,
        "action": _action(view),
        "status": _WRAPPED.get(view.state, "FAILURE"),
        "fail_reason": view.error if view.state.is_failure else "",
        "submit_time": _s(view.created_ns),
        "start_time": _s(view.started_ns),
        "finish_time": _s(view.finished_ns),
        "progress": f"{_progress(view)}%",
        "result_url": _url(view) or "",
        "data": _inner(view),
    }


def _inner(view: TaskView) -> Any:
    """The provider's object without its own envelope, with the gateway's URLs of the files."""
    reply = msgspec.json.decode(view.reply) if view.reply else {}
    ours_of = {asset.source: asset.url for asset in view.assets if asset.source and asset.url}
    inner = reply.get("data", reply) if isinstance(reply, dict) else {}
    return readdressed(inner, ours_of) if isinstance(inner, dict) else {}


def readdressed(value: Any, ours_of: Mapping[str, str | None]) -> Any:
    """A decoded answer with the provider's URLs, at any depth, replaced by the gateway's."""
    return with_texts(value, lambda text: ours_of.get(text, text))


def wrapped_v2(view: TaskView) -> dict[str, Any]:
    """veo.v2: the content of the envelope alone, with the file's URL in `data.output`."""
    return _dto(view) | {
        "task_id": view.id,
        "platform": "google",
        "action": "google-videos",
        "status": "NOT_START" if view.state is State.QUEUED else _WRAPPED.get(view.state, "FAILURE"),
        "data": {"output": _url(view) or ""},
        "search_item": "",
    }


def sora_wrapped(view: TaskView) -> dict[str, Any]:
    """sora.reverse-query."""
    data = _dto(view) | {
        "task_id": view.id,
        "notify_hook": str(view.asked.get("notify_hook") or ""),
        "action": "sora-video",
        "data": {
            "failure_reason": view.error if view.state.is_failure else None,
            "generations": [
                {"id": f"gen_{asset.id.hex()}", "url": asset.url, "can_download": True}
                for asset in view.assets
                if asset.kind == "video"
            ],
        },
    }
    return {"code": "success", "message": "", "data": data}


def video(view: TaskView) -> dict[str, Any]:
    """OpenAI's video object with all fields that its SDK requires, and with `task_id` and `metadata.url`."""
    done = view.state is State.SUCCEEDED
    body: dict[str, Any] = {
        "id": view.id,
        "task_id": view.id,
        "object": "video",
        "model": view.model,
        "status": _VIDEO.get(view.state, "failed"),
        "progress": _progress(view),
        "created_at": _s(view.created_ns),
        "completed_at": _s(view.finished_ns) if done else None,
        "expires_at": min((_s(asset.expires_ns) for asset in view.assets if asset.expires_ns), default=None),
        "size": _size(view),
        "seconds": _seconds(view),
        "prompt": _said(view, "prompt", "promptText"),
        "remixed_from_video_id": view.asked.get("remixed_from_video_id"),
        "error": _error(view),
    }
    if (url := _url(view)) is not None:
        body["metadata"] = {"url": url}
    return body


def unified(view: TaskView) -> dict[str, Any]:
    """seedance.unified-query: a flat superset for clients of the video object and of the flat form."""
    body, url = video(view), _url(view)
    first = view.assets[0] if view.assets else None
    facts = {
        "duration": None if first is None or first.duration_ms is None else first.duration_ms / 1000,
        "width": None if first is None else first.width,
        "height": None if first is None else first.height,
        "seed": view.asked.get("seed"),
    }
    return body | {"url": url, "format": "mp4", "metadata": {"url": url, **facts}}


def kling_flat(view: TaskView) -> dict[str, Any]:
    """The answer for Kling submits in the flat form (`model`, no `model_name`): a subset of `unified`."""
    body = unified(view)
    names = ("task_id", "status", "url", "format", "metadata", "error")
    return {name: body[name] for name in names}


def veo_query(view: TaskView) -> dict[str, Any]:
    """veo.query."""
    moved_ns = view.finished_ns or view.started_ns or view.created_ns
    body: dict[str, Any] = {
        "id": view.id,
        "status": _VEO.get(view.state, "failed"),
        "video_url": _url(view),
        "enhanced_prompt": "",
        "status_update_time": moved_ns // 1_000_000,
    }
    if view.state.is_failure:
        body["detail"] = {"error_message": view.error, "failure_reason": view.error}
    return body


def veo_create(view: TaskView) -> dict[str, Any]:
    """veo.submit's answer: that of veo.query without the video's URL."""
    body = veo_query(view)
    del body["video_url"]
    return body


def veo_alias(view: TaskView) -> dict[str, Any]:
    """veo.status-api."""
    status = {State.SUCCEEDED: "completed"}.get(view.state, "failed" if view.state.is_end else "processing")
    data: dict[str, Any] = {
        "taskId": view.id,
        "pollingUrl": f"/veo/v1/api/video/status/{view.id}",
        "status": status,
        "progress": {"upstreamStatus": view.state.value, "percent": _progress(view)},
        "upstreamData": {"video_url": _url(view), "error": view.error or None},
    }
    return {"success": True, "data": data}


def veo_alias_submitted(view: TaskView) -> dict[str, Any]:
    """veo.submit-api."""
    place = f"/veo/v1/api/video/status/{view.id}"
    data = {"taskId": view.id, "pollingUrl": place, "status": "processing", "message": "The task was begun."}
    return {"success": True, "data": data}


def minimax_file(view: TaskView) -> dict[str, Any]:
    """minimax.file: the file of the finished video."""
    told = msgspec.json.decode(view.reply) if view.reply else {}
    file_id = told.get("file_id") if isinstance(told, dict) else None
    first = view.assets[0] if view.assets else None
    return {
        "file": {
            "file_id": int(file_id) if isinstance(file_id, str) and file_id.isdecimal() else file_id,
            "bytes": 0 if first is None else first.size_bytes,
            "created_at": _s(view.finished_ns),
            "filename": "output.mp4",
            "purpose": "video_generation",
            "download_url": _url(view) or "",
        },
        "base_resp": {"status_code": 0, "status_msg": "success"},
    }


def task_submit(view: TaskView) -> dict[str, Any]:
    """`/v1/task/{id}`: platform.md, "Unified async task API", with the four statuses of its guide and `output.urls`."""
    return {
        "id": view.id,
        "task_id": view.id,
        "object": "task",
        "model": view.model,
        "status": _VIDEO.get(view.state, "failed"),
        "progress": _progress(view),
        "created_at": _s(view.created_ns),
        "completed_at": _s(view.finished_ns) or None,
        "output": {"urls": [asset.url for asset in view.assets]},
        "error": _error(view),
    }


_FORMS: dict[str, Callable[[TaskView], dict[str, Any]]] = {
    "neutral": neutral,
    "task-submit": task_submit,
    "wrapped": wrapped,
    "wrapped-v2": wrapped_v2,
    "sora-wrapped": sora_wrapped,
    "video": video,
    "unified": unified,
    "kling-flat": kling_flat,
    "veo-query": veo_query,
    "veo-alias": veo_alias,
    "minimax-file": minimax_file,
}
_SUBMITTED: dict[str, Callable[[TaskView], dict[str, Any]]] = {
    "wrapped-v2": lambda view: {"task_id": view.id},
    "sora-wrapped": lambda view: {"code": "success", "message": "", "data": view.id},
    "kling-flat": lambda view: {"task_id": view.id, "status": "queued"},
    "veo-query": veo_create,
    "veo-alias": veo_alias_submitted,
    "unified": video,
}


def _s(ns: int) -> int:
    return ns // 1_000_000_000


def _progress(view: TaskView) -> int:
    return 100 if view.state is State.SUCCEEDED else view.progress


def _url(view: TaskView) -> str | None:
    """The URL of the first asset that has one."""
    return next((asset.url for asset in view.assets if asset.url), None)


def _error(view: TaskView) -> dict[str, str] | None:
    return {"code": view.error_code or TaskFailed.code, "message": view.error} if view.state.is_failure else None


def _action(view: TaskView) -> str:
    if view.operation.startswith("pika."):
        return "generate"
    return view.operation.partition(".")[2].replace("-", "_").upper() or "TASK"


def _provider_says(view: TaskView, name: str) -> Any:
    """A field of the answer of a provider of the same form, which knows what the request left open."""
    if view.wire != "videos" or not view.reply:
        return None
    reply = msgspec.json.decode(view.reply)
    return reply.get(name) if isinstance(reply, dict) else None


def _seconds(view: TaskView) -> str:
    if (theirs := _provider_says(view, "seconds")) is not None:
        return str(theirs)
    if (said := _said(view, "seconds", "duration")) in (None, -1, "-1"):
        made_ms = next((asset.duration_ms for asset in view.assets if asset.duration_ms), view.asked_ms)
        said = round(made_ms / 1000)
    return str(said or SECONDS_DEFAULT).removesuffix("s")


def _size(view: TaskView) -> str:
    if (theirs := _provider_says(view, "size")) is not None:
        return str(theirs)
    if (said := _said(view, "size")) is not None:
        return str(said)
    width, height = _said(view, "width"), _said(view, "height")
    if not (width and height):
        sized = [(asset.width, asset.height) for asset in view.assets if asset.kind == "video" and asset.width]
        width, height = sized[0] if sized else (None, None)
    return f"{width}x{height}" if width and height else SIZE_DEFAULT


def _said(view: TaskView, *names: str) -> Any:
    """The request's first non-empty field among `names`, at the top level, in `input` or in `metadata`."""
    for place in (view.asked, view.asked.get("input"), view.asked.get("metadata")):
        if isinstance(place, dict):
            for name in names:
                if place.get(name) not in (None, ""):
                    return place[name]
    return None
