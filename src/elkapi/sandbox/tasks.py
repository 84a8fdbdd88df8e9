"""Tasks: what was asked, how far it got at a moment, what it made; each provider shows it in words of its own.

A submit starts a task, which from then on moves by the clock alone: queued, running, ended. How it ends is asked for
with the submit's faults:

    task-fails          it ends without a result, for a reason of the provider's own
    task-moderated      it ends because what it made was refused
    task-refused        the submit itself is refused for its prompt
    task-expires        it ends because nobody had time for it, where the provider has such an end
    task-queued=2s      it waits so long
    task-takes=30s      it then runs so long
    task-odd=3s         after that it is for so long in a state whose word nobody knows
    link-expires=1s     the addresses of its files are good for so long
    file-lost=5s        its files cannot be found until so long after its end; for ever without a time

A task is billed when it has succeeded, whether anyone asks after it or not (`following`).
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
    """Where a task's changes are told. `shown` is the task as it is at a moment.

    `challenge` is a body that the address must answer with itself before the task begins; `unanswered` is the problem
    when it does not.
    """

    url: str
    shown: Callable[[Task, float], dict[str, Any]]
    challenge: bytes | None = None
    unanswered: Problem | None = None


class Film(msgspec.Struct, frozen=True):
    """What a video looks like: its size in pixels and its length."""

    width_px: int
    height_px: int
    duration_ms: int


class Task(msgspec.Struct, kw_only=True):
    """One task. `owner` is whose it is, `asked` what the provider has read, `charge` what it costs once it succeeded.

    `origin` is where its submit was sent to, and so where its files are. Times are Unix seconds.
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
        """When it begins to run."""
        return self.created_s + self.queued_s

    @property
    def ends_s(self) -> float:
        """When it ends, or has ended."""
        return self._odd_from_s + self.odd_s if self.cancelled_s is None else self.cancelled_s

    @property
    def _odd_from_s(self) -> float:
        return self.starts_s + self.runs_s

    def state(self, now_s: float) -> State:
        """Where it is at a moment."""
        if self.cancelled_s is not None and now_s >= self.cancelled_s:
            return "cancelled"
        if now_s < self.starts_s:
            return "queued"
        return "running" if now_s < self.ends_s else self.ending

    def word(self, now_s: float, words: Mapping[str, T], otherwise: T, odd: T) -> T:
        """Its state in the words of its provider: `otherwise` where it has none, `odd` where nobody knows the word."""
        if self.state(now_s) == "running" and now_s >= self._odd_from_s:
            return odd
        return words.get(self.state(now_s), otherwise)

    def is_lost(self, now_s: float) -> bool:
        """Whether its files cannot be found."""
        return now_s < self.ends_s + self.lost_s

    def ended(self, now_s: float) -> bool:
        """Whether it moves no more."""
        return self.state(now_s) not in ("queued", "running")

    def changed_s(self, now_s: float) -> float:
        """When it came to where it is."""
        state = self.state(now_s)
        return self.created_s if state == "queued" else self.starts_s if state == "running" else self.ends_s

    def progress(self, now_s: float) -> int:
        """How much of its running is done, in percent; 100 only for one that has succeeded."""
        state = self.state(now_s)
        if state == "running":
            return min(99, int(100 * (now_s - self.starts_s) / (self.ends_s - self.starts_s)))
        return 100 if state == "succeeded" else 0

    def video(self) -> bytes:
        """The video it made."""
        return mp4(self.id, self.film.width_px, self.film.height_px, self.film.duration_ms)

    def link(self, name: str, now_s: float) -> str:
        """An address of a file of it, good for a while for whoever has it."""
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
    """Begin a task and keep it on the provider's shelf; the request's faults say how it goes. Raises `refusal` for one.

    `owner` is whose it is where that is not simply the caller's key.
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
    """The key of a request, wherever its provider takes it from."""
    return request.header("x-goog-api-key") or request.query("key") or request.header("authorization") or ""


def find(request: Request, shelf: str, task_id: str, owner: str | None = None) -> Task | None:
    """The task of this id, when it is this owner's (the caller's)."""
    task = request.store.shelf(shelf).get(task_id)
    wanted = caller(request) if owner is None else owner
    return task if isinstance(task, Task) and task.owner == wanted else None


def found(request: Request, shelf: str, task_id: str, absent: Problem) -> Task:
    """The caller's task of this id. Raises `absent` where there is none."""
    task = find(request, shelf, task_id)
    if task is None:
        raise absent
    return task


def owned(request: Request, shelf: str, owner: str | None = None) -> list[Task]:
    """The tasks of an owner (the caller), oldest first."""
    wanted = caller(request) if owner is None else owner
    return [task for task in request.store.shelf(shelf).all() if task.owner == wanted]


def forget(request: Request, task: Task) -> None:
    """Keep a task and its files no longer."""
    request.store.shelf(task.shelf).pop(task.id)
    request.store.shelf(FILES).pop(task.token)


def origin(request: Request) -> str:
    """Scheme, host and port as the caller named them."""
    return f"http://{request.header('host') or 'localhost'}"


def file(request: Request) -> Answer:
    """`GET /_files/{token}/{name}`: a file of a task for whoever has its address. Raises Problem."""
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
    """The bytes of a file of a task and their type, by the end of its name."""
    ending = name.rpartition(".")[2]
    if ending == "mp4":
        return task.video(), VIDEO_TYPE
    if ending == "wav":
        return wav(), "audio/wav"
    if ending == "png":
        return pictures.png(task.id), "image/png"
    return (pictures.WEBP, "image/webp") if ending == "webp" else (pictures.JPEG, "image/jpeg")


def ranged(request: Request, content: bytes, media_type: str) -> Answer:
    """An answer of all of some bytes, or of the part that `Range` asks for. Raises Problem 416."""
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
