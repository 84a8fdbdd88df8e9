"""Videos in the neutral formats, which any video provider may serve. Contracts: sora.md, veo.md, seedance.md.

OpenAI's video resource is both the common format and the native format of providers that support it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.catalog.declare import Tasks, at_once
from elkapi.catalog.operation import Body, Family, ModelSource, Operation
from elkapi.catalog.task import Made, Meter, Poll, TaskSpec
from elkapi.types import State

_CONTENT = "GET /v1/videos/{value}/content"
TASK = TaskSpec(
    id="id",
    state="status",
    states={
        "queued": State.QUEUED,
        "in_progress": State.RUNNING,
        "completed": State.SUCCEEDED,
        "failed": State.FAILED,
        # New-api's, of a task that it has only just begun.
        "unknown": State.QUEUED,
    },
    made=(
        Made("id", via=_CONTENT),
        Made("id", "image", via=f"{_CONTENT}?variant=thumbnail", optional=True),
        Made("id", "image", via=f"{_CONTENT}?variant=spritesheet", optional=True),
    ),
    progress="progress",
    error=("error.message",),
    error_code="error.code",
    model=("model",),
    fetch="GET /v1/videos/{id}",
    poll=Poll(first_s=2.0),
)
_METER = Meter(
    unit="second", seconds=("seconds", "duration"), seconds_default=4.0, features={"size": ("size", "=720x1280")}
)
_EXTENSION = msgspec.structs.replace(_METER, seconds=("seconds",), extends=True)
# The result of editing a whole video is as long as that video, whatever the request says.
_AS_LONG = msgspec.structs.replace(_METER, seconds=())
_SOURCE = ModelSource("source")
_SORA2 = ModelSource("body", "model", "sora-2")
_videos = Tasks(family="sora", wire="videos", prefix="/v1/videos", task=TASK, meter=_METER, model=_SORA2)


def _neutral(id_: str, path: str, form: str, **more: Any) -> Operation:
    """A submit in a neutral format, sent to whichever provider serves the model."""
    family, _, name = id_.partition(".")
    model = more.pop("model", ModelSource("body"))
    tasks = Tasks(family=family, wire="videos", task=TASK, meter=_METER, model=model)
    return tasks.submit(name, path, form=form, neutral=True, **more)


def _fetched(id_: str, path: str, form: str, **more: Any) -> Operation:
    family, _, name = id_.partition(".")
    return Tasks(family=family, wire="videos", task=TASK).fetch(name, path, form=form, kind="task", **more)


FAMILY = Family(
    name="video",
    dialect="task",
    operations=(
        _videos.submit(
            "create",
            "",
            form="video",
            neutral=True,
            body=Body.FORM,
            upstream="POST /v1/videos",
            also=(("openai.videos-create", "task"), ("veo.v1-videos-submit", "task")),
        ),
        _videos.list("list", "", form="video", also=(("openai.videos-list", "sync"),)),
        _videos.submit(
            "edit",
            "/edits",
            form="video",
            body=Body.FORM,
            model=_SOURCE,
            meter=_AS_LONG,
            upstream="POST /v1/videos/edits",
            also=(("openai.videos-edit", "task"),),
        ),
        _videos.submit(
            "extend",
            "/extensions",
            form="video",
            body=Body.FORM,
            model=_SOURCE,
            meter=_EXTENSION,
            upstream="POST /v1/videos/extensions",
            also=(("openai.videos-extend", "task"),),
        ),
        _videos.submit(
            "remix",
            "/{id}/remix",
            form="video",
            model=_SOURCE,
            meter=_AS_LONG,
            upstream="POST /v1/videos/{ref}/remix",
            also=(("openai.videos-remix", "task"),),
        ),
        _videos.once(
            "character-create",
            "/characters",
            id="id",
            free=True,
            body=Body.FORM,
            model=ModelSource("any", default="sora-2"),
            upstream="POST /v1/videos/characters",
            also=(("openai.videos-character-create", "sync"),),
        ),
        _videos.fetch(
            "character-get",
            "/characters/{id}",
            task=at_once("id"),
            also=(("openai.videos-character-get", "sync"),),
        ),
        _videos.fetch(
            "retrieve",
            "/{id}",
            form="video",
            kind="task",
            also=(("openai.videos-get", "task"), ("veo.v1-videos-query", "task")),
        ),
        _videos.fetch(
            "content", "/{id}/content", form="video-content", kind="file", also=(("openai.videos-content", "file"),)
        ),
        _videos.cancel("delete", "/{id}", form="video", also=(("openai.videos-delete", "sync"),)),
        _neutral(
            "seedance.unified-submit",
            "/v1/video/generations",
            "unified",
            also=(
                ("openai.video-generate", "task"),
                ("openai.seedance", "task"),
                ("veo.generations-submit", "task"),
            ),
        ),
        _fetched(
            "seedance.unified-query",
            "/v1/video/generations/{id}",
            "unified",
            also=(
                ("openai.video-fetch", "task"),
                ("openai.seedance-fetch", "task"),
                ("veo.generations-query", "task"),
            ),
        ),
        _neutral("veo.submit", "/v1/video/create", "veo-query"),
        _fetched("veo.query", "/v1/video/query", "veo-query", asked_by="id"),
        _neutral(
            "veo.submit-api",
            "/veo/v1/api/video/submit",
            "veo-alias",
            model=ModelSource("body", "model", "veo3"),
        ),
        _fetched("veo.status-api", "/veo/v1/api/video/status/{task_id}", "veo-alias"),
        _neutral("veo.v2-submit", "/v2/videos/generations", "wrapped-v2"),
        _fetched("veo.v2-query", "/v2/videos/generations/{task_id}", "wrapped-v2"),
        _neutral("veo.task-submit", "/v1/task/submit", "task-submit", also=(("platform.task-submit", "task"),)),
        _fetched("veo.task-query", "/v1/task/{task_id}", "task-submit", also=(("platform.task-fetch", "task"),)),
    ),
)
