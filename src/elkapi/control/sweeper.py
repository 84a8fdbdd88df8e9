"""Sweeps up after processes that died: their holds are resolved by the ledger's policy, old idempotency rows go.

What becomes of a hold is decided in `ledger`; this module only asks often enough.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from sqlalchemy import Connection, delete, select, tuple_

from elkapi.clock import Clock
from elkapi.storage import schema

SWEEP_EVERY_S = 2.0
EXPIRED_ROWS_AT_ONCE = 500
EXPIRED_BATCHES_MAX = 20

log = logging.getLogger("elkapi.control.sweeper")

_claims = schema.idempotency
_IDENTITY = (_claims.c.key_id, _claims.c.operation, _claims.c.idempotency_key)

Write = Callable[[Callable[[Connection], int]], Awaitable[int]]


class Sweeper:
    """`write` runs a function in one write transaction off the loop; `recover` resolves what dead owners held.

    `recover(connection, now_ns)` returns how many holds it resolved.
    """

    name = "sweeper"
    period_s = SWEEP_EVERY_S

    def __init__(self, write: Write, recover: Callable[[Connection, int], int], clock: Clock) -> None:
        self._write = write
        self._recover = recover
        self._clock = clock

    async def run_once(self) -> None:
        now_ns = self._clock.now_ns()
        resolved = await self._write(lambda connection: self._recover(connection, now_ns))
        if resolved:
            log.warning("holds_recovered", extra={"holds": resolved})
        for _ in range(EXPIRED_BATCHES_MAX):
            # One short transaction at a time: the writer of the gateway waits for none of them long.
            if await self._write(lambda connection: delete_expired(connection, now_ns)) < EXPIRED_ROWS_AT_ONCE:
                break


def delete_expired(connection: Connection, now_ns: int) -> int:
    """Delete at most EXPIRED_ROWS_AT_ONCE idempotency rows whose time is over, never one still open; how many."""
    # A row still open belongs to a call under way, or to recovery, whatever its age.
    over = (_claims.c.expires_ns < now_ns) & (_claims.c.state != "open")
    victims = connection.execute(select(*_IDENTITY).where(over).limit(EXPIRED_ROWS_AT_ONCE)).all()
    if not victims:
        return 0
    gone = delete(_claims).where(tuple_(*_IDENTITY).in_([tuple(row) for row in victims]), over)
    return connection.execute(gone).rowcount
