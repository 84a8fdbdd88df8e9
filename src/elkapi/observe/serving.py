"""uvicorn's server as our processes run it: it sleeps while nothing happens, and returns to its caller at the end.

`control`, `sandbox` and `local` configure it; the gateway's own server is `edge`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

DATE_EVERY_S = 1.0


class Server(uvicorn.Server):
    """uvicorn's server, which asks itself ten times a second whether to end, and raises the signal that ended it
    again, which would skip our own cleanup."""

    _wake: Callable[[], object] | None = None

    async def main_loop(self) -> None:
        """As uvicorn's, but it wakes only to end, and each second to renew the Date header if there is one."""
        ended = asyncio.Event()
        self._wake = functools.partial(asyncio.get_running_loop().call_soon_threadsafe, ended.set)
        pause_s = DATE_EVERY_S if self.config.date_header else None
        try:
            while not await self.on_tick(0):  # The tick that renews the header.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await ended.wait()
        finally:
            self._wake = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As uvicorn's, effective at once; called by a signal."""
        super().handle_exit(sig, frame)
        self._end()

    def stop(self) -> None:
        """End the server like a signal; may be called from another thread."""
        self.should_exit = True
        self._end()

    def _end(self) -> None:
        if (wake := self._wake) is not None:
            wake()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM while serving, in the main thread only: Python allows handlers nowhere else."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
