"""Idempotency keys inside the books' transactions: taking a claim, ending it, and the answer to a claim that is taken.

Encrypting and decrypting replies and waiting for them belong to `idempotency`; these functions only move rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elkapi.ledger.orders import Hold, Refusal, Settle, Step
from elkapi.ledger.statements import Statements


class Claims:
    """The table `idempotency` on the books' own cursor; `keep_ns` is how long a key is kept."""

    def __init__(self, cursor: Any, sql: Statements, keep_ns: int) -> None:
        self._cursor = cursor
        self._sql = sql
        self._keep_ns = keep_ns

    def take_all(self, holds: Sequence[tuple[int, Hold]], now_ns: int) -> list[tuple[int, Refusal]]:
        """Take every claim of these (index, hold); returns (index, refusal) for those already taken.

        Claims are taken in the order of their keys, so that two writers never deadlock.
        """
        claiming = [
            (order.claim.key_id, order.claim.operation, order.claim.idempotency_key, index, order)
            for index, order in holds
            if order.claim is not None
        ]
        refused = []
        for *_, index, order in sorted(claiming, key=lambda entry: entry[:4]):
            if (refusal := self._take(order, now_ns)) is not None:
                refused.append((index, refusal))
        return refused

    def _take(self, order: Hold, now_ns: int) -> Refusal | None:
        claim, cursor, sql = order.claim, self._cursor, self._sql
        assert claim is not None
        key = (claim.key_id, claim.operation, claim.idempotency_key)
        # A task outlives its worker, but its claim belongs to that worker: only it can end the claim.
        owner = order.owner if order.task is None else order.task.worker
        row = [*key, claim.fingerprint, order.request_id, owner, now_ns, now_ns + self._keep_ns]
        sql.claims.insert(cursor, row)
        if cursor.rowcount:
            return None
        cursor.execute(sql.claim_drop_expired, (*key, now_ns))
        if cursor.rowcount:
            sql.claims.insert(cursor, row)
            if cursor.rowcount:
                return None
        cursor.execute(sql.claim, key)
        found = cursor.fetchone()
        if found is None:
            return Refusal("pending")
        fingerprint, request_id, state, sealed = found
        return None if request_id == order.request_id else claim_refusal(claim.fingerprint, fingerprint, state, sealed)

    def end(self, settle: Settle | Step) -> None:
        """Keep the reply, keep only the state, or forget the key; a claim of another request is left alone."""
        claim = settle.claim
        assert claim is not None
        key = (claim.key_id, claim.operation, claim.idempotency_key, settle.request_id)
        if claim.end == "forget":
            self._cursor.execute(self._sql.claim_forget, key)
        else:
            self._cursor.execute(self._sql.claim_end, (claim.end, claim.reply_sealed, *key))

    def forget(self, order: Hold) -> None:
        """Free the claim of a refused hold."""
        if (claim := order.claim) is not None:
            key = (claim.key_id, claim.operation, claim.idempotency_key, order.request_id)
            self._cursor.execute(self._sql.claim_forget, key)


def claim_refusal(ours: bytes, stored: bytes, state: str, sealed: bytes | None) -> Refusal:
    """The answer to a claim that is already taken; also polled while waiting for it."""
    if ours != stored:
        message = "This Idempotency-Key was used with a different request; use a new key for a new request."
        return Refusal("conflict", message, "idempotency_key_reused")
    if state == "open":
        return Refusal("pending")
    if state == "done" and sealed is not None:
        return Refusal("replay", sealed=sealed)
    if state == "unknown":
        message = "The first request with this Idempotency-Key was interrupted, and its outcome is unknown."
        return Refusal("conflict", message, "outcome_unknown")
    message = "The first request with this Idempotency-Key succeeded, but its answer was streamed or too large to keep."
    return Refusal("conflict", message, "idempotent_replay_unavailable")
