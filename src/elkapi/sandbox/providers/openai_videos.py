"""OpenAI's video routes: create, list, download, remix, edit, extend and delete, and characters.

A completed video is billed by the second.
"""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.sandbox import tasks
from elkapi.sandbox.messages import Answer, Charge, Problem, Request, json_answer
from elkapi.sandbox.multipart import Part
from elkapi.sandbox.pictures import JPEG, WEBP
from elkapi.sandbox.providers import openai_video_read as read
from elkapi.sandbox.providers.openai_lists import page
from elkapi.sandbox.providers.openai_read import invalid
from elkapi.sandbox.providers.openai_video_read import VideoAsked
from elkapi.sandbox.tasks import ODD, VIDEO_TYPE, Film, Task
from elkapi.sandbox.videos import seconds_of

SHELF = "openai.videos"
CHARACTERS = "openai.characters"

LARGE = ("1024x1792", "1792x1024")
# Nano-USD per second.
RATE, PRO_RATE, LARGE_RATE = 100_000_000, 300_000_000, 500_000_000
EXPIRES_S = 3600
STATUSES = {"queued": "queued", "running": "in_progress", "succeeded": "completed"}
ERRORS = {
    "failed": {"code": "internal_error", "message": "The sandbox was asked to fail this video."},
    "moderated": {"code": "moderation_blocked", "message": "This video was blocked by our moderation system."},
}
POLL_MS_MIN, POLL_MS_MAX = 50, 5_000
VARIANTS = {"thumbnail": (WEBP, "image/webp"), "spritesheet": (JPEG, "image/jpeg")}


def create(request: Request) -> Answer:
    """`POST /v1/videos`."""
    return _started(request, read.creation(read.fields_of(request)))


def remix(request: Request) -> Answer:
    """`POST /v1/videos/{id}/remix`: a new video of the same model, length and size."""
    fields = read.fields_of(request)
    source = _completed(request, request.params["id"])
    asked: VideoAsked = source.asked
    prompt = read.prompt_of(fields)
    return _started(request, msgspec.structs.replace(asked, prompt=prompt, source=source.id, is_remix=True))


def edit(request: Request) -> Answer:
    """`POST /v1/videos/edits`: a new video from a stored or uploaded one."""
    fields = read.fields_of(request)
    source = _source(request, read.source_of(fields))
    return _started(request, msgspec.structs.replace(source, prompt=read.prompt_of(fields)))


def extend(request: Request) -> Answer:
    """`POST /v1/videos/extensions`: `seconds` is the total length; only the new part is billed."""
    fields = read.fields_of(request)
    seconds = int(read.choice(fields, "seconds", read.EXTENSION_SECONDS, None))
    source = _source(request, read.source_of(fields))
    whole = msgspec.structs.replace(source, prompt=read.prompt_of(fields), seconds=source.seconds + seconds)
    return _started(request, whole, billed_seconds=seconds)


def retrieve(request: Request) -> Answer:
    """`GET /v1/videos/{id}`; a header suggests when to poll again."""
    task = _found(request, request.params["id"])
    answer = json_answer(shown(task, request.now_s))
    if task.ended(request.now_s):
        return answer
    left_ms = round((task.ends_s - request.now_s) * 1000)
    after_ms = min(max(left_ms, POLL_MS_MIN), POLL_MS_MAX)
    return msgspec.structs.replace(answer, headers=((b"openai-poll-after-ms", b"%d" % after_ms),))


def list_videos(request: Request) -> Answer:
    """`GET /v1/videos`, newest first."""
    kept = [shown(task, request.now_s) for task in tasks.owned(request, SHELF)]
    return json_answer(page(request, kept, "desc"))


def content(request: Request) -> Answer:
    """`GET /v1/videos/{id}/content`: the video, its thumbnail or its spritesheet."""
    task = _completed(request, request.params["id"])
    if task.is_lost(request.now_s):
        raise Problem(404, "The content of this video was not found.", param="video_id")
    variant = request.query("variant") or "video"
    if variant == "video":
        return tasks.ranged(request, task.video(), VIDEO_TYPE)
    if variant not in VARIANTS:
        raise invalid("variant must be one of video, thumbnail, spritesheet.", "variant")
    return tasks.ranged(request, *VARIANTS[variant])


def delete(request: Request) -> Answer:
    """`DELETE /v1/videos/{id}`: only if it has ended."""
    task = _found(request, request.params["id"])
    if not task.ended(request.now_s):
        raise Problem(400, "A video can be deleted once it is completed or failed.", param="video_id")
    tasks.forget(request, task)
    return json_answer({"id": task.id, "object": "video.deleted", "deleted": True})


def create_character(request: Request) -> Answer:
    """`POST /v1/videos/characters`: a name and a video of the character."""
    fields = read.fields_of(request)
    name = read.character_name(fields)
    if "video" not in fields:
        raise read.missing("video")
    read.video_file(fields["video"])
    character_id = "char_" + request.id_suffix
    character = {"id": character_id, "name": name, "created_at": int(request.now_s)}
    request.store.shelf(CHARACTERS).put(character_id, (tasks.caller(request), character))
    return json_answer(character)


def get_character(request: Request) -> Answer:
    """`GET /v1/videos/characters/{id}`."""
    kept = request.store.shelf(CHARACTERS).get(request.params["id"])
    if kept is None or kept[0] != tasks.caller(request):
        raise Problem(404, f"Character with id '{request.params['id']}' not found.", param="character_id")
    return json_answer(kept[1])


def shown(task: Task, now_s: float) -> dict[str, Any]:
    """A video in OpenAI's format."""
    asked: VideoAsked = task.asked
    state = task.state(now_s)
    done = state == "succeeded"
    ends = int(task.ends_s)
    return {
        "id": task.id,
        "object": "video",
        "model": asked.model,
        "status": task.word(now_s, STATUSES, "failed", ODD),
        "progress": task.progress(now_s),
        "created_at": int(task.created_s),
        "completed_at": ends if done else None,
        "expires_at": ends + EXPIRES_S if done else None,
        "prompt": asked.prompt,
        "seconds": str(asked.seconds),
        "size": asked.size,
        "remixed_from_video_id": asked.source if asked.is_remix else None,
        "error": ERRORS.get(state),
    }


def _started(request: Request, asked: VideoAsked, billed_seconds: int | None = None) -> Answer:
    video_id = "video_" + request.id_suffix
    rate = (LARGE_RATE if asked.size in LARGE else PRO_RATE) if read.is_pro(asked.model) else RATE
    charge = Charge(asked.model, 0, rate * (billed_seconds or asked.seconds))
    width_px, height_px = map(int, asked.size.split("x"))
    task = tasks.start(
        request,
        SHELF,
        video_id,
        asked,
        charge,
        Film(width_px, height_px, asked.seconds * 1000),
        refusal=Problem(400, ERRORS["moderated"]["message"], code=ERRORS["moderated"]["code"]),
    )
    return json_answer(shown(task, request.now_s))


def _found(request: Request, video_id: str) -> Task:
    absent = Problem(404, f"Video with id '{video_id}' not found.", param="video_id")
    return tasks.found(request, SHELF, video_id, absent)


def _completed(request: Request, video_id: str) -> Task:
    task = _found(request, video_id)
    if task.state(request.now_s) != "succeeded":
        raise Problem(400, "Video is not ready yet, use GET /v1/videos/{video_id} to check status.", param="video_id")
    return task


def _source(request: Request, video: str | Part) -> VideoAsked:
    """The parameters of a source video; only the length of an uploaded one is known."""
    if isinstance(video, str):
        asked: VideoAsked = _completed(request, video).asked
        return msgspec.structs.replace(asked, source=video, is_remix=False)
    seconds = round(seconds_of(video.content) or int(read.SECONDS_DEFAULT))
    return VideoAsked(model=read.MODEL_DEFAULT, prompt="", seconds=seconds, size=read.SIZE_DEFAULT)


ROUTES = (
    ("POST", "/videos", create),
    ("GET", "/videos", list_videos),
    ("POST", "/videos/edits", edit),
    ("POST", "/videos/extensions", extend),
    ("POST", "/videos/characters", create_character),
    ("GET", "/videos/characters/{id}", get_character),
    ("GET", "/videos/{id}", retrieve),
    ("DELETE", "/videos/{id}", delete),
    ("GET", "/videos/{id}/content", content),
    ("POST", "/videos/{id}/remix", remix),
)
