"""The unix sockets of processes beside the workers: made, and asked whether anybody accepts.

Light, since the supervisor makes the one of a role started on demand, and looks at them all.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path


def listen(path: str) -> socket.socket:
    """A bound unix socket, for this user only; a socket left by a dead process is replaced. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        Path(path).unlink()
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(path)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def answers(path: str) -> bool:
    """Whether a role's unix socket accepts connections."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            # A role that listens and does not accept must not make who looks wait in its queue.
            probe.setblocking(False)
            probe.connect(path)
    except OSError:
        return False
    return True
