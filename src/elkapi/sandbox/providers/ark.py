"""Volcengine's Ark: Seedance tasks created, read, listed, cancelled and deleted, with its error bodies and prices.

A task is billed by its tokens once it has succeeded.
"""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import parse_qs

from elkapi.sandbox import tasks
from elkapi.sandbox.faults import Faults
from elkapi.sandbox.messages import Answer, Charge, Problem, Request, json_answer
from elkapi.sandbox.providers import ark_read
from elkapi.sandbox.providers.ark_models import FRAMES_PER_SECOND
from elkapi.sandbox.providers.ark_read import ArkAsked, invalid
from elkapi.sandbox.providers.dressing import with_headers
from elkapi.sandbox.providers.openai import bearer_key
from elkapi.sandbox.routes import Provider, Route, takes_key
from elkapi.sandbox.tasks import ODD, Callback, Film, Task

SHELF = "ark.tasks"
PAGE_MAX = 500
PAGE_DEFAULT = 10
# Ark's names of states where they differ from ours.
STATUSES = {"moderated": "failed"}
ERRORS = {
    "failed": {"code": "InternalServiceError", "message": "The service encountered an unexpected internal error."},
    "moderated": {
        "code": "OutputVideoSensitiveContentDetected",
        "message": "The request failed because the output video may contain sensitive information.",
    },
}
REFUSED = "The request failed because the input text may contain sensitive information."
TYPES = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    429: "TooManyRequests",
}
CODES = {
    400: "InvalidParameter",
    401: "AuthenticationError",
    403: "AccessDenied",
    404: "ResourceNotFound",
    429: "RateLimitExceeded.EndpointRPMExceeded",
    503: "ServerOverloaded",
}


def create(request: Request) -> Answer:
    """`POST /api/v3/contents/generations/tasks`."""
    asked = ark_read.read(request.body)
    if asked.draft_task is not None:
        _draft_checked(request, asked.draft_task)
    moment = time.strftime("%Y%m%d%H%M%S", time.gmtime(request.now_s))
    task_id = f"cgt-{moment}-{request.upstream_request_id[-5:]}"
    charge = Charge(asked.model, 0, asked.tokens() * asked.rate, output_tokens=asked.tokens())
    width_px, height_px = asked.size()
    callback = None if asked.callback_url is None else Callback(asked.callback_url, _told)
    tasks.start(
        request,
        SHELF,
        task_id,
        asked,
        charge,
        Film(width_px, height_px, (asked.frames - 1) * 1000 // FRAMES_PER_SECOND),
        refusal=Problem(400, REFUSED, code="InputTextSensitiveContentDetected"),
        callback=callback,
    )
    answer = {"id": task_id}
    if "safety_identifier" in asked.extras:
        answer["safety_identifier"] = asked.extras["safety_identifier"]
    return json_answer(answer)


def retrieve(request: Request) -> Answer:
    """`GET /api/v3/contents/generations/tasks/{id}`."""
    task = _found(request, request.params["id"])
    return json_answer(shown(task, request.now_s, request.faults))


def list_tasks(request: Request) -> Answer:
    """`GET /api/v3/contents/generations/tasks`, newest first, by page and by `filter.*`."""
    query = parse_qs(request.raw_target.partition("?")[2])
    number, size = _page(query, "page_num", 1), _page(query, "page_size", PAGE_DEFAULT)
    items = [shown(task, request.now_s, request.faults) for task in reversed(tasks.owned(request, SHELF))]
    wanted = {name: query.get(f"filter.{name}") for name in ("status", "model", "service_tier")}
    ids = query.get("filter.task_ids")
    found = [
        item
        for item in items
        if (ids is None or item["id"] in ids)
        and all(words is None or item[name] in words for name, words in wanted.items())
    ]
    return json_answer({"items": found[(number - 1) * size : number * size], "total": len(found)})


def delete(request: Request) -> Answer:
    """`DELETE /api/v3/contents/generations/tasks/{id}`: a queued task is cancelled, an ended one forgotten."""
    task = _found(request, request.params["id"])
    state = task.state(request.now_s)
    if state == "running":
        message = f"The task {task.id} is running and cannot be cancelled or deleted."
        raise Problem(409, message, code="InvalidAction.RunningTaskDeletion")
    if state == "queued":
        task.cancelled_s = request.now_s
    else:
        tasks.forget(request, task)
    return json_answer({})


def shown(task: Task, now_s: float, faults: Faults) -> dict[str, Any]:
    """A task in Ark's format, for fetches and callbacks."""
    asked: ArkAsked = task.asked
    state = task.state(now_s)
    body: dict[str, Any] = {
        "id": task.id,
        "model": asked.model,
        "status": task.word(now_s, STATUSES, state, ODD),
        "error": ERRORS.get(state),
        "created_at": int(task.created_s),
        "updated_at": int(task.changed_s(now_s)),
        "seed": asked.seed,
        "resolution": asked.resolution,
        "ratio": asked.ratio,
        "framespersecond": FRAMES_PER_SECOND,
        "service_tier": asked.service_tier,
        "execution_expires_after": asked.expires_after_s,
        "generate_audio": asked.generate_audio,
        "draft": asked.draft,
        **asked.extras,
    }
    if asked.by_frames:
        body["frames"] = asked.frames
    else:
        body["duration"] = (asked.frames - 1) // FRAMES_PER_SECOND
    if state == "succeeded":
        body["content"] = {"video_url": task.link("video.mp4", now_s)}
        if asked.last_frame:
            body["content"]["last_frame_url"] = task.link("last_frame.png", now_s)
        tokens = faults.shown_tokens(asked.tokens())
        if tokens is not None:
            body["usage"] = {"completion_tokens": tokens, "total_tokens": tokens}
    return body


def refusal(problem: Problem) -> Answer:
    """A problem in Ark's error body. Ark's messages end with the request id, which is not known here."""
    error = {
        "code": problem.code or CODES.get(problem.status, "InternalServiceError"),
        "message": problem.message,
        "param": problem.param or "",
        "type": TYPES.get(problem.status, "InternalServerError" if problem.status >= 500 else "BadRequest"),
    }
    return json_answer({"error": error}, status=problem.status)


def dress(request: Request, answer: Answer, took_s: float) -> Answer:
    """Add Ark's headers: the request id, and the caller's own one."""
    given = request.header("x-client-request-id")
    headers = {"x-request-id": request.upstream_request_id}
    return with_headers(answer, headers if given is None else {**headers, "x-client-request-id": given})


def check(request: Request, keys: frozenset[str] | None) -> None:
    """Raise Problem 401 for a missing or wrong key."""
    key = bearer_key(request)
    if key is None or not takes_key(request, key, "", keys):
        why = "the API key or AK/SK in the request is missing or invalid."
        raise Problem(401, why, code="AuthenticationError")


def _told(task: Task, moment_s: float) -> dict[str, Any]:
    return shown(task, moment_s, task.faults)


def _draft_checked(request: Request, task_id: str) -> None:
    """Check that the draft a video is made from exists here and has succeeded. Raises Problem."""
    draft = tasks.find(request, SHELF, task_id)
    if draft is None or not draft.asked.draft or draft.state(request.now_s) != "succeeded":
        raise invalid("content.draft_task.id", "it names no finished draft")


def _page(query: dict[str, list[str]], name: str, default: int) -> int:
    value = query.get(name, [str(default)])[0]
    if not value.isdecimal() or not 1 <= int(value) <= PAGE_MAX:
        raise invalid(name, f"it must be an integer from 1 to {PAGE_MAX}")
    return int(value)


def _found(request: Request, task_id: str) -> Task:
    absent = Problem(404, f"The specified task {task_id} is not found.", code="ResourceNotFound")
    return tasks.found(request, SHELF, task_id, absent)


_TASKS = "/api/v3/contents/generations/tasks"

PROVIDER = Provider(
    name="ark",
    mounts=("", "/ark"),
    request_id_prefix="",
    key=bearer_key,
    check=check,
    refusal=refusal,
    dress=dress,
    routes=(
        Route("POST", _TASKS, create),
        Route("GET", _TASKS, list_tasks),
        Route("GET", _TASKS + "/{id}", retrieve),
        Route("DELETE", _TASKS + "/{id}", delete),
    ),
)
