"""The client's only source of time: what time it is, and a wake-up; phases and deadlines are left to the callers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class TimerHandle(Protocol):
    def cancel(self) -> object:
        """Idempotent."""


class Timers(Protocol):
    """Monotonic seconds and a callback at a given moment of that same clock."""

    def monotonic_s(self) -> float: ...

    def call_at(self, when_s: float, callback: Callable[[], None]) -> TimerHandle: ...


class LoopTimers:
    """The system's monotonic clock, which is the one event loops run by."""

    # Not a method of ours: it is asked several times a call.
    monotonic_s = staticmethod(time.monotonic)

    def call_at(self, when_s: float, callback: Callable[[], None]) -> TimerHandle:
        return asyncio.get_running_loop().call_at(when_s, callback)


class Expired(Exception):
    """The moment given to `run_until` passed first."""


async def run_until(timers: Timers, when_s: float, work: Coroutine[Any, Any, T]) -> T:
    """Runs `work` as a task of its own and cancels it at `when_s`; raises `Expired` then.

    This is for the slow path (connecting); a task for each call is what the hot path avoids.
    """
    task, own = asyncio.ensure_future(work), asyncio.current_task()
    assert own is not None
    # Who cleans up after a cancellation comes here with one already.
    cancelled, expired = own.cancelling(), False

    def expire() -> None:
        nonlocal expired
        expired = not task.done()
        task.cancel()

    handle = timers.call_at(when_s, expire)
    try:
        return await task
    except asyncio.CancelledError:
        if expired and task.cancelled() and own.cancelling() == cancelled:
            raise Expired from None
        task.cancel()
        raise
    finally:
        handle.cancel()
