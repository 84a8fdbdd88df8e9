"""The answers of task routes as their contracts have them: what a typed client of each form decodes."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Id(msgspec.Struct):
    id: str


class TaskId(msgspec.Struct, forbid_unknown_fields=True):
    task_id: str


class Problem(msgspec.Struct):
    code: str | None
    message: str


# Kling


class KlingFile(msgspec.Struct):
    url: str
    id: str = ""
    duration: str = ""
    index: int = 0


class KlingResult(msgspec.Struct):
    videos: list[KlingFile] = []
    images: list[KlingFile] = []


class KlingTask(msgspec.Struct):
    task_id: str
    task_status: Literal["submitted", "processing", "succeed", "failed"]
    created_at: int
    updated_at: int
    task_status_msg: str = ""
    task_info: dict[str, Any] = {}
    task_result: KlingResult | None = None


class Kling(msgspec.Struct):
    code: Literal[0]
    message: str
    request_id: str
    data: KlingTask


class KlingList(msgspec.Struct):
    code: Literal[0]
    message: str
    request_id: str
    data: list[KlingTask]


# Runway, Luma, MiniMax, Pika, DuoMi, Ark, Google


class Runway(msgspec.Struct):
    id: str
    status: Literal["PENDING", "THROTTLED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"]
    createdAt: str
    progress: float | None = None
    output: list[str] | None = None
    failure: str | None = None
    failureCode: str | None = None


class Generation(msgspec.Struct):
    id: str
    generation_type: str
    state: Literal["queued", "dreaming", "completed", "failed"]
    failure_reason: str | None
    created_at: str
    assets: dict[str, str | None] | None
    model: str
    request: dict[str, Any]
    video: dict[str, str] | None = None


class BaseResp(msgspec.Struct):
    status_code: int
    status_msg: str


class MinimaxBegun(msgspec.Struct):
    task_id: str
    base_resp: BaseResp


class Minimax(msgspec.Struct):
    task_id: str
    status: Literal["Preparing", "Queueing", "Processing", "Success", "Fail"]
    base_resp: BaseResp
    file_id: str = ""


class MinimaxPlace(msgspec.Struct):
    file_id: int | str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    download_url: str


class MinimaxFile(msgspec.Struct):
    file: MinimaxPlace
    base_resp: BaseResp


class PikaVideo(msgspec.Struct):
    id: str
    status: Literal["queued", "pending", "finished", "error"]
    progress: int
    resultUrl: str = ""
    error: str = ""


class Pika(msgspec.Struct):
    id: str
    promptText: str
    videos: list[PikaVideo]


class DuomiId(msgspec.Struct):
    task_id: str


class DuomiBegun(msgspec.Struct):
    code: int
    msg: str
    data: DuomiId


class ArkError(msgspec.Struct):
    code: str
    message: str


class Ark(msgspec.Struct):
    id: str
    model: str
    status: Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]
    created_at: int
    error: ArkError | None = None
    content: dict[str, str] | None = None


class Operation(msgspec.Struct):
    name: str
    done: bool = False
    response: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


# Ours


class Dto(msgspec.Struct):
    task_id: str
    action: str
    status: Literal["NOT_START", "SUBMITTED", "QUEUED", "IN_PROGRESS", "SUCCESS", "FAILURE"]
    fail_reason: str
    submit_time: int
    start_time: int
    finish_time: int
    progress: str
    data: dict[str, Any]


class Wrapped(msgspec.Struct, forbid_unknown_fields=True):
    code: Literal["success"]
    message: str
    data: Dto


class WrappedId(msgspec.Struct, forbid_unknown_fields=True):
    code: Literal["success"]
    message: str
    data: str


class Video(msgspec.Struct):
    id: str
    object: Literal["video"]
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int
    created_at: int
    completed_at: int | None
    expires_at: int | None
    size: str
    seconds: str
    error: Problem | None
    prompt: str | None
    remixed_from_video_id: str | None
    metadata: dict[str, Any] | None = None


class Unified(Video):
    task_id: str = msgspec.field(name="task_id", default="")
    url: str | None = None
    format: str = ""


class VeoBegun(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    status: Literal["pending", "processing"]
    status_update_time: int
    enhanced_prompt: str


class Veo(msgspec.Struct):
    id: str
    status: Literal["pending", "processing", "completed", "failed"]
    video_url: str | None
    status_update_time: int
    enhanced_prompt: str
    detail: dict[str, Any] | None = None


class VeoApiStart(msgspec.Struct):
    taskId: str
    pollingUrl: str
    status: Literal["processing"]
    message: str


class VeoApiBegun(msgspec.Struct):
    success: Literal[True]
    data: VeoApiStart


class VeoApiTask(msgspec.Struct):
    taskId: str
    pollingUrl: str
    status: Literal["processing", "completed", "failed"]
    progress: dict[str, Any]
    upstreamData: dict[str, Any]


class VeoApi(msgspec.Struct):
    success: Literal[True]
    data: VeoApiTask


class Urls(msgspec.Struct):
    urls: list[str]


class GuideTask(msgspec.Struct):
    id: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    model: str
    created_at: int
    progress: int
    output: Urls
    error: Problem | None


class Made(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["video", "image", "audio", "file"]
    url: str
    content_type: str
    size_bytes: int
    width: int | None
    height: int | None
    duration_s: float | None


class Task(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    object: Literal["task"]
    model: str
    operation: str
    status: Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]
    progress: int
    created_at: int
    started_at: int | None
    completed_at: int | None
    native_id: str | None
    output: list[Made]
    error: Problem | None


# What is answered at once


class Face(msgspec.Struct):
    face_id: str
    start_time: int
    end_time: int


class FaceData(msgspec.Struct):
    session_id: str
    face_data: list[Face]


class Faces(msgspec.Struct):
    code: Literal[0]
    message: str
    request_id: str
    data: FaceData


class Upload(msgspec.Struct):
    uploadUrl: str
    fields: dict[str, str]
    runwayUri: str


class Character(msgspec.Struct):
    id: str
    name: str
    created_at: int


class Credits(msgspec.Struct, forbid_unknown_fields=True):
    credit_balance: float


class Pong(msgspec.Struct, forbid_unknown_fields=True):
    message: str
