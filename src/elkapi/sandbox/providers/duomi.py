"""DuoMi's reverse forms of Runway and Pika: a code inside every answer, a raw key, and feeds asked for by their task.

A task is billed by the call once it has succeeded; `refund` tells in a feed that a failed one cost nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from elkapi.sandbox import tasks
from elkapi.sandbox.messages import Answer, Charge, Problem, Request, json_answer
from elkapi.sandbox.providers import bodies
from elkapi.sandbox.providers.pika_read import EFFECTS
from elkapi.sandbox.routes import Provider, Route, takes_key
from elkapi.sandbox.strict import strictly
from elkapi.sandbox.tasks import ODD, Callback, Film, Task

SHELF = "duomi.tasks"
GOOD, BAD = 200, 400
PROMPT_CHARS_MAX = 2_000
RUNWAY_MODELS = ("gen3", "gen4", "gen4_turbo")
RUNWAY_RATIOS = {
    "16:9": (1280, 720), "9:16": (720, 1280), "1:1": (960, 960), "1280:720": (1280, 720), "720:1280": (720, 1280),
}  # fmt: skip
VECTOR = ("x", "y", "z", "r", "bg_x_pan", "bg_y_pan")
PIKA_MODELS = (1.5, 2.0)
PIKA_RATIOS = {"16:9": (1280, 720), "9:16": (720, 1280), "1:1": (960, 960), "4:3": (960, 720), "3:4": (720, 960)}
SECOND_NANO_USD, PIKA_NANO_USD = 20_000_000, 100_000_000
# The names of each state, and the older numbers.
STATES = {"queued": ("pending", "1"), "running": ("running", "2"), "succeeded": ("succeeded", "3")}


class DuomiAsked(msgspec.Struct, frozen=True, kw_only=True):
    """One requested task."""

    model: str
    prompt: str
    nano_usd: int
    callback_url: str
    seconds: int = 5
    width: int = 1280
    height: int = 720


@strictly
def _runway_generate(given: Mapping[str, Any]) -> DuomiAsked:
    prompt = bodies.text(given, "prompt", PROMPT_CHARS_MAX, _refuse, required=True)
    model = bodies.word(given, "model", RUNWAY_MODELS, None, _refuse)
    width, height = RUNWAY_RATIOS[bodies.word(given, "ratio", tuple(RUNWAY_RATIOS), None, _refuse)]
    options = given.get("options") or {}
    if "image" in given:
        bodies.address(given["image"], "image", _refuse)
    else:
        bodies.text(given, "style", 64, _refuse, required=True)
        vector = options.get("motion_vector")
        if not isinstance(vector, dict) or not all(isinstance(vector.get(name), int | float) for name in VECTOR):
            raise _refuse("options.motion_vector", f"must hold the numbers {', '.join(VECTOR)}")
    seconds = options.get("seconds", 5 if "image" in given else None)
    if seconds not in (5, 10):
        raise _refuse("options.seconds", "must be 5 or 10")
    return _asked(given, model, prompt, seconds, width, height)


@strictly
def _runway_restyle(given: Mapping[str, Any]) -> DuomiAsked:
    prompt = bodies.text(given, "prompt", PROMPT_CHARS_MAX, _refuse, required=True)
    bodies.word(given, "model", RUNWAY_MODELS, None, _refuse)
    bodies.address(given.get("video"), "video", _refuse)
    options = given.get("options") or {}
    share = options.get("structure_transformation", 0.5)
    if not isinstance(share, int | float) or not 0 <= share <= 1:
        raise _refuse("options.structure_transformation", "must be from 0 to 1")
    upright = options.get("flip") is True
    seconds = options.get("seconds", 5)
    if seconds not in (5, 10):
        raise _refuse("options.seconds", "must be 5 or 10")
    return _asked(given, "runway-video2video", prompt, seconds, *((720, 1280) if upright else (1280, 720)))


@strictly
def _runway_act(given: Mapping[str, Any]) -> DuomiAsked:
    for name in ("video", "image"):
        bodies.address(given.get(name), name, _refuse)
    return _asked(given, "runway-act-one", "", 5, 1280, 720)


@strictly
def _pika(given: Mapping[str, Any]) -> DuomiAsked:
    prompt = bodies.text(given, "prompt", PROMPT_CHARS_MAX, _refuse, required=True)
    bodies.word(given, "style", EFFECTS[1:], None, _refuse)
    width, height = PIKA_RATIOS[bodies.word(given, "ratio", tuple(PIKA_RATIOS), "16:9", _refuse)]
    model = given.get("model", PIKA_MODELS[0])
    if isinstance(model, bool) or model not in PIKA_MODELS:
        raise _refuse("model", "must be the number 1.5 or 2.0")
    if not isinstance(given.get("options"), dict):
        raise _refuse("options", "is required")
    if not isinstance(given.get("sfx", False), bool):
        raise _refuse("sfx", "must be a boolean")
    for name in ("image", "video"):
        if name in given:
            bodies.address(given[name], name, _refuse)
    asked = _asked(given, f"pika-{float(model):g}", prompt, 5, width, height)
    return msgspec.structs.replace(asked, nano_usd=PIKA_NANO_USD)


SUBMITS: dict[str, Callable[[Mapping[str, Any]], DuomiAsked]] = {
    "runway/pro/generate": _runway_generate,
    "runway/pro/video2video": _runway_restyle,
    "runway/pro/act_one": _runway_act,
    "pika/pro/generate": _pika,
}


def submit(request: Request) -> Answer:
    """`POST /api/video/{runway,pika}/pro/...`."""
    asked = SUBMITS[request.path.partition("/api/video/")[2]](bodies.object_of(request.body, _refuse))
    task = tasks.start(
        request,
        f"{SHELF} {_product(request)}",
        str(uuid.UUID(request.upstream_request_id)),
        asked,
        Charge(asked.model, 0, asked.nano_usd),
        Film(asked.width, asked.height, asked.seconds * 1000),
        refusal=Problem(200, "the prompt was refused", code="prompt_refused"),
        callback=Callback(asked.callback_url, _shown),
    )
    return json_answer({"code": GOOD, "msg": "success", "data": _shown(task, request.now_s), "exec_time": 0.1})


def feed(request: Request) -> Answer:
    """`GET /api/video/{runway,pika}/feed?task_id=`."""
    task = tasks.find(request, f"{SHELF} {_product(request)}", request.query("task_id") or "")
    if task is None:
        raise Problem(200, "task not found", code="task_not_found")
    return json_answer({"code": GOOD, "msg": "success", "data": _shown(task, request.now_s), "exec_time": 0.01})


def refusal(problem: Problem) -> Answer:
    """A problem in DuoMi's format: HTTP status 200 and the code 400, or the requested one."""
    code = BAD if problem.status == 200 else problem.status
    if problem.status == 200 and problem.code is not None and problem.code.isdecimal():
        code = int(problem.code)
    return json_answer({"code": code, "msg": problem.message, "data": None, "exec_time": 0.0}, status=problem.status)


def dress(request: Request, answer: Answer, took_s: float) -> Answer:
    """Add no headers."""
    return answer


def check(request: Request, keys: frozenset[str] | None) -> None:
    """Raise Problem for a missing or wrong key; one with `Bearer` is wrong too."""
    key = _key(request)
    if not key or key.lower().startswith("bearer ") or not takes_key(request, key, "", keys):
        raise Problem(401, "invalid key")


def _asked(given: Mapping[str, Any], model: str, prompt: str, seconds: int, width: int, height: int) -> DuomiAsked:
    if "callback_url" not in given:
        raise Problem(200, "callback_url_empty", code="callback_url_empty")
    return DuomiAsked(
        model=model if model.startswith(("runway", "pika")) else f"runway-{model}",
        prompt=prompt,
        nano_usd=SECOND_NANO_USD * seconds,
        callback_url=bodies.address(given["callback_url"], "callback_url", _refuse),
        seconds=seconds,
        width=width,
        height=height,
    )


def _refuse(name: str, why: str) -> Problem:
    return Problem(200, f"{name} {why}", code="invalid")


def _shown(task: Task, now_s: float) -> dict[str, Any]:
    """A task in a feed. Times are strings of Unix seconds."""
    asked: DuomiAsked = task.asked
    state = task.state(now_s)
    word, number = task.word(now_s, STATES, ("error", "4"), (ODD, "9"))
    done = state == "succeeded"
    refused = "the result was refused" if state == "moderated" else "the generation failed"
    return {
        "task_id": task.id,
        "state": word,
        "status": number,
        "prompt": asked.prompt,
        "prompt_en": asked.prompt,
        "video_url": task.link("video.mp4", now_s) if done else "",
        "image_url": "",
        "poster": task.link("poster.jpg", now_s) if done else "",
        "last_frame": task.link("last_frame.png", now_s) if done else "",
        "msg": refused if word == "error" else "",
        "point": "1",
        "refund": "1" if word == "error" else "0",
        "create_time": str(int(task.created_s)),
        "update_time": str(int(task.changed_s(now_s))),
    }


def _product(request: Request) -> str:
    return request.path.partition("/api/video/")[2].partition("/")[0]


def _key(request: Request) -> str:
    return (request.header("authorization") or "").strip()


PROVIDER = Provider(
    name="duomi",
    mounts=("", "/duomi"),
    request_id_prefix="",
    key=_key,
    check=check,
    refusal=refusal,
    dress=dress,
    codes={},
    routes=(
        *(Route("POST", f"/api/video/{path}", submit) for path in SUBMITS),
        Route("GET", "/api/video/runway/feed", feed),
        Route("GET", "/api/video/pika/feed", feed),
    ),
)
