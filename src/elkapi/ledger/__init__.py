"""Money: accounts, append-only entries, holds, settlements, recovery and the check of all of them.

`pricing` decides what a call may cost; a `Settlement` states what it did cost. SQL is in `storage`.
"""

from __future__ import annotations

from elkapi.ledger.accounts import (
    AccountError,
    Balance,
    Entry,
    available_nano,
    balance,
    balances,
    balances_of,
    create_account,
    entries_of,
    key_account_code,
)
from elkapi.ledger.admin import RefundError, adjust, deposit, refund, set_credit
from elkapi.ledger.books import not_covered
from elkapi.ledger.check import CheckReport, ReconcileReport, check, reconcile
from elkapi.ledger.client import RemoteLedger
from elkapi.ledger.ledger import Boot, Ledger, ThreadLedger
from elkapi.ledger.orders import MARK_TAKEN, IdempotencyPending, IdempotencyReplay, StepRefused
from elkapi.ledger.recovery import mark_dead, recover
from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.storage.secrets import Sealer, load_secret_key

__all__ = [
    "MARK_TAKEN",
    "AccountError",
    "Balance",
    "Boot",
    "CheckReport",
    "Entry",
    "IdempotencyPending",
    "IdempotencyReplay",
    "Ledger",
    "ReconcileReport",
    "RefundError",
    "RemoteLedger",
    "StepRefused",
    "ThreadLedger",
    "adjust",
    "available_nano",
    "balance",
    "balances",
    "balances_of",
    "check",
    "create_account",
    "deposit",
    "entries_of",
    "key_account_code",
    "mark_dead",
    "not_covered",
    "open_ledger",
    "reconcile",
    "recover",
    "refund",
    "set_credit",
]


def open_ledger(
    settings: Settings,
    database: Database,
    owner: bytes,
    *,
    in_process: bool,
    sealer: Sealer | None = None,
    dead_owner: bytes | None = None,
) -> Ledger:
    """The ledger of one worker, not started. `owner` is this boot's 16-byte id, `dead_owner` its crashed predecessor's.

    In process means a writer thread (one worker, or any worker on PostgreSQL); otherwise orders go to the ledger
    process behind `settings.socket_path("ledger")`. Raises storage.secrets.SecretKeyError.
    """
    sealer = sealer or Sealer(load_secret_key(settings))
    kind = ThreadLedger if in_process or not settings.is_sqlite else RemoteLedger
    return kind(Boot(settings, database, owner, sealer, dead_owner))
