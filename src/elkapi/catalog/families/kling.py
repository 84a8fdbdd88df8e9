"""Kling: videos, images, try-on, lip-sync, effects. Contract: kling.md; rows: kling.yaml."""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.catalog.declare import Tasks, lasting
from elkapi.catalog.jsonpath import first
from elkapi.catalog.jsontexts import with_texts
from elkapi.catalog.operation import Family, Hooks, ModelSource
from elkapi.catalog.task import InBand, Listing, Made, Meter, TaskSpec
from elkapi.types import State

VIDEO = TaskSpec(
    id="data.task_id",
    state="data.task_status",
    states={
        "submitted": State.QUEUED,
        "processing": State.RUNNING,
        "succeed": State.SUCCEEDED,
        "failed": State.FAILED,
    },
    made=(
        Made("data.task_result.videos[*].url"),
        Made("data.task_result.images[*].url", "image"),
        # The same with a watermark, where `watermark_info` asks for it.
        Made("data.task_result.videos[*].watermark_url", optional=True),
        Made("data.task_result.images[*].watermark_url", "image", optional=True),
    ),
    error=("data.task_status_msg",),
    fetch="GET {submit}/{id}",
    refs=("data.task_result.videos[*].id",),
    callback="callback_url",
    notice="kling",
    mark="external_task_id",
    recall="GET {submit}/{mark}",
)
_MODEL = ModelSource("body", "model_name", "kling-v1")
_FEATURES: dict[str, tuple[str, ...]] = {
    "mode": ("mode", "input.mode", "=std"),
    "duration": ("duration", "input.duration", "=5"),
}
_SOUND: dict[str, tuple[str, ...]] = {"sound": ("sound", "=off")}
_VIDEO = Meter(
    unit="call",
    seconds=("duration", "input.duration"),
    features=_FEATURES | _SOUND,
    frames_s=lasting("multi_prompt[*].duration"),
)
_EFFECTS = msgspec.structs.replace(_VIDEO, features=_FEATURES | {"effect": ("effect_scene",)})
_IMAGE = Meter(unit="image", count="n", features={"resolution": ("resolution", "=1k")})
_LIST = Listing(
    items="data",
    item="data",
    limit="pageSize",
    limit_default=30,
    limit_max=500,
    page="pageNum",
    request_id="request_id",
    envelope={"code": 0, "message": "SUCCEED", "request_id": "", "data": []},
)
_tasks = Tasks(family="kling", wire="kling", prefix="/kling", task=VIDEO, meter=_VIDEO, model=_MODEL)
# The fields that are files or contain some.
_PICTURES = ("image", "image_tail", "images", "static_mask", "dynamic_masks", "human_image", "cloth_image")
_FILES = (*_PICTURES, "audio_file", "face_choose")


def _raw(value: Any) -> Any:
    """Base64 without its `data:` prefix, at any depth."""
    return with_texts(value, lambda text: text.partition(",")[2] if text.startswith("data:") else text)


def _prepare(operation: str, body: dict[str, Any], model: str) -> dict[str, Any]:
    """Durations as strings, base64 without its data: prefix, and the field names of Kling's documentation."""
    for holder in (body, body.get("input")):
        if isinstance(holder, dict):
            if isinstance(holder.get("duration"), int | float):
                holder["duration"] = f"{holder['duration']:g}"
            for name in _FILES:
                if name in holder:
                    holder[name] = _raw(holder[name])
    if operation == "kling.image-expand" and "bottom_expansion_ratio" in body:
        body["down_expansion_ratio"] = body.pop("bottom_expansion_ratio")
    if operation == "kling.extend":
        body.pop("task_id", None)
    return body


def _shown(body: dict[str, Any]) -> dict[str, Any]:
    """Hide the provider's URL of the video that was continued, which is the caller's own task, and the units that the
    provider charged.
    """
    if isinstance(parent := first("data.task_info.parent_video", body), dict) and "url" in parent:
        parent["url"] = ""
    if isinstance(data := body.get("data"), dict):
        data.pop("final_unit_deduction", None)
    return body


FAMILY = Family(
    name="kling",
    dialect="kling",
    in_band=InBand(
        path="code",
        good=0,
        message="message",
        # The operator's key, account or address (1000 to 1004, 1100 to 1103, 1304), and Kling's own faults.
        elsewhere=frozenset({*range(1000, 1005), *range(1100, 1104), 1304, 5000, 5001, 5002}),
        busy=frozenset({1302, 1303}),
    ),
    hooks=Hooks(prepare=_prepare, show=_shown),
    operations=(
        _tasks.submit("text-to-video", "/v1/videos/text2video", flat_form="kling-flat"),
        _tasks.submit("image-to-video", "/v1/videos/image2video", flat_form="kling-flat"),
        _tasks.submit("extend", "/v1/videos/video-extend", model="kling-video-extend"),
        _tasks.submit("lip-sync", "/v1/videos/lip-sync", model="kling-lip-sync"),
        _tasks.submit(
            "effects",
            "/v1/videos/effects",
            meter=_EFFECTS,
            # The model that supports every effect.
            model=ModelSource("body", "input.model_name", "kling-v1-6"),
        ),
        _tasks.submit("image", "/v1/images/generations", meter=_IMAGE),
        _tasks.submit("image-expand", "/v1/images/editing/expand", meter=_IMAGE, model="kling-image-expand"),
        _tasks.submit(
            "try-on",
            "/v1/images/kolors-virtual-try-on",
            meter=Meter(unit="image"),
            model=ModelSource("body", "model_name", "kolors-virtual-try-on-v1"),
        ),
        _tasks.once("identify-face", "/v1/videos/identify-face", id="data.session_id", model="kling-identify-face"),
        _tasks.submit("advanced-lip-sync", "/v1/videos/advanced-lip-sync", model="kling-lip-sync"),
        _tasks.list("list", "/v1/{action}/{action2}", listing=_LIST),
        _tasks.fetch("query", "/v1/{action}/{action2}/{id}", kind="task"),
        _tasks.fetch("query-expand", "/v1/images/editing/expand/{id}", kind="task"),
    ),
)
