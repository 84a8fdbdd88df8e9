"""Reserves a mapped file's disk blocks at creation: writing to a page without a block kills the process."""

from __future__ import annotations

import os


def reserve(file: int, size_bytes: int) -> None:
    """Extend the file to its full size, with its blocks. Raises OSError if the disk is full."""
    at_bytes = os.fstat(file).st_size
    if at_bytes >= size_bytes:
        return
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size_bytes)
    else:
        os.pwrite(file, bytes(size_bytes - at_bytes), at_bytes)
