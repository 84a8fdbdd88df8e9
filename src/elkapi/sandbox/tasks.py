"""Tasks: their parameters, their state over time and their result; each provider shows them in its own format.

A submit starts a task, whose state then depends only on the clock: queued, running, ended. The submit's faults control
it:

    task-fails          it ends without a result because of an internal error of the provider
    task-moderated      it ends because its result was refused
    task-refused        the submit itself is refused because of its prompt
    task-expires        it ends because it timed out, if the provider has such a state
    task-queued=2s      it is queued for this time
    task-takes=30s      it then runs for this time
    task-odd=3s         it is then in an undocumented state for this time
    link-expires=1s     the URLs of its files are valid for this time
    file-lost=5s        its files are missing until this time after its end; forever without a time

A task is billed once it has succeeded, whether or not anyone polls it (`following`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import msgspec

from elkapi.sandbox import pictures
from elkapi.sandbox.faults import Faults
from elkapi.sandbox.messages import Answer, Charge, Problem, Request
from elkapi.sandbox.sealing import is_sealed, seal
from elkapi.sandbox.sounds import wav
from elkapi.sandbox.videos import mp4

T = TypeVar("T")
State = Literal["queued", "running", "succeeded", "failed", "moderated", "expired", "cancelled"]

QUEUED_S = 0.1
RUNS_S = 0.4
LINK_S = 24 * 3600.0
# A state that no provider documents.
ODD = "reticulating"
FILES = "files"
FILES_PATH = "/_files"
VIDEO_TYPE = "video/mp4"
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class Callback(msgspec.Struct, frozen=True):
    """The URL that a task's changes are sent to. `shown` returns the body for the task at a time.

    `challenge` is a body that the URL must echo before the task begins; `unanswered` is raised if it does not.
    """

    url: str
    shown: Callable[[Task, float], dict[str, Any]]
    challenge: bytes | None = None
    unanswered: Problem | None = None


class Film(msgspec.Struct, frozen=True):
    """A video's size in pixels and its length."""

    width_px: int
    height_px: int
    duration_ms: int


class Task(msgspec.Struct, kw_only=True):
    """One task. `owner` identifies its caller, `asked` is the provider's parsed body, `charge` its price on success.

    `origin` is the origin of its submit, and so of its files' URLs. Times are Unix seconds.
    """

    id: str
    shelf: str
    owner: str
    origin: str
    created_s: float
    queued_s: float
    runs_s: float
    ending: State
    asked: Any
    charge: Charge
    film: Film
    odd_s: float = 0.0
    link_s: float = LINK_S
    lost_s: float = 0.0
    token: str = ""
    callback: Callback | None = None
    faults: Faults = Faults()
    cancelled_s: float | None = None
    provider: str = ""
    client_id: str | None = None
    upstream_id: str = ""

    @property
    def starts_s(self) -> float:
        """When it starts running."""
        return self.created_s + self.queued_s

    @property
    def ends_s(self) -> float:
        """When it ends, or has ended."""
        return self._odd_from_s + self.odd_s if self.cancelled_s is None else self.cancelled_s

    @property
    def _odd_from_s(self) -> float:
        return self.starts_s + self.runs_s

    def state(self, now_s: float) -> State:
        """Its state at `now_s`."""
        if self.cancelled_s is not None and now_s >= self.cancelled_s:
            return "cancelled"
        if now_s < self.starts_s:
            return "queued"
        return "running" if now_s < self.ends_s else self.ending

    def word(self, now_s: float, words: Mapping[str, T], otherwise: T, odd: T) -> T:
        """Its state in the provider's words: `otherwise` for one not in `words`, `odd` during `task-odd`."""
        if self.state(now_s) == "running" and now_s >= self._odd_from_s:
            return odd
        return words.get(self.state(now_s), otherwise)

    def is_lost(self, now_s: float) -> bool:
        """Whether its files are missing."""
        return now_s < self.ends_s + self.lost_s

    def ended(self, now_s: float) -> bool:
        """Whether its state is final."""
        return self.state(now_s) not in ("queued", "running")

    def changed_s(self, now_s: float) -> float:
        """When it entered its current state."""
        state = self.state(now_s)
        return self.created_s if state == "queued" else self.starts_s if state == "running" else self.ends_s

    def progress(self, now_s: float) -> int:
        """Its progress in percent; 100 only once it has succeeded."""
        state = self.state(now_s)
        if state == "running":
            return min(99, int(100 * (now_s - self.starts_s) / (self.ends_s - self.starts_s)))
        return 100 if state == "succeeded" else 0

    def video(self) -> bytes:
        """Its video, as MP4."""
        return mp4(self.id, self.film.width_px, self.film.height_px, self.film.duration_ms)

    def link(self, name: str, now_s: float) -> str:
        """A temporary signed URL of one of its files; no key is needed."""
        expires = str(int(now_s + self.link_s))
        signature = seal("file", f"{self.token}/{name}/{expires}").replace("+", "-").replace("/", "_").rstrip("=")
        return f"{self.origin}{FILES_PATH}/{self.token}/{name}?expires={expires}&signature={signature}"


def start(
    request: Request,
    shelf: str,
    task_id: str,
    asked: Any,
    charge: Charge,
    film: Film,
    *,
    refusal: Problem,
    callback: Callback | None = None,
    owner: str | None = None,
) -> Task:
    """Start a task and store it on the provider's shelf; the request's faults control it. Raises `refusal` if they ask.

    `owner` defaults to the caller's key.
    """
    faults = request.faults
    if faults.task_refused:
        raise refusal
    endings: tuple[tuple[bool, State], ...] = (
        (faults.task_fails, "failed"),
        (faults.task_moderated, "moderated"),
        (faults.task_expires, "expired"),
    )
    task = Task(
        id=task_id,
        shelf=shelf,
        owner=caller(request) if owner is None else owner,
        origin=origin(request),
        created_s=request.now_s,
        queued_s=QUEUED_S if faults.task_queued_s is None else faults.task_queued_s,
        runs_s=RUNS_S if faults.task_takes_s is None else faults.task_takes_s,
        ending=next((state for asked_for, state in endings if asked_for), "succeeded"),
        asked=asked,
        charge=charge,
        film=film,
        odd_s=faults.task_odd_s,
        link_s=LINK_S if faults.link_expires_s is None else faults.link_expires_s,
        lost_s=faults.file_lost_s,
        token=request.id_suffix,
        callback=callback,
        faults=faults,
    )
    request.store.shelf(shelf).put(task_id, task)
    request.store.shelf(FILES).put(task.token, task)
    request.store.begun.append(task)
    return task


def caller(request: Request) -> str:
    """The key of a request, from any of the places that providers read it from."""
    return request.header("x-goog-api-key") or request.query("key") or request.header("authorization") or ""


def find(request: Request, shelf: str, task_id: str, owner: str | None = None) -> Task | None:
    """The task of this id if it belongs to `owner` (by default the caller), otherwise None."""
    task = request.store.shelf(shelf).get(task_id)
    wanted = caller(request) if owner is None else owner
    return task if isinstance(task, Task) and task.owner == wanted else None


def found(request: Request, shelf: str, task_id: str, absent: Problem) -> Task:
    """The caller's task of this id. Raises `absent` if there is none."""
    task = find(request, shelf, task_id)
    if task is None:
        raise absent
    return task


def owned(request: Request, shelf: str, owner: str | None = None) -> list[Task]:
    """The tasks of `owner` (by default the caller), oldest first."""
    wanted = caller(request) if owner is None else owner
    return [task for task in request.store.shelf(shelf).all() if task.owner == wanted]


def forget(request: Request, task: Task) -> None:
    """Delete a task and its files."""
    request.store.shelf(task.shelf).pop(task.id)
    request.store.shelf(FILES).pop(task.token)


def origin(request: Request) -> str:
    """The sandbox's origin, with the host and port of the caller's Host header."""
    return f"http://{request.header('host') or 'localhost'}"


def file(request: Request) -> Answer:
    """`GET /_files/{token}/{name}`: a task's file, for anyone with its signed URL. Raises Problem."""
    token, name = request.params["token"], request.params["name"]
    expires, signature = request.query("expires") or "", request.query("signature") or ""
    signature += "=" * (-len(signature) % 4)
    if not expires.isdecimal() or not is_sealed("file", f"{token}/{name}/{expires}", signature):
        raise Problem(403, "The signature does not match.", code="SignatureDoesNotMatch")
    if request.now_s > int(expires):
        raise Problem(403, "Request has expired", code="AccessDenied")
    task = request.store.shelf(FILES).get(token)
    if task is None or task.is_lost(request.now_s):
        raise Problem(404, "The specified key does not exist.", code="NoSuchKey")
    return ranged(request, *content_of(task, name))


def content_of(task: Task, name: str) -> tuple[bytes, str]:
    """The bytes and media type of a task's file, by the extension of its name."""
    ending = name.rpartition(".")[2]
    if ending == "mp4":
        return task.video(), VIDEO_TYPE
    if ending == "wav":
        return wav(), "audio/wav"
    if ending == "png":
        return pictures.png(task.id), "image/png"
    return (pictures.WEBP, "image/webp") if ending == "webp" else (pictures.JPEG, "image/jpeg")


def ranged(request: Request, content: bytes, media_type: str) -> Answer:
    """An answer with the content, or the part that `Range` asks for. Raises Problem 416."""
    asked = _RANGE.fullmatch((request.header("range") or "").strip())
    if asked is None or asked[0] == "bytes=-":
        return Answer(200, (content,), media_type, headers=((b"accept-ranges", b"bytes"),))
    size = len(content)
    first = int(asked[1]) if asked[1] else max(0, size - int(asked[2]))
    last = min(int(asked[2]), size - 1) if asked[1] and asked[2] else size - 1
    if first > last:
        raise Problem(416, "The requested range is not satisfiable.", code="InvalidRange")
    part = b"bytes %d-%d/%d" % (first, last, size)
    headers = ((b"accept-ranges", b"bytes"), (b"content-range", part))
    return Answer(206, (content[first : last + 1],), media_type, headers=headers)
