"""The end of a task as one step: its cost, the charge or release, and its record. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from elkapi.catalog.operation import Family, Operation
from elkapi.pricing.media import as_told, measured
from elkapi.pricing.meter import is_possible
from elkapi.pricing.price import amount_nano, priced_for
from elkapi.tasks import machine, record
from elkapi.tasks.record import Task
from elkapi.types import Price, RequestRecord, Settlement, State, TaskAsset, TaskStep, Usage

CANCELLED_STATUS = 499


class Cost(msgspec.Struct, frozen=True):
    """What a finished task used, its price, and how much of it the hold covers."""

    usage: Usage
    price: Price
    charge_nano: int
    loss_nano: int
    flags: tuple[str, ...] = ()
    features: Mapping[str, str] = {}


def cost_of(task: Task, operation: Operation, family: Family, reply: Any, assets: tuple[TaskAsset, ...]) -> Cost:
    """The cost of a task: by the usage that its provider reports, if possible, else by its files. The charge is
    never above the hold."""
    asked = task.asked
    flags: tuple[str, ...] = ()
    assert operation.meter is not None
    usage, features = measured(operation.meter, asked.upper, asked.features, assets)
    said = None if family.hooks.usage is None else family.hooks.usage(asked.body, reply)
    # As for text, a reported usage that this task cannot have had is neither charged nor booked as a loss.
    if said is not None and is_possible(said, asked.upper):
        usage = said
    elif operation.meter.unit == "token":
        flags = ("usage_missing",)
    features = as_told(operation.meter, features, reply)
    price = priced_for(asked.price, features)
    cost = amount_nano(price, usage, asked.ratio_micro)
    charge = min(cost, asked.held_nano)
    return Cost(usage, price, charge, cost - charge, (*flags, "above_hold") if cost > charge else flags, features)


def came_to_nothing(task: Task, cost: Cost) -> bool:
    """Whether a success with a hold is not charged, although its results have a price."""
    return bool(task.asked.held_nano) and not cost.charge_nano and not cost.price.is_zero


def cost_at_once(task: Task) -> Cost:
    """The cost of a task whose submit was answered with the result: by what was requested."""
    asked = task.asked
    price = priced_for(asked.price, asked.features)
    charge = min(amount_nano(price, asked.upper, asked.ratio_micro), asked.held_nano)
    return Cost(asked.upper, price, charge, 0, features=asked.features)


def succeeded(
    task: Task, reply: bytes, assets: tuple[TaskAsset, ...], refs: tuple[str, ...], cost: Cost, now_ns: int
) -> TaskStep:
    """The step to success: the charge, and the answer with its files."""
    told = msgspec.structs.replace(
        task.told, reply=msgspec.Raw(reply), polled=True, assets=assets, charged_nano=cost.charge_nano
    )
    final = _record(task, "ok", 200, cost, now_ns)
    return _step(task, State.SUCCEEDED, 100, told, final, now_ns, refs=refs)


def ended(
    task: Task,
    state: State,
    code: str,
    error: str,
    reply: bytes,
    now_ns: int,
    *,
    loss: Cost | None = None,
    status: int = 502,
    unknown: bool = False,
    said: str = "",
) -> TaskStep:
    """The step to any other end: free for the caller; what the provider billed nevertheless is the operator's loss.

    `said` is the message for the operator alone, if `error` does not contain all of it.
    """
    told = msgspec.structs.replace(task.told, error=error, said=said)
    if reply:
        told = msgspec.structs.replace(told, reply=msgspec.Raw(reply), polled=True)
    cost = Cost(Usage(), task.asked.price, 0, 0, ("unknown_outcome",) if unknown else ())
    if loss is not None:
        lost_nano = loss.charge_nano + loss.loss_nano
        cost = msgspec.structs.replace(cost, usage=loss.usage, features=loss.features, loss_nano=lost_nano)
    status = CANCELLED_STATUS if state is State.CANCELLED else status
    final = _record(task, code, status, cost, now_ns)
    return _step(task, state, task.row.progress, told, final, now_ns, code=code)


def cancelled(task: Task, now_ns: int) -> TaskStep:
    """The step to the end of a task that its provider cancelled on request: free."""
    return ended(task, State.CANCELLED, "cancelled", machine.SILENT_ENDS[State.CANCELLED], b"", now_ns)


def _step(
    task: Task,
    state: State,
    progress: int,
    told: record.Told,
    final: RequestRecord,
    now_ns: int,
    *,
    code: str | None = None,
    refs: tuple[str, ...] = (),
) -> TaskStep:
    return msgspec.structs.replace(
        task.step(now_ns),
        state=state,
        progress=progress,
        finished_ns=now_ns,
        error_code=code,
        told=record.encode(told),
        settlement=Settlement(final, task.order),
        refs=refs,
    )


def _record(task: Task, outcome: str, status: int, cost: Cost, now_ns: int) -> RequestRecord:
    row, asked, attempts = task.row, task.asked, task.told.attempts
    last = attempts[-1] if attempts else None
    return RequestRecord(
        id=row.id,
        key_id=row.key_id,
        owner_id=row.owner_id,
        operation=row.operation,
        model=row.model,
        group=asked.group,
        created_ns=row.created_ns,
        # A clock that was set back must not make a task end before it started.
        duration_ms=max(now_ns - row.created_ns, 0) / 1e6,
        status=status,
        outcome=outcome,
        usage=cost.usage,
        price_id=asked.price.id,
        price_version=asked.price.version,
        ratio_micro=asked.ratio_micro,
        hold_nano=asked.held_nano,
        charge_nano=cost.charge_nano,
        loss_nano=cost.loss_nano,
        flags=cost.flags,
        channel_id=row.channel_id,
        channel_name=last.channel_name if last else None,
        upstream_request_id=last.upstream_request_id if last else None,
        attempts=attempts,
        error_code=None if outcome == "ok" else outcome,
        asked=asked.asked_model or None,
        features=dict(cost.features),
    )
