"""Runway's own API. Contract: runway.md ("official format"); rows: runway.yaml. The reverse format is in duomi.py."""

from __future__ import annotations

import msgspec

from elkapi.catalog.declare import ANY_MODEL, Tasks, lasting
from elkapi.catalog.operation import Family
from elkapi.catalog.task import Made, Meter, TaskSpec
from elkapi.types import State

TASK = TaskSpec(
    id="id",
    state="status",
    states={
        "PENDING": State.QUEUED,
        "THROTTLED": State.QUEUED,
        "RUNNING": State.RUNNING,
        "SUCCEEDED": State.SUCCEEDED,
        "FAILED": State.FAILED,
        "CANCELLED": State.CANCELLED,
    },
    made=(Made("output[*]", "file"),),
    progress="progress",
    error=("failure",),
    error_code="failureCode",
    estimate="estimatedCost.credits",
    cost="cost.credits",
    fetch="GET /v1/tasks/{id}",
    cancel="DELETE /v1/tasks/{id}",
    callback="callback_url",
    notice="runway",
    calls_back=False,
    blank={"id": "{id}", "status": "PENDING", "createdAt": "{created_iso}"},
)
_FEATURES: dict[str, tuple[str, ...]] = {
    "ratio": ("ratio",),
    "resolution": ("resolution",),
    "audio": ("audio", "=false"),
}
_shots_s = lasting("providerSettings.multiPrompt[*].duration")
# Without a duration (or with "auto"), hold the longest that a model may choose; the result is charged.
_SECONDS = Meter(unit="second", seconds=("duration",), seconds_default=15.0, features=_FEATURES, frames_s=_shots_s)
# As long as the source video or speech: the provider accepts up to 30 seconds of video.
_AS_LONG = msgspec.structs.replace(_SECONDS, seconds_default=30.0)
_VOICE = msgspec.structs.replace(_AS_LONG, sound=True)
_PICTURES = Meter(unit="image", count="outputCount", features=_FEATURES | {"quality": ("quality",)})
_tasks = Tasks(family="runway", wire="runway", prefix="/runwayml", task=TASK, meter=_SECONDS)

FAMILY = Family(
    name="runway",
    dialect="runway",
    operations=(
        _tasks.submit("image-to-video", "/v1/image_to_video"),
        _tasks.submit("text-to-video", "/v1/text_to_video"),
        _tasks.submit("video-to-video", "/v1/video_to_video", meter=_AS_LONG),
        _tasks.submit("character-performance", "/v1/character_performance", meter=_AS_LONG),
        _tasks.submit("video-upscale", "/v1/video_upscale", meter=_AS_LONG),
        _tasks.submit("text-to-image", "/v1/text_to_image", meter=_PICTURES),
        _tasks.submit("image-upscale", "/v1/image_upscale", meter=Meter(unit="image")),
        _tasks.submit("text-to-speech", "/v1/text_to_speech", meter=Meter(unit="call")),
        _tasks.submit("sound-effect", "/v1/sound_effect", meter=Meter(unit="call")),
        _tasks.submit("speech-to-speech", "/v1/speech_to_speech", meter=_VOICE),
        _tasks.submit("voice-isolation", "/v1/voice_isolation", meter=_VOICE),
        _tasks.submit("voice-dubbing", "/v1/voice_dubbing", meter=_VOICE),
        _tasks.once("upload", "/v1/uploads", id="runwayUri", free=True, model=ANY_MODEL),
        _tasks.fetch("task", "/v1/tasks/{id}", kind="task"),
        _tasks.cancel("task-delete", "/v1/tasks/{id}"),
    ),
)
