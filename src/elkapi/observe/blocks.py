"""Takes a mapped file's disk blocks when it is made: a page that has none to go to kills the process that writes it."""

from __future__ import annotations

import os


def reserve(file: int, size_bytes: int) -> None:
    """The file in its full size, with its blocks. Raises OSError where the disk has no room for them."""
    at_bytes = os.fstat(file).st_size
    if at_bytes >= size_bytes:
        return
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size_bytes)
    else:
        os.pwrite(file, bytes(size_bytes - at_bytes), at_bytes)
