"""A pipe that takes nothing more, as that of a log's reader which has stopped."""

from __future__ import annotations

import contextlib
import os


def full_pipe() -> tuple[int, int]:
    """(reading, writing) ends; whoever writes waits until somebody reads. Closing both is the caller's."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    return reading, writing
