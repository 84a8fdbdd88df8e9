"""One line of a batch: an ordinary call that nobody waits for, and its result.

Its Idempotency-Key is derived from the batch's id and its number, so the ledger runs no line twice, and stores its
answer in the transaction of its charge. A worker that takes over a line of a dead one learns from that what happened,
or that it is unknown.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

import msgspec

from elkapi.access.admit import admit
from elkapi.catalog import CATALOG, Match
from elkapi.errors import (
    CallAboveLimit,
    Conflict,
    GatewayError,
    InsufficientQuota,
    RateLimited,
    Unavailable,
    UpstreamError,
)
from elkapi.ids import made_ns
from elkapi.ledger import balance
from elkapi.money import format_usd, parse_ratio
from elkapi.relay.batches import shape
from elkapi.relay.call import COST_USD, JSON, REPLAYED, Call, Headers
from elkapi.relay.plane import DataPlane
from elkapi.relay.read import Admitted
from elkapi.relay.relay import Failed, Left
from elkapi.relay.serve import serve
from elkapi.storage.repos.batch_lines import LeasedLine, find_claim
from elkapi.types import BatchLine, Grant
from elkapi.upstream.errors import Cut

PATH = "/v1/messages"
# An ordinary message, under the operation's name of batches in records, metrics and claims.
LINE = msgspec.structs.replace(CATALOG.match("POST", PATH).operation, id="anthropic.batches-create")
LINE_MATCH = Match(LINE, {})
# The key of the message's query among its headers; no header has this name.
QUERY = "?"

REPLY_BYTES_MAX = 32 * 1024 * 1024
TRIES_MAX = 5
HELD_S = 1.0
_PASSES = frozenset({429, 500, 502, 503, 504})
_UNKNOWN = "This request was interrupted, and its outcome is unknown. It was not charged."
_TOO_LARGE = "This request succeeded and was charged, but its answer was too large to keep across a restart."
_NOT_KEPT = (
    "This request succeeded and cost nothing, but its answer was not kept: you reached the daily limit for keeping "
    "answers that cost nothing."
)
_FREE = b"%b: %b\r\n" % (COST_USD, format_usd(0).encode())

# (error, id of the call) -> the error body in Anthropic's format, by `edge.render`.
Render = Callable[[GatewayError, bytes], bytes]


class Ended(msgspec.Struct, frozen=True):
    """The line's result, and the id under which its call is recorded."""

    state: str
    result: bytes
    call_id: bytes | None


class Later(msgspec.Struct, frozen=True):
    """Nothing was charged and nothing is running: the line waits.

    `counts` as one of its tries. `pauses_key`: the key is at its own limit, or all its money is held, so its other
    lines wait too.
    """

    after_s: float
    counts: bool = False
    pauses_key: bool = False


# None: the result is not known yet; `resume` finds out.
Fate = Ended | Later | None


class Collected:
    """A `relay.call.Reply` that collects the answer, up to REPLY_BYTES_MAX."""

    def __init__(self) -> None:
        self.started = False
        self.common = b""
        self.replayed = False
        self.body = b""
        self._parts: list[bytes] = []
        self._size = 0

    def send(self, status: int, headers: Headers, body: bytes) -> None:
        self.started, self.body = True, body
        self.replayed = REPLAYED in headers

    def start(self, status: int, headers: Headers, length_bytes: int | None = None) -> None:
        self.started = True

    def put(self, chunk: bytes) -> None:
        self.push(chunk)

    async def write(self, chunk: bytes) -> None:
        self.push(chunk)

    def push(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size > REPLY_BYTES_MAX:
            raise Cut(f"the answer has more than {REPLY_BYTES_MAX} bytes", phase="body", sent=True)
        self._parts.append(chunk)

    def finish(self, chunk: bytes = b"") -> None:
        self.body = b"".join([*self._parts, chunk])

    def abort(self) -> None:
        self._parts.clear()


def claim_name(batch_id: bytes, number: int) -> str:
    """The Idempotency-Key of a line."""
    return f"{shape.batch_id_text(batch_id)}.{number}"


def call_id(batch_id: bytes, number: int, now_ns: int) -> bytes:
    """An id in the format of `ids.new_id`, whose random part is derived from the batch and the line."""
    own = hashlib.blake2b(batch_id + number.to_bytes(4), digest_size=10).digest()
    return (now_ns // 1_000_000).to_bytes(6) + own


async def carry_out(plane: DataPlane, line: LeasedLine, params: bytes, render: Render) -> Fate:
    """Run the call of a line that was never started. Raises Unavailable if the database cannot be reached."""
    id_ = call_id(line.batch_id, line.number, plane.clock.now_ns())
    named = msgspec.json.decode(line.headers, type=dict[str, str])
    query = named.pop(QUERY, "")
    headers = [*JSON, (b"idempotency-key", claim_name(line.batch_id, line.number).encode())]
    headers += [(name.encode(), value.encode("latin-1")) for name, value in named.items()]
    reply = Collected()
    call = Call(id_, "POST", PATH, query, headers, "", params, reply, plane.clock.monotonic_s())
    try:
        admitted = await _admitted(plane, line)
        try:
            await serve(plane, call, admitted)
        except InsufficientQuota as refused:
            # What other calls hold may be released, and may have been meanwhile.
            if await _is_covered(plane, admitted.grant, refused.wanted_nano):
                return Later(HELD_S, pauses_key=True)
            raise
    except Left:
        # No caller could leave, so the drain cut this line off.
        raise asyncio.CancelledError from None
    except Failed as failed:
        unknown = any(attempt.fate == "unknown" for attempt in failed.attempts)
        return fate_of(failed.error, line, plane.settings.batch_retry_s, render, id_, may_repeat=not unknown)
    except CallAboveLimit as limited:
        # To wait for it would stop the key's other lines again and again, until this one expires.
        return _errored(limited, render, id_)
    except RateLimited as limited:
        # The key's own limit, before anything was held.
        return Later(_retry_after_s(limited), pauses_key=True)
    except Conflict as conflict:
        return _of_conflict(conflict, render, id_)
    except Unavailable as error:
        if error.retryable:
            # The ledger may have booked the call without being able to answer; `resume` finds out.
            return None
        return fate_of(error, line, plane.settings.batch_retry_s, render, id_, may_repeat=True)
    except GatewayError as error:
        return fate_of(error, line, plane.settings.batch_retry_s, render, id_, may_repeat=True)
    if reply.replayed:
        return None
    if _FREE in reply.common and not plane.free_kept.take(line.key_id, len(reply.body)):
        return _errored(UpstreamError(_NOT_KEPT), render, id_)
    return Ended("succeeded", shape.succeeded(reply.body), id_)


async def resume(plane: DataPlane, line: LeasedLine, render: Render) -> Fate:
    """The result of a line that was started, from what the ledger stored. Raises Unavailable."""
    name = claim_name(line.batch_id, line.number)
    found = await plane.reader.run(lambda connection: find_claim(connection, line.key_id, LINE.id, name))
    if found is None:
        # The call never reached the ledger, so no upstream has seen it, unless the ledger has forgotten it since.
        kept_until_ns = made_ns(line.batch_id) + round(plane.settings.idempotency_keep_s * 1e9)
        if plane.clock.now_ns() < kept_until_ns:
            return Later(0.0)
        return _errored(UpstreamError(_UNKNOWN), render, None)
    claim, id_ = found
    try:
        reply = await plane.ledger.wait_reply(claim)
    except Conflict as conflict:
        return _of_conflict(conflict, render, id_)
    if reply is None:
        return Later(0.0)
    return Ended("succeeded", shape.succeeded(reply.body or b"{}"), reply.request_id)


async def _admitted(plane: DataPlane, line: LeasedLine) -> Admitted:
    """The current state of the key. Raises Unauthenticated if it was disabled meanwhile."""
    snapshot = plane.snapshots.current
    grant = await admit(snapshot, plane.key_cache, plane.key_reader, line.key_digest, plane.clock)
    ratio_micro = snapshot.policy_for(grant).batch_ratio_micro
    if ratio_micro is None:
        ratio_micro = parse_ratio(plane.settings.batch_ratio)
    return Admitted(LINE_MATCH, grant, BatchLine(shape.batch_id_text(line.batch_id), line.number, ratio_micro))


async def _is_covered(plane: DataPlane, grant: Grant, nano: int) -> bool:
    """Whether the key could spend this much if no running call held anything. Raises Unavailable."""
    balances = await plane.reader.run(lambda c: [balance(c, account) for account in grant.accounts])
    return all(one.available_nano + one.held_nano >= nano for one in balances)


def fate_of(
    error: GatewayError, line: LeasedLine, retry_s: float, render: Render, id_: bytes | None, *, may_repeat: bool
) -> Ended | Later:
    """A temporary error is waited out, a few times; every other one is the line's result."""
    if may_repeat and error.status in _PASSES and line.tries + 1 < TRIES_MAX:
        return Later(max(retry_s * 2**line.tries, _retry_after_s(error)), counts=True)
    return _errored(error, render, id_)


def _of_conflict(conflict: Conflict, render: Render, id_: bytes) -> Fate:
    if conflict.code == "idempotency_in_progress":
        return None
    text = _TOO_LARGE if conflict.code == "idempotent_replay_unavailable" else _UNKNOWN
    return _errored(UpstreamError(text), render, id_)


def _errored(error: GatewayError, render: Render, id_: bytes | None) -> Ended:
    return Ended("errored", shape.errored(render(error, id_ or bytes(16))), id_)


def _retry_after_s(error: GatewayError) -> float:
    return next((float(value) for name, value in error.headers if name == b"retry-after"), 0.0)
