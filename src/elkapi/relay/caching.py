"""The response cache in a call: the wishes of caller and policy, a hit as an outcome, and storing answers.

Owns the header `x-elkapi-cache`; `cache_name` defines the identity of calls, `elkapi.cache` stores answers. A hit is an
answer of no upstream: it holds exactly what it costs, is settled like any other and has its own record.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import Any

import msgspec

from elkapi.cache import Entry
from elkapi.errors import BadRequest
from elkapi.pricing.price import cost_nano
from elkapi.relay.cache_name import meaning_of
from elkapi.relay.call import EVENTS, JSON, Call, Headers, Reply
from elkapi.relay.candidates import Candidate
from elkapi.relay.exchange import facts_for
from elkapi.relay.hold import Hold
from elkapi.relay.large import anywhere
from elkapi.relay.outcome import Outcome
from elkapi.relay.passing import Passing
from elkapi.relay.plane import DataPlane
from elkapi.relay.read import Request
from elkapi.snapshot import Snapshot
from elkapi.translate.dialect import Unreadable
from elkapi.translate.dialects import DIALECTS
from elkapi.translate.stored import WHOLE, events_of, id_of, may_be_kept, written
from elkapi.types import CACHED_FLAG, Policy, Quote, RequestRecord

CACHE_HEADER = b"x-elkapi-cache"
AGE_HEADER = b"x-elkapi-cache-age"
MAX_AGE_S_MAX = 10**9
_SECONDS = re.compile("[0-9]{1,10}")


class Wish(msgspec.Struct, frozen=True):
    """A caller's wish: `on` None is none; `refresh` replaces the stored answer by a new one."""

    on: bool | None = None
    refresh: bool = False
    age_s_max: int | None = None


def wish_of(call: Call) -> Wish:
    """Parse the header: `on`, `off`, `refresh`, `max-age=SECONDS`, separated by commas. Raises BadRequest."""
    value = call.header(CACHE_HEADER)
    if value is None:
        return Wish()
    on, refresh, age_s_max = None, False, None
    for word in value.decode("latin-1").lower().split(","):
        name, _, number = word.strip().partition("=")
        if name in ("on", "off") and not number and on is not (name == "off"):
            on = name == "on"
        elif name == "refresh" and not number:
            refresh = True
        elif name == "max-age" and _SECONDS.fullmatch(number) is not None and int(number) <= MAX_AGE_S_MAX:
            age_s_max = int(number)
        else:
            raise BadRequest("X-Elkapi-Cache must be on, off, refresh or max-age=SECONDS.", param="X-Elkapi-Cache")
    if on is None and (refresh or age_s_max is not None):
        on = True
    return Wish(on, refresh, age_s_max)


async def recall(plane: DataPlane, snapshot: Snapshot, policy: Policy, hold: Hold, call: Call) -> Recall | None:
    """The stored answer of this call, or where its answer is to be stored; None if the cache is not used.

    The reply's `x-elkapi-cache` reports which. Raises BadRequest for an invalid header.
    """
    wish = wish_of(call)
    wanted = policy.cache is True if wish.on is None else wish.on and policy.cache is not False
    meaning = None
    if wanted and plane.answers.entry_bytes_max:
        size_bytes = len(hold.request.body)
        meaning = await anywhere(size_bytes, meaning_of, snapshot, hold.grant, policy, hold.request, call)
    if meaning is None:
        call.reply.common += b"x-elkapi-cache: off\r\n"
        return None
    name = plane.answers.name_of(meaning)
    if not wish.refresh:
        ages = (plane.settings.cache_age_max_s, policy.cache_age_max_s, wish.age_s_max)
        entry = await plane.answers.get(name, min(age for age in ages if age is not None))
        body = await anywhere(len(entry.body), _body, hold.request, entry) if entry is not None else None
        if entry is not None and body is not None:
            return _hit(plane, policy, hold, call, entry, body)
    call.reply.common += b"x-elkapi-cache: miss\r\n"
    tap = None
    if hold.request.stream:
        tap = call.reply = Tap(call.reply, plane.answers.entry_bytes_max)
    return Recall(hold, None, name, tap)


class Recall:
    """A call that uses the cache: with an `outcome` it is already answered, on the terms of `hold`; otherwise `keep`
    stores its answer."""

    def __init__(self, hold: Hold, outcome: Outcome | None, name: bytes = b"", tap: Tap | None = None) -> None:
        self.hold = hold
        self.outcome = outcome
        self._name = name
        self._tap = tap

    def keep(self, outcome: Outcome) -> None:
        """Store a settled answer, if it qualifies; returns at once."""
        hold = self.hold
        request, usage = hold.request, outcome.usage
        body = outcome.body if self._tap is None else self._tap.taken()
        stands_in = request.model != hold.candidates[0].request.model
        if (
            outcome is self.outcome
            or stands_in
            or outcome.status != 200
            or usage is None
            or outcome.unsplit
            or not _stopped(outcome)
            or body is None
            or (outcome.started and self._tap is None)
            or len(body) > hold.plane.answers.entry_bytes_max
        ):
            return
        if cost_nano(hold.quote, usage, outcome.served) > hold.held_nano:
            # It cost more than its hold. A hit holds exactly its cost, and would be dearer than a new call.
            return
        created_ns = hold.plane.clock.now_ns()
        form = (request.stream, request.array, request.facts.include_usage)
        entry = Entry(created_ns, body, usage, *form, outcome.served)
        hold.plane.answers.put(self._name, lambda: entry if _may_be_kept(request, entry) else None)


def _stopped(outcome: Outcome) -> bool:
    """Whether the answer ended normally, by the upstream's own words: the caller's dialect may have none for why an
    answer ended."""
    of = outcome.crossing or outcome.tally
    return of is None or not of.finish_reason or of.finish_reason in WHOLE


def _may_be_kept(request: Request, entry: Entry) -> bool:
    """Called on a thread."""
    wire = request.operation.wire
    if wire not in DIALECTS:
        return True
    try:
        return may_be_kept(events_of(wire, entry.body, stream=entry.stream, array=entry.array))
    except Unreadable:
        return False


class _Exact(Hold):
    """The hold of a hit: its cost is known, so nothing lowers it, and it does not count towards token limits."""

    def _record(self, *what: Any) -> RequestRecord:
        return msgspec.structs.replace(super()._record(*what), hit_ratio_micro=self.quote.further_micro[-1])

    async def _quote_exactly(self) -> bool:
        return False

    async def _quote_affordable(self) -> bool:
        return False

    @property
    def tokens(self) -> int:
        return 0


def _hit(plane: DataPlane, policy: Policy, hold: Hold, call: Call, entry: Entry, body: bytes) -> Recall:
    """The cached answer, in the form that this caller wants."""
    request, quote = hold.request, hold.quote
    age_s = max(0, plane.clock.now_ns() - entry.created_ns) // 1_000_000_000
    headers: Headers = (
        *(EVENTS if request.stream and not request.array else JSON),
        (CACHE_HEADER, b"hit"),
        (AGE_HEADER, b"%d" % age_s),
    )
    if request.asked:
        headers = (*headers, (b"x-elkapi-model", request.model.encode("ascii", "backslashreplace")))
    further_micro = (*quote.further_micro, policy.cache_hit_ratio_micro or 0)
    terms = Quote(quote.price, quote.group, quote.ratio_micro, entry.usage, 0, False, further_micro)
    terms = msgspec.structs.replace(terms, nano=cost_nano(terms, entry.usage, entry.served))
    outcome = Outcome(200, headers, body, entry.usage, (), None, flags=(CACHED_FLAG,), served=entry.served)
    return Recall(_Exact(plane, call, hold.grant, (Candidate(request, (), terms),)), outcome)


def _body(request: Request, entry: Entry) -> bytes | None:
    """The stored bytes if this caller asked in the same form, otherwise the same events rewritten; None if they are
    unreadable."""
    form = (request.stream, request.array, request.stream and request.facts.include_usage)
    wire = request.operation.wire
    if form == (entry.stream, entry.array, entry.stream and entry.include_usage) or wire not in DIALECTS:
        return entry.body
    try:
        events = events_of(wire, entry.body, stream=entry.stream, array=entry.array)
    except Unreadable:
        return None
    facts = facts_for(request, entry.created_ns // 1_000_000_000)
    facts = msgspec.structs.replace(facts, id=id_of(events) or facts.id)
    return written(wire, events, facts, entry.usage, stream=request.stream, array=request.array)


class Tap(Passing):
    """A reply that records a stream, up to `bytes_max`."""

    def __init__(self, reply: Reply, bytes_max: int) -> None:
        super().__init__(reply)
        self._room = bytes_max
        self._pieces: list[bytes] | None = []

    def taken(self) -> bytes | None:
        """The whole stream once it is finished; None if it is too long, broken off or not a stream."""
        return None if self._pieces is None else b"".join(self._pieces)

    def _take(self, chunk: bytes) -> None:
        self._room -= len(chunk)
        if self._room < 0:
            self._pieces = None
        elif self._pieces is not None:
            self._pieces.append(chunk)

    def send(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole reply, which is not a stream."""
        self._pieces = None
        super().send(status, headers, body)

    def put(self, chunk: bytes) -> Awaitable[None] | None:
        """One piece, remembered."""
        self._take(chunk)
        return self._reply.put(chunk)

    def write(self, chunk: bytes) -> Awaitable[None]:
        """Write and record one piece; pushed bytes are pings, and no part of the answer."""
        self._take(chunk)
        return super().write(chunk)

    def finish(self, chunk: bytes = b"") -> None:
        """The last piece, remembered."""
        self._take(chunk)
        super().finish(chunk)

    def abort(self) -> None:
        """Break off; the answer is none to keep."""
        self._pieces = None
        super().abort()
