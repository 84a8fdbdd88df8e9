"""Factories for ledger tests, and a reference ledger to compare the real one with."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from elkapi.ids import new_id
from elkapi.ledger.accounts import create_account
from elkapi.ledger.admin import deposit
from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.types import HoldOrder, IdempotencyClaim, RequestRecord, Settlement, StoredReply, Usage


def funded_account(database: Database, nano: int, kind: str = "customer") -> int:
    """Create an account with a balance of `nano` nano-USD; returns its id."""
    with database.write() as connection:
        account = create_account(connection, f"{kind}:{os.urandom(6).hex()}", kind)
        if nano:
            deposit(connection, account, nano, "test", "test")
    return account


def an_order(*accounts: int, nano: int, claim: IdempotencyClaim | None = None, model: str = "m") -> HoldOrder:
    """A hold with a new request id."""
    return HoldOrder(new_id(), 1, accounts, nano, model, price_id=7, claim=claim)


def a_record(order: HoldOrder, charge_nano: int, **fields: Any) -> RequestRecord:
    """The record of the order's call, successful unless `fields` say otherwise."""
    record = RequestRecord(
        id=order.request_id,
        key_id=order.key_id,
        owner_id=1,
        operation="openai.embeddings",
        model=order.model,
        group="default",
        created_ns=1,
        duration_ms=1.0,
        status=200,
        outcome="ok",
        usage=Usage(input_tokens=1),
        price_id=order.price_id,
        price_version=1,
        ratio_micro=1_000_000,
        hold_nano=order.nano,
        charge_nano=charge_nano,
    )
    return msgspec.structs.replace(record, **fields)


def a_settlement(
    order: HoldOrder, charge_nano: int, *, reply: StoredReply | None = None, forget: bool = False, **fields: Any
) -> Settlement:
    return Settlement(a_record(order, charge_nano, **fields), order, reply, forget)


def unpaid(order: HoldOrder) -> Settlement:
    """The settlement of a failed call: nothing is charged, and its idempotency key is released."""
    return a_settlement(order, 0, forget=True)


def quick_settings(data_dir: str, **fields: Any) -> Settings:
    """Settings with heartbeats short enough for a test to see a worker die."""
    return Settings(data_dir=data_dir, **{"heartbeat_s": 0.1, "heartbeat_lost_s": 0.6, **fields})


class ReferenceLedger:
    """A model of the ledger: one dict of balances, one of open holds; not durable, no batches."""

    def __init__(self, posted: dict[int, int]) -> None:
        self.posted = dict(posted)
        self.held: dict[bytes, tuple[int, tuple[int, ...]]] = {}
        self.resolved: set[bytes] = set()
        self.rows: dict[bytes, tuple[int, int]] = {}
        self.paid_by: dict[bytes, tuple[int, ...]] = {}
        self.revenue = 0
        self.loss = 0

    def available(self, account: int) -> int:
        return self.posted[account] - sum(nano for nano, accounts in self.held.values() if account in accounts)

    def hold(self, order: HoldOrder) -> bool:
        """Whether the order is held, now or already before."""
        if order.request_id in self.held:
            return True
        if order.request_id in self.resolved or any(self.available(a) < order.nano for a in order.accounts):
            return False
        self.held[order.request_id] = (order.nano, order.accounts)
        return True

    def settle(self, request_id: bytes, charge: int, *, waived: bool = False) -> None:
        """Charge up to the hold; any excess, and a charge after the hold is gone, is the operator's loss.

        `waived`: all of it is a loss, including an earlier charge.
        """
        if request_id in self.rows:
            if waived:
                self._take_back(request_id)
            return
        nano, accounts = self.held.pop(request_id, (0, ()))
        taken = 0 if waived else min(charge, nano)
        self.paid_by[request_id] = accounts
        for account in accounts:
            self.posted[account] -= taken
        self.revenue += taken
        self.loss += charge - taken
        self.rows[request_id] = (taken, charge - taken)
        self.resolved.add(request_id)

    def _take_back(self, request_id: bytes) -> None:
        taken, lost = self.rows[request_id]
        for account in self.paid_by[request_id]:
            self.posted[account] += taken
        self.revenue -= taken
        self.loss += taken
        self.rows[request_id] = (0, lost + taken)

    def give_back(self, request_id: bytes) -> None:
        """Void or expire a hold."""
        if self.held.pop(request_id, None) is not None:
            self.resolved.add(request_id)
