"""Waiting for what another task, thread or process does: one helper for tests with a loop, one for those without.

Where an event or a queue tells of it, wait for that instead. `cpu_s` tells how much a process worked.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

WAIT_S = 30.0  # Generous: it only keeps a failure from hanging.
_T = TypeVar("_T")


async def until(holds: Callable[[], _T | Awaitable[_T]], within_s: float = WAIT_S, what: str = "") -> _T:
    """What `holds` gives, or what that awaits, once it is true; the loop runs meanwhile.

    Fails the test when it never is, with `what` or the text of `holds`.
    """
    pauses = _pauses(within_s, what, holds)
    while not (found := await _awaited(holds())):
        await asyncio.sleep(next(pauses))
    return found


def until_blocking(holds: Callable[[], _T]) -> _T:
    """As `until`, where no loop runs."""
    pauses = _pauses(WAIT_S, "", holds)
    while not (found := holds()):
        time.sleep(next(pauses))
    return found


def cpu_s(pid: int) -> float:
    """Seconds of processor time a process has used: whether it works, and how much, however busy the machine is."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _awaited(found: _T | Awaitable[_T]) -> _T:
    return await found if isinstance(found, Awaitable) else found


def _pauses(within_s: float, what: str, holds: Callable[[], object]) -> Iterator[float]:
    """Seconds to the next look: soon at first, then longer, since a look may cost a query or a process's time."""
    deadline_s, pause_s = time.monotonic() + within_s, 0.001
    while time.monotonic() < deadline_s:
        yield pause_s
        pause_s = min(pause_s * 1.5, 0.05)
    pytest.fail(f"not within {within_s:g} s: {what or inspect.getsource(holds).strip()}", pytrace=False)
