"""W3C trace context: the trace that a call belongs to, from the caller's `traceparent` or its own id; it does no I/O.

A call's ids are derived from its request id, so that nothing has to be carried along for them: whoever has the call and
its header can tell its span.
"""

from __future__ import annotations

import hashlib
import re

import msgspec

HEADER = b"traceparent"
# Version 00, and later ones as far as they are alike; "ff" is no version, and ids of zeros are none.
_PARENT = re.compile(rb"\A(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?\Z")
_WHOLE = 1 << 64


class Trace(msgspec.Struct, frozen=True):
    """A span's place: 16 bytes of trace, 8 of the span, 8 of its parent's (empty without one)."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes = b""


def trace_of(call_id: bytes, traceparent: bytes | None) -> Trace:
    """The span of a call; without a usable header its request id is the trace's id."""
    span_id = hashlib.blake2b(call_id, digest_size=8).digest()
    if traceparent is not None and (found := _PARENT.match(traceparent.strip())) is not None:
        return Trace(bytes.fromhex(found[1].decode()), span_id, bytes.fromhex(found[2].decode()))
    return Trace(call_id, span_id)


def is_sampled(trace_id: bytes, ratio: float) -> bool:
    """Whether a trace is among the share that is kept: the same answer in every process, whoever the caller is.

    The caller's own sampling flag decides nothing: it is not theirs to say what the operator sees.
    """
    if ratio >= 1:
        return True
    # The id is hashed, since one of ours begins with the time.
    return int.from_bytes(hashlib.blake2b(trace_id, digest_size=8).digest(), "big") < int(ratio * _WHOLE)


def onward(trace: Trace, sampled: bool) -> bytes:
    """The `traceparent` of what a call leads to."""
    return b"00-%b-%b-%b" % (
        trace.trace_id.hex().encode(),
        trace.span_id.hex().encode(),
        b"01" if sampled else b"00",
    )
