"""Disables a bad channel key: one small write on a thread, never while a call waits.

The control process probes such keys and enables them again; keys that an operator disabled are left alone.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from elkapi.clock import Clock
from elkapi.errors import Unavailable
from elkapi.observe.log import Log
from elkapi.storage.db import Database
from elkapi.storage.repos.channels import AUTOMATIC, set_key_enabled

REMEMBERED_MAX = 10_000
AGAIN_AFTER_S = 5.0


class StorageKeyJudge:
    """Writes `enabled = false` with the reason; the snapshot then carries the change to every process."""

    def __init__(self, database: Database, log: Log, clock: Clock) -> None:
        self._database = database
        self._log = log
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "judge")
        self._asked_s: dict[int, float] = {}

    def disable(self, channel_key_id: int, reason: str) -> None:
        """Disable a key; returns at once. A burst of refusals of one key is one write."""
        now_s = self._clock.monotonic_s()
        if now_s - self._asked_s.get(channel_key_id, -AGAIN_AFTER_S) < AGAIN_AFTER_S:
            return
        if len(self._asked_s) >= REMEMBERED_MAX:
            self._asked_s.clear()
        self._asked_s[channel_key_id] = now_s
        self._thread.submit(self._write, channel_key_id, reason)

    def _write(self, channel_key_id: int, reason: str) -> None:
        try:
            with self._database.write() as connection:
                set_key_enabled(
                    connection,
                    channel_key_id,
                    False,
                    reason=reason,
                    now_ns=self._clock.now_ns(),
                    actor=AUTOMATIC,
                )
        except Unavailable:
            # The key keeps its cooldown here; the next refusal tries again.
            self._log.write("key_disable_failed", "warning", channel_key_id=channel_key_id)
        else:
            self._log.write("channel_key_disabled", "warning", channel_key_id=channel_key_id, reason=reason)

    def close(self) -> None:
        self._thread.shutdown()
