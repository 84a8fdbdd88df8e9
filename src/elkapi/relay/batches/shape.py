"""The batch object and the lines of its results as Anthropic words them. Contract: anthropic.md section 1.4."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from elkapi.ids import parse_prefixed_id
from elkapi.storage.repos.batches import BatchRow

PREFIX = "msgbatch_"


def batch_id_text(batch_id: bytes) -> str:
    """The public spelling: `msgbatch_` and 32 hex digits."""
    return PREFIX + batch_id.hex()


def parse_batch_id(text: str) -> bytes | None:
    """The id behind the public spelling, or None if it is not one."""
    return parse_prefixed_id(text, PREFIX)


def shown(batch: BatchRow, home: str) -> dict[str, Any]:
    """The batch object; `home` is the address of the batches as the caller wrote it."""
    name = batch_id_text(batch.id)
    has_results = batch.status == "ended" and batch.archived_ns is None
    return {
        "id": name,
        "type": "message_batch",
        "processing_status": batch.status,
        "request_counts": {
            "processing": batch.total - batch.done,
            "succeeded": batch.succeeded,
            "errored": batch.errored,
            "canceled": batch.canceled,
            "expired": batch.expired,
        },
        "created_at": _stamp(batch.created_ns),
        "expires_at": _stamp(batch.expires_ns),
        "ended_at": _stamp(batch.ended_ns),
        "cancel_initiated_at": _stamp(batch.cancel_ns),
        "archived_at": _stamp(batch.archived_ns),
        "results_url": f"{home}/{name}/results" if has_results else None,
    }


def _stamp(at_ns: int | None) -> str | None:
    if at_ns is None:
        return None
    return datetime.fromtimestamp(at_ns // 1_000_000 / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def succeeded(message: bytes) -> bytes:
    """The result of a line that was answered, as one line whatever the upstream's JSON formatting."""
    if b"\n" in message or b"\r" in message:
        message = msgspec.json.format(message, indent=-1)
    return b'{"type":"succeeded","message":%b}' % message


def errored(error: bytes) -> bytes:
    """The result of a line that failed; `error` is the error body that the call itself would have received."""
    return b'{"type":"errored","error":%b}' % error


def result_line(custom_id: str, state: str, result: bytes | None) -> bytes:
    """One line of the results."""
    text = b'{"type":"%b"}' % state.encode() if result is None else result
    return b'{"custom_id":%b,"result":%b}\n' % (msgspec.json.encode(custom_id), text)
