"""A full pipe, like that of a log whose reader has stopped."""

from __future__ import annotations

import contextlib
import os


def full_pipe() -> tuple[int, int]:
    """(read end, write end); writing blocks until something is read. The caller closes both."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    return reading, writing
