"""Luma's Dream Machine: generations of videos and images, edits of them, and a callback at each state change.

A generation is billed once it is completed: a video by model, length and resolution, an image by model.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from elkapi.sandbox import tasks
from elkapi.sandbox.messages import Answer, Charge, Problem, Request, json_answer
from elkapi.sandbox.providers import bodies
from elkapi.sandbox.providers.dressing import stamp, with_request_id
from elkapi.sandbox.providers.openai import bearer_key
from elkapi.sandbox.routes import Provider, Route, takes_key
from elkapi.sandbox.strict import strictly
from elkapi.sandbox.tasks import ODD, Callback, Film, Task

SHELF = "luma.generations"
ROOT = "/dream-machine/v1"
PROMPT_CHARS_MAX = 5_000
LIMIT_DEFAULT, LIMIT_MAX = 100, 100
HEIGHTS = {"540p": 540, "720p": 720, "1080p": 1080, "4k": 2160}
RATIOS = ("1:1", "16:9", "9:16", "4:3", "3:4", "21:9", "9:21")
# Nano-USD per five seconds at 720p.
RATES = {"ray-1-6": 320_000_000, "ray-2": 710_000_000, "ray-flash-2": 240_000_000}
PICTURES = {"photon-1": 15_000_000, "photon-flash-1": 2_000_000}
UPSCALE_NANO_USD, AUDIO_NANO_USD = 400_000_000, 100_000_000
MODES = tuple(f"{kind}_{strength}" for kind in ("adhere", "flex", "reimagine") for strength in (1, 2, 3))
STATES = {"queued": "queued", "running": "dreaming", "succeeded": "completed"}
REASONS = {"moderated": "The content was flagged by our moderation.", "failed": "The generation failed."}
CONCEPTS = ("dolly_zoom", "handheld", "orbit_left")


class LumaAsked(msgspec.Struct, frozen=True, kw_only=True):
    """One requested generation. `echo` is returned as its `request`."""

    model: str
    nano_usd: int
    echo: dict[str, Any]
    seconds: int = 5
    width: int = 1280
    height: int = 720
    file: str = "video.mp4"
    sync: bool = False
    callback_url: str | None = None


def create_video(request: Request) -> Answer:
    """`POST generations` and `POST generations/video`."""
    asked = _video(request.body)
    for frame in (asked.echo.get("keyframes") or {}).values():
        if frame["type"] == "generation":
            _completed(request, frame["id"])
    return _started(request, asked)


def create_image(request: Request) -> Answer:
    """`POST generations/image`; with `sync` the answer is the finished generation, without a wait."""
    return _started(request, _image(request.body))


def reframe_image(request: Request) -> Answer:
    """`POST generations/image/reframe`."""
    return _started(request, _of_media(request.body, "reframe_image", tuple(PICTURES)))


def reframe_video(request: Request) -> Answer:
    """`POST generations/video/reframe`."""
    return _started(request, _of_media(request.body, "reframe_video", ("ray-2", "ray-flash-2")))


def modify_video(request: Request) -> Answer:
    """`POST generations/video/modify`."""
    return _started(request, _of_media(request.body, "modify_video", ("ray-2", "ray-flash-2")))


def upscale(request: Request) -> Answer:
    """`POST generations/{id}/upscale`: a new generation."""
    source: LumaAsked = _completed(request, request.params["id"]).asked
    return _started(request, _after(request.body, source, "upscale_video", UPSCALE_NANO_USD))


def add_audio(request: Request) -> Answer:
    """`POST generations/{id}/audio`: a new generation."""
    source: LumaAsked = _completed(request, request.params["id"]).asked
    return _started(request, _after(request.body, source, "add_audio", AUDIO_NANO_USD))


def retrieve(request: Request) -> Answer:
    """`GET generations/{id}`."""
    return json_answer(_shown(_found(request, request.params["id"]), request.now_s))


def list_generations(request: Request) -> Answer:
    """`GET generations`, newest first, by `limit` and `offset`."""
    limit, offset = _number(request, "limit", LIMIT_DEFAULT), _number(request, "offset", 0)
    kept = tasks.owned(request, SHELF)[::-1]
    shown = [_shown(task, request.now_s) for task in kept[offset : offset + limit]]
    more = offset + limit < len(kept)
    return json_answer({"generations": shown, "count": len(shown), "limit": limit, "offset": offset, "has_more": more})


def delete(request: Request) -> Answer:
    """`DELETE generations/{id}`: whatever its state."""
    task = _found(request, request.params["id"])
    if not task.ended(request.now_s):
        task.cancelled_s = request.now_s
    tasks.forget(request, task)
    return Answer(204, (b"",))


def concepts(request: Request) -> Answer:
    """`GET generations/concepts/list`."""
    return json_answer(list(CONCEPTS))


def credits(request: Request) -> Answer:
    """`GET credits`."""
    return json_answer({"credit_balance": 100_000.0})


def ping(request: Request) -> Answer:
    """`GET ping`."""
    return json_answer({"message": "pong"})


def refusal(problem: Problem) -> Answer:
    """A problem in Luma's format."""
    return json_answer({"detail": problem.message}, status=problem.status)


def check(request: Request, keys: frozenset[str] | None) -> None:
    """Raise Problem: 403 for a missing key, 401 for a wrong one."""
    key = bearer_key(request)
    if key is None:
        raise Problem(403, "Not authenticated")
    if not takes_key(request, key, "", keys):
        raise Problem(401, "Invalid API key")


@strictly
def _video(body: bytes) -> LumaAsked:
    given = bodies.object_of(body, _refuse)
    model = bodies.word(given, "model", tuple(RATES), "ray-1-6", _refuse)
    frames = given.get("keyframes") or {}
    if not isinstance(frames, dict) or not set(frames) <= {"frame0", "frame1"}:
        raise _refuse("keyframes", "may hold frame0 and frame1")
    for frame in frames.values():
        kind = bodies.word(frame, "type", ("image", "generation"), None, _refuse)
        if kind == "image":
            bodies.address(frame.get("url"), "keyframes", _refuse)
        else:
            bodies.text(frame, "id", 64, _refuse, required=True)
    bodies.text(given, "prompt", PROMPT_CHARS_MAX, _refuse, required=not frames)
    ratio = bodies.word(given, "aspect_ratio", RATIOS, "16:9", _refuse)
    resolution = bodies.word(given, "resolution", tuple(HEIGHTS), "720p", _refuse)
    seconds = int(bodies.word(given, "duration", ("5s", "9s"), "5s", _refuse).rstrip("s"))
    if not isinstance(given.get("loop", False), bool):
        raise _refuse("loop", "must be a boolean")
    width, height = _size(ratio, HEIGHTS[resolution])
    return LumaAsked(
        model=model,
        nano_usd=RATES[model] * seconds * HEIGHTS[resolution] // (5 * HEIGHTS["720p"]),
        echo={**given, "generation_type": "video", "model": model},
        seconds=seconds,
        width=width,
        height=height,
        callback_url=_callback(given),
    )


@strictly
def _image(body: bytes) -> LumaAsked:
    given = bodies.object_of(body, _refuse)
    model = bodies.word(given, "model", tuple(PICTURES), None, _refuse)
    ending = bodies.word(given, "format", ("jpg", "png"), "jpg", _refuse)
    bodies.word(given, "aspect_ratio", RATIOS, "16:9", _refuse)
    bodies.text(given, "prompt", PROMPT_CHARS_MAX, _refuse, required="modify_image_ref" not in given)
    for name in ("image_ref", "style_ref"):
        for reference in given.get(name) or []:
            bodies.address(reference.get("url"), name, _refuse)
    echo = {**given, "generation_type": "image"}
    return LumaAsked(
        model=model,
        nano_usd=PICTURES[model],
        echo=echo,
        file=f"image.{ending}",
        sync=_sync(given),
        callback_url=_callback(given),
    )


@strictly
def _of_media(body: bytes, kind: str, models: tuple[str, ...]) -> LumaAsked:
    """A generation from an image or video at a URL: reframed or modified."""
    given = bodies.object_of(body, _refuse)
    bodies.word(given, "generation_type", (kind,), None, _refuse)
    model = bodies.word(given, "model", models, None, _refuse)
    media = given.get("media")
    if not isinstance(media, dict):
        raise _refuse("media", "is required")
    bodies.address(media.get("url"), "media", _refuse)
    ratio = "16:9"
    if kind == "modify_video":
        bodies.word(given, "mode", MODES, None, _refuse)
    else:
        ratio = bodies.word(given, "aspect_ratio", RATIOS, None, _refuse)
    bodies.text(given, "prompt", PROMPT_CHARS_MAX, _refuse, required=False)
    width, height = _size(ratio, HEIGHTS["720p"])
    picture = kind == "reframe_image"
    return LumaAsked(
        model=model,
        nano_usd=PICTURES[model] if picture else RATES[model],
        echo=given,
        width=width,
        height=height,
        file=f"image.{bodies.word(given, 'format', ('jpg', 'png'), 'jpg', _refuse)}" if picture else "video.mp4",
        callback_url=_callback(given),
    )


@strictly
def _after(body: bytes, source: LumaAsked, kind: str, nano_usd: int) -> LumaAsked:
    """A generation from one of the sandbox's own videos: upscaled, or with audio added."""
    given = bodies.object_of(body or b"{}", _refuse)
    bodies.word(given, "generation_type", (kind,), kind, _refuse)
    height = source.height
    if kind == "upscale_video":
        height = HEIGHTS[bodies.word(given, "resolution", tuple(HEIGHTS), "1080p", _refuse)]
    else:
        bodies.text(given, "prompt", PROMPT_CHARS_MAX, _refuse, required=True)
    return msgspec.structs.replace(
        source,
        nano_usd=nano_usd,
        echo={**given, "generation_type": kind},
        width=source.width * height // source.height // 2 * 2,
        height=height,
        callback_url=_callback(given),
    )


def _sync(given: Mapping[str, Any]) -> bool:
    """Whether the answer waits for the image; `sync_timeout` is in seconds."""
    sync, timeout_s = given.get("sync", False), given.get("sync_timeout", 0)
    if not isinstance(sync, bool):
        raise _refuse("sync", "must be a boolean")
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or timeout_s < 0:
        raise _refuse("sync_timeout", "must be a number of seconds")
    return sync


def _callback(given: Mapping[str, Any]) -> str | None:
    return bodies.address(given["callback_url"], "callback_url", _refuse) if "callback_url" in given else None


def _size(ratio: str, height: int) -> tuple[int, int]:
    """(width, height) of this ratio, with the shorter side `height`."""
    across, down = map(int, ratio.split(":"))
    if across >= down:
        return round(height * across / down / 2) * 2, height
    return height, round(height * down / across / 2) * 2


def _refuse(name: str, why: str) -> Problem:
    return Problem(400, f"Invalid request: {name} {why}", param=name)


def _started(request: Request, asked: LumaAsked) -> Answer:
    task = tasks.start(
        request,
        SHELF,
        str(uuid.UUID(request.upstream_request_id)),
        asked,
        Charge(asked.model, 0, asked.nano_usd),
        Film(asked.width, asked.height, asked.seconds * 1000),
        refusal=Problem(400, "The prompt was refused by our moderation."),
        callback=None if asked.callback_url is None else Callback(asked.callback_url, _shown),
    )
    if asked.sync:
        # The sandbox never waits: the task is done at once, or, if a fault delays it, counts as having hit the timeout.
        task.queued_s = request.faults.task_queued_s or 0.0
        task.runs_s = request.faults.task_takes_s or 0.0
    return json_answer(_shown(task, request.now_s), status=201)


def _shown(task: Task, now_s: float) -> dict[str, Any]:
    asked: LumaAsked = task.asked
    state = task.state(now_s)
    picture = not asked.file.endswith("mp4")
    link = task.link(asked.file, now_s) if state == "succeeded" else None
    assets = {"video": None if picture else link, "image": link if picture else None, "progress_video": None}
    return {
        "id": task.id,
        "generation_type": "image" if picture else "video",
        "state": task.word(now_s, STATES, "failed", ODD),
        "failure_reason": None if state in STATES else REASONS.get(state, REASONS["failed"]),
        "created_at": stamp(task.created_s),
        "assets": None if link is None else assets,
        "model": asked.model,
        "request": asked.echo,
    }


def _found(request: Request, generation_id: str) -> Task:
    return tasks.found(request, SHELF, generation_id, Problem(404, "Generation not found"))


def _completed(request: Request, generation_id: str) -> Task:
    task = _found(request, generation_id)
    if task.state(request.now_s) != "succeeded":
        raise Problem(400, "The generation is not completed")
    return task


def _number(request: Request, name: str, default: int) -> int:
    value = request.query(name) or str(default)
    high = LIMIT_MAX if name == "limit" else 1_000_000
    if not value.isdecimal() or int(value) > high:
        raise Problem(422, f"{name} must be an integer up to {high}")
    return int(value)


_GENERATIONS = f"{ROOT}/generations"

PROVIDER = Provider(
    name="luma",
    mounts=("", "/luma"),
    request_id_prefix="",
    key=bearer_key,
    check=check,
    refusal=refusal,
    dress=with_request_id("x-request-id"),
    routes=(
        Route("POST", _GENERATIONS, create_video),
        Route("GET", _GENERATIONS, list_generations),
        Route("POST", f"{_GENERATIONS}/video", create_video),
        Route("POST", f"{_GENERATIONS}/image", create_image),
        Route("POST", f"{_GENERATIONS}/image/reframe", reframe_image),
        Route("POST", f"{_GENERATIONS}/video/modify", modify_video),
        Route("POST", f"{_GENERATIONS}/video/reframe", reframe_video),
        Route("GET", f"{_GENERATIONS}/concepts/list", concepts),
        Route("POST", f"{_GENERATIONS}/{{id}}/upscale", upscale),
        Route("POST", f"{_GENERATIONS}/{{id}}/audio", add_audio),
        Route("GET", f"{_GENERATIONS}/{{id}}", retrieve),
        Route("DELETE", f"{_GENERATIONS}/{{id}}", delete),
        Route("GET", f"{ROOT}/credits", credits),
        Route("GET", f"{ROOT}/ping", ping),
    ),
)
