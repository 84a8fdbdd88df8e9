"""Runway's own API: video, image and audio tasks, uploads, and the version header that every call needs.

A task is billed once it has succeeded: videos per second, everything else per call.
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
from elkapi.sandbox.tasks import ODD, Film, Task

SHELF = "runway.tasks"
VERSION = "2024-11-06"
SEED_MAX = 4_294_967_295
TEXT_CHARS_MAX = 1_000
URIS = ("https://", "runway://", "data:")
CREDIT_NANO_USD = 10_000_000
CREDITS = 100_000
GEN4 = ("1280:720", "720:1280", "1104:832", "832:1104", "960:960", "1584:672")
VEO = ("1280:720", "720:1280", "1080:1920", "1920:1080")
OMNI = ("1280:720", "720:1280")
SEEDANCE = ("992:432", "1280:720", "720:1280", "960:960", "1112:834", "834:1112", "1470:630")
OLD = ("1280:768", "768:1280")
STATUSES = {"queued": "PENDING", "running": "RUNNING", "succeeded": "SUCCEEDED"}


class Video(msgspec.Struct, frozen=True, kw_only=True):
    """A video model: its sizes, lengths, credits per second; `wants` are further fields it requires.

    `last`: it accepts a last frame.
    """

    ratios: tuple[str, ...]
    seconds: tuple[int, ...]
    seconds_default: int
    credits: int
    wants: tuple[str, ...] = ()
    last: bool = False


_TEN = tuple(range(2, 11))
_SEED2 = Video(ratios=SEEDANCE, seconds=tuple(range(4, 16)), seconds_default=5, credits=30, last=True)
VIDEOS = {
    "gen4_turbo": Video(ratios=GEN4, seconds=_TEN, seconds_default=10, credits=5, wants=("ratio",)),
    "gen4.5": Video(
        ratios=GEN4, seconds=_TEN, seconds_default=5, credits=12, wants=("ratio", "promptText", "duration")
    ),
    "veo3": Video(ratios=VEO, seconds=(8,), seconds_default=8, credits=40, wants=("ratio", "duration")),
    "veo3.1": Video(ratios=VEO, seconds=(4, 6, 8), seconds_default=8, credits=40, wants=("ratio",), last=True),
    "veo3.1_fast": Video(ratios=VEO, seconds=(4, 6, 8), seconds_default=8, credits=15, wants=("ratio",), last=True),
    "seedance2": _SEED2,
    "seedance2_fast": msgspec.structs.replace(_SEED2, credits=20),
    "seedance2_mini": msgspec.structs.replace(_SEED2, credits=10),
    "happyhorse_1_0": Video(ratios=(), seconds=tuple(range(3, 16)), seconds_default=5, credits=15),
    "gemini_omni_flash": Video(ratios=OMNI, seconds=_TEN, seconds_default=8, credits=15),
    "gen3a_turbo": Video(ratios=OLD, seconds=(5, 10), seconds_default=10, credits=5),
    "aleph2": Video(ratios=GEN4, seconds=(5,), seconds_default=5, credits=15),
    "act_two": Video(ratios=GEN4, seconds=(5,), seconds_default=5, credits=5),
    "magnific_video_upscaler_creative": Video(ratios=(), seconds=(5,), seconds_default=5, credits=2),
}
_OMNI_AND_SEED2 = ("seedance2", "seedance2_fast", "seedance2_mini", "gemini_omni_flash")
_TEXT = ("gen4.5", "veo3", "veo3.1", "veo3.1_fast", "happyhorse_1_0", *_OMNI_AND_SEED2)
IMAGES = {
    "gen4_image": 8, "gen4_image_turbo": 2, "gpt_image_2": 10, "gemini_2.5_flash": 5, "gemini_image3_pro": 20,
    "gemini_image3.1_flash": 7, "seedream5_pro": 4, "seedream5_lite": 4,
}  # fmt: skip


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of task: its models, required fields, result file and credits per call.

    The credits of a video are per second, from its model. `uris` are fields that contain a URI.
    """

    models: tuple[str, ...]
    wants: tuple[str, ...]
    file: str = "output.mp4"
    credits: int = 0
    uris: tuple[str, ...] = ()


OPERATIONS = {
    "image_to_video": Operation(models=("gen4_turbo", "gen3a_turbo", *_TEXT), wants=("promptImage",)),
    "text_to_video": Operation(models=_TEXT, wants=("promptText",)),
    "video_to_video": Operation(models=("aleph2", *_OMNI_AND_SEED2), wants=(), uris=("videoUri", "promptVideo")),
    "character_performance": Operation(models=("act_two",), wants=("character", "reference")),
    "video_upscale": Operation(models=("magnific_video_upscaler_creative",), wants=("videoUri",), uris=("videoUri",)),
    "text_to_image": Operation(models=tuple(IMAGES), wants=("promptText",), file="output.png"),
    "image_upscale": Operation(
        models=("magnific_precision_upscaler_v2",),
        wants=("imageUri",),
        file="output.png",
        credits=20,
        uris=("imageUri",),
    ),
    "text_to_speech": Operation(
        models=("eleven_multilingual_v2", "seed_audio"), wants=("promptText",), file="output.wav", credits=1
    ),
    "sound_effect": Operation(
        models=("eleven_text_to_sound_v2", "seed_audio"), wants=("promptText",), file="output.wav", credits=1
    ),
    "speech_to_speech": Operation(
        models=("eleven_multilingual_sts_v2",), wants=("media", "voice"), file="output.wav", credits=1
    ),
    "voice_isolation": Operation(
        models=("eleven_voice_isolation",), wants=("audioUri",), file="output.wav", credits=1, uris=("audioUri",)
    ),
    "voice_dubbing": Operation(
        models=("eleven_voice_dubbing",),
        wants=("audioUri", "targetLang"),
        file="output.wav",
        credits=1,
        uris=("audioUri",),
    ),
}


class RunwayAsked(msgspec.Struct, frozen=True, kw_only=True):
    """One requested task."""

    model: str
    file: str
    nano_usd: int
    seconds: int = 5
    width: int = 1280
    height: int = 720


def submit(request: Request) -> Answer:
    """`POST /v1/{operation}`: returns the task's id and its estimated cost."""
    asked = _read(request.path.rpartition("/")[2], request.body)
    task = tasks.start(
        request,
        SHELF,
        str(uuid.UUID(request.upstream_request_id)),
        asked,
        Charge(asked.model, 0, asked.nano_usd),
        Film(asked.width, asked.height, asked.seconds * 1000),
        refusal=Problem(400, "The prompt was refused by content moderation."),
    )
    return json_answer({"id": task.id, "estimatedCost": _credits(asked.nano_usd)})


def retrieve(request: Request) -> Answer:
    """`GET /v1/tasks/{id}`."""
    return json_answer(_shown(_found(request), request.now_s))


def delete(request: Request) -> Answer:
    """`DELETE /v1/tasks/{id}`: cancels the task if it has not ended, and deletes it."""
    task = _found(request)
    if not task.ended(request.now_s):
        task.cancelled_s = request.now_s
    tasks.forget(request, task)
    return Answer(204, (b"",))


def upload(request: Request) -> Answer:
    """`POST /v1/uploads`: the URL to upload a file to, and its `runway://` URI."""
    given = bodies.object_of(request.body, _refuse)
    bodies.text(given, "filename", 255, _refuse, required=True)
    bodies.word(given, "type", ("ephemeral",), None, _refuse)
    token = request.upstream_request_id
    fields = {"key": token, "policy": "sandbox"}
    place = f"{tasks.origin(request)}{tasks.FILES_PATH}/uploads/{token}"
    return json_answer({"uploadUrl": place, "fields": fields, "runwayUri": f"runway://{token}"})


def organization(request: Request) -> Answer:
    """`GET /v1/organization`: a constant balance and no usage."""
    limits = {model: {"maxConcurrentGenerations": 5, "maxDailyGenerations": 1_000} for model in VIDEOS}
    usage = {model: {"dailyGenerations": 0} for model in VIDEOS}
    tier = {"maxMonthlyCreditSpend": CREDITS, "models": limits}
    return json_answer({"creditBalance": CREDITS, "tier": tier, "usage": {"models": usage}})


def refusal(problem: Problem) -> Answer:
    """A problem in Runway's format; a refused field is listed in `issues`."""
    body: dict[str, Any] = {"error": problem.message}
    if problem.param is not None:
        body["issues"] = [{"path": [problem.param], "message": problem.message, "code": "custom"}]
    if problem.code is not None:
        body["code"] = problem.code
    return json_answer(body, status=problem.status)


def check(request: Request, keys: frozenset[str] | None) -> None:
    """Raise Problem for a missing or invalid key, or a missing or unknown version header."""
    key = bearer_key(request)
    if key is None or not takes_key(request, key, "", keys):
        raise Problem(401, "Invalid API key.")
    if request.header("x-runway-version") != VERSION:
        raise Problem(400, f"The X-Runway-Version header must be {VERSION}.", param="X-Runway-Version")


@strictly
def _read(name: str, body: bytes) -> RunwayAsked:
    operation = OPERATIONS[name]
    given = bodies.object_of(body, _refuse)
    model = bodies.word(given, "model", operation.models, None, _refuse)
    for member in operation.wants:
        if not given.get(member):
            raise _refuse(member, "is required")
    bodies.text(given, "promptText", TEXT_CHARS_MAX, _refuse, required=False)
    bodies.whole(given, "seed", 0, SEED_MAX, _refuse)
    for member in operation.uris:
        if member in given:
            bodies.address(given[member], member, _refuse, URIS)
    if name == "image_to_video":
        _frames_checked(given["promptImage"], VIDEOS[model])
    if name == "video_to_video" and ("promptVideo" if model.startswith("seedance2") else "videoUri") not in given:
        raise _refuse("promptVideo" if model.startswith("seedance2") else "videoUri", "is required")
    if model == "gen4_image_turbo" and not given.get("referenceImages"):
        raise _refuse("referenceImages", "is required")
    if model in VIDEOS:
        return _video(name, model, given, operation)
    credits = operation.credits or IMAGES[model]
    return RunwayAsked(model=model, file=operation.file, nano_usd=credits * CREDIT_NANO_USD)


def _video(name: str, model: str, given: Mapping[str, Any], operation: Operation) -> RunwayAsked:
    video = VIDEOS[model]
    if name in ("image_to_video", "text_to_video"):
        for member in video.wants:
            if not given.get(member):
                raise _refuse(member, "is required")
    ratio = "1280:720"
    if video.ratios and "ratio" in given:
        ratio = bodies.word(given, "ratio", video.ratios, None, _refuse)
    seconds = bodies.whole(given, "duration", 1, 60, _refuse) or video.seconds_default
    if seconds not in video.seconds:
        raise _refuse("duration", f"must be one of {', '.join(map(str, video.seconds))}")
    width, height = map(int, ratio.split(":"))
    cost = video.credits * seconds * CREDIT_NANO_USD
    return RunwayAsked(model=model, file=operation.file, nano_usd=cost, seconds=seconds, width=width, height=height)


def _frames_checked(images: object, video: Video) -> None:
    """Raise Problem unless `images` is the URI of a first frame, or one or two images with positions."""
    if isinstance(images, str):
        bodies.address(images, "promptImage", _refuse, URIS)
        return
    if not isinstance(images, list) or not 1 <= len(images) <= 2 or not all(isinstance(one, dict) for one in images):
        raise _refuse("promptImage", "must be an address or one or two pictures")
    for image in images:
        bodies.address(image.get("uri"), "promptImage", _refuse, URIS)
    positions = [image.get("position", "first") for image in images]
    allowed: tuple[list[str], ...] = (["first"], ["last"], ["first", "last"]) if video.last else (["first"],)
    if sorted(positions) not in allowed:
        raise _refuse("promptImage", "has positions that the model does not take")


def _refuse(name: str, why: str) -> Problem:
    return Problem(400, f"Validation of body failed: {name} {why}", param=name)


def _shown(task: Task, now_s: float) -> dict[str, Any]:
    asked: RunwayAsked = task.asked
    state = task.state(now_s)
    body: dict[str, Any] = {
        "id": task.id,
        "createdAt": stamp(task.created_s),
        "status": task.word(now_s, STATUSES, "FAILED", ODD.upper()),
    }
    if task.ended(now_s):
        body["cost"] = _credits(asked.nano_usd if state == "succeeded" else 0)
    else:
        body["estimatedCost"] = _credits(asked.nano_usd)
    if state == "running":
        body["progress"] = task.progress(now_s) / 100
    elif state == "succeeded":
        body["output"] = [task.link(asked.file, now_s)]
    elif state == "moderated":
        body |= {"failure": "The output was refused by content moderation.", "failureCode": "SAFETY.OUTPUT.VIDEO"}
    elif body["status"] == "FAILED":
        body |= {"failure": "The task failed.", "failureCode": "INTERNAL.BAD_OUTPUT.CODE01"}
    return body


def _credits(nano_usd: int) -> dict[str, int]:
    return {"credits": nano_usd // CREDIT_NANO_USD}


def _found(request: Request) -> Task:
    return tasks.found(request, SHELF, request.params["id"], Problem(404, "Task not found"))


PROVIDER = Provider(
    name="runway",
    mounts=("", "/runwayml", "/runway"),
    request_id_prefix="",
    key=bearer_key,
    check=check,
    refusal=refusal,
    dress=with_request_id("x-request-id"),
    claim=b"x-runway-version",
    routes=(
        *(Route("POST", f"/v1/{name}", submit) for name in OPERATIONS),
        Route("GET", "/v1/tasks/{id}", retrieve),
        Route("DELETE", "/v1/tasks/{id}", delete),
        Route("POST", "/v1/uploads", upload),
        Route("GET", "/v1/organization", organization),
    ),
)
