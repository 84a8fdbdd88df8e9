"""Creates the unix sockets of the processes besides the workers, and checks whether they accept connections.

Few imports, since the supervisor creates the socket of a role started on demand and checks all of them.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path


def listen(path: str) -> socket.socket:
    """A bound unix socket for this user only; replaces one left by a dead process. Raises OSError."""
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
            # A role that listens but does not accept must not block the check in its backlog.
            probe.setblocking(False)
            probe.connect(path)
    except OSError:
        return False
    return True
