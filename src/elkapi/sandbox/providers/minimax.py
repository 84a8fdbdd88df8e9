"""MiniMax: videos that are fetched as files, errors as a code inside a 200 reply, and its callback protocol.

A video is billed once it has succeeded.
"""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.sandbox import tasks
from elkapi.sandbox.messages import Answer, Charge, Problem, Request, json_answer
from elkapi.sandbox.providers import minimax_read
from elkapi.sandbox.providers.dressing import with_request_id
from elkapi.sandbox.providers.minimax_read import SIZES, MinimaxAsked, invalid
from elkapi.sandbox.providers.openai import bearer_key
from elkapi.sandbox.routes import Provider, Route, takes_key
from elkapi.sandbox.tasks import ODD, VIDEO_TYPE, Callback, Film, Task

SHELF = "minimax.tasks"
# Ids are 15-digit integers; a task's file id is its task id plus 1.
ID_FIRST = 400_000_000_000_000
ID_STEP = 10
PREPARING_SHARE = 0.5
OUTPUT_REFUSED = "1027"
UNKNOWN = "1000"
# Messages by code. Only errors requested as faults keep an HTTP status; `CODES` has the code of each.
WORDS = {
    "0": "success",
    "1000": "unknown error",
    "1001": "request timeout",
    "1002": "rate limit",
    "1004": "login fail: Please carry the API secret key in the 'Authorization' field of the request header",
    "1008": "insufficient balance",
    "1026": "input new_sensitive",
    "1027": "output new_sensitive",
    "1039": "token limit",
    "2013": "invalid params",
    "2049": "invalid api key",
}
CODES = {400: "2013", 401: "1004", 402: "1008", 403: "2049", 408: "1001", 429: "1002", 504: "1001"}
GOOD = {"status_code": 0, "status_msg": "success"}


def generate(request: Request) -> Answer:
    """`POST /v1/video_generation`."""
    asked = minimax_read.read(request.body)
    # Unique in this sandbox: from the random bits of the request's id.
    number = ID_FIRST + int(request.upstream_request_id[-12:], 16) // ID_STEP * ID_STEP
    charge = Charge(asked.model, 0, asked.nano_usd)
    width_px, height_px = SIZES[asked.resolution]
    task = tasks.start(
        request,
        SHELF,
        str(number),
        asked,
        charge,
        Film(width_px, height_px, asked.seconds * 1000),
        refusal=Problem(200, WORDS["1026"], code="1026"),
        callback=None if asked.callback_url is None else _callback(asked.callback_url, request.upstream_request_id),
    )
    return json_answer({"task_id": task.id, "base_resp": GOOD})


def query(request: Request) -> Answer:
    """`GET /v1/query/video_generation?task_id=`."""
    task = tasks.found(request, SHELF, request.query("task_id") or "", invalid("task_id not exist"))
    return json_answer(shown(task, request.now_s))


def retrieve_file(request: Request) -> Answer:
    """`GET /v1/files/retrieve?file_id=`: the file's metadata and a temporary download URL."""
    task = _made(request)
    file = {
        "file_id": int(_file_id(task)),
        "bytes": len(task.video()),
        "created_at": int(task.ends_s),
        "filename": "output.mp4",
        "purpose": "video_generation",
        "download_url": task.link("output.mp4", request.now_s),
    }
    return json_answer({"file": file, "base_resp": GOOD})


def retrieve_content(request: Request) -> Answer:
    """`GET /v1/files/retrieve_content?file_id=`: the file's bytes."""
    task = _made(request)
    if task.is_lost(request.now_s):
        raise invalid("file_id not exist")
    return tasks.ranged(request, task.video(), VIDEO_TYPE)


def shown(task: Task, now_s: float) -> dict[str, Any]:
    """A task in MiniMax's format; a failure is also in `base_resp`."""
    state = task.state(now_s)
    body: dict[str, Any] = {"task_id": task.id, "status": _status(task, now_s), "base_resp": GOOD}
    if state == "succeeded":
        asked: MinimaxAsked = task.asked
        width, height = SIZES[asked.resolution]
        return {**body, "file_id": _file_id(task), "video_width": width, "video_height": height}
    body["file_id"] = ""
    if body["status"] == "Fail":
        body["base_resp"] = base_resp(OUTPUT_REFUSED if state == "moderated" else UNKNOWN)
    return body


def base_resp(code: str, message: str | None = None) -> dict[str, Any]:
    """The `base_resp` of every answer: its code and message."""
    return {"status_code": int(code), "status_msg": message or WORDS.get(code, "unknown error")}


def refusal(problem: Problem) -> Answer:
    """A problem as a `base_resp`. MiniMax's own errors have a numeric code and status 200."""
    usual = CODES.get(problem.status, "2013" if 400 <= problem.status < 500 else UNKNOWN)
    code = problem.code if problem.code is not None and problem.code.isdecimal() else usual
    return json_answer({"base_resp": base_resp(code, problem.message)}, status=problem.status)


def check(request: Request, keys: frozenset[str] | None) -> None:
    """Raise Problem (status 200, like every error) for a missing or invalid key."""
    key = bearer_key(request)
    if key is None:
        raise Problem(200, WORDS["1004"], code="1004")
    if not takes_key(request, key, "", keys):
        raise Problem(200, WORDS["2049"], code="2049")


def _callback(url: str, secret: str) -> Callback:
    """A callback URL, which must echo a challenge before the task begins; statuses are sent to it in lower case."""
    challenge = msgspec.json.encode({"challenge": secret[:16]})
    return Callback(url, _told, challenge, invalid("callback_url does not answer the challenge"))


def _told(task: Task, moment_s: float) -> dict[str, Any]:
    body = shown(task, moment_s)
    status = "failed" if body["status"] == "Fail" else body["status"].lower()
    return {**body, "status": status}


def _status(task: Task, now_s: float) -> str:
    state = task.state(now_s)
    if state == "queued":
        prepared = now_s - task.created_s < task.queued_s * PREPARING_SHARE
        return "Preparing" if prepared else "Queueing"
    return task.word(now_s, {"running": "Processing", "succeeded": "Success"}, "Fail", ODD)


def _made(request: Request) -> Task:
    """The task of the requested file. Raises Problem unless it has succeeded."""
    file_id = request.query("file_id") or ""
    task_id = str(int(file_id) - 1) if file_id.isdecimal() and len(file_id) < 20 else ""
    task = tasks.find(request, SHELF, task_id)
    if task is None or task.state(request.now_s) != "succeeded":
        raise invalid("file_id not exist")
    return task


def _file_id(task: Task) -> str:
    return str(int(task.id) + 1)


PROVIDER = Provider(
    name="minimax",
    mounts=("/minimax", ""),
    request_id_prefix="",
    key=bearer_key,
    check=check,
    refusal=refusal,
    dress=with_request_id("trace-id"),
    codes=WORDS,
    routes=(
        Route("POST", "/v1/video_generation", generate),
        Route("GET", "/v1/query/video_generation", query),
        Route("GET", "/v1/files/retrieve", retrieve_file),
        Route("GET", "/v1/files/retrieve_content", retrieve_content),
    ),
)
