"""Customers' keys: created with their account, shown without their secret, disabled everywhere within a second."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import msgspec
from msgspec import UNSET, UnsetType
from sqlalchemy import Connection

from elkapi import ledger
from elkapi.admin.context import Admin, check_model, check_name
from elkapi.admin.errors import InvalidInput, Missing, Refused
from elkapi.admin.policies import PolicyFields, check_guards, merged
from elkapi.clock import SYSTEM_CLOCK
from elkapi.money import parse_usd
from elkapi.storage import apikey
from elkapi.storage.repos import groups, keys, owners, versions
from elkapi.storage.repos.keys import KeyRow
from elkapi.storage.seeds import DEFAULT_GROUP
from elkapi.types import NO_POLICY, Policy, Scope

FIRST_KEY_NAME = "first"


class KeyInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new key. `balance` is in US dollars as a decimal string; `models` None allows every model."""

    name: str
    group: str = DEFAULT_GROUP
    balance: str = "0"
    models: tuple[str, ...] | None = None
    expires_at_ns: int | None = None
    scope: Scope = "live"
    policy: PolicyFields = PolicyFields()


class KeyPatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The only fields of a key that can be changed later (CVE-2026-47102)."""

    name: str | UnsetType = UNSET
    group: str | UnsetType = UNSET
    models: tuple[str, ...] | UnsetType | None = UNSET
    expires_at_ns: int | UnsetType | None = UNSET
    policy: PolicyFields | UnsetType = UNSET


class KeyView(msgspec.Struct, frozen=True):
    """A key with its current balances, in nano-USD."""

    row: KeyRow
    posted_nano: int
    held_nano: int
    credit_nano: int
    available_nano: int


def create_key(admin: Admin, given: KeyInput) -> tuple[KeyView, str]:
    """Create a key, its account and its first deposit in one transaction; only this returns the plaintext."""
    name = check_name(given.name)
    models = _checked_models(given.models)
    nano = _dollars(given.balance, "balance")
    policy = merged(NO_POLICY, given.policy)
    who = admin.who()
    _check_expiry(given.expires_at_ns, who["now_ns"])
    with admin.change() as connection:
        _check_group(connection, given.group)
        check_guards(connection, policy)
        row, plaintext = keys.create_key(
            connection,
            name=name,
            owner_id=owners.operator_id(connection),
            group=given.group,
            scope=given.scope,
            account_id=ledger.create_account(connection, ledger.key_account_code(who["now_ns"])),
            models=models,
            expires_at_ns=given.expires_at_ns,
            policy=policy,
            **who,
        )
        _check_kept(row, policy)
        if nano:
            _book(admin, connection, row, ledger.deposit, nano, "opening balance")
        return _view(connection, row), plaintext


def ensure_first_key(connection: Connection) -> str | None:
    """Create a key without funds, for free models, if there is no key yet; returns its plaintext, else None."""
    versions.bump(connection, routing=False)  # Its row lock serializes processes that start at the same time.
    if keys.list_keys(connection, limit=1):
        return None
    now_ns = SYSTEM_CLOCK.now_ns()
    _, plaintext = keys.create_key(
        connection,
        name=FIRST_KEY_NAME,
        owner_id=owners.operator_id(connection),
        group=DEFAULT_GROUP,
        scope="live",
        account_id=ledger.create_account(connection, ledger.key_account_code(now_ns)),
        models=None,
        expires_at_ns=None,
        now_ns=now_ns,
        actor="first start",
    )
    return plaintext


def list_keys(admin: Admin, *, limit: int = 1_000, after_id: int = 0) -> list[KeyView]:
    """Keys in id order, a page at a time."""
    with admin.database.read() as connection:
        rows = keys.list_keys(connection, limit=limit, after_id=after_id)
        money = ledger.balances_of(connection, [row.account_id for row in rows])
    return [_shown(row, money[row.account_id]) for row in rows]


def show_key(admin: Admin, which: str) -> KeyView:
    """A key by id or exact name; raises Missing, Refused if several keys share the name."""
    with admin.database.read() as connection:
        return _view(connection, _find(connection, which))


def set_key_enabled(admin: Admin, which: str, enabled: bool) -> KeyView:
    """Enable or disable a key. Raises Missing, and Refused for a revoked one."""
    with admin.change() as connection:
        row = _find(connection, which)
        changed = keys.set_enabled(connection, row.id, enabled, **admin.who())
        return _view(connection, _not_revoked(changed, row))


def revoke_key(admin: Admin, which: str) -> KeyView:
    """Disable a key permanently."""
    with admin.change() as connection:
        row = _find(connection, which)
        return _view(connection, _not_revoked(keys.revoke(connection, row.id, **admin.who()), row))


def rotate_key(admin: Admin, which: str) -> tuple[KeyView, str]:
    """Give a key another secret, which only this returns; the old one is refused everywhere within a second.

    Everything else stays the key's: its balance, rules, history, tasks and stored answers. Raises Missing, and Refused
    for a revoked one.
    """
    with admin.change() as connection:
        row = _find(connection, which)
        plaintext = apikey.new_key(row.scope)
        changed = keys.rotate(connection, row.id, plaintext, **admin.who())
        return _view(connection, _not_revoked(changed, row)), plaintext


def edit_key(admin: Admin, which: str, patch: KeyPatch) -> KeyView:
    """Change the given fields of a key. Raises InvalidInput, Missing, and Refused for a revoked one."""
    who = admin.who()
    _check_expiry(patch.expires_at_ns, who["now_ns"])
    with admin.change() as connection:
        row = _find(connection, which)
        group = row.group if patch.group is UNSET else patch.group
        _check_group(connection, group)
        models = row.models if patch.models is UNSET else _checked_models(patch.models)
        policy = row.policy if patch.policy is UNSET else merged(row.policy, patch.policy)
        check_guards(connection, policy)
        changed = keys.edit(
            connection,
            row.id,
            name=row.name if patch.name is UNSET else check_name(patch.name),
            group=group,
            models=models,
            expires_at_ns=row.expires_at_ns if patch.expires_at_ns is UNSET else patch.expires_at_ns,
            policy=policy,
            **who,
        )
        written = _not_revoked(changed, row)
        _check_kept(written, policy)
        return _view(connection, written)


def deposit(admin: Admin, which: str, amount: str, note: str) -> KeyView:
    """Add US dollars (a decimal string) to the key's account; raises InvalidInput, Missing, Refused."""
    nano = _dollars(amount, "amount")
    if nano == 0:
        raise InvalidInput("a deposit must be above zero", field="amount")
    with admin.change() as connection:
        row = _find(connection, which)
        # The money of a revoked key could never be spent.
        _not_revoked(row if row.revoked_ns is None else None, row)
        _book(admin, connection, row, ledger.deposit, nano, note)
        return _view(connection, row)


def adjust(admin: Admin, which: str, amount: str, note: str) -> KeyView:
    """Correct the key's account by US dollars, up or down, but never below its holds minus its credit. Raises
    InvalidInput, Missing, Refused."""
    nano = _usd(amount, "amount")
    if nano == 0:
        raise InvalidInput("a correction must not be zero", field="amount")
    return _booked(admin, which, ledger.adjust, nano, note)


def set_credit(admin: Admin, which: str, amount: str, note: str) -> KeyView:
    """Set the key's credit line in US dollars; "0" removes it. Raises like `adjust`."""
    return _booked(admin, which, ledger.set_credit, _dollars(amount, "amount"), note)


def _booked(admin: Admin, which: str, book: Callable[..., object], nano: int, note: str) -> KeyView:
    with admin.change() as connection:
        row = _find(connection, which)
        _book(admin, connection, row, book, nano, note)
        return _view(connection, row)


def _book(admin: Admin, connection: Connection, row: KeyRow, book: Callable[..., object], nano: int, note: str) -> None:
    try:
        book(connection, row.account_id, nano, note, admin.actor, subject=f"key:{row.id}", clock=admin.clock)
    except ledger.AccountError as error:
        raise Refused(str(error)) from None


def _view(connection: Connection, row: KeyRow) -> KeyView:
    return _shown(row, ledger.balance(connection, row.account_id))


def _shown(row: KeyRow, money: ledger.Balance) -> KeyView:
    return KeyView(row, money.posted_nano, money.held_nano, money.credit_nano, money.available_nano)


def _checked_models(models: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if models is not None and not models:
        raise InvalidInput("give at least one, or omit it for every model", field="models")
    return None if models is None else tuple(check_model(model) for model in models)


def _find(connection: Connection, which: str) -> KeyRow:
    named = keys.find_by_name(connection, which)
    # More than 18 digits may exceed a 64-bit id.
    if which.isascii() and which.isdecimal() and len(which) <= 18 and (row := keys.get_key(connection, int(which))):
        # Money for the customer named "17" must not go to the key with the id 17.
        if other := next((one for one in named if one.id != row.id and one.revoked_ns is None), None):
            hint = f"use {other.id}, or rename that key with `elkapi key edit {other.id} --name NAME`"
            raise Refused(f"{which} is both the id of a key and the name of key {other.id}; {hint}")
        return row
    # A customer's new key often has the name of the revoked one that it replaces.
    alive = [row for row in named if row.revoked_ns is None]
    if len(alive) == 1:
        return alive[0]
    if len(named) > 1:
        ids = ", ".join(str(row.id) for row in alive or named)
        raise Refused(f"several keys are named {which!r}; use one of the ids {ids}")
    if not named:
        raise Missing(f"the key {which!r} does not exist; see `elkapi key list`")
    return named[0]


def _not_revoked(changed: KeyRow | None, row: KeyRow) -> KeyRow:
    if changed is None:
        raise Refused(f"key {row.id} ({row.name}) is revoked, which is final; create a new one")
    return changed


def _check_kept(row: KeyRow, policy: Policy) -> None:
    """Guarantee 16: compare the stored policy with the requested one before the transaction commits."""
    if row.policy != policy:
        raise Refused("the policy cannot be stored as given; nothing was changed")


def _check_expiry(expires_at_ns: int | UnsetType | None, now_ns: int) -> None:
    if isinstance(expires_at_ns, int) and expires_at_ns <= now_ns:
        raise InvalidInput("it is in the past; to end a key now, use `elkapi key disable`", field="expires_at_ns")


def _check_group(connection: Connection, group: str) -> None:
    if groups.get_group(connection, group) is None:
        hint = f"the group {group!r} does not exist; create it with `elkapi group set {shlex.quote(group)} --ratio 1`"
        raise InvalidInput(hint, field="group")


def _dollars(text: str, field: str) -> int:
    nano = _usd(text, field)
    if nano < 0:
        raise InvalidInput("it must not be negative", field=field)
    return nano


def _usd(text: str, field: str) -> int:
    try:
        return int(parse_usd(text))
    except ValueError as error:
        raise InvalidInput(str(error), field=field) from None
