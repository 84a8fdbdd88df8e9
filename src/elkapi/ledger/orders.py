"""The orders a ledger writer carries out, in the form in which they are queued and sent between processes.

They are flat on purpose: the usage row arrives encoded and a reply sealed, so the writer moves bytes and integers only.
An answer is None for "done" or a `Refusal`; `ledger` turns refusals into exceptions, among them those of this tree.

    IdempotencyReplay    the first call with this key ended: its reply
    IdempotencyPending   the first call with this key is still running: wait with `Ledger.wait_reply`
    StepRefused          the database takes this step of a task never, however often it is tried
"""

from __future__ import annotations

from typing import Literal

import msgspec

from elkapi.errors import Unavailable
from elkapi.storage.repos.requests import decode_record
from elkapi.types import IdempotencyClaim, StoredReply

ClaimEnd = Literal["done", "too_large", "unknown", "forget"]

# Flag of a record: the request was sent, no answer came back, and it is unknown whether the upstream billed it.
UNKNOWN_FLAG = "unknown_outcome"
RefusalKind = Literal["quota", "replay", "pending", "conflict", "unavailable", "moved", "refused"]
# The code of a conflict over a caller's own name of a task, which its submitter words.
MARK_TAKEN = "mark_taken"

# Owner of the holds of tasks: no worker, so the end of a worker does not expire them.
TASKS = b"tasks"

encode_record = msgspec.json.Encoder().encode


class TaskRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A new row of `tasks`, see types.NewTask; `worker` is the one that submits it."""

    owner_id: int
    key_id: int
    operation: str
    wire: str
    form: str
    model: str
    worker: bytes
    created_ns: int
    asked_sealed: bytes
    own_mark: str = ""


class Hold(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="h"):
    """Reserve `nano` on every account, all or none; `nano` 0 only takes the claim.

    With a `task` the reservation is the task's, whose row is created with it; `owner` is then TASKS.
    """

    request_id: bytes
    key_id: int
    accounts: tuple[int, ...]
    nano: int
    model: str
    price_id: int
    owner: bytes
    claim: IdempotencyClaim | None = None
    task: TaskRow | None = None


class UsageRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The columns of the table `requests` that are not in the settlement; `record` is JSON of types.RequestRecord."""

    key_id: int
    owner_id: int
    model: str
    status: int
    created_ns: int
    record: bytes


class ClaimResult(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How the claim ends: kept with an encrypted reply, kept without one, or forgotten."""

    key_id: int
    operation: str
    idempotency_key: str
    end: ClaimEnd
    reply_sealed: bytes | None = None


class Kept(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A row of `stored_objects`, see types.StoredObject; `frames_sealed` belong to `stored_events` from `first` on."""

    id: bytes
    kind: str
    owner_id: int
    key_id: int
    model: str
    status: str
    created_ns: int
    expires_ns: int
    previous: bytes | None
    worker: bytes | None
    metadata: str | None
    sealed: bytes
    item_ids: tuple[str, ...] = ()
    finishes: bool = False
    first: int = 0
    frames_sealed: bytes | None = None

    @property
    def size_bytes(self) -> int:
        """Its approximate size in a frame between processes."""
        return len(self.sealed) + len(self.frames_sealed or b"")


class NoticeRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A row of `notices`, see types.Notice; the columns are in this order."""

    task_id: bytes
    place: int
    number: int
    key_id: int
    owner_id: int
    host: str
    form: str
    created_ns: int
    due_ns: int
    until_ns: int
    sealed: bytes


class Settle(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="s"):
    """Resolve the hold (if `held`) to `charge_nano`, or void it if that is 0, and write the usage row.

    `unknown` lists the call among the unknown outcomes, even if a later attempt was answered and is charged. `waived`:
    the caller was told that the call failed, so a charge that is already committed is taken back.
    """

    request_id: bytes
    held: bool
    charge_nano: int
    loss_nano: int
    row: UsageRow | None
    claim: ClaimResult | None = None
    unknown: bool = False
    waived: bool = False
    kept: Kept | None = None


class Keep(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="k"):
    """Store an object outside a settlement: a background call's row, new or with more of its stream.

    `request_id` is the object's. With `frames_only` only the frames are written.
    """

    request_id: bytes
    kept: Kept
    frames_only: bool = False


class Step(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="t"):
    """One step of a task, see types.TaskStep, written only while its row has `version`; otherwise answered `moved`.

    `settle` resolves the task's hold in the same transaction.
    """

    request_id: bytes
    version: int
    key_id: int
    state: str
    progress: int
    updated_ns: int
    native_id: str | None = None
    channel_id: int | None = None
    channel_key_id: int | None = None
    started_ns: int | None = None
    finished_ns: int | None = None
    deleted_ns: int | None = None
    error_code: str | None = None
    told_sealed: bytes | None = None
    settle: Settle | None = None
    refs: tuple[str, ...] = ()
    claim: ClaimResult | None = None
    notices: tuple[NoticeRow, ...] = ()
    unnamed: bool = False


class Beat(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="b"):
    """A worker's heartbeat; with `ended` its last one."""

    owner: bytes
    role: str
    started_ns: int
    ended: bool = False


Order = Hold | Settle | Beat | Keep | Step


def ended(claim: IdempotencyClaim, end: ClaimEnd, reply_sealed: bytes | None = None) -> ClaimResult:
    """How this claim ends."""
    return ClaimResult(claim.key_id, claim.operation, claim.idempotency_key, end, reply_sealed)


def given_back(hold: Hold) -> Settle | Step:
    """The order that voids a hold that was, or may have been, made for a caller who was told otherwise; safe to
    repeat."""
    forgotten = None if hold.claim is None else ended(hold.claim, "forget")
    settle = Settle(hold.request_id, hold.nano > 0, 0, 0, None, forgotten)
    task = hold.task
    if task is None:
        return settle
    # The provider was never asked, and the caller was told so: only the row of the task records it.
    return Step(
        hold.request_id,
        0,
        task.key_id,
        "failed",
        0,
        task.created_ns,
        finished_ns=task.created_ns,
        deleted_ns=task.created_ns,
        error_code="not_submitted",
        settle=settle,
        unnamed=True,
    )


def lost(order: Settle, flag: str) -> Settle:
    """The same settlement for a caller who is told that the call failed: nothing is charged, and no answer is kept."""
    loss = order.loss_nano + order.charge_nano
    row = flagged(order.row, 0, loss, flag)
    return msgspec.structs.replace(order, charge_nano=0, loss_nano=loss, row=row, kept=None)


def flagged(row: UsageRow | None, charge: int, loss: int, flag: str) -> UsageRow | None:
    """The usage row of a call that was booked differently than asked; amounts in nano-USD."""
    if row is None:
        return None
    return msgspec.structs.replace(row, record=flagged_record(row.record, charge, loss, flag))


def flagged_record(encoded: bytes, charge: int, loss: int, flag: str) -> bytes:
    """A usage row's record with other amounts, in nano-USD, and one more flag."""
    record = decode_record(encoded)
    record = msgspec.structs.replace(record, charge_nano=charge, loss_nano=loss, flags=(*record.flags, flag))
    return encode_record(record)


class Refusal(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Why an order was not carried out; `code` and `message` for the caller, `sealed` the stored reply of a replay."""

    kind: RefusalKind
    message: str = ""
    code: str = ""
    sealed: bytes | None = None


class StepRefused(Unavailable):
    """The step was not written. A subclass of Unavailable, for code that would only retry or tell a caller."""


class IdempotencyReplay(Exception):
    """The call was made before: answer with `reply` and charge nothing."""

    def __init__(self, reply: StoredReply) -> None:
        super().__init__("replay")
        self.reply = reply


class IdempotencyPending(Exception):
    """The same call is in progress: `Ledger.wait_reply` waits for its reply."""
