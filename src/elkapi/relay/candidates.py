"""Hops 4 and 5 together: the requested model and its fallbacks, each with its upper bound."""

from __future__ import annotations

import hashlib
import re

import msgspec

from elkapi.catalog.bounds import NOTHING_ADDED
from elkapi.catalog.families.openai import bounded_as_text, token_ids
from elkapi.errors import BadRequest, NoChannel, NoPrice
from elkapi.relay.plane import Bearings
from elkapi.relay.read import Request, asked_of, with_added, with_research
from elkapi.relay.route import RESEARCH_TOKENS_MAX, Headed, estimate, is_allowed, route, way_of
from elkapi.routing import fallback
from elkapi.snapshot import Snapshot
from elkapi.types import Attempt, Grant, Policy, Quote

LOCAL = "local"
FALLBACK_HEADER = b"x-elkapi-fallback"
SESSION_PREFIX_BYTES = 4096
_SESSION_HEADERS = (b"x-claude-code-session-id",)


class Candidate(msgspec.Struct, frozen=True):
    """One model: the call in its form, the attempts in order, and the most it may cost."""

    request: Request
    attempts: tuple[Attempt, ...]
    quote: Quote

    @property
    def is_local(self) -> bool:
        """Whether only a bundled embedding model can answer it."""
        return {attempt.channel.family for attempt in self.attempts} == {LOCAL}


class _Metadata(msgspec.Struct):
    user_id: str | None = None


class _Marks(msgspec.Struct):
    prompt_cache_key: str | None = None
    metadata: _Metadata | None = None


_marks = msgspec.json.Decoder(_Marks)
_MARKED = re.compile(rb'"(?:prompt_cache_key|user_id)"')


def candidates(
    plane: Bearings, snapshot: Snapshot, grant: Grant, policy: Policy, request: Request, call: Headed
) -> tuple[Candidate, ...]:
    """The requested model, then its fallbacks that the key may use and that are served and priced.

    Raises ModelForbidden, NoChannel, NoPrice for the requested model, BadRequest for an invalid header.
    """
    wanted = _wants_fallbacks(call)
    others = fallback.others(policy, request.model) if wanted else ()
    try:
        first = _candidate(plane, snapshot, grant, request, call)
    except NoChannel:
        if not (others and fallback.allows(policy, "error")):
            raise
        found = _fallbacks(plane, snapshot, grant, request, call, others)
        if not found:
            raise
        return found
    return (first, *_fallbacks(plane, snapshot, grant, request, call, others)) if others else (first,)


def most_nano(among: tuple[Candidate, ...]) -> int:
    """The amount of a call's hold: the dearest of its candidates."""
    return among[0].quote.nano if len(among) == 1 else max(candidate.quote.nano for candidate in among)


def _wants_fallbacks(call: Headed) -> bool:
    value = call.header(FALLBACK_HEADER)
    if value is None:
        return True
    if value.strip().lower() != b"none":
        raise BadRequest("X-Elkapi-Fallback must be none.", param="X-Elkapi-Fallback")
    return False


def _fallbacks(
    plane: Bearings, snapshot: Snapshot, grant: Grant, request: Request, call: Headed, others: tuple[str, ...]
) -> tuple[Candidate, ...]:
    found = []
    for model in others:
        if not is_allowed(grant, model):
            continue
        try:
            found.append(_candidate(plane, snapshot, grant, asked_of(request, model), call))
        except (NoChannel, NoPrice):
            # The caller did not request this model, so its absence is no error of the call.
            continue
    return tuple(found)


def _candidate(plane: Bearings, snapshot: Snapshot, grant: Grant, request: Request, call: Headed) -> Candidate:
    way = way_of(snapshot, grant, request)
    ids = token_ids(request.facts)
    if ids is not None and any(one.family == LOCAL for tier in way.tiers for one in tier):
        request = msgspec.structs.replace(request, facts=bounded_as_text(request.facts, ids))
    if way.added is not NOTHING_ADDED:
        request = with_added(request, way.added)
    if way.researches:
        request = with_research(request, RESEARCH_TOKENS_MAX)
    if way.features:
        request = msgspec.structs.replace(request, features=way.features)
    if way.only is None and request.operation.dialect is not None:
        request = msgspec.structs.replace(request, session=session_of(grant, request, call))
    return Candidate(request, route(plane, snapshot, grant, request, way), estimate(grant, request, way, call))


def session_of(grant: Grant, request: Request, call: Headed) -> bytes:
    """A digest shared by calls of one session and model; b"" if nothing identifies a session."""
    mark = _mark(request.body, call)
    if not mark:
        return b""
    digest = hashlib.blake2b(mark, digest_size=16, key=grant.owner_id.to_bytes(8))
    digest.update(b"\0" + request.model.encode())
    return digest.digest()


def _mark(body: bytes, call: Headed) -> bytes:
    """The caller's session id, otherwise the beginning of the prompt, which providers' caches use."""
    if _MARKED.search(body) is not None:
        try:
            marks = _marks.decode(body)
        except msgspec.DecodeError:
            marks = _Marks()
        if marks.prompt_cache_key:
            return b"k" + marks.prompt_cache_key.encode()
        if marks.metadata is not None and marks.metadata.user_id:
            return b"u" + marks.metadata.user_id.encode()
    for name in _SESSION_HEADERS:
        if value := call.header(name):
            return b"s" + value
    # No provider caches shorter prompts.
    return b"p" + body[:SESSION_PREFIX_BYTES] if len(body) >= SESSION_PREFIX_BYTES else b""
