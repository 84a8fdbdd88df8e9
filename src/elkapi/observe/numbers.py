"""Process numbers that name the metrics files of processes that share a folder.

A pid is not unique: in every container it is 1, and the containers of an installation share the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


def claim(folder: Path) -> int:
    """A number for this process's files, locked for as long as the process lives."""
    number = 0
    while _taken(folder, number) is None:
        number += 1
    return number


def forget_ended(folder: Path) -> None:
    """Remove the gauges of ended processes; their counters stay in the totals."""
    with contextlib.suppress(OSError):  # No file descriptor may be left; the next call does it.
        for path in folder.glob("process-*.lock"):
            with contextlib.suppress(OSError):
                if (lock := _taken(folder, int(path.stem.removeprefix("process-")))) is not None:
                    os.close(lock)


def _taken(folder: Path, number: int) -> int | None:
    """Lock a number and remove its previous owner's gauges; returns the descriptor, None if a live process holds it."""
    lock = os.open(folder / f"process-{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for file in folder.glob(f"gauge_live*_{number}.db"):
            file.unlink(missing_ok=True)
    except BlockingIOError:
        os.close(lock)
        return None
    except OSError:
        os.close(lock)
        raise
    return lock
