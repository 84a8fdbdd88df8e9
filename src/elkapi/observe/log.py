"""Structured JSON logs off the hot path: callers append to a bounded queue, one thread encodes and writes in batches.

With a full queue or disk, lines are dropped and counted (`dropped`): neither may slow a call. Secrets are not logged:
each call site names its fields, and none passes headers, bodies or keys.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

import msgspec

from elkapi.clock import SYSTEM_CLOCK, Clock
from elkapi.settings import LOG_LEVELS

QUEUE_LINES_MAX = 50_000
FLUSH_EVERY_S = 0.1
# After so many lines the thread releases the GIL to the calls for this long.
LINES_AT_ONCE = 100
BETWEEN_S = 0.001
# How long `close` waits for queued lines to be written.
CLOSE_WAIT_S = 5.0
# The first fields of every line: their names, and the tuple of their values.
HEAD = ("time_ns", "level", "role", "pid", "event")
Head = tuple[int, str, str, int, str]
LineOf = Callable[[Head, Any], msgspec.Struct]
_Queued = tuple[int, str, str, LineOf | None, Any]
_RANK = {level: rank for rank, level in enumerate(LOG_LEVELS)}

_encoder = msgspec.json.Encoder()


def _standard_error() -> FileIO:
    """Standard error without Python's buffer.

    The buffer does not report how much of a line a full disk accepted, and its lock would keep a process from exiting
    while the reader of its pipe is stopped.
    """
    return FileIO(sys.stderr.fileno(), "w", closefd=False)


class Log:
    """A JSON-lines log. An empty `file` means standard error; `level`, one of LOG_LEVELS, is the lowest written."""

    def __init__(self, role: str, *, file: str = "", level: str = "info", clock: Clock = SYSTEM_CLOCK) -> None:
        self.dropped = 0
        self._role = role
        self._least = _RANK[level.lower()]
        self._clock = clock
        self._lines: deque[_Queued] = deque()
        self._stop = threading.Event()
        self._some = threading.Event()
        self._file = file
        self._out = self._opened() if file else _standard_error()
        self._cut = False
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, event: str, level: str = "info", /, **fields: object) -> None:
        """Queue one line; returns at once. Fields named like one of HEAD are omitted."""
        self.write_later(event, level, None, fields)

    def write_later(self, event: str, level: str, line_of: LineOf | None, value: object) -> None:
        """Like `write`, but `line_of` builds the line from HEAD and `value` on the log's thread. For every call."""
        if _RANK[level] < self._least:
            return
        if len(self._lines) >= QUEUE_LINES_MAX:
            self.dropped += 1
            return
        self._lines.append((self._clock.now_ns(), level, event, line_of, value))
        # Only the first line after the thread's last flush wakes it; the next flush takes all lines since.
        if not self._some.is_set():
            self._some.set()

    def close(self) -> None:
        """Write queued lines and stop the thread; blocks for CLOSE_WAIT_S at most."""
        self._stop.set()
        self._some.set()
        self._thread.join(CLOSE_WAIT_S)
        if self._thread.is_alive():
            return  # Nobody reads the pipe: another write would block too.
        self._flush()
        self._out.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._some.wait()
            self._some.clear()
            self._stop.wait(FLUSH_EVERY_S)
            self._flush()

    def _flush(self) -> None:
        if self._file and self._lines:
            self._follow()
        while self._lines:
            batch = [self._lines.popleft() for _ in range(min(len(self._lines), LINES_AT_ONCE))]
            if lost := self._put(b"".join([self._line(*row) for row in batch])):
                self.dropped += lost
                self._some.set()  # The next flush takes the rest.
                return
            if self._lines:
                self._stop.wait(BETWEEN_S)

    def _opened(self) -> FileIO:
        out = Path(self._file).open("ab", buffering=0)  # noqa: SIM115
        self._as_opened = os.fstat(out.fileno())
        return out

    def _follow(self) -> None:
        """Reopen the file by its name if a rotation renamed the open one."""
        with contextlib.suppress(OSError):
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(Path(self._file).stat(), self._as_opened):
                    return
            renamed, self._out = self._out, self._opened()
            self._cut = False
            renamed.close()

    def _put(self, text: bytes) -> int:
        """Write lines; returns how many are lost. A line cut by a full disk is terminated before the next one."""
        written, text = 0, b"\n" + text if self._cut else text
        try:
            while written < len(text):
                if not (taken := self._out.write(text[written:])):
                    raise BlockingIOError
                written += taken
        except (OSError, ValueError):
            lost = text.count(b"\n", written) - (self._cut and not written)
            self._cut = text[written - 1 : written] != b"\n" if written else self._cut
            return lost
        self._cut = False
        return 0

    def _line(self, at_ns: int, level: str, event: str, line_of: LineOf | None, value: Any) -> bytes:
        head = (at_ns, level, self._role, self._pid, event)
        try:
            if line_of is not None:
                return _encoder.encode(line_of(head, value)) + b"\n"
            begun = dict(zip(HEAD, head, strict=True))
            return _encoder.encode(begun | value | begun) + b"\n"
        except Exception as error:
            # A line that cannot be encoded must not end the thread.
            return _encoder.encode(dict(zip((*HEAD, "unwritable"), (*head, ascii(error)), strict=True))) + b"\n"
