"""The entries of the books as pure values: their kinds, their ids and who pays whom; writing them is left to `books`.

    deposit   funding -> customer            an operator adds funds
    hold      customer -> revenue            reserved, moves nothing yet
    post      customer -> revenue            resolves a hold: this much is charged, the rest is given back
    void      customer -> revenue            resolves a hold: all of it is given back
    expire    customer -> revenue            as void, made by recovery for a worker that is gone
    refund    revenue -> customer            a new entry against an earlier post, never a change of it
    reverse   revenue -> customer            takes back a post whose caller was told that the call failed
    loss      operator-loss -> upstream      what an upstream billed and no customer paid
    adjust    customer <-> funding           a correction by an operator

An entry takes `nano` from the debit account and gives it to the credit account. A request's entries have the id
`request id + step + leg` (18 bytes), where all resolutions share one step: the primary key alone makes a hold resolve
once and turns a repeated order into an answer. A leg is the position of the account in the order's accounts.
A quota account (a limit rather than a purse) is spent to `quota-spent` in place of `revenue`.
"""

from __future__ import annotations

import hashlib

import msgspec

LEGS_MAX = 16

HOLD_STEP, RESOLVE_STEP, REFUND_STEP, LOSS_STEP, REVERSE_STEP = b"\x01", b"\x02", b"\x03", b"\x04", b"\x05"
ADMIN_STEP = b"\x10"

_LEGS = tuple(bytes((leg,)) for leg in range(LEGS_MAX))
HOLD_SUFFIX = tuple(HOLD_STEP + leg for leg in _LEGS)
RESOLVE_SUFFIX = tuple(RESOLVE_STEP + leg for leg in _LEGS)
REVERSE_SUFFIX = tuple(REVERSE_STEP + leg for leg in _LEGS)
LOSS_SUFFIX = LOSS_STEP + b"\x00"
# The operator's loss from a reversed charge, besides what the settlement itself may have booked.
REVERSED_LOSS_SUFFIX = LOSS_STEP + b"\x01"

# Kinds that change `posted`; the others only reserve or release.
MOVES = frozenset({"deposit", "post", "refund", "reverse", "loss", "adjust"})
RESOLUTIONS = frozenset({"post", "void", "expire"})


class Transfer(msgspec.Struct, frozen=True):
    """One entry outside the fast path of `books`; `nano` >= 0, `note` is the operator's reason."""

    id: bytes
    kind: str
    debit_account: int
    credit_account: int
    nano: int
    created_ns: int
    note: str | None = None


def refund_id(request_id: bytes, refund: str, leg: int) -> bytes:
    """The id of a refund. A request may have several, each named by its caller; repeating a name gives the same
    refund."""
    return request_id + REFUND_STEP + _LEGS[leg] + hashlib.sha256(refund.encode()).digest()[:8]


def admin_id(entry_id: bytes) -> bytes:
    """The id of a deposit or an adjustment; `entry_id` is a fresh id of `elkapi.ids`."""
    return entry_id + ADMIN_STEP + b"\x00"


def leg_of(transfer_id: bytes) -> int:
    """The index of the entry's account in its order, from 0."""
    return transfer_id[17]


def step_of(transfer_id: bytes) -> int:
    """The step of its request that an entry belongs to."""
    return transfer_id[16]


def entries_range(request_id: bytes, step: bytes | None = None) -> tuple[bytes, bytes]:
    """The smallest and largest possible id of a request's entries (of one step), for a range scan."""
    low = request_id if step is None else request_id + step
    return low, low + b"\xff" * 12


def expire(request_id: bytes, leg: int, account: int, counter_account: int, held_nano: int, now_ns: int) -> Transfer:
    """One leg of a hold that recovery releases."""
    return Transfer(request_id + RESOLVE_SUFFIX[leg], "expire", account, counter_account, held_nano, now_ns)


def refund(
    request_id: bytes, name: str, leg: int, source: int, account: int, nano: int, now_ns: int, note: str
) -> Transfer:
    return Transfer(refund_id(request_id, name, leg), "refund", source, account, nano, now_ns, note=note)


def deposit(entry_id: bytes, funding: int, account: int, nano: int, now_ns: int, note: str) -> Transfer:
    return Transfer(admin_id(entry_id), "deposit", funding, account, nano, now_ns, note=note)


def adjust(entry_id: bytes, account: int, funding: int, nano: int, now_ns: int, note: str) -> Transfer:
    """A correction: positive nano goes to the customer, negative is taken from them."""
    debit, credit = (funding, account) if nano >= 0 else (account, funding)
    return Transfer(admin_id(entry_id), "adjust", debit, credit, abs(nano), now_ns, note=note)
