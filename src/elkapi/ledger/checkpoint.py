"""Checkpoints SQLite's write-ahead log on its own thread, so that no commit waits for the disk.

SQLite itself checkpoints in whichever commit fills the log, and that commit then waits for two disk flushes. This
thread copies pages while others go on committing; only the short rest is copied under the writer's lock, so that the
log restarts and stays small.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any

from elkapi.clock import doubled_s

log = logging.getLogger("elkapi.ledger")

LOOK_EVERY_S = 0.25
# Longest pause while checkpoints fail, as on a full disk.
RETRY_MAX_S = 15.0
# Log size above which the rest is copied under the lock; commits then wait only for the few pages that are new.
LOG_BYTES_BEGIN_ANEW = 32 << 20


class Checkpointer:
    """`open_connection` returns a raw SQLite connection in autocommit; whoever writes a transaction holds `lock`.

    `committed` counts this process's transactions: only a new one, such as a heartbeat, is a reason to look, besides
    what a killed process left or a reader kept from being copied. Others' transactions are copied with it.
    """

    def __init__(self, open_connection: Callable[[], Any], lock: threading.Lock, committed: Callable[[], int]) -> None:
        self._open_connection = open_connection
        self._lock = lock
        self._committed = committed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="elkapi-checkpoint", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the current checkpoint; SQLite makes the last one when the file is closed."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        connection, failures, copied_at = None, 0, -1
        while not self._stop.wait(doubled_s(LOOK_EVERY_S, failures + 1, RETRY_MAX_S)):
            # Counted first, so that what is committed during the look leads to another.
            committed = self._committed()
            if committed == copied_at:
                continue
            try:
                connection = connection or self._open_connection()
                copied_at = committed if self._copy_all(connection) else -1
            except Exception as error:
                failures += 1
                if failures == 1:
                    log.warning("cannot checkpoint the write-ahead log: %r", error)
            else:
                if failures:
                    log.info("checkpointing the write-ahead log works again after %d failures", failures)
                failures = 0
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()

    def _copy_all(self, connection: Any) -> bool:
        """Whether the whole log could be copied."""
        log_bytes, is_whole = self._copy(connection)
        if log_bytes >= LOG_BYTES_BEGIN_ANEW:
            with self._lock:
                _, is_whole = self._copy(connection)
        return is_whole

    def _copy(self, connection: Any) -> tuple[int, bool]:
        """Copy the pages that no reader or writer needs; returns the size of the log in bytes, and whether these were
        all."""
        is_busy, pages, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        return int(pages) * int(page_bytes), not is_busy and copied == pages
