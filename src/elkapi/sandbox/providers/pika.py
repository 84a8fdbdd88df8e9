"""Pika's universal API as resellers serve it: generate a video, read its feed."""

from __future__ import annotations

import uuid
from typing import Any

from elkapi.sandbox import tasks
from elkapi.sandbox.messages import Answer, Charge, Problem, Request, json_answer
from elkapi.sandbox.providers import pika_read
from elkapi.sandbox.providers.dressing import with_request_id
from elkapi.sandbox.providers.openai import bearer_key
from elkapi.sandbox.providers.pika_read import NANO_USD, PikaAsked
from elkapi.sandbox.routes import Provider, Route
from elkapi.sandbox.tasks import ODD, Film, Task

SHELF = "pika.tasks"
STATUSES = {"queued": "queued", "running": "pending", "succeeded": "finished"}
ERRORS = {
    "failed": "The generation failed.",
    "moderated": "The generation was stopped because it may violate our content policy.",
}
SLUGS = {400: "invalid_request", 403: "quota_not_enough", 404: "not_found", 429: "rate_limited"}


def generate(request: Request) -> Answer:
    """`POST /pika/generate`."""
    asked = pika_read.read(request.body)
    task_id = str(uuid.UUID(request.upstream_request_id[-32:]))
    charge = Charge(f"pika-{asked.model}", 0, NANO_USD[asked.model])
    tasks.start(
        request,
        SHELF,
        task_id,
        asked,
        charge,
        Film(asked.width, asked.height, asked.seconds * 1000),
        refusal=Problem(400, "The prompt may violate our content policy.", code="prompt_error"),
    )
    return json_answer({"id": task_id})


def feed(request: Request) -> Answer:
    """`GET /pika/feed/{id}`, or with `?id=`; a task that is still queued has no videos."""
    task_id = request.params.get("id") or request.query("id") or ""
    task = tasks.found(request, SHELF, task_id, Problem(400, "task_not_exist", code="task_not_exist"))
    asked: PikaAsked = task.asked
    queued = task.state(request.now_s) == "queued"
    body = {"id": task.id, "promptText": asked.prompt, "videos": [] if queued else [_video(task, request)]}
    return json_answer(body)


def _video(task: Task, request: Request) -> dict[str, Any]:
    asked: PikaAsked = task.asked
    state = task.state(request.now_s)
    done = state == "succeeded"
    links = {
        name: task.link(file, request.now_s) if done else ""
        for name, file in (
            ("resultUrl", "video.mp4"),
            ("sharingUrl", "shared.mp4"),
            ("videoPoster", "poster.jpg"),
            ("imageThumb", "thumb.jpg"),
        )
    }
    return {
        "id": task.id,
        "status": task.word(request.now_s, STATUSES, "error", ODD),
        "progress": task.progress(request.now_s),
        "seed": asked.seed,
        **links,
        "duration": asked.seconds,
        "error": ERRORS.get(state, ERRORS["failed"]) if state not in STATUSES else "",
    }


def refusal(problem: Problem) -> Answer:
    """A problem in the resellers' formats: OpenAI's for caller and server errors, their own for the others."""
    if problem.status in (401, 403, 429) or problem.status >= 500:
        error = {
            "message": problem.message,
            "type": "new_api_error",
            "param": "",
            "code": problem.code or SLUGS.get(problem.status, "do_request_failed"),
        }
        return json_answer({"error": error}, status=problem.status)
    slug = problem.code or SLUGS.get(problem.status, "invalid_request")
    return json_answer({"code": slug, "message": problem.message, "data": None}, status=problem.status)


PROVIDER = Provider(
    name="pika",
    mounts=("",),
    request_id_prefix="",
    key=bearer_key,
    refusal=refusal,
    dress=with_request_id("x-oneapi-request-id"),
    routes=(
        Route("POST", "/pika/generate", generate),
        Route("GET", "/pika/feed/{id}", feed),
        Route("GET", "/pika/feed/", feed),
    ),
)
