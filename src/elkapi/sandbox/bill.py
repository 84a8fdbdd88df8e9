"""The provider's bill: one line per billed call, in memory (bounded) and optionally appended to a file."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from elkapi.sandbox.messages import Charge, Outcome

LINES_KEPT_MAX = 20_000


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One billed call. `time` is Unix seconds; `client_request_id` is what the caller sent as `x-client-request-id`.

    Counts that are zero are left out, apart from `prompt_tokens`.
    """

    seq: int
    time: float
    provider: str
    client_request_id: str | None
    upstream_request_id: str
    model: str
    prompt_tokens: int
    cost_nano_usd: int
    outcome: Outcome
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0


class Statement(msgspec.Struct, frozen=True):
    """The answer of `GET /_sandbox/bill`. The totals count every line since the last reset, even dropped ones."""

    lines_total: int
    lines_dropped: int
    prompt_tokens_total: int
    cost_nano_usd_total: int
    lines: list[msgspec.Raw]


class Bill:
    """Appends lines and adds them up. With a path, each line is one `write` to a file opened with O_APPEND."""

    def __init__(
        self, path: Path | None = None, lines_kept_max: int = LINES_KEPT_MAX, now: Callable[[], float] = time.time
    ) -> None:
        self._lines: deque[bytes] = deque(maxlen=lines_kept_max)
        self._now = now
        self._file = None if path is None else os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._seq = 0
        # A test reads and resets from its own thread while the server's thread appends.
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Drop the lines and totals. `seq` continues and the file is kept, as the record of the run."""
        with self._lock:
            self._lines.clear()
            self._count = 0
            self._prompt_tokens = 0
            self._cost_nano_usd = 0

    def append(self, provider: str, charge: Charge, outcome: Outcome, client_id: str | None, upstream_id: str) -> None:
        """Write one line. Raises OSError if the file cannot be written; then nothing is counted."""
        with self._lock:
            line = Line(
                self._seq + 1, self._now(), provider, client_id, upstream_id,
                charge.model, charge.prompt_tokens, charge.cost_nano_usd, outcome,
                charge.output_tokens, charge.cached_tokens, charge.cache_write_tokens,
            )  # fmt: skip
            encoded = msgspec.json.encode(line)
            if self._file is not None and os.write(self._file, encoded + b"\n") != len(encoded) + 1:
                raise OSError("the bill file took only part of a line")
            self._seq += 1
            self._lines.append(encoded)
            self._count += 1
            self._prompt_tokens += charge.prompt_tokens
            self._cost_nano_usd += charge.cost_nano_usd

    def statement(self) -> Statement:
        """The kept lines, oldest first, and the totals."""
        with self._lock:
            return Statement(
                self._count,
                self._count - len(self._lines),
                self._prompt_tokens,
                self._cost_nano_usd,
                [msgspec.Raw(line) for line in self._lines],
            )

    def close(self) -> None:
        """Close the file, if there is one; the bill stays readable."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
