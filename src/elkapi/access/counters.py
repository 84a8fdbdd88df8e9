"""Calls under way and calls of the last minute, counted exactly by all workers of one host, in a shared file.

Owns the file `limits.table` of the data directory and leaves to `limits` what is counted and what a refusal says. The
file is a fixed table of 64-bit words, mapped into each worker that needs it (docs/adr/0012-limits.md):

    row = name (16 bytes), second of the last change, requests by second, tokens by second, calls under way by worker

Rows are changed under a lock of the whole file, which takes microseconds. A worker owns a column of calls under way as
long as it holds the lock of a file `limits.worker-N`; the kernel drops that lock with the process, so a dead worker's
calls are nobody's the moment somebody wants their place. Time is the system's monotonic clock, one for all workers.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from elkapi.clock import SYSTEM_CLOCK, Clock
from elkapi.errors import Unavailable
from elkapi.observe.blocks import reserve

WORKERS_MAX = 64
ROWS = 4096
PROBES_MAX = 64
WINDOW_S = 60
# The current second and the whole minute before it: no 60 seconds can contain more than the limit.
SECONDS = WINDOW_S + 1
LOCK_TRIES_MAX = 500
LOCK_PAUSE_S = 0.0002

_REQUESTS = 3
_TOKENS = _REQUESTS + SECONDS
_CALLS = _TOKENS + SECONDS
_WORDS = 192
_SIZE_BYTES = ROWS * _WORDS * 8


class Caps(msgspec.Struct, frozen=True):
    """Limits of concurrent calls and of 60 seconds; 0 is no limit."""

    parallel: int = 0
    requests: int = 0
    tokens: int = 0


class Over(Exception):
    """A limit is reached: `kind` is a field of Caps, `retry_after_s` is when retrying makes sense."""

    def __init__(self, kind: str, retry_after_s: int) -> None:
        super().__init__(kind)
        self.kind = kind
        self.retry_after_s = retry_after_s


class Taken(msgspec.Struct, frozen=True):
    """A counted call, to be given back."""

    name: bytes
    row: int
    second: int
    tokens: int
    parallel: bool


class Counters:
    """One worker's access to the table. Raises Unavailable if it is unusable: then nothing is let through."""

    def __init__(self, folder: Path, clock: Clock = SYSTEM_CLOCK) -> None:
        self._folder = folder
        self._clock = clock
        self._rows: dict[bytes, int] = {}
        # The next call retries opening a table, so what was opened so far is closed.
        with contextlib.ExitStack() as opened:
            try:
                self._column, own_lock = self._claim_column()
                opened.callback(os.close, own_lock)
                self._file = os.open(folder / "limits.table", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                opened.callback(os.close, self._file)
                with self._locked():  # If the kernel cannot reserve blocks, zeros are written.
                    reserve(self._file, _SIZE_BYTES)
                table = opened.enter_context(mmap.mmap(self._file, _SIZE_BYTES))
            except OSError as error:
                raise Unavailable("Rate limits cannot be checked right now; please try again.") from error
            self._words = opened.enter_context(memoryview(table).cast("Q"))
            with self._locked():
                self._empty_column(self._column)
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Release the column; calls still counted in it are forgotten."""
        self._opened.close()

    def take(self, name: str, caps: Caps, tokens: int = 0) -> Taken:
        """Count one call of `name` with its expected `tokens`. Raises Over, in which case nothing was counted."""
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        with self._locked():
            row = self._row_of(digest)
            now_s = self._advance(row)
            if caps.parallel and self._under_way(row) >= caps.parallel and not self._freed(row, caps.parallel):
                raise Over("parallel", 1)
            if caps.requests:
                self._check("requests", row + _REQUESTS, now_s, 1, caps.requests)
            if caps.tokens:
                self._check("tokens", row + _TOKENS, now_s, tokens, caps.tokens)
            words, at = self._words, now_s % SECONDS
            words[row + _REQUESTS + at] += 1
            words[row + _TOKENS + at] += tokens
            if caps.parallel:
                words[row + _CALLS + self._column] += 1
        return Taken(digest, row, now_s, tokens, bool(caps.parallel))

    def give_back(self, taken: Taken, tokens_used: int) -> None:
        """The call is over and used this many tokens; the difference to what was expected is counted now."""
        if taken.parallel:
            # No lock: only this worker writes this word, and a row with a running call is never reassigned.
            self._words[taken.row + _CALLS + self._column] -= 1
        more = tokens_used - taken.tokens
        if not more:
            return
        with contextlib.suppress(Unavailable), self._locked():
            row = self._row_of(taken.name)
            now_s = self._advance(row)
            if more > 0:
                self._words[row + _TOKENS + now_s % SECONDS] += more
            elif now_s - taken.second < SECONDS:
                word = row + _TOKENS + taken.second % SECONDS
                self._words[word] = max(0, self._words[word] + more)

    # Columns

    def _claim_column(self) -> tuple[int, int]:
        for column in range(WORKERS_MAX):
            if (lock := self._locked_column(column)) is not None:
                return column, lock
        raise OSError(f"more than {WORKERS_MAX} workers count limits in {self._folder}")

    def _locked_column(self, column: int) -> int | None:
        """The lock of a free column, as a file to close; None if a live worker has it."""
        lock = os.open(self._folder / f"limits.worker-{column}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return lock

    def _empty_column(self, column: int) -> None:
        for word in range(_CALLS + column, ROWS * _WORDS, _WORDS):
            if self._words[word]:
                self._words[word] = 0

    def _freed(self, row: int, limit: int) -> bool:
        """Whether there is room after removing the calls of dead workers."""
        for column in range(WORKERS_MAX):
            if column == self._column or not self._words[row + _CALLS + column]:
                continue
            if (lock := self._locked_column(column)) is not None:
                self._words[row + _CALLS + column] = 0
                os.close(lock)
        return self._under_way(row) < limit

    def _under_way(self, row: int) -> int:
        return sum(self._words[row + _CALLS : row + _CALLS + WORKERS_MAX])

    # Rows

    def _row_of(self, name: bytes) -> int:
        """The index of the row's first word. Raises Unavailable if all rows are in use."""
        words = self._words
        first, second = int.from_bytes(name[:8], "little"), int.from_bytes(name[8:], "little")
        row = self._rows.get(name)
        if row is not None and words[row] == first and words[row + 1] == second:
            return row
        free = None
        for probe in range(PROBES_MAX):
            row = (first + probe) % ROWS * _WORDS
            if words[row] == first and words[row + 1] == second:
                break
            if free is None and self._is_idle(row):
                free = row
        else:
            if free is None:
                raise Unavailable("The gateway is tracking too many rate limits; please try again.")
            # `_advance` clears past seconds; after a clock restart, those of another name may look current.
            row = free
            for word in range(row, row + _WORDS):
                words[word] = 0
            words[row], words[row + 1] = first, second
        if len(self._rows) >= ROWS:
            self._rows.clear()
        self._rows[name] = row
        return row

    def _is_idle(self, row: int) -> bool:
        """Whether nothing in the row counts any more."""
        if not (self._words[row] or self._words[row + 1]):
            return True
        age_s = int(self._clock.monotonic_s()) - self._words[row + 2]
        return not 0 <= age_s < SECONDS and not self._under_way(row)

    def _advance(self, row: int) -> int:
        """The current second; clears what is older than the window, and everything if the machine restarted."""
        words, now_s = self._words, int(self._clock.monotonic_s())
        last_s = words[row + 2]
        first_s = last_s + 1 if 0 <= now_s - last_s < SECONDS else now_s - SECONDS + 1
        for second in range(first_s, now_s + 1):
            words[row + _REQUESTS + second % SECONDS] = words[row + _TOKENS + second % SECONDS] = 0
        words[row + 2] = now_s
        return now_s

    def _check(self, kind: str, start: int, now_s: int, more: int, limit: int) -> None:
        """Raises Over if `more` does not fit into the window, with the seconds until it would."""
        too_many = sum(self._words[start : start + SECONDS]) + more - limit
        if too_many <= 0:
            return
        for second in range(now_s - SECONDS + 1, now_s + 1):
            too_many -= self._words[start + second % SECONDS]
            if too_many <= 0:
                raise Over(kind, second + SECONDS - now_s)
        # One call alone exceeds a minute's limit.
        raise Over(kind, WINDOW_S)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the whole table. Raises Unavailable if another worker does not release it."""
        for _ in range(LOCK_TRIES_MAX):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(LOCK_PAUSE_S)
        else:
            raise Unavailable("Rate limits cannot be checked right now; please try again.")
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
