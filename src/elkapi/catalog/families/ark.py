"""Seedance on Volcengine's Ark, native format. Contract: seedance.md ("official shape"); rows: seedance.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from elkapi.catalog.declare import Tasks
from elkapi.catalog.jsonpath import first
from elkapi.catalog.operation import Family, Hooks
from elkapi.catalog.task import Listing, Made, Meter, TaskSpec
from elkapi.types import State, Usage

_PATH = "/contents/generations/tasks"
TASK = TaskSpec(
    id="id",
    state="status",
    states={
        "queued": State.QUEUED,
        "pending": State.QUEUED,
        "running": State.RUNNING,
        "processing": State.RUNNING,
        "succeeded": State.SUCCEEDED,
        "failed": State.FAILED,
        "cancelled": State.CANCELLED,
        "expired": State.EXPIRED,
    },
    made=(Made("content.video_url"), Made("content.last_frame_url", "image", optional=True)),
    error=("error.message",),
    error_code="error.code",
    model=("model",),
    fetch=f"GET {_PATH}/{{id}}",
    cancel=f"DELETE {_PATH}/{{id}}",
    keeps_cancelled=True,
    deleted={},
    callback="callback_url",
    notice="ark",
    blank={
        "id": "{id}",
        "model": "{model}",
        "status": "queued",
        "error": None,
        "created_at": "{created_s}",
        "updated_at": "{created_s}",
    },
)
# Pixels of a frame at each resolution, at least those of the aspect ratio with the most pixels.
_PIXELS = {"480p": 864 * 496, "720p": 1664 * 720, "1080p": 2560 * 1088, "4k": 4096 * 2304}
_FPS = 24
_FRAMES_MAX = 289
_FRAMES = re.compile(r"--frames\s+(\d+)", re.ASCII)
_COUNT = re.compile(r"\d{1,9}", re.ASCII)
# The models up to 2.0 make at most 15 seconds, and refer to videos of at most as many; later ones 30. The name of an
# endpoint (`ep-...`) does not tell its model.
_UP_TO_2_0 = re.compile(r"seedance-(1-|2-0)")
_SECONDS_UP_TO_2_0, _SECONDS_MAX = 15.0, 30.0


def _tokens_max(features: Mapping[str, str], video_ms: int) -> int:
    """The provider's formula, width x height x fps x seconds / 1024, plus 1024 because it is approximate."""
    pixels = _PIXELS.get(features.get("resolution", ""), _PIXELS["4k"])
    return -(-pixels * _FPS * video_ms // (1024 * 1000)) + 1024


def _model_s(body: Mapping[str, Any]) -> float:
    return _SECONDS_UP_TO_2_0 if _UP_TO_2_0.search(str(body.get("model"))) else _SECONDS_MAX


def _frames_s(body: Mapping[str, Any]) -> float:
    """The seconds of the requested frames, which override a duration, or the longest that the model may choose; frames
    are a field or a switch in the text."""
    said = _named(body, "frames")
    for text in (text for item in _content(body) for text in _named(item, "text")):
        said += _FRAMES.findall(text) if isinstance(text, str) else []
    counts = [int(one) for one in said if _COUNT.fullmatch(str(one))]
    chosen = body.get("duration") in (None, -1)
    return max(min(max(counts, default=0), _FRAMES_MAX) / _FPS, _model_s(body) if chosen else 0.0)


def _has_video(body: Mapping[str, Any]) -> bool:
    """Whether the result is made from videos, whose length counts too, at another price per token."""
    return any(_named(item, "video_url") for item in _content(body))


def _input_s(body: Mapping[str, Any]) -> float:
    """The most seconds that the videos of a request can have."""
    return _model_s(body) if _has_video(body) else 0.0


def _content(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    lists = [value for value in _named(body, "content") if isinstance(value, list)]
    return [item for items in lists for item in items if isinstance(item, dict)]


def _named(holder: Mapping[str, Any], name: str) -> list[Any]:
    """The members of this name, in any case: the provider may accept each of them."""
    return [value for said, value in holder.items() if said.casefold() == name and value is not None]


def _usage(asked: Mapping[str, Any], reply: Any) -> Usage | None:
    tokens = first("usage.completion_tokens", reply)
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 0:
        return None
    return Usage(output_tokens=tokens, calls=1)


def _shown(body: dict[str, Any]) -> dict[str, Any]:
    """Give a failure without an Ark code the provider's code for internal errors."""
    error = first("error", body)
    if isinstance(error, dict):
        error.setdefault("code", "InternalServiceError")
    return body


_FEATURES: dict[str, tuple[str, ...]] = {
    "resolution": ("resolution", "=1080p"),
    "audio": ("generate_audio", "=true"),
    "service_tier": ("service_tier", "=default"),
}
_METER = Meter(
    unit="token",
    seconds=("duration",),
    seconds_default=15.0,
    features=_FEATURES,
    judged={"video_input": _has_video},
    resolution_told="resolution",
    frames_s=_frames_s,
    input_s=_input_s,
    tokens_max=_tokens_max,
)
_ALIASES = ("/volc/v1", "/seedance/v3", "/api/v3")
_tasks = Tasks(family="seedance", wire="ark-video", prefix="/volc/v3", aliases=_ALIASES, task=TASK, meter=_METER)

FAMILY = Family(
    name="seedance",
    dialect="ark",
    hooks=Hooks(usage=_usage, show=_shown),
    operations=(
        _tasks.submit("submit", _PATH, upstream=f"POST {_PATH}", aliases=("/seedance/generations",)),
        _tasks.fetch("query", _PATH + "/{id}", kind="task", aliases=("/seedance/generations/{id}",)),
        _tasks.list(
            "list",
            _PATH,
            listing=Listing(
                items="items",
                limit="page_size",
                limit_default=10,
                limit_max=500,
                page="page_num",
                total="total",
                filters={"filter.status": "state", "filter.task_ids": "ids", "filter.model": "model"},
                envelope={"items": [], "total": 0},
            ),
        ),
        _tasks.cancel("cancel", _PATH + "/{id}"),
    ),
)
