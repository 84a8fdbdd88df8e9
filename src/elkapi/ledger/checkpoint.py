"""Moves SQLite's write-ahead log into the database file on a thread of its own, so that no commit waits for the disk.

By itself SQLite does this inside whichever commit fills the log, and that commit then waits for two disk flushes. Here
the thread copies while others go on committing; only the short rest at the end is copied under the writer's lock, so
that the log can begin anew and stays small.
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
# While it fails, as on a full disk.
RETRY_MAX_S = 15.0
# Commits are kept out only for the few pages that came meanwhile.
LOG_BYTES_BEGIN_ANEW = 32 << 20


class Checkpointer:
    """`open_connection` gives a raw SQLite connection in autocommit; `lock` is held by whoever writes a transaction."""

    def __init__(self, open_connection: Callable[[], Any], lock: threading.Lock) -> None:
        self._open_connection = open_connection
        self._lock = lock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="elkapi-checkpoint", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the checkpoint it may be making; SQLite makes the last one when the file is closed."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        connection, failures = None, 0
        while not self._stop.wait(doubled_s(LOOK_EVERY_S, failures + 1, RETRY_MAX_S)):
            try:
                connection = connection or self._open_connection()
                self._look(connection)
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

    def _look(self, connection: Any) -> None:
        if self._copy(connection) >= LOG_BYTES_BEGIN_ANEW:
            with self._lock:
                self._copy(connection)

    def _copy(self, connection: Any) -> int:
        """Copy what can be copied beside readers and writers; how many bytes of pages the log has."""
        _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        return int(pages) * int(page_bytes)
