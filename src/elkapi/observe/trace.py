"""W3C trace context: a call's trace, from the caller's `traceparent` or the request id; no I/O.

A call's span id is derived from its request id, so no state is needed: the call and its header determine the span.
"""

from __future__ import annotations

import hashlib
import re

import msgspec

HEADER = b"traceparent"
# Version 00, and compatible later ones; "ff" and ids of zeros are invalid.
_PARENT = re.compile(rb"\A(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?\Z")
_WHOLE = 1 << 64


class Trace(msgspec.Struct, frozen=True):
    """A span's ids: 16 bytes of trace, 8 of the span, 8 of its parent (empty without one)."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes = b""


def trace_of(call_id: bytes, traceparent: bytes | None) -> Trace:
    """The span of a call; without a valid header the request id is the trace id."""
    span_id = hashlib.blake2b(call_id, digest_size=8).digest()
    if traceparent is not None and (found := _PARENT.match(traceparent.strip())) is not None:
        return Trace(bytes.fromhex(found[1].decode()), span_id, bytes.fromhex(found[2].decode()))
    return Trace(call_id, span_id)


def is_sampled(trace_id: bytes, ratio: float) -> bool:
    """Whether a trace is sampled: the same result in every process.

    The caller's sampling flag is ignored: the operator decides what is recorded.
    """
    if ratio >= 1:
        return True
    # Hash the id, since our own ids start with the time.
    return int.from_bytes(hashlib.blake2b(trace_id, digest_size=8).digest(), "big") < int(ratio * _WHOLE)


def onward(trace: Trace, sampled: bool) -> bytes:
    """The `traceparent` of a call's upstream requests."""
    return b"00-%b-%b-%b" % (
        trace.trace_id.hex().encode(),
        trace.span_id.hex().encode(),
        b"01" if sampled else b"00",
    )
