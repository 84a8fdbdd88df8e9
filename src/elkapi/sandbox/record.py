"""Records the last requests as received, keys included, for tests that check the bytes a gateway sent."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec

from elkapi.sandbox.messages import Headers, Outcome

REQUESTS_KEPT_MAX = 200
BYTES_KEPT_MAX = 8 * 1024 * 1024


class Received(msgspec.Struct):
    """One request as received; its body and outcome are filled in as they become known."""

    seq: int
    time: float
    method: str
    target: str
    http_version: str
    headers: Headers
    body: bytes = b""
    body_complete: bool = False
    status: int | None = None
    outcome: Outcome | None = None
    upstream_request_id: str | None = None
    kept: bool = False

    def size_bytes(self) -> int:
        """The size that counts towards the recorder's limit: target, headers and body."""
        return len(self.target) + sum(len(name) + len(value) for name, value in self.headers) + len(self.body)


class Shown(msgspec.Struct, frozen=True):
    """One entry of `GET /_sandbox/requests`. Header names are in lower case; order and repeats are kept."""

    seq: int
    time: float
    method: str
    target: str
    http_version: str
    headers: list[tuple[str, str]]
    body_base64: str
    body_bytes: int
    body_sha256: str
    body_complete: bool
    status: int | None
    outcome: Outcome | None
    upstream_request_id: str | None


class Recorder:
    """Keeps at most `requests_kept_max` requests of at most `bytes_kept_max` in total; the oldest are dropped first."""

    def __init__(
        self,
        requests_kept_max: int = REQUESTS_KEPT_MAX,
        bytes_kept_max: int = BYTES_KEPT_MAX,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._kept: deque[Received] = deque()
        self._requests_kept_max = requests_kept_max
        self._bytes_kept_max = bytes_kept_max
        self._now = now
        self._seq = 0
        self._held_bytes = 0
        # A test reads and resets from its own thread while the server thread records.
        self._lock = threading.Lock()

    def open(self, method: str, target: str, http_version: str, headers: Headers) -> Received:
        """Record a request whose head has arrived; `add_body` adds the body."""
        with self._lock:
            self._seq += 1
            received = Received(self._seq, self._now(), method, target, http_version, headers)
            if self._requests_kept_max:
                while len(self._kept) >= self._requests_kept_max:
                    self._drop_oldest()
                received.kept = True
                self._kept.append(received)
                self._held_bytes += received.size_bytes()
        return received

    def add_body(self, received: Received, body: bytes, complete: bool) -> None:
        """Attach the body, then drop the oldest requests until the rest fit, even this one if it is too large."""
        with self._lock:
            before_bytes = received.size_bytes()
            received.body, received.body_complete = body, complete
            if received.kept:
                self._held_bytes += received.size_bytes() - before_bytes
            while self._held_bytes > self._bytes_kept_max:
                self._drop_oldest()

    def _drop_oldest(self) -> None:
        dropped = self._kept.popleft()
        dropped.kept = False
        self._held_bytes -= dropped.size_bytes()

    def shown(self, last: int | None = None) -> list[Shown]:
        """The kept requests, oldest first; only the `last` ones if given."""
        with self._lock:
            kept = list(self._kept)
        return [_shown(received) for received in (kept if last is None else kept[-last:] if last else [])]

    def reset(self) -> None:
        """Forget every request; `seq` continues."""
        with self._lock:
            while self._kept:
                self._drop_oldest()


def _shown(received: Received) -> Shown:
    return Shown(
        seq=received.seq,
        time=received.time,
        method=received.method,
        target=received.target,
        http_version=received.http_version,
        headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in received.headers],
        body_base64=base64.b64encode(received.body).decode("ascii"),
        body_bytes=len(received.body),
        body_sha256=hashlib.sha256(received.body).hexdigest(),
        body_complete=received.body_complete,
        status=received.status,
        outcome=received.outcome,
        upstream_request_id=received.upstream_request_id,
    )
