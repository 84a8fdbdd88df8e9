"""The client's only source of time: the current time and timers; callers manage phases and deadlines."""

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
    """Monotonic seconds, and a callback at a given time of the same clock."""

    def monotonic_s(self) -> float: ...

    def call_at(self, when_s: float, callback: Callable[[], None]) -> TimerHandle: ...


class LoopTimers:
    """The system's monotonic clock, which event loops use."""

    # Bound directly, because it is called several times per call.
    monotonic_s = staticmethod(time.monotonic)

    def call_at(self, when_s: float, callback: Callable[[], None]) -> TimerHandle:
        return asyncio.get_running_loop().call_at(when_s, callback)


class Expired(Exception):
    """The moment given to `run_until` passed first."""


async def run_until(timers: Timers, when_s: float, work: Coroutine[Any, Any, T]) -> T:
    """Run `work` as a task and cancel it at `when_s`; raises `Expired` then.

    For the slow path (connecting); the hot path avoids a task per call.
    """
    task, own = asyncio.ensure_future(work), asyncio.current_task()
    assert own is not None
    # A cleanup after a cancellation arrives here already cancelled.
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
