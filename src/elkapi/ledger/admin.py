"""What operators book: deposits, corrections, refunds (each a new entry) and credit lines, all audited.

Every function works inside the caller's write transaction and is idempotent if it takes a name for the entry. `subject`
is what audit rows name; by default it is the account, whose number operators do not know.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, select, update

from elkapi.clock import SYSTEM_CLOCK, Clock
from elkapi.ids import new_id, request_id_text
from elkapi.ledger import transfers as entries
from elkapi.ledger.accounts import (
    FUNDING,
    HELD_KINDS,
    QUOTA,
    QUOTA_FUNDING,
    AccountError,
    balance,
    ensure_system_accounts,
)
from elkapi.money import format_usd
from elkapi.storage import dialect as sql
from elkapi.storage.repos import audit
from elkapi.storage.schema import accounts, requests, transfers

AMOUNT_MAX_NANO = 2**60
# Limit of every balance, system accounts included: far below the end of a 64-bit column, so that no entry overflows it.
BALANCE_MAX_NANO = 2**62


class RefundError(ValueError):
    """A refund that cannot be made; the message is for an operator."""


def deposit(
    connection: Connection,
    account_id: int,
    nano: int,
    note: str,
    actor: str,
    *,
    subject: str | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> bytes:
    """Add `nano` > 0 to an account and return the entry's id. Raises AccountError."""
    if not 0 < nano <= AMOUNT_MAX_NANO:
        raise AccountError(f"a deposit of {format_usd(nano)} USD is not possible")
    now_ns = clock.now_ns()
    entry = entries.deposit(new_id(now_ns), _funding_of(connection, account_id), account_id, nano, now_ns, note)
    return _book(connection, account_id, entry, actor, subject)


def adjust(
    connection: Connection,
    account_id: int,
    nano: int,
    note: str,
    actor: str,
    *,
    subject: str | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> bytes:
    """Change an account by `nano`, up or down but never below zero, and return the entry's id. Raises AccountError."""
    if not nano or abs(nano) > AMOUNT_MAX_NANO:
        raise AccountError(f"an adjustment of {format_usd(nano)} USD is not possible")
    now_ns = clock.now_ns()
    entry = entries.adjust(new_id(now_ns), account_id, _funding_of(connection, account_id), nano, now_ns, note)
    return _book(connection, account_id, entry, actor, subject)


def set_credit(
    connection: Connection,
    account_id: int,
    nano: int,
    note: str,
    actor: str,
    *,
    subject: str | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> None:
    """Let a customer spend `nano` >= 0 beyond their deposits. Raises AccountError if more is already spent or held."""
    c = accounts.c
    covered = c.posted_nano - c.held_nano + nano >= 0
    change = update(accounts).where(c.id == account_id, c.kind.in_(HELD_KINDS), covered).values(credit_nano=nano)
    if not 0 <= nano <= AMOUNT_MAX_NANO:
        raise AccountError(f"a credit line of {format_usd(nano)} USD is not possible")
    if connection.execute(change).rowcount != 1:
        stands = balance(connection, account_id)
        used = format_usd(stands.held_nano - stands.posted_nano)
        raise AccountError(
            f"a credit line of {format_usd(nano)} USD is less than the {used} USD already spent or held of it"
        )
    named = subject or f"account:{account_id}"
    detail = {"nano": nano, "note": note}
    audit.write(connection, now_ns=clock.now_ns(), actor=actor, action="ledger.credit", subject=named, detail=detail)


def refund(
    connection: Connection,
    request_id: bytes,
    nano: int | None,
    note: str,
    actor: str,
    *,
    name: str | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> int:
    """Refund `nano` (None: all that is left) of a call's charge, on each account it was taken from.

    `name` identifies the refund: repeating it changes nothing. Returns what this name refunded, in nano. Raises
    RefundError for an unknown call, an amount of zero or less, or more than is left of the charge.
    """
    charged = connection.execute(
        sql.for_update(select(requests.c.charge_nano).where(requests.c.id == request_id))
    ).scalar()
    if charged is None:
        raise RefundError(f"the call {request_id_text(request_id)} does not exist")
    now_ns = clock.now_ns()
    label = new_id(now_ns).hex() if name is None else name
    done = _refund_entries(connection, request_id)
    first_id = entries.refund_id(request_id, label, 0)
    if first_id in done:
        return done[first_id]
    t = transfers.c
    low, high = entries.entries_range(request_id, entries.RESOLVE_STEP)
    posts = connection.execute(
        select(t.id, t.debit_account, t.credit_account, t.nano)
        .where(t.id.between(low, high), t.kind == "post")
        .order_by(t.id)
    ).all()
    left = charged - sum(value for key, value in done.items() if entries.leg_of(key) == 0)
    amount = left if nano is None else nano
    if left <= 0:
        raise RefundError(f"the charge of {format_usd(charged)} USD is already refunded")
    if not 0 < amount <= left:
        of = f"{format_usd(left)} USD of the {format_usd(charged)} USD that was charged"
        raise RefundError(f"{of} can be refunded, not {format_usd(amount)} USD")
    for post in posts:
        leg = entries.leg_of(post.id)
        source, account = post.credit_account, post.debit_account
        _write(connection, entries.refund(request_id, label, leg, source, account, amount, now_ns, note))
    subject, detail = request_id_text(request_id), {"nano": amount, "note": note}
    audit.write(connection, now_ns=now_ns, actor=actor, action="ledger.refund", subject=subject, detail=detail)
    return amount


def _refund_entries(connection: Connection, request_id: bytes) -> dict[bytes, int]:
    low, high = entries.entries_range(request_id, entries.REFUND_STEP)
    found = connection.execute(select(transfers.c.id, transfers.c.nano).where(transfers.c.id.between(low, high)))
    return {row.id: row.nano for row in found}


def _funding_of(connection: Connection, account_id: int) -> int:
    kind = connection.execute(select(accounts.c.kind).where(accounts.c.id == account_id)).scalar()
    if kind not in HELD_KINDS:
        raise AccountError(f"account {account_id} is not a customer's account")
    return ensure_system_accounts(connection)[QUOTA_FUNDING if kind == QUOTA else FUNDING]


def _book(connection: Connection, account: int, entry: entries.Transfer, actor: str, subject: str | None) -> bytes:
    _write(connection, entry)
    detail = {"nano": entry.nano, "note": entry.note, "from": entry.debit_account, "to": entry.credit_account}
    action, named = f"ledger.{entry.kind}", subject or f"account:{account}"
    audit.write(connection, now_ns=entry.created_ns, actor=actor, action=action, subject=named, detail=detail)
    return entry.id


def _write(connection: Connection, entry: entries.Transfer) -> None:
    """Write the entry and both balances; the customer's balance must cover it."""
    connection.execute(transfers.insert(), msgspec.structs.asdict(entry))
    c = accounts.c
    moves = ((entry.debit_account, -entry.nano), (entry.credit_account, entry.nano))
    both = [account for account, _ in moves]
    house = set(connection.execute(select(c.id).where(c.id.in_(both), c.kind.not_in(HELD_KINDS))).scalars())
    # Lock order of the whole ledger: customers' rows before system rows.
    for account, nano in sorted(moves, key=lambda move: (move[0] in house, move[0])):
        change = update(accounts).where(c.id == account).values(posted_nano=c.posted_nano + nano)
        if account not in house:
            change = change.where(c.posted_nano - c.held_nano + c.credit_nano + nano >= 0)
        posted_nano = connection.execute(change.returning(c.posted_nano)).scalar()
        if posted_nano is None:
            stands = balance(connection, account)
            text = f"the balance does not cover {format_usd(-nano)} USD: {format_usd(stands.available_nano)} USD"
            held = (
                f", and {format_usd(stands.held_nano)} USD are held for calls in progress" if stands.held_nano else ""
            )
            raise AccountError(f"{text} are available{held}")
        if abs(posted_nano) > BALANCE_MAX_NANO:
            raise AccountError(f"a further {format_usd(entry.nano)} USD exceed the largest possible balance")
