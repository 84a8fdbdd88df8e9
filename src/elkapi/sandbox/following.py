"""Follows tasks in the background: bills those that succeed, and calls their callback URLs.

Only URLs on this machine are called, so that a sandbox gives no access to a network.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import ipaddress
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.sandbox.bill import Bill
from elkapi.sandbox.messages import Problem
from elkapi.sandbox.tasks import Callback, Task

CHALLENGE_S = 3.0
CALL_S = 10.0
CALLS_MAX = 3
BETWEEN_CALLS_S = 0.5
TICK_S = 0.001


class Follower:
    """Follows tasks from their submit on. Used by the server's thread only."""

    def __init__(self, bill: Bill, now: Callable[[], float]) -> None:
        self._bill = bill
        self._now = now
        self._open: list[tuple[float, int, Task]] = []
        self._count = 0
        self._calls: set[asyncio.Task[None]] = set()

    async def challenged(self, task: Task) -> None:
        """Verify the callback URL if the provider does so. Raises the callback's Problem."""
        callback = task.callback
        if callback is None or callback.challenge is None:
            return
        answered = await _post(callback.url, callback.challenge, CHALLENGE_S)
        if not _same(answered, callback.challenge):
            raise callback.unanswered or Problem(400, "The callback address does not answer.")

    def follow(self, task: Task) -> None:
        """Bill a task when it succeeds, and call its callback URL at every change."""
        self._count += 1
        heapq.heappush(self._open, (task.ends_s, self._count, task))
        self._ring(task.ends_s)
        if task.callback is not None:
            call = asyncio.get_running_loop().create_task(self._tell(task, task.callback))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    def settle(self) -> None:
        """Bill the tasks that have succeeded by now, so that whoever sees one succeeded finds its line."""
        now_s = self._now()
        while self._open and self._open[0][0] <= now_s:
            _, _, task = heapq.heappop(self._open)
            if task.state(now_s) == "succeeded":
                self._bill.append(task.provider, task.charge, "complete", task.client_id, task.upstream_id)

    def _ring(self, moment_s: float) -> None:
        """Settle at a given time; repeats if the loop's clock is slightly ahead of the tasks' clock."""
        left_s = moment_s - self._now()
        if left_s > 0:
            asyncio.get_running_loop().call_later(max(left_s, TICK_S), self._ring, moment_s)
        else:
            self.settle()

    async def _tell(self, task: Task, callback: Callback) -> None:
        """Post each change when it happens; `callback-reversed` posts the last one first."""
        moments = [task.starts_s, task.ends_s]
        if task.faults.callback_reversed:
            await self._until(task.ends_s)
            moments.reverse()
        for moment_s in moments * (2 if task.faults.callback_twice else 1):
            await self._until(moment_s)
            if task.cancelled_s is not None and moment_s > task.cancelled_s:
                return
            self.settle()
            await self._told(callback.url, msgspec.json.encode(callback.shown(task, moment_s)))

    async def _told(self, url: str, body: bytes) -> None:
        for _ in range(CALLS_MAX):
            if await _post(url, body, CALL_S) is not None:
                return
            await asyncio.sleep(BETWEEN_CALLS_S)

    async def _until(self, moment_s: float) -> None:
        await asyncio.sleep(max(0.0, moment_s - self._now()))


async def _post(url: str, body: bytes, within_s: float) -> bytes | None:
    """The body of a successful answer; None without one, or if the URL is not on this machine."""
    if not _is_here(url):
        return None
    import aiohttp  # Most sandboxes make no callbacks.

    timeout = aiohttp.ClientTimeout(total=within_s)
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
        async with aiohttp.ClientSession(timeout=timeout) as session:
            headers = {"content-type": "application/json"}
            async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                return await answer.read() if answer.status < 300 else None
    return None


def _is_here(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _same(answered: bytes | None, wanted: bytes) -> bool:
    try:
        return answered is not None and msgspec.json.decode(answered) == msgspec.json.decode(wanted)
    except NOT_JSON:
        return False
