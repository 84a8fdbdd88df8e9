"""The unix socket of a model process; light, since the supervisor makes the one of a role started on demand."""

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
