"""The worker's side of telemetry: finished calls enter a bounded queue, and a thread hands them to the control process.

A call costs one entry in the queue. `control.telemetry` exports: if it is down, slow or hangs, this queue fills and
further calls are dropped and counted; no call ever waits. Without telemetry none of this exists.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque

from elkapi.clock import Clock
from elkapi.observe.calls import SOCKET, CallFacts, facts_of, frame_of
from elkapi.observe.trace import HEADER, Trace, is_sampled, onward, trace_of
from elkapi.relay.call import Call
from elkapi.relay.outcome import Outcome
from elkapi.relay.read import Request
from elkapi.settings import Settings
from elkapi.snapshot import SnapshotHolder
from elkapi.tasks.record import Task
from elkapi.tasks.spans import span_of
from elkapi.translate.crossing import TALLY_BYTES_MAX, Crossing, Tally
from elkapi.translate.ir import Event, TextDelta, ThinkingDelta
from elkapi.translate.said import said_in
from elkapi.types import Grant, RequestRecord

QUEUE_CALLS_MAX = 4_096
QUEUE_BYTES_MAX = 32 * 1024 * 1024
# A longer body is not exported, nor is a longer answer read for its finish reason.
CONTENT_BYTES_MAX = 256 * 1024
BATCH_CALLS_MAX = 256
BATCH_BYTES_MAX = 1024 * 1024
FLUSH_EVERY_S = 0.2
# The approximate size of a call without its texts, and of a task's end.
FACTS_BYTES = 1024
CONNECT_S = 1.0
CLOSE_S = 1.0

Seen = Outcome | Crossing | None


class Watched(Tally):
    """A tally that also records when the first content arrived and, if content is exported, what it was."""

    __slots__ = ("_clock", "events", "first_s")

    def __init__(self, clock: Clock, keeps: bool) -> None:
        super().__init__()
        self._clock = clock
        self.first_s: float | None = None
        self.events: list[Event] | None = [] if keeps else None

    def begin(self) -> None:
        if self.first_s is None:
            self.first_s = self._clock.monotonic_s()

    def add(self, event: Event) -> None:
        self.begin()
        if self.events is not None and self.kept_bytes < TALLY_BYTES_MAX:
            self.events.append(event)
        super().add(event)

    def say(self, text: str) -> None:
        self.add(TextDelta(text))

    def think(self, text: str) -> None:
        self.add(ThinkingDelta(text))


class _Told:
    """One queued call, from which the thread makes the facts."""

    __slots__ = ("body", "first_s", "grant", "record", "request", "sampled", "seen", "size", "trace")

    def __init__(self, trace: Trace, sampled: bool, grant: Grant, record: RequestRecord, request: Request) -> None:
        self.trace = trace
        self.sampled = sampled
        self.grant = grant
        self.record = record
        operation, facts = request.operation, request.facts
        self.request = (operation.wire or "", request.stream, facts.output_limit)
        self.body: bytes | None = None
        self.seen: Seen = None
        self.first_s: float | None = None
        self.size = FACTS_BYTES


class Telemetry:
    """The worker's exporter; `dropped` counts the calls that were not exported."""

    def __init__(self, settings: Settings, snapshots: SnapshotHolder, clock: Clock) -> None:
        self.dropped = 0
        self._ratio = settings.otlp_sample_ratio
        self._content = settings.otlp_content
        self._path = settings.socket_path(SOCKET)
        self._snapshots = snapshots
        self._clock = clock
        self._queue: deque[_Told | CallFacts] = deque()
        # Each is written by one thread only, so their difference is what is waiting.
        self._bytes_in = self._bytes_out = 0
        self._frame: tuple[bytes, int] | None = None
        self._socket: socket.socket | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()

    # On the loop

    def watch(self, crossing: Crossing) -> None:
        """Record a stream's first content from here on."""
        crossing.tally = Watched(self._clock, self._content)

    def onward(self, call: Call) -> bytes:
        """The `traceparent` for the upstream of a call."""
        trace = trace_of(call.id, call.header(HEADER))
        return onward(trace, is_sampled(trace.trace_id, self._ratio))

    def called(self, call: Call, grant: Grant, request: Request, record: RequestRecord, seen: Seen) -> None:
        """Queue a finished call; returns at once. `seen` is what is known of its answer."""
        if self._is_full():
            return
        trace = trace_of(call.id, call.header(HEADER))
        told = _Told(trace, is_sampled(trace.trace_id, self._ratio), grant, record, request)
        crossing = seen.crossing if isinstance(seen, Outcome) else seen
        if crossing is not None and isinstance(crossing.tally, Watched) and crossing.tally.first_s is not None:
            told.first_s = crossing.tally.first_s - call.started_s
        if told.sampled and request.operation.dialect is not None:
            told.seen = seen
            told.size += crossing.tally.kept_bytes if crossing is not None else len(_whole(seen))
            if self._content and len(request.body) <= CONTENT_BYTES_MAX:
                told.body = request.body
                told.size += len(request.body)
        self._bytes_in += told.size
        self._queue.append(told)

    def ended(self, task: Task, record: RequestRecord) -> None:
        """Queue a task that ended here; returns at once."""
        if self._is_full():
            return
        self._bytes_in += FACTS_BYTES
        channels = self._snapshots.current.channels
        self._queue.append(span_of(task, record, channels, sample_ratio=self._ratio, with_errors=self._content))

    def _is_full(self) -> bool:
        """Whether the queue is full, so that the entry is dropped."""
        full = len(self._queue) >= QUEUE_CALLS_MAX or self._bytes_in - self._bytes_out >= QUEUE_BYTES_MAX
        self.dropped += full
        return full

    def close(self) -> None:
        """Hand over what is queued if that is quick, and stop the thread."""
        self._stop.set()
        self._thread.join(CLOSE_S)
        if (connected := self._socket) is not None:
            # Wakes a thread that waits for a control process which does not read.
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
            self._thread.join(CLOSE_S)
            connected.close()

    # On the thread

    def _run(self) -> None:
        stopping = False
        while not stopping:
            stopping = self._stop.wait(FLUSH_EVERY_S)
            while self._frame or self._queue:
                if self._frame is None:
                    self._frame = self._next_frame()
                if not self._sent(self._frame[0]):
                    break
                self._bytes_out += self._frame[1]
                self._frame = None

    def _next_frame(self) -> tuple[bytes, int]:
        calls: list[CallFacts] = []
        size = 0
        while self._queue and len(calls) < BATCH_CALLS_MAX and size < BATCH_BYTES_MAX:
            told = self._queue.popleft()
            calls.append(self._facts(told) if isinstance(told, _Told) else told)
            size += told.size if isinstance(told, _Told) else FACTS_BYTES
        return frame_of(calls), size

    def _sent(self, frame: bytes) -> bool:
        """Whether the control process accepted the frame; otherwise it is kept for the next try."""
        try:
            if self._socket is None:
                fresh = socket.socket(socket.AF_UNIX)
                fresh.settimeout(CONNECT_S)
                try:
                    fresh.connect(self._path)
                except OSError:
                    fresh.close()
                    raise
                fresh.settimeout(None)
                self._socket = fresh
            self._socket.sendall(frame)
        except OSError:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            return False
        return True

    def _facts(self, told: _Told) -> CallFacts:
        record = told.record
        wire, stream, output_limit = told.request
        crossing = told.seen.crossing if isinstance(told.seen, Outcome) else told.seen
        start = crossing.start if crossing is not None else None
        return facts_of(
            record,
            told.trace,
            self._snapshots.current.channels,
            sampled=told.sampled,
            with_errors=self._content,
            start_ns=record.created_ns - int(record.duration_ms * 1_000_000),
            end_ns=record.created_ns,
            wire=wire,
            stream=stream,
            key_name=told.grant.key_name,
            output_limit=output_limit,
            first_s=told.first_s,
            response_id=start.id if start is not None else None,
            response_model=start.model if start is not None else None,
            finish_reason=(crossing.finish_reason or None) if crossing is not None else None,
            answer=_whole(told.seen) or None,
            body=told.body,
            said=_said(crossing) if self._content and crossing is not None else None,
        )


def _whole(seen: Seen) -> bytes:
    """A whole answer, unless it is too long."""
    if isinstance(seen, Outcome) and not seen.started and seen.crossing is None and len(seen.body) <= CONTENT_BYTES_MAX:
        return seen.body
    return b""


def _said(crossing: Crossing) -> tuple[tuple[str, str, str], ...]:
    """The content of a stream with its pieces joined: (kind, text, name)."""
    tally = crossing.tally
    return said_in(tally.events or []) if isinstance(tally, Watched) else ()
