"""Numbers by which processes that share a folder name their files of figures; what is in those is `metrics`'.

A pid would not do: that of a container's only process is 1, and containers of one installation share the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


def claim(folder: Path) -> int:
    """A number for this process's files. It is nobody else's as long as the process lives, which its lock tells."""
    number = 0
    while _taken(folder, number) is None:
        number += 1
    return number


def forget_ended(folder: Path) -> None:
    """Drop the gauges of processes that ended; their counters stay, since what was counted happened."""
    with contextlib.suppress(OSError):  # No descriptor may be left to look with; whoever ends next has it done.
        for path in folder.glob("process-*.lock"):
            with contextlib.suppress(OSError):
                if (lock := _taken(folder, int(path.stem.removeprefix("process-")))) is not None:
                    os.close(lock)


def _taken(folder: Path, number: int) -> int | None:
    """The lock of a number, without the gauges of who had it before; None while a living process holds it."""
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
