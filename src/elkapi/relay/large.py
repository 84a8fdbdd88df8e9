"""Work on large bodies, away from the loop that every caller shares; it knows nothing of what the work is.

Its threads are its own, so that whoever sends large bodies waits for others who do, and never keeps the threads that
the snapshot, seals and lookups use. They are few, since each takes its turns at the interpreter from the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Going through a larger body takes long enough to be worth a thread.
INLINE_BYTES = 256 * 1024
THREADS = 2
_threads = ThreadPoolExecutor(THREADS, "large")


async def aside(work: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
    """What `work` gives, on a thread."""
    return await asyncio.get_running_loop().run_in_executor(_threads, partial(work, *args, **more))


async def anywhere(size_bytes: int, work: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
    """What `work` gives, on a thread where it has a large body to go through."""
    return await aside(work, *args, **more) if size_bytes > INLINE_BYTES else work(*args, **more)
