"""Runs background jobs concurrently."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

from elkapi.clock import doubled_s

BACKOFF_MAX_S = 60.0

log = logging.getLogger("elkapi.control.jobs")


class Job(Protocol):
    """A periodic job. `period_s` is the time from the end of one run to the start of the next."""

    name: str
    period_s: float

    async def run_once(self) -> None:
        """One run; exceptions are logged and the job continues, with a delay that grows with consecutive failures."""


@contextlib.asynccontextmanager
async def running_jobs(
    jobs: Sequence[Job], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> AsyncIterator[None]:
    """Run the jobs during the block; at its end each is cancelled and awaited."""
    tasks = [asyncio.create_task(_repeat(job, sleep), name=f"job-{job.name}") for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _repeat(job: Job, sleep: Callable[[float], Awaitable[None]]) -> None:
    failures = 0
    while True:
        try:
            await job.run_once()
            failures = 0
        except Exception as error:
            failures += 1
            log.warning("job_failed", exc_info=error, extra={"job": job.name, "failures": failures})
        await sleep(wait_s(job.period_s, failures))


def wait_s(period_s: float, failures: int) -> float:
    """Seconds until the next run: the period, doubled for each consecutive failure up to BACKOFF_MAX_S."""
    if failures == 0:
        return period_s
    return max(period_s, doubled_s(period_s, failures + 1, BACKOFF_MAX_S))
