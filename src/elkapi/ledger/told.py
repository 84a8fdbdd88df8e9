"""Calls whose callers were told that the booking failed: each is free, even if its charge had been committed unseen.

The settlement of such a call (`waived`) is kept in memory until the ledger has carried it out, and in a file of the
data directory, so that the next worker to start there can take it over from one that dies. The file is written before
the callers are told. Like SQLite at NORMAL, it survives the process but not a loss of power.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from elkapi.ledger.orders import Order, Settle, lost
from elkapi.ledger.wire import ORDERS_DECODER, FrameError, Frames, Orders, encode

log = logging.getLogger("elkapi.ledger")

SUFFIX = ".waived"
WAIVED_FLAG = "settled_late"


def waived(order: Settle) -> Settle:
    """The same settlement at the operator's loss; if it was charged, the charge is taken back."""
    return msgspec.structs.replace(lost(order, WAIVED_FLAG), waived=True)


class ToldFailures:
    """The told failures of one worker, by request id. Its file exists only when needed and is locked while the
    worker lives."""

    def __init__(self, folder: Path, owner: bytes) -> None:
        self._path = folder / f"{owner.hex()}{SUFFIX}"
        self._file: int | None = None
        self._orders: dict[bytes, Settle] = {}

    def __len__(self) -> int:
        return len(self._orders)

    def get(self, request_id: bytes) -> Settle | None:
        """The settlement to carry out instead; None if the caller was not told of a failure."""
        return self._orders.get(request_id)

    def note(self, orders: Iterable[Order]) -> None:
        """Record settlements with a charge whose callers are about to be told that the call failed."""
        fresh = [waived(order) for order in orders if type(order) is Settle and order.charge_nano]
        if fresh:
            self._orders |= {order.request_id: order for order in fresh}
            self._write(fresh)

    def resolved(self, request_id: bytes) -> None:
        """Forget a settlement that the ledger has carried out."""
        self._orders.pop(request_id, None)
        if not self._orders and self._file is not None:
            os.ftruncate(self._file, 0)

    def take_over(self) -> list[Settle]:
        """The settlements that dead workers left behind here, which this worker now sends. Blocking."""
        found: list[Settle] = []
        for path in sorted(self._path.parent.glob(f"*{SUFFIX}")):
            if path == self._path:
                continue
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # Its worker finished with it, or another starting worker took it over.
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.fstat(descriptor).st_nlink:
                    continue  # As above, after it was opened.
                left = _read(descriptor, path)
                self._orders |= {order.request_id: order for order in left}
                if self._write(left):
                    path.unlink(missing_ok=True)
                found += left
            except BlockingIOError:
                pass  # its worker lives
            finally:
                os.close(descriptor)
        return found

    def close(self) -> None:
        """Close the file, and remove it if nothing is left to do."""
        if self._file is None:
            return
        if not self._orders:
            self._path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = None

    def _write(self, orders: list[Settle]) -> bool:
        """Append the settlements to the file; False if that failed."""
        if not orders:
            return True
        # Without the reply: taking a charge back does not need it, and it may be large.
        lean: list[Order] = [msgspec.structs.replace(order, claim=None) for order in orders]
        try:
            if self._file is None:
                self._file = _locked_file(self._path)
            before, data = os.fstat(self._file).st_size, encode(Orders(0, lean))
            if os.write(self._file, data) < len(data):
                # Nothing after a truncated frame would be readable.
                os.ftruncate(self._file, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            log.error("cannot write the journal of answered calls, so it is in memory only: %r", error)
            return False
        return True


def _locked_file(path: Path) -> int:
    """A new file, locked before it appears under its name."""
    hidden = path.with_suffix(".new")
    descriptor = os.open(hidden, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    hidden.rename(path)
    return descriptor


def _read(descriptor: int, path: Path) -> list[Settle]:
    with open(descriptor, "rb", closefd=False) as file:
        data = file.read()
    try:
        # A truncated last frame belongs to callers who were never told anything.
        frames = Frames(ORDERS_DECODER).feed(data)
    except FrameError as error:
        log.error("%s cannot be read: %s", path.name, error)
        return []
    return [order for frame in frames for order in frame.orders if isinstance(order, Settle)]
