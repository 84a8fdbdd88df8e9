"""Kling: video and image tasks under `/v1/{kind}/{action}`, its envelope and error codes, and caller-signed tokens.

A task is billed its price once it has succeeded.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from elkapi.sandbox import tasks
from elkapi.sandbox.messages import Answer, Charge, Problem, Request, json_answer
from elkapi.sandbox.providers import kling_read
from elkapi.sandbox.providers.dressing import with_headers
from elkapi.sandbox.providers.kling_read import KlingAsked, invalid
from elkapi.sandbox.providers.openai import bearer_key
from elkapi.sandbox.routes import Provider, Route, takes_key
from elkapi.sandbox.tasks import ODD, Callback, Film, Task

SHELF = "kling.tasks"
VIDEOS = "kling.videos"
SESSIONS = "kling.sessions"
FACE_ID = "0"
ACCESS_KEY, SECRET_KEY = "AKSANDBOX", "sandbox-secret"
# Keys of resellers, which are used as they are instead of signing tokens.
PLAIN_PREFIX = "sk-"
ID_FIRST = 800_000_000_000_000_000
PAGE_DEFAULT, PAGE_MAX = 30, 500
EXTENDABLE = ("kling-v1", "kling-v1-5", "kling-v1-6", "kling-video-extend")
EXTENDED_MS = 4_500
# The assumed length of an external video, which is never fetched.
STRANGE_MS = 5_000
STATUSES = {"queued": "submitted", "running": "processing", "succeeded": "succeed"}
MESSAGES = {"moderated": "Failure to pass the risk control system", "failed": "Internal error, please try again"}
CODES = {
    400: 1200, 401: 1000, 402: 1101, 403: 1103, 404: 1203, 405: 1202, 429: 1302, 500: 5000, 503: 5001, 504: 5002,
}  # fmt: skip
# Messages of the codes that a test can request inside a success reply, as resellers pass them on.
WORDS = {
    "1102": "Account balance not enough",
    "1301": "The prompt failed the content safety check",
    "1302": "The API request rate limit is exceeded",
    "1303": "parallel task over resource pack limit",
    "5000": "Internal error, please try again",
}
OPERATIONS: dict[str, Callable[[kling_read.Fields], KlingAsked]] = {
    "videos/text2video": kling_read.text_to_video,
    "videos/image2video": kling_read.image_to_video,
    "videos/video-extend": kling_read.extension,
    "videos/lip-sync": kling_read.lip_sync,
    "videos/advanced-lip-sync": kling_read.advanced_lip_sync,
    "videos/effects": kling_read.effects,
    "images/generations": kling_read.image,
    "images/editing/expand": kling_read.expansion,
    "images/kolors-virtual-try-on": kling_read.try_on,
}


class Session(msgspec.Struct, frozen=True):
    """The faces found in a video: the session's owner, and the task that made the video, if any."""

    owner: str
    parent: Task | None


class Kept(msgspec.Struct, frozen=True):
    """What is stored of a submit: its path, its parsed body, and the task of its source video."""

    action: str
    asked: KlingAsked
    parent: Task | None


def submit(request: Request) -> Answer:
    """`POST /v1/{kind}/{action}`."""
    action = request.path.partition("/v1/")[2]
    asked = kling_read.read(request.body, OPERATIONS[action])
    if asked.external_id and _by_external_id(request, asked.external_id) is not None:
        raise invalid("external_task_id already exists")
    parent = _parent(request, asked)
    task_id = str(ID_FIRST + int(request.upstream_request_id[-14:], 16))
    extends = parent is not None and asked.model == "kling-video-extend"
    film = parent.film if parent is not None else Film(asked.width, asked.height, asked.seconds * 1000)
    task = tasks.start(
        request,
        SHELF,
        task_id,
        Kept(action, asked, parent),
        Charge(asked.model, 0, asked.nano_usd),
        msgspec.structs.replace(film, duration_ms=film.duration_ms + extends * EXTENDED_MS),
        refusal=Problem(400, "The prompt failed the content safety check", code="1301"),
        owner=_key(request),
        callback=None if asked.callback_url is None else Callback(asked.callback_url, _shown),
    )
    request.store.shelf(VIDEOS).put(_video_id(task), task)
    shown = _shown(task, request.now_s)
    fresh = {name: shown[name] for name in ("task_id", "task_status", "task_info", "created_at", "updated_at")}
    return _good(request, fresh)


def identify_face(request: Request) -> Answer:
    """`POST /v1/videos/identify-face`: synchronous; one face, and the session in which it can be chosen."""
    parent = _parent(request, kling_read.read(request.body, kling_read.faces))
    session_id = request.id_suffix
    request.store.shelf(SESSIONS).put(session_id, Session(_key(request), parent))
    end_ms = STRANGE_MS if parent is None else parent.film.duration_ms
    face: dict[str, Any] = {"face_id": FACE_ID, "start_time": 0, "end_time": end_ms}
    if parent is not None:
        face["face_image"] = parent.link("face.png", request.now_s)
    return _good(request, {"session_id": session_id, "face_data": [face]})


def query(request: Request) -> Answer:
    """`GET /v1/{kind}/{action}/{id}`, by Kling's id or by the caller's `external_task_id`."""
    action, _, task_id = request.path.partition("/v1/")[2].rpartition("/")
    task = tasks.find(request, SHELF, task_id, _key(request)) or _by_external_id(request, task_id)
    if task is None or task.asked.action != action:
        raise Problem(404, "task not found", code="1203")
    return _good(request, _shown(task, request.now_s))


def list_tasks(request: Request) -> Answer:
    """`GET /v1/{kind}/{action}`: one page, newest first."""
    action = request.path.partition("/v1/")[2]
    number, size = _page(request, "pageNum", 1, 1_000), _page(request, "pageSize", PAGE_DEFAULT, PAGE_MAX)
    kept = [task for task in reversed(tasks.owned(request, SHELF, _key(request))) if task.asked.action == action]
    return _good(request, [_shown(task, request.now_s) for task in kept[(number - 1) * size : number * size]])


def refusal(problem: Problem) -> Answer:
    """A problem in Kling's envelope."""
    code = problem.code if problem.code is not None and problem.code.isdecimal() else CODES.get(problem.status, 5000)
    return json_answer({"code": int(code), "message": problem.message, "request_id": ""}, status=problem.status)


def dress(request: Request, answer: Answer, took_s: float) -> Answer:
    """Add Kling's headers, and the request's id to an error, which `refusal` writes without knowing it."""
    if answer.media_type == "application/json":
        named = b'"request_id":"%b"' % request.upstream_request_id.encode()
        body = b"".join(answer.pieces).replace(b'"request_id":""', named)
        answer = msgspec.structs.replace(answer, pieces=(body,))
    return with_headers(answer, {"x-request-id": request.upstream_request_id})


def check(request: Request, keys: frozenset[str] | None) -> None:
    """Raise Problem 401 unless the bearer is a valid plain key or a valid token signed by the caller.

    In `keys` a pair is written `ACCESS|SECRET`; without `keys` only the sandbox's own pair is valid.
    """
    given = bearer_key(request)
    if given is None:
        raise Problem(401, "Authorization is empty", code="1001")
    if given.startswith(PLAIN_PREFIX):
        if not takes_key(request, given, PLAIN_PREFIX, keys):
            raise Problem(401, "Authorization is invalid", code="1002")
        return
    claims = _claims(given, keys)
    refused = request.faults.refuse_key
    if claims is None or (refused is not None and str(claims.get("iss")).endswith(refused)):
        raise Problem(401, "Authorization is invalid", code="1002")
    expires, begins = claims.get("exp"), claims.get("nbf", 0)
    if not isinstance(expires, int | float) or not isinstance(begins, int | float):
        raise Problem(401, "Authorization is invalid", code="1002")
    if begins > request.now_s:
        raise Problem(401, "Authorization is not yet valid", code="1003")
    if expires <= request.now_s:
        raise Problem(401, "Authorization has expired", code="1004")


def _claims(token: str, keys: frozenset[str] | None) -> dict[str, Any] | None:
    """The claims of a token if its HS256 signature matches its issuer's secret, otherwise None."""
    head, _, rest = token.partition(".")
    payload, _, signature = rest.partition(".")
    try:
        header, claims = (msgspec.json.decode(_decoded(part)) for part in (head, payload))
        given = _decoded(signature)
    except (binascii.Error, ValueError):  # A token that cannot be decoded is invalid.
        return None
    if not isinstance(header, dict) or not isinstance(claims, dict) or header.get("alg") != "HS256":
        return None
    pairs = dict(key.split("|", 1) for key in keys if "|" in key) if keys is not None else {ACCESS_KEY: SECRET_KEY}
    secret = pairs.get(str(claims.get("iss")))
    if secret is None:
        return None
    wanted = hmac.new(secret.encode(), f"{head}.{payload}".encode(), hashlib.sha256).digest()
    return claims if hmac.compare_digest(given, wanted) else None


def _decoded(part: str) -> bytes:
    return base64.b64decode(part.translate(str.maketrans("-_", "+/")) + "=" * (-len(part) % 4), validate=True)


def _shown(task: Task, now_s: float) -> dict[str, Any]:
    """A task in Kling's format, for queries and callbacks. Times are in milliseconds."""
    kept: Kept = task.asked
    state = task.state(now_s)
    information: dict[str, Any] = {"external_task_id": kept.asked.external_id} if kept.asked.external_id else {}
    if kept.parent is not None:
        information["parent_video"] = _video(kept.parent, now_s)
    result: dict[str, Any] = {}
    if state == "succeeded" and kept.asked.images:
        result["images"] = [
            {"index": index, "url": task.link(f"{index}.png", now_s)} for index in range(kept.asked.images)
        ]
    elif state == "succeeded":
        result["videos"] = [_video(task, now_s)]
    status = task.word(now_s, STATUSES, "failed", ODD)
    return {
        "task_id": task.id,
        "task_status": status,
        "task_status_msg": MESSAGES.get(state, MESSAGES["failed"]) if status == "failed" else "",
        "task_info": information,
        "created_at": int(task.created_s * 1000),
        "updated_at": int(task.changed_s(now_s) * 1000),
        "task_result": result,
    }


def _video(task: Task, now_s: float) -> dict[str, Any]:
    return {
        "id": _video_id(task),
        "url": task.link("video.mp4", now_s),
        "duration": f"{task.film.duration_ms / 1000:g}",
    }


def _video_id(task: Task) -> str:
    return str(uuid.UUID(task.token))


def _parent(request: Request, asked: KlingAsked) -> Task | None:
    """The finished source video of a task. Raises Problem if it does not exist or its model cannot be extended."""
    if asked.session is not None:
        session = request.store.shelf(SESSIONS).get(asked.session)
        if session is None or session.owner != _key(request):
            raise Problem(404, "session not found", code="1203")
        found: Task | None = session.parent
        return found
    if asked.parent is None:
        return None
    task = request.store.shelf(VIDEOS).get(asked.parent)
    if task is None or task.owner != _key(request) or task.state(request.now_s) != "succeeded":
        raise Problem(404, "video not found", code="1203")
    parent: Task = task
    if asked.model == "kling-video-extend" and parent.asked.asked.model not in EXTENDABLE:
        raise invalid("videos of this model cannot be extended")
    return parent


def _by_external_id(request: Request, external_id: str) -> Task | None:
    kept = tasks.owned(request, SHELF, _key(request))
    return next((task for task in kept if task.asked.asked.external_id == external_id), None)


def _page(request: Request, name: str, default: int, high: int) -> int:
    value = request.query(name) or str(default)
    if not value.isdecimal() or not 1 <= int(value) <= high:
        raise invalid(f"{name} must be from 1 to {high}")
    return int(value)


def _good(request: Request, data: object) -> Answer:
    return json_answer({"code": 0, "message": "SUCCEED", "request_id": request.upstream_request_id, "data": data})


def _key(request: Request) -> str:
    """The owner of a request: the plain key, or the issuer of its token, since each token is signed anew."""
    given = bearer_key(request) or ""
    if given.startswith(PLAIN_PREFIX):
        return given
    try:
        claims = msgspec.json.decode(_decoded(given.split(".")[1]))
    except (binascii.Error, ValueError, LookupError):  # `check` has already refused it.
        return ""
    return str(claims.get("iss")) if isinstance(claims, dict) else ""


PROVIDER = Provider(
    name="kling",
    mounts=("/kling", ""),
    request_id_prefix="",
    key=bearer_key,
    check=check,
    refusal=refusal,
    dress=dress,
    codes=WORDS,
    routes=(
        Route("POST", "/v1/videos/identify-face", identify_face),
        *(
            route
            for action in OPERATIONS
            for route in (
                Route("POST", f"/v1/{action}", submit),
                Route("GET", f"/v1/{action}", list_tasks),
                Route("GET", f"/v1/{action}/{{id}}", query),
            )
        ),
    ),
)
