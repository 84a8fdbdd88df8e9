"""Sora's reverse-engineered API as resellers serve it: create returns an id; queries return the task in an envelope."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from elkapi.sandbox import tasks
from elkapi.sandbox.messages import Answer, Charge, Problem, Request, json_answer
from elkapi.sandbox.providers import bodies
from elkapi.sandbox.providers.dressing import with_request_id
from elkapi.sandbox.providers.openai import bearer_key
from elkapi.sandbox.providers.pika import refusal
from elkapi.sandbox.routes import Provider, Route
from elkapi.sandbox.strict import strictly
from elkapi.sandbox.tasks import ODD, Callback, Film, Task

SHELF = "sora.tasks"
PROMPT_CHARS_MAX = 32_000
MODELS = ("sora", "sora-2", "sora-2-pro", "sora-2-all")
SIDES = {"480p": 480, "720p": 720, "1080p": 1080}
RATIOS = {"16:9": (16, 9), "9:16": (9, 16), "1:1": (1, 1)}
SECONDS = (5, 10, 15, 20)
VARIANTS_MAX = 4
NANO_USD = 150_000_000
STATUSES = {"queued": "QUEUED", "running": "IN_PROGRESS", "succeeded": "SUCCESS"}
REASONS = {"moderated": "This content may violate our guardrails.", "failed": "The generation failed."}


class SoraAsked(msgspec.Struct, frozen=True, kw_only=True):
    """The requested videos: `count` of the same kind."""

    model: str
    seconds: int
    width: int
    height: int
    count: int
    notify_hook: str


@strictly
def _read(body: bytes) -> SoraAsked:
    given = bodies.object_of(body, _refuse)
    bodies.text(given, "prompt", PROMPT_CHARS_MAX, _refuse, required=True)
    lines = given.get("resolution", "480p")
    spelled = f"{lines}p" if str(lines).isdecimal() else lines
    side = SIDES[bodies.word({"resolution": spelled}, "resolution", tuple(SIDES), None, _refuse)]
    across, down = RATIOS[bodies.word(given, "aspect_ratio", tuple(RATIOS), "16:9", _refuse)]
    seconds = given.get("duration", SECONDS[0])
    if type(seconds) is not int or seconds not in SECONDS:
        raise _refuse("duration", f"must be one of {', '.join(map(str, SECONDS))}")
    _pictures_checked(given)
    hook = given.get("notify_hook", "")
    shorter = min(across, down)
    return SoraAsked(
        model=bodies.word(given, "model", MODELS, MODELS[0], _refuse),
        seconds=seconds,
        width=side * across // shorter // 2 * 2,
        height=side * down // shorter // 2 * 2,
        count=bodies.whole(given, "n_variants", 1, VARIANTS_MAX, _refuse) or 1,
        notify_hook=bodies.address(hook, "notify_hook", _refuse) if hook else "",
    )


def _pictures_checked(given: Mapping[str, Any]) -> None:
    images = given.get("images", [])
    if not isinstance(images, list):
        raise _refuse("images", "must be a list")
    for image in (*images, *([given["image_url"]] if "image_url" in given else [])):
        bodies.address(image, "images", _refuse, ("https://", "http://", "data:"))


def create(request: Request) -> Answer:
    """`POST /sora/v1/videos`."""
    asked = _read(request.body)
    task = tasks.start(
        request,
        SHELF,
        f"task_{request.upstream_request_id[-26:]}",
        asked,
        Charge(asked.model, 0, NANO_USD * asked.count),
        Film(asked.width, asked.height, asked.seconds * 1000),
        refusal=Problem(400, REASONS["moderated"], code="invalid_request"),
        callback=Callback(asked.notify_hook, _shown) if asked.notify_hook else None,
    )
    return json_answer({"code": "success", "message": "", "data": task.id})


def query(request: Request) -> Answer:
    """`GET /sora/v1/videos/{task_id}`."""
    absent = Problem(400, "task_not_exist", code="task_not_exist")
    task = tasks.found(request, SHELF, request.params["id"], absent)
    return json_answer({"code": "success", "message": "", "data": _shown(task, request.now_s)})


def _shown(task: Task, now_s: float) -> dict[str, Any]:
    """The task as in the envelope's `data`; `start_time` is always 0."""
    asked: SoraAsked = task.asked
    state = task.state(now_s)
    done, ended = state == "succeeded", task.ended(now_s)
    failure = "" if state in STATUSES else REASONS.get(state, REASONS["failed"])
    made = [
        {"id": f"gen_{number + 1}", "url": task.link(f"{number + 1}.mp4", now_s), "can_download": True}
        for number in range(asked.count)
    ]
    return {
        "task_id": task.id,
        "notify_hook": asked.notify_hook,
        "action": "sora-video",
        "status": task.word(now_s, STATUSES, "FAILURE", ODD.upper()),
        "fail_reason": failure,
        "submit_time": int(task.created_s),
        "start_time": 0,
        "finish_time": int(task.ends_s) if ended else 0,
        "progress": f"{100 if ended else task.progress(now_s)}%",
        "data": {"failure_reason": failure or None, "generations": made if done else []},
    }


def _refuse(name: str, why: str) -> Problem:
    return Problem(400, f"{name} {why}", code="invalid_request", param=name)


PROVIDER = Provider(
    name="sora",
    mounts=("",),
    request_id_prefix="",
    key=bearer_key,
    refusal=refusal,
    dress=with_request_id("x-oneapi-request-id"),
    routes=(Route("POST", "/sora/v1/videos", create), Route("GET", "/sora/v1/videos/{id}", query)),
)
