"""Files in the data directory and beside it: private to their owner, and complete once they have their name."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path


def is_there(path: Path) -> bool:
    """Whether the path exists. Raises OSError if this user may not look, unlike `Path.exists` from Python 3.14 on."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def create_private_directory(path: Path) -> None:
    """Create a directory that only its owner can enter; an existing one keeps its mode."""
    if not path.exists():
        path.mkdir(parents=True, mode=0o700, exist_ok=True)


def give_to_owner(made: int, folder: Path) -> None:
    """Give a file that root creates in a service user's directory to that user, since the service could not open it
    otherwise."""
    if os.geteuid() == 0:
        # A container's root may lack the right, and a network share may have no owners.
        with contextlib.suppress(OSError):
            owner = folder.stat()
            os.fchown(made, owner.st_uid, owner.st_gid)


def name_new_file(made: Path, path: Path) -> None:
    """Give a finished file its name without ever replacing one: raises FileExistsError. It appears complete or not
    at all, except without hard links (FAT, network shares), where it is empty for a moment."""
    try:
        os.link(made, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        made.replace(path)
