"""One case for each row of tasks that is served: how it is called, and the form in which its task is shown.

`tests/tasks/test_rows.py` makes the calls, by every path, through every outcome. A new row needs one entry here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from tests.tasks import shapes

PICTURE = "https://img.example.test/a.png"
FILM = "https://img.example.test/a.mp4"
SOUND = "https://img.example.test/a.mp3"
# A part of a form that is a file.
FILE = "(a file)"
VIDEO, IMAGE, AUDIO = "video/mp4", "image/", "audio/"
FAMILIES = ("veo", "seedance", "runway", "kling", "luma", "minimax", "pika", "sora")


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """How a task is shown by one kind of fetch.

    `id` is its path in the answer to the submit; `state`, `why` and `files` are paths in the answer to the fetch.
    `open` are the words of a task under way, `running` the one once it runs. `fetch` is the row that shows it so,
    `absent` the path of what a caller reads of an id that is not theirs.
    """

    submitted: Any
    fetched: Any
    id: str
    state: str
    open: frozenset[str]
    running: str
    done: str
    failed: str
    why: str
    files: str
    fetch: str
    absent: str = "error.message"


class Needs(msgspec.Struct, frozen=True):
    """A task that must have succeeded first; what `path` finds in it is put into the body at `into`, or the path."""

    row: str
    path: str
    into: str


class Submit(msgspec.Struct, frozen=True, kw_only=True):
    """A submit. `form` shows its task, `made` is the type of its file; `sends` says how the body goes."""

    form: Form
    body: Mapping[str, Any]
    made: str = VIDEO
    params: Mapping[str, str] = {}
    needs: Needs | None = None
    sends: Literal["json", "form"] = "json"


def _form(submitted: Any, fetched: Any, **more: Any) -> Form:
    words: str = more.pop("open")
    return Form(submitted=submitted, fetched=fetched, open=frozenset(words.split()), **more)


KLING = _form(
    shapes.Kling,
    shapes.Kling,
    id="data.task_id",
    state="data.task_status",
    open="submitted processing",
    running="processing",
    done="succeed",
    failed="failed",
    why="data.task_status_msg",
    files="data.task_result.videos[*].url",
    fetch="kling.query",
    absent="message",
)
PICTURES = msgspec.structs.replace(KLING, files="data.task_result.images[*].url")
EXPANDED = msgspec.structs.replace(PICTURES, fetch="kling.query-expand")
RUNWAY = _form(
    shapes.Id,
    shapes.Runway,
    id="id",
    state="status",
    open="PENDING THROTTLED RUNNING",
    running="RUNNING",
    done="SUCCEEDED",
    failed="FAILED",
    why="failure",
    files="output[*]",
    fetch="runway.task",
    absent="error",
)
LUMA = _form(
    shapes.Generation,
    shapes.Generation,
    id="id",
    state="state",
    open="queued dreaming",
    running="dreaming",
    done="completed",
    failed="failed",
    why="failure_reason",
    files="assets.video",
    fetch="luma.query",
    absent="detail",
)
PHOTON = msgspec.structs.replace(LUMA, files="assets.image")
MINIMAX = _form(
    shapes.MinimaxBegun,
    shapes.Minimax,
    id="task_id",
    state="status",
    open="Preparing Queueing Processing",
    running="Processing",
    done="Success",
    failed="Fail",
    why="base_resp.status_msg",
    # Its file is behind a further row: minimax.file.
    files="",
    fetch="minimax.query",
    absent="base_resp.status_msg",
)
PIKA = _form(
    shapes.Id,
    shapes.Pika,
    id="id",
    state="videos[0].status",
    open="queued pending",
    running="pending",
    done="finished",
    failed="error",
    why="videos[0].error",
    files="videos[*].resultUrl",
    fetch="pika.query",
    absent="message",
)
DUOMI = _form(
    shapes.DuomiBegun,
    shapes.Wrapped,
    id="data.task_id",
    state="data.status",
    open="NOT_START SUBMITTED QUEUED IN_PROGRESS",
    running="IN_PROGRESS",
    done="SUCCESS",
    failed="FAILURE",
    why="data.fail_reason",
    files="data.result_url",
    fetch="runway.feed-get",
    absent="message",
)
DUOMI_PIKA = msgspec.structs.replace(DUOMI, fetch="pika.feed")
ARK = _form(
    shapes.Id,
    shapes.Ark,
    id="id",
    state="status",
    open="queued running",
    running="running",
    done="succeeded",
    failed="failed",
    why="error.message",
    files="content.video_url",
    fetch="seedance.query",
)
GOOGLE = _form(
    shapes.Operation,
    shapes.Operation,
    id="name",
    state="",
    open="",
    running="",
    done="",
    failed="",
    why="",
    files="response.generateVideoResponse.generatedSamples[*].video.uri",
    fetch="veo.operation",
)
SORA = _form(
    shapes.Video,
    shapes.Video,
    id="id",
    state="status",
    open="queued in_progress",
    running="in_progress",
    done="completed",
    failed="failed",
    why="error.message",
    files="metadata.url",
    fetch="sora.retrieve",
)
UNIFIED = msgspec.structs.replace(
    SORA, fetched=shapes.Unified, files="url", fetch="seedance.unified-query", absent="message"
)
VEO = _form(
    shapes.VeoBegun,
    shapes.Veo,
    id="id",
    state="status",
    open="pending processing",
    running="processing",
    done="completed",
    failed="failed",
    why="detail.error_message",
    files="video_url",
    fetch="veo.query",
    absent="message",
)
VEO_API = _form(
    shapes.VeoApiBegun,
    shapes.VeoApi,
    id="data.taskId",
    state="data.status",
    open="processing",
    running="processing",
    done="completed",
    failed="failed",
    why="data.upstreamData.error",
    files="data.upstreamData.video_url",
    fetch="veo.status-api",
    absent="message",
)
VEO_V2 = _form(
    shapes.TaskId,
    shapes.Dto,
    id="task_id",
    state="status",
    open="NOT_START IN_PROGRESS",
    running="IN_PROGRESS",
    done="SUCCESS",
    failed="FAILURE",
    why="fail_reason",
    files="data.output",
    fetch="veo.v2-query",
    absent="message",
)
REVERSE = _form(
    shapes.WrappedId,
    shapes.Wrapped,
    id="data",
    state="data.status",
    open="NOT_START SUBMITTED QUEUED IN_PROGRESS",
    running="IN_PROGRESS",
    done="SUCCESS",
    failed="FAILURE",
    why="data.fail_reason",
    files="data.data.generations[*].url",
    fetch="sora.reverse-query",
    absent="message",
)
GUIDE = _form(
    shapes.GuideTask,
    shapes.GuideTask,
    id="id",
    state="status",
    open="queued in_progress",
    running="in_progress",
    done="completed",
    failed="failed",
    why="error.message",
    files="output.urls[*]",
    fetch="veo.task-query",
    absent="message",
)
OURS = _form(
    shapes.Task,
    shapes.Task,
    id="id",
    state="status",
    open="queued running",
    running="running",
    done="succeeded",
    failed="failed",
    why="error.message",
    files="output[*].url",
    fetch="tasks.get",
    absent="message",
)

_KLING = {"model_name": "kling-v1-6", "prompt": "a dog"}
_OF_KLING = Needs("kling.text-to-video", "data.task_result.videos[0].id", "video_id")
_OF_LUMA = Needs("luma.generate", "id", "{id}")
_OF_SORA = Needs("sora.create", "id", "video.id")
_PRO = {
    "model": "gen3",
    "prompt": "a dog",
    "ratio": "16:9",
    "style": "cinematic",
    "options": {"seconds": 5, "motion_vector": {"x": 0, "y": 0.4, "z": 0, "r": -6, "bg_x_pan": 0, "bg_y_pan": 0}},
}
_PIKA_PRO = {"model": 1.5, "prompt": "a dog", "style": "Levitate", "ratio": "16:9", "options": {"frameRate": 24}}
_SEEDANCE = "doubao-seedance-1-0-pro-250528"
_VEO = "veo-3.0-generate-001"
_NEUTRAL = {"model": _VEO, "prompt": "a dog"}
_UNIFIED = Submit(form=UNIFIED, body={"model": "kling-v1-6", "prompt": "a dog", "duration": 5})
_CREATE = Submit(form=SORA, body={"model": "sora-2", "prompt": "a dog"})
_EDIT = Submit(form=SORA, body={"prompt": "a cat"}, needs=_OF_SORA)
_EXTEND = Submit(form=SORA, body={"prompt": "on", "seconds": "4"}, needs=_OF_SORA)
_REMIX = Submit(form=SORA, body={"prompt": "a cat"}, needs=Needs("sora.create", "id", "{id}"))
_GUIDE = Submit(form=GUIDE, body={"model": "kling-v1-6", "input": {"prompt": "a dog"}})


def _runway(model: str, made: str = VIDEO, **body: Any) -> Submit:
    return Submit(form=RUNWAY, body={"model": model, **body}, made=made)


SUBMITS: dict[str, Submit] = {
    # Kling
    "kling.text-to-video": Submit(form=KLING, body=_KLING),
    "kling.image-to-video": Submit(form=KLING, body={**_KLING, "image": PICTURE}),
    "kling.extend": Submit(form=KLING, body={"prompt": "on"}, needs=_OF_KLING),
    "kling.lip-sync": Submit(
        form=KLING,
        body={"input": {"mode": "text2video", "text": "hello", "voice_id": "voice_en_1"}},
        needs=msgspec.structs.replace(_OF_KLING, into="input.video_id"),
    ),
    "kling.advanced-lip-sync": Submit(
        form=KLING,
        body={"face_choose": [{"face_id": "0", "sound_file": SOUND, "sound_start_time": 0, "sound_end_time": 3000}]},
        needs=Needs("kling.identify-face", "data.session_id", "session_id"),
    ),
    "kling.effects": Submit(
        form=KLING,
        body={"effect_scene": "squish", "input": {"model_name": "kling-v1-6", "image": PICTURE, "duration": "5"}},
    ),
    "kling.image": Submit(form=PICTURES, body={"model_name": "kling-v2", "prompt": "a teapot", "n": 2}, made=IMAGE),
    "kling.image-expand": Submit(
        form=EXPANDED, body={"image": PICTURE, "up_expansion_ratio": 0.1, "bottom_expansion_ratio": 0.1}, made=IMAGE
    ),
    "kling.try-on": Submit(form=PICTURES, body={"human_image": PICTURE, "cloth_image": PICTURE}, made=IMAGE),
    # Runway, its own form
    "runway.image-to-video": _runway("gen4_turbo", promptImage=PICTURE, ratio="1280:720", duration=5),
    "runway.text-to-video": _runway("veo3.1", promptText="a dog", ratio="1280:720", duration=4),
    "runway.video-to-video": _runway("aleph2", videoUri=FILM, promptText="snow"),
    "runway.character-performance": _runway(
        "act_two", character={"type": "image", "uri": PICTURE}, reference={"type": "video", "uri": FILM}
    ),
    "runway.video-upscale": _runway("magnific_video_upscaler_creative", videoUri=FILM),
    "runway.text-to-image": _runway("gen4_image", IMAGE, promptText="a dog", ratio="1280:720"),
    "runway.image-upscale": _runway("magnific_precision_upscaler_v2", IMAGE, imageUri=PICTURE),
    "runway.text-to-speech": _runway(
        "eleven_multilingual_v2", AUDIO, promptText="hello", voice={"type": "runway-preset", "presetId": "Maya"}
    ),
    "runway.sound-effect": _runway("eleven_text_to_sound_v2", AUDIO, promptText="rain"),
    "runway.speech-to-speech": _runway(
        "eleven_multilingual_sts_v2",
        AUDIO,
        media={"type": "audio", "uri": SOUND},
        voice={"type": "runway-preset", "presetId": "Maya"},
    ),
    "runway.voice-isolation": _runway("eleven_voice_isolation", AUDIO, audioUri=SOUND),
    "runway.voice-dubbing": _runway("eleven_voice_dubbing", AUDIO, audioUri=SOUND, targetLang="en"),
    # Runway and Pika, the reverse form
    "runway.generate-text": Submit(form=DUOMI, body=_PRO),
    "runway.generate-image": Submit(form=DUOMI, body={**_PRO, "image": PICTURE}),
    "runway.video2video": Submit(form=DUOMI, body={"model": "gen3", "prompt": "snow", "video": FILM}),
    "runway.act-one": Submit(form=DUOMI, body={"model": "gen3", "video": FILM, "image": PICTURE}),
    "pika.pro-text": Submit(form=DUOMI_PIKA, body=_PIKA_PRO),
    "pika.pro-image": Submit(form=DUOMI_PIKA, body={**_PIKA_PRO, "image": PICTURE}),
    "pika.pro-video": Submit(form=DUOMI_PIKA, body={**_PIKA_PRO, "video": FILM}),
    "pika.generate": Submit(
        form=PIKA, body={"promptText": "a dog", "model": "1.5", "options": {"parameters": {}, "extend": False}}
    ),
    # Luma
    "luma.generate": Submit(form=LUMA, body={"model": "ray-2", "prompt": "a fox", "duration": "5s"}),
    "luma.image": Submit(form=PHOTON, body={"model": "photon-1", "prompt": "a fox"}, made=IMAGE),
    "luma.image-reframe": Submit(
        form=PHOTON,
        body={
            "model": "photon-1",
            "generation_type": "reframe_image",
            "media": {"url": PICTURE},
            "aspect_ratio": "16:9",
        },
        made=IMAGE,
    ),
    "luma.video-modify": Submit(
        form=LUMA,
        body={"model": "ray-2", "generation_type": "modify_video", "media": {"url": FILM}, "mode": "flex_1"},
    ),
    "luma.video-reframe": Submit(
        form=LUMA,
        body={"model": "ray-2", "generation_type": "reframe_video", "media": {"url": FILM}, "aspect_ratio": "1:1"},
    ),
    "luma.upscale": Submit(form=LUMA, body={"resolution": "1080p"}, needs=_OF_LUMA),
    "luma.audio": Submit(form=LUMA, body={"prompt": "rain"}, needs=_OF_LUMA),
    # MiniMax, Ark, Google
    "minimax.generate": Submit(form=MINIMAX, body={"model": "MiniMax-Hailuo-02", "prompt": "a dog"}),
    "seedance.submit": Submit(
        form=ARK,
        body={"model": _SEEDANCE, "content": [{"type": "text", "text": "a dog"}], "resolution": "480p", "duration": 5},
    ),
    "veo.predict": Submit(
        form=GOOGLE,
        params={"model": _VEO},
        body={"instances": [{"prompt": "a dog"}], "parameters": {"durationSeconds": 4}},
    ),
    # The neutral forms, each put to a provider that does not speak it
    "sora.create": _CREATE,
    "openai.videos-create": msgspec.structs.replace(_CREATE, sends="form"),
    "veo.v1-videos-submit": msgspec.structs.replace(_CREATE, body=_NEUTRAL, sends="form"),
    "sora.edit": _EDIT,
    "openai.videos-edit": msgspec.structs.replace(_EDIT, sends="form"),
    "sora.extend": _EXTEND,
    "openai.videos-extend": msgspec.structs.replace(_EXTEND, sends="form"),
    "sora.remix": _REMIX,
    "openai.videos-remix": _REMIX,
    "seedance.unified-submit": msgspec.structs.replace(
        _UNIFIED, body={"model": _SEEDANCE, "prompt": "a dog", "duration": 5}
    ),
    "openai.video-generate": _UNIFIED,
    "openai.seedance": msgspec.structs.replace(
        _UNIFIED,
        body={
            "model": _SEEDANCE,
            "prompt": "a dog",
            "metadata": {
                "ratio": "16:9",
                "content": [{"type": "image_url", "image_url": {"url": PICTURE}, "role": "first_frame"}],
            },
        },
    ),
    "veo.generations-submit": msgspec.structs.replace(_UNIFIED, body=_NEUTRAL),
    "veo.submit": Submit(form=VEO, body=_NEUTRAL),
    "veo.submit-api": Submit(form=VEO_API, body=_NEUTRAL),
    "veo.v2-submit": Submit(form=VEO_V2, body={**_NEUTRAL, "aspect_ratio": "16:9"}),
    "sora.reverse-create": Submit(
        form=REVERSE,
        body={"model": "sora", "prompt": "a dog", "aspect_ratio": "16:9", "resolution": "480p", "duration": 5},
    ),
    "veo.task-submit": _GUIDE,
    "platform.task-submit": _GUIDE,
    "tasks.create": Submit(form=OURS, body={"model": "ray-2", "input": {"prompt": "a dog", "seconds": 5}}),
}


class Once(msgspec.Struct, frozen=True, kw_only=True):
    """A row that is answered at once: the shape of its answer, and what `cost` says of it."""

    shape: Any
    body: Mapping[str, Any] | None = None
    needs: Needs | None = None
    sends: Literal["json", "form"] = "json"
    charged: bool = False
    refs: str = ""


_CHARACTER = Once(shape=shapes.Character, body={"name": "Rex", "video": FILE}, sends="form", refs="id")
ONCE: dict[str, Once] = {
    "kling.identify-face": Once(shape=shapes.Faces, body={}, needs=_OF_KLING, charged=True, refs="data.session_id"),
    "runway.upload": Once(shape=shapes.Upload, body={"filename": "a.png", "type": "ephemeral"}, refs="runwayUri"),
    "sora.character-create": _CHARACTER,
    "openai.videos-character-create": _CHARACTER,
    "sora.character-get": Once(shape=shapes.Character, needs=Needs("sora.character-create", "id", "{id}")),
    "openai.videos-character-get": Once(shape=shapes.Character, needs=Needs("sora.character-create", "id", "{id}")),
    "luma.concepts": Once(shape=list[str]),
    "luma.credits": Once(shape=shapes.Credits),
    "luma.ping": Once(shape=shapes.Pong),
}
# Pages of the control process: tests/docs and tests/control look at them.
DOCS = frozenset({"kling.callback", "minimax.doc", "runway.best-practices"})
# A chat that is told of a video: row -> (model, whether the row is the streamed one, the whole one or both).
BOTH: tuple[bool, ...] = (False, True)
CHATS: dict[str, tuple[str, tuple[bool, ...]]] = {
    "veo.chat": (_VEO, BOTH),
    "seedance.chat": (_SEEDANCE, BOTH),
    "sora.chat": ("sora-2", BOTH),
    "openai.veo3-chat": (_VEO, (True,)),
    "openai.veo3-chat-video": (_VEO, (False,)),
}
# Rows that show a task: the submit whose task they are asked about.
FETCHES: dict[str, str] = {
    "kling.query": "kling.text-to-video",
    "kling.query-expand": "kling.image-expand",
    "runway.task": "runway.image-to-video",
    "runway.feed": "runway.generate-text",
    "runway.feed-get": "runway.generate-text",
    "pika.feed": "pika.pro-text",
    "pika.feed-post": "pika.pro-text",
    "pika.query": "pika.generate",
    "luma.query": "luma.generate",
    "minimax.query": "minimax.generate",
    "minimax.file": "minimax.generate",
    "seedance.query": "seedance.submit",
    "veo.operation": "veo.predict",
    "sora.retrieve": "sora.create",
    "openai.videos-get": "sora.create",
    "veo.v1-videos-query": "veo.v1-videos-submit",
    "sora.content": "sora.create",
    "openai.videos-content": "sora.create",
    "seedance.unified-query": "seedance.unified-submit",
    "openai.video-fetch": "openai.video-generate",
    "openai.seedance-fetch": "openai.seedance",
    "veo.generations-query": "veo.generations-submit",
    "veo.query": "veo.submit",
    "veo.status-api": "veo.submit-api",
    "veo.v2-query": "veo.v2-submit",
    "sora.reverse-query": "sora.reverse-create",
    "veo.task-query": "veo.task-submit",
    "platform.task-fetch": "platform.task-submit",
    "tasks.get": "tasks.create",
    "tasks.events": "tasks.create",
    "veo.download": "veo.predict",
}
# Rows that list, cancel or forget one: (the submit, where a list holds its tasks).
LISTS: dict[str, tuple[str, str]] = {
    "kling.list": ("kling.text-to-video", "data[*].task_id"),
    "luma.list": ("luma.generate", "generations[*].id"),
    "seedance.list": ("seedance.submit", "items[*].id"),
    "sora.list": ("sora.create", "data[*].id"),
    "openai.videos-list": ("sora.create", "data[*].id"),
    "tasks.list": ("tasks.create", "data[*].id"),
}
CANCELS: dict[str, str] = {
    "runway.task-delete": "runway.image-to-video",
    "luma.delete": "luma.generate",
    "seedance.cancel": "seedance.submit",
    "sora.delete": "sora.create",
    "openai.videos-delete": "sora.create",
    "tasks.cancel": "tasks.create",
    "tasks.delete": "tasks.create",
}
# The channels: (family, where it is below the sandbox, its key, the models it serves).
CHANNELS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    (
        "kling",
        "/kling",
        "AKSANDBOX|sandbox-secret",
        (
            *("kling-v1-6", "kling-v2", "kling-video-extend", "kling-lip-sync"),
            *("kling-image-expand", "kling-identify-face", "kolors-virtual-try-on-v1"),
        ),
    ),
    (
        "runway",
        "/runway",
        "key_sandbox",
        (
            *("gen4_turbo", "veo3.1", "aleph2", "act_two", "magnific_video_upscaler_creative", "gen4_image"),
            *("magnific_precision_upscaler_v2", "eleven_multilingual_v2", "eleven_text_to_sound_v2"),
            *("eleven_multilingual_sts_v2", "eleven_voice_isolation", "eleven_voice_dubbing"),
        ),
    ),
    ("duomi", "/duomi", "duomi-key", ("gen3", "runway-video2video", "runway-act-one", "pika-1.5")),
    ("pika", "", "sk-pika", ("pika-1.5",)),
    ("luma", "", "luma-key", ("ray-2", "photon-1", "luma-upscale", "luma-audio")),
    ("minimax", "/minimax", "minimax-key", ("MiniMax-Hailuo-02",)),
    ("ark", "/api/v3", "ark-key", (_SEEDANCE,)),
    ("gemini", "", "AIzaUpstream", (_VEO,)),
    ("openai", "", "sk-upstream", ("sora-2",)),
    ("new-api", "", "sk-reseller", ("sora",)),
)
