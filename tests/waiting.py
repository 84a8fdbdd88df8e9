"""Polling for the effect of another task, thread or process: one helper with an event loop, one without.

Prefer to wait for an event or a queue if there is one. `cpu_s` measures a process's work.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, overload

import pytest

WAIT_S = 30.0  # Generous: it only keeps a failing test from hanging.
_T = TypeVar("_T")


@overload
async def until(holds: Callable[[], Awaitable[_T | None]], within_s: float = WAIT_S, what: str = "") -> _T: ...
@overload
async def until(holds: Callable[[], _T | None], within_s: float = WAIT_S, what: str = "") -> _T: ...
async def until(holds: Callable[[], Any], within_s: float = WAIT_S, what: str = "") -> Any:
    """Poll `holds` (awaiting its result if needed) until it is true, and return that; the loop runs meanwhile.

    Fails the test after `within_s` seconds, naming `what` or the source of `holds`.
    """
    pauses = _pauses(within_s, what, holds)
    while not (found := await _awaited(holds())):
        await asyncio.sleep(next(pauses))
    return found


def until_blocking(holds: Callable[[], _T | None]) -> _T:
    """`until` for tests without an event loop."""
    pauses = _pauses(WAIT_S, "", holds)
    while not (found := holds()):
        time.sleep(next(pauses))
    return found


def cpu_s(pid: int) -> float:
    """Seconds of CPU time that a process has used, which is independent of how busy the machine is."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _awaited(found: Any) -> Any:
    return await found if isinstance(found, Awaitable) else found


def _pauses(within_s: float, what: str, holds: Callable[[], object]) -> Iterator[float]:
    """Seconds until the next poll: growing, since a poll may be expensive. Fails the test after `within_s`."""
    deadline_s, pause_s = time.monotonic() + within_s, 0.001
    while time.monotonic() < deadline_s:
        yield pause_s
        pause_s = min(pause_s * 1.5, 0.05)
    pytest.fail(f"not within {within_s:g} s: {what or inspect.getsource(holds).strip()}", pytrace=False)
