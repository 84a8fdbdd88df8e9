"""Runs work on large bodies off the event loop that all calls share.

It has its own threads, so that large bodies wait for each other and never occupy the threads of snapshots, seals and
lookups. They are few, since each competes with the loop for the interpreter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Processing a larger body takes long enough to be worth a thread.
INLINE_BYTES = 256 * 1024
THREADS = 2
_threads = ThreadPoolExecutor(THREADS, "large")


async def aside(work: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
    """The result of `work`, run on a thread."""
    return await asyncio.get_running_loop().run_in_executor(_threads, partial(work, *args, **more))


async def anywhere(size_bytes: int, work: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
    """The result of `work`, run on a thread if the body is large."""
    return await aside(work, *args, **more) if size_bytes > INLINE_BYTES else work(*args, **more)
