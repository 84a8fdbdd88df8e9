"""Stored replies of idempotent calls: sealing them, opening them, and waiting for one another call is making.

Claims are taken and ended by `claims`, inside the transactions of holds and settlements. Waiting polls the database, so
it works for calls of any worker; calls of one process that wait for the same claim share one poll.
"""

from __future__ import annotations

import asyncio

import msgspec
from sqlalchemy import Connection, delete, select

from elkapi.errors import Conflict
from elkapi.ledger.claims import claim_refusal
from elkapi.ledger.orders import Refusal
from elkapi.storage.db import Database, Reader
from elkapi.storage.schema import idempotency
from elkapi.storage.secrets import Sealer
from elkapi.types import IdempotencyClaim, StoredReply

POLL_FIRST_S = 0.02
POLL_MAX_S = 0.25
# Sealing a larger body takes long enough to be worth a thread.
SEAL_INLINE_BYTES = 64 * 1024

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(StoredReply)

# Everything that makes two calls the same; the fingerprint decides whether they really are.
_Key = tuple[int, str, str, bytes]


def _context(claim: IdempotencyClaim) -> bytes:
    return _encoder.encode(("idempotency.reply", claim.key_id, claim.operation, claim.idempotency_key))


async def seal_reply(sealer: Sealer, claim: IdempotencyClaim, reply: StoredReply) -> bytes:
    """The reply encrypted for the row of this claim; large ones are encrypted off the loop."""
    plain = _encoder.encode(reply)
    if len(plain) <= SEAL_INLINE_BYTES:
        return sealer.seal(plain, _context(claim))
    return await asyncio.to_thread(sealer.seal, plain, _context(claim))


def open_reply(sealer: Sealer, claim: IdempotencyClaim, sealed: bytes) -> StoredReply:
    """The stored reply; raises storage.secrets.SealError when it was sealed with another key or for another row."""
    return _decoder.decode(sealer.open(sealed, _context(claim)))


def read_claim(connection: Connection, claim: IdempotencyClaim) -> Refusal | None:
    """What the stored claim answers now (kind pending, replay or conflict), or None when it is gone."""
    c = idempotency.c
    found = connection.execute(
        select(c.fingerprint, c.state, c.reply_sealed).where(
            c.key_id == claim.key_id,
            c.operation == claim.operation,
            c.idempotency_key == claim.idempotency_key,
        )
    ).one_or_none()
    return None if found is None else claim_refusal(claim.fingerprint, *found)


def purge_claims(connection: Connection, now_ns: int, rows_max: int = 1000) -> int:
    """Forget claims kept long enough; at most `rows_max` at a time, so that no transaction grows long."""
    c = idempotency.c
    due = list(
        connection.execute(
            select(c.key_id, c.operation, c.idempotency_key).where(c.expires_ns <= now_ns).limit(rows_max)
        )
    )
    for key_id, operation, key in due:
        connection.execute(
            delete(idempotency).where(
                c.key_id == key_id, c.operation == operation, c.idempotency_key == key, c.expires_ns <= now_ns
            )
        )
    return len(due)


class ReplyWaits:
    """Waits of one process for replies; one poll per distinct claim however many calls wait."""

    def __init__(self, database: Database, sealer: Sealer, wait_s: float) -> None:
        self._reader = Reader(database, threads=1)
        self._sealer = sealer
        self._wait_s = wait_s
        self._polls: dict[_Key, asyncio.Task[Refusal | None]] = {}

    async def wait(self, claim: IdempotencyClaim, wait_s: float | None = None) -> StoredReply | None:
        """See Ledger.wait_reply."""
        key = (claim.key_id, claim.operation, claim.idempotency_key, claim.fingerprint)
        poll = self._polls.get(key)
        if poll is None:
            poll = asyncio.create_task(self._poll(claim))
            self._polls[key] = poll
            poll.add_done_callback(lambda task: self._forget(key, task))
        try:
            answer = await asyncio.wait_for(asyncio.shield(poll), self._wait_s if wait_s is None else wait_s)
        except TimeoutError:
            answer = Refusal("pending")
        return self._reply(claim, answer)

    async def aclose(self) -> None:
        polls = list(self._polls.values())
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)
        await self._reader.aclose()

    def _reply(self, claim: IdempotencyClaim, answer: Refusal | None) -> StoredReply | None:
        if answer is None:
            return None
        if answer.kind == "replay" and answer.sealed is not None:
            return open_reply(self._sealer, claim, answer.sealed)
        if answer.kind == "pending":
            message = "The first request with this Idempotency-Key is still running; ask again later."
            raise Conflict(message, code="idempotency_in_progress")
        raise Conflict(answer.message, code=answer.code)

    def _forget(self, key: _Key, task: asyncio.Task[Refusal | None]) -> None:
        self._polls.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen: nobody may be left to await a poll that failed

    async def _poll(self, claim: IdempotencyClaim) -> Refusal | None:
        loop = asyncio.get_running_loop()
        deadline_s, pause_s = loop.time() + self._wait_s, POLL_FIRST_S
        while True:
            answer = await self._reader.run(lambda connection: read_claim(connection, claim))
            if answer is None or answer.kind != "pending" or loop.time() >= deadline_s:
                return answer
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, POLL_MAX_S)
