"""Stored replies of idempotent calls: encrypting and decrypting them, and waiting for a reply that another call is
making.

`claims` takes and ends claims inside the transactions of holds and settlements. Waiting polls the database, so it works
across workers; calls of one process that wait for the same claim share one poll, and each waits up to its own deadline.
"""

from __future__ import annotations

import asyncio

import msgspec
from sqlalchemy import Connection, delete, func, select

from elkapi.clock import SYSTEM_CLOCK, Clock
from elkapi.errors import Conflict
from elkapi.ledger.claims import claim_refusal
from elkapi.ledger.orders import Refusal
from elkapi.ledger.statements import claim_is_over
from elkapi.storage import dialect as sql
from elkapi.storage.db import Database, Reader
from elkapi.storage.repos.stored import within
from elkapi.storage.schema import idempotency
from elkapi.storage.secrets import Sealer
from elkapi.types import IdempotencyClaim, StoredReply

POLL_FIRST_S = 0.02
POLL_MAX_S = 0.25

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(StoredReply)

# What identifies a claim; the fingerprint tells whether the request is really the same.
_Key = tuple[int, str, str, bytes]


def _context(claim: IdempotencyClaim) -> bytes:
    return _encoder.encode(("idempotency.reply", claim.key_id, claim.operation, claim.idempotency_key))


async def seal_reply(sealer: Sealer, claim: IdempotencyClaim, reply: StoredReply) -> bytes:
    """The reply, encrypted for the row of this claim."""
    return await sealer.seal_beside(_encoder.encode(reply), _context(claim))


def open_reply(sealer: Sealer, claim: IdempotencyClaim, sealed: bytes) -> StoredReply:
    """The stored reply; raises storage.secrets.SealError when it was sealed with another key or for another row."""
    return _decoder.decode(sealer.open(sealed, _context(claim)))


def read_claim(connection: Connection, claim: IdempotencyClaim) -> Refusal | None:
    """The current answer of the stored claim (kind pending, replay or conflict), or None if it is gone."""
    c = idempotency.c
    found = connection.execute(
        select(c.fingerprint, c.state, c.reply_sealed).where(
            c.key_id == claim.key_id,
            c.operation == claim.operation,
            c.idempotency_key == claim.idempotency_key,
        )
    ).one_or_none()
    return None if found is None else claim_refusal(claim.fingerprint, *found)


def purge_claims(connection: Connection, now_ns: int, rows_max: int, bytes_max: int) -> int:
    """Delete expired claims, as many as fit both limits and at least one; returns how many.

    Claims that another process is deleting, or that a call is taking again, are skipped.
    """
    c = idempotency.c
    key = (c.key_id, c.operation, c.idempotency_key)
    size = func.coalesce(func.length(c.reply_sealed), 0)
    due = select(*key, size).where(claim_is_over(now_ns)).order_by(c.expires_ns).limit(rows_max)
    sizes = [(tuple(named), size) for *named, size in connection.execute(sql.for_update(due, skip_locked=True))]
    gone = within(sizes, bytes_max)
    sql.execute_for_each(connection, delete(idempotency), key, gone)
    return len(gone)


class _Poll:
    """One task that polls one claim for `waiters` (deadline, future); it ends with the last of them."""

    def __init__(self) -> None:
        self.waiters: list[tuple[float, asyncio.Future[Refusal | None]]] = []
        self.task: asyncio.Task[None]


class ReplyWaits:
    """The waits of one process for replies, with one poll per distinct claim."""

    def __init__(self, database: Database, sealer: Sealer, wait_s: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self._reader = Reader(database, threads=1)
        self._sealer = sealer
        self._wait_s = wait_s
        self._clock = clock
        self._polls: dict[_Key, _Poll] = {}

    async def wait(self, claim: IdempotencyClaim) -> StoredReply | None:
        """See Ledger.wait_reply."""
        key = (claim.key_id, claim.operation, claim.idempotency_key, claim.fingerprint)
        poll = self._polls.get(key)
        if poll is None:
            poll = self._polls[key] = _Poll()
            poll.task = asyncio.create_task(self._poll(key, claim, poll))
        answer: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
        poll.waiters.append((self._clock.monotonic_s() + self._wait_s, answer))
        return self._reply(claim, await answer)

    async def aclose(self) -> None:
        """Cancel all waits."""
        polls = list(self._polls.values())
        for poll in polls:
            poll.task.cancel()
        await asyncio.gather(*(poll.task for poll in polls), return_exceptions=True)
        for poll in polls:
            for _, waiter in poll.waiters:
                waiter.cancel()
        await self._reader.aclose()

    def _reply(self, claim: IdempotencyClaim, answer: Refusal | None) -> StoredReply | None:
        if answer is None:
            return None
        if answer.kind == "replay" and answer.sealed is not None:
            return open_reply(self._sealer, claim, answer.sealed)
        if answer.kind == "pending":
            message = "The first request with this Idempotency-Key is still in progress; try again later."
            raise Conflict(message, code="idempotency_in_progress")
        raise Conflict(answer.message, code=answer.code)

    async def _poll(self, key: _Key, claim: IdempotencyClaim, poll: _Poll) -> None:
        """Poll until there is an answer, or nobody waits any more."""
        pause_s = POLL_FIRST_S
        try:
            while poll.waiters:
                answer = await self._reader.run(lambda connection: read_claim(connection, claim))
                still_open = answer is not None and answer.kind == "pending"
                now_s = self._clock.monotonic_s()
                waiting = []
                for until_s, waiter in poll.waiters:
                    if waiter.done():
                        continue  # its caller left
                    if still_open and now_s < until_s:
                        waiting.append((until_s, waiter))
                    else:
                        waiter.set_result(answer)
                poll.waiters = waiting
                if waiting:
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 1.5, POLL_MAX_S)
        except Exception as error:
            for _, waiter in poll.waiters:
                if not waiter.done():
                    waiter.set_exception(error)
        finally:
            del self._polls[key]
