"""Time-ordered 16-byte ids without a central counter, and their text form.

An id is 6 bytes of unix milliseconds, 4 bytes of a counter and 6 random bytes of this process, so ids of one
process sort by creation and those of two processes never meet. Ids are not secrets: every query carries its owner.
"""

from __future__ import annotations

import itertools
import os
import time

ID_BYTES = 16
_HEX_DIGITS = frozenset("0123456789abcdef")

_counter = itertools.count(int.from_bytes(os.urandom(3), "big"))
_process = os.urandom(6)


def _reseed() -> None:
    global _process
    _process = os.urandom(6)


os.register_at_fork(after_in_child=_reseed)


def new_id(now_ns: int | None = None) -> bytes:
    """A new 16-byte id."""
    ms = (time.time_ns() if now_ns is None else now_ns) // 1_000_000
    return ms.to_bytes(6, "big") + (next(_counter) & 0xFFFFFFFF).to_bytes(4, "big") + _process


def made_ns(value: bytes) -> int:
    """The creation time of an id in Unix nanoseconds, to the millisecond."""
    return int.from_bytes(value[:6], "big") * 1_000_000


def first_id_at(now_ns: int) -> bytes:
    """The smallest possible id of this time; range scans start here."""
    return (now_ns // 1_000_000).to_bytes(6, "big") + bytes(10)


def request_id_text(value: bytes) -> str:
    """The public spelling: `req_` and 32 hex digits."""
    return "req_" + value.hex()


def parse_request_id(text: str) -> bytes | None:
    """The id behind the public spelling, which may lack its `req_`, or be that of the task which the request started
    (`task_` and the same digits); None if it is not one."""
    return _parsed(text[5:] if text.startswith("task_") else text.removeprefix("req_"))


def parse_prefixed_id(text: str, prefix: str) -> bytes | None:
    """The id behind `prefix` and 32 hex digits, for things other than requests; None for anything else."""
    return _parsed(text.removeprefix(prefix)) if text.startswith(prefix) else None


def _parsed(digits: str) -> bytes | None:
    # `bytes.fromhex` alone would skip spaces, and make a shorter id.
    return bytes.fromhex(digits) if len(digits) == 2 * ID_BYTES and set(digits.lower()) <= _HEX_DIGITS else None


def event_id_text(task_id: bytes, place: int, number: int) -> str:
    """The public spelling of a task's event for one address: `evt_`, the task's 32 hex digits and twelve more."""
    return f"evt_{task_id.hex()}{place:04x}{number:08x}"


def parse_event_id(text: str) -> tuple[bytes, int, int] | None:
    """(task, place, number) behind the public spelling, or None when it is not one."""
    digits = text.removeprefix("evt_")
    if digits == text or len(digits) != 2 * ID_BYTES + 12 or not set(digits) <= _HEX_DIGITS:
        return None
    return bytes.fromhex(digits[:32]), int(digits[32:36], 16), int(digits[36:], 16)
