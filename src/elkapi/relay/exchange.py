"""Converts one attempt's body and answer between the caller's wire and the upstream's; no I/O.

`exchange_for` selects one of three ways: the wires are the same and bytes pass (`Same`), both are text dialects
(`Text`), or they are another pair that `translate` supports (`Carried`). The relay treats them alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import msgspec

from elkapi.catalog.jsonedit import with_names, with_raw, with_string, without
from elkapi.catalog.operation import Wire
from elkapi.catalog.upstreams import Endpoint, endpoint_for, known_model, refuses_other_models
from elkapi.clock import Clock
from elkapi.errors import NOT_JSON, BadRequest
from elkapi.guards.crossing import Guarded
from elkapi.pricing.meter import is_believable, is_blank, is_possible, metered, with_client_model
from elkapi.relay.keep import kept_relayed, kept_translated, named_ours, unstored, with_state
from elkapi.relay.read import Request
from elkapi.translate.anthropic import told_elsewhere
from elkapi.translate.anthropic_history import has_foreign_turns, with_own_thoughts
from elkapi.translate.anthropic_reply import is_unbilled
from elkapi.translate.carried import CARRIED, Carrier
from elkapi.translate.chat_views import BROKEN
from elkapi.translate.crossing import Array, Crossing, Numbered, Relayed, Tally, Translated
from elkapi.translate.dialect import Dialect, ReplyFacts, Unreadable, UpstreamDialect, Writer, member_of
from elkapi.translate.dialects import DIALECTS, PREFIXES, UPSTREAM_DIALECTS
from elkapi.translate.embeddings import packed, with_model
from elkapi.translate.free_text import custom_tools_for
from elkapi.translate.gemini_writer import ArrayWriter
from elkapi.translate.ir import ChatRequest, Event, Failure, UsageSeen
from elkapi.translate.kept import is_readable
from elkapi.translate.late_sources import SourcesFirst, may_come_late
from elkapi.translate.paragraphs import Paragraphed, in_paragraphs
from elkapi.translate.profiles import profile_for
from elkapi.translate.responses_request import configured
from elkapi.translate.responses_state import without_envelopes
from elkapi.translate.server_tools import HOSTED, UNPRICED_CALLS
from elkapi.translate.tool_names import ToolNames
from elkapi.translate.tool_search import tool_search_for
from elkapi.translate.vertex import for_vertex
from elkapi.types import UNPRICED_FLAG, Attempt, Usage

# Wires whose streams need a request for usage, and whose bodies have the caller's output limit.
_USAGE_ON_REQUEST: frozenset[Wire] = frozenset({"chat", "completions"})
_LIMIT_MEMBER: dict[Wire, str] = {
    "completions": "max_tokens",
    "responses": "max_output_tokens",
    "anthropic": "max_tokens",
}
# Wires whose path names the model, and whose bodies may name it again.
_NAMED_INSIDE: frozenset[Wire] = frozenset({"gemini-embed", "gemini-batch-embed", "gemini-count"})
_CLAUDES: frozenset[Wire] = frozenset({"anthropic", "anthropic-count"})
_GEMINIS: frozenset[Wire] = frozenset({"gemini", "gemini-count"})
MODEL_MEMBER: dict[Wire, str] = {"gemini": "modelVersion"}
# An answer without a choice is no answer, whatever its usage. Quotes within a text are escaped.
_OF_CHOICES = ("chat", "completions")
_CHOICES, _FIRST_CHOICE = b'"choices"', b'"choices":[{'
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*(?:\[\s*\]|null)')
# An answer of these wires without its list is none, but an error in a format of the upstream's own.
# Voyage's reranks have the list under another name.
_LISTED: dict[Wire, bytes] = {
    "embeddings": b'"embedding"',
    "gemini-embed": b'"values"',
    "gemini-batch-embed": b'"values"',
    "rerank": b'"relevance_score"',
    "moderations": b'"results"',
}
# What is before each vector of an answer, and its pattern, which has Jina's name before several of a text too. A search
# for plain bytes is by far the faster.
_OF_OPENAI = (b'"embedding":', re.compile(rb'"embeddings?"\s*:'))
_OF_GEMINI = (b'"values":', re.compile(rb'"values"\s*:'))
_VECTOR: dict[Wire, tuple[bytes, re.Pattern[bytes]]] = {
    "embeddings": _OF_OPENAI,
    "gemini-embed": _OF_GEMINI,
    "gemini-batch-embed": _OF_GEMINI,
}
# How what is no vector begins, without blanks: nothing, as Ollama's for a text that its model failed on, or NaN, since
# a number that overflows spoils the others. In base64 these are the usual ones: positive, negative and CUDA's.
_NO_VECTOR = (b"null", b"[]", b'""', b"[null", b"[NaN", b"[-NaN", b'["NaN"', b'"AADAfwAA', b'"AADA/wAA', b'"////f///')
_BEGINNING_BYTES, _BLANKS = 32, b" \t\r\n"
# NaN further on in a vector, as most writers of JSON write it.
_HOLE = b",null"
# Every response has an `error`, which is null unless it failed.
_ERROR_INSIDE = re.compile(rb'"error"\s*:\s*[{"]')
# Wires whose failed answers may have a usage.
_FAIL_WITH_USAGE = (*_OF_CHOICES, "responses")
# Where one of these words is no text but a value, an answer of choices may have failed, whatever its usage.
_GAVE_UP = tuple(b'"%b"' % word.encode() for word in BROKEN)
# How nearly every only choice ends. Quotes within a text are escaped.
_ERROR, _STOPPED = b'"error"', b'"finish_reason":"stop"'
# Wires whose answers show the use of provider tools apart from their usage, with the marks of such an answer.
_TOOLS_SHOWN: dict[Wire, tuple[bytes, ...]] = {
    "responses": (b'"tool_usage"', b'"web_search'),
    "gemini": (b'"webSearchQueries"',),
}
_UNPRICED = tuple(b'"%b"' % kind.encode() for kind in sorted(UNPRICED_CALLS))
_SHELL, _HOSTED = b'"shell_call"', tuple(b'"%b"' % where.encode() for where in HOSTED)
# Claude Code matches the words on `fallbacks` and retries without them.
OTHER_MODELS_REFUSED = (
    "A call must name one model; send a separate call for each further model. The `fallbacks` parameter is not "
    "supported, nor `models`, `routingConfig` or tools that name a model, such as an advisor."
)


class Whole(msgspec.Struct, frozen=True):
    """A whole answer for the caller: `usage` is None if the upstream reported none that can be believed.

    `tally` is then the basis of a local count, None if the answer was not decoded; `recount` rewrites the body with
    that count, if the caller's dialect shows one.
    """

    body: bytes
    usage: Usage | None
    unsplit: bool = False
    failure: Failure | None = None
    tally: Tally | None = None
    flags: tuple[str, ...] = ()
    recount: Callable[[Usage], bytes] | None = None


class Exchange(Protocol):
    """One attempt's conversion."""

    wire: Wire
    endpoint: Endpoint
    stream: bool
    translated: bool

    def body(self) -> bytes:
        """The body to send. Raises BadRequest for what the upstream's wire does not support."""

    def whole(self, body: bytes) -> Whole:
        """The caller's answer from a whole success reply. Raises Unreadable."""

    def read_whole(self, body: bytes) -> list[Event]:
        """The events of a whole answer to a stream request. Only called if `stream`. Raises Unreadable."""

    def crossing(self) -> Crossing:
        """The conversion of a stream. Only called if `stream`."""


def may_show_tools(request: Request) -> bool:
    """Whether the answer may show provider tools apart from its usage, so that all of it must be metered.

    A response is large only through images that a tool made for it; Gemini's own images are in its usage.
    """
    wire = request.operation.wire
    return wire == "responses" or (wire in _TOOLS_SHOWN and bool(request.facts.upper.searches))


def exchange_for(attempt: Attempt, request: Request, clock: Clock) -> Exchange:
    """The conversion for one attempt, whose channel serves the operation (`catalog.upstreams.serves`)."""
    operation = request.operation
    if operation.wire is None:
        raise TypeError(f"{operation.id} is relayed but names no wire")
    model = known_model(attempt.channel, attempt.upstream_model)
    found = endpoint_for(attempt.channel.family, operation.wire, operation.dialect is not None, model)
    if found is None:
        raise TypeError(f"{attempt.channel.family} was planned for {operation.id}, which it does not serve")
    wire, endpoint = found
    if wire == operation.wire:
        return Same(attempt, request, wire, endpoint, clock)
    if (carrier := CARRIED.get((operation.wire, wire))) is not None:
        return Carried(attempt, request, wire, endpoint, carrier)
    return Text(attempt, request, wire, endpoint, clock)


class Same:
    """Caller and upstream speak the same wire: the body passes unchanged except for the model, the answer byte for
    byte."""

    translated = False

    def __init__(self, attempt: Attempt, request: Request, wire: Wire, endpoint: Endpoint, clock: Clock) -> None:
        self.attempt = attempt
        self.request = request
        self.wire = wire
        self.endpoint = endpoint
        self.stream = request.stream
        self.clock, self.created_s = clock, clock.now_ns() // 1_000_000_000
        self.mapped = attempt.upstream_model != request.model

    def body(self) -> bytes:
        request, body = self.request, self.request.body
        if request.facts.other_models and refuses_other_models(self.attempt.channel):
            raise BadRequest(OTHER_MODELS_REFUSED)
        source = request.operation.model
        if self.endpoint.left_out:
            body = without(body, self.endpoint.left_out)
        elif self.mapped and source.where != "path":
            body = with_string(body, source.name, self.attempt.upstream_model)
        elif self.mapped and self.wire in _NAMED_INSIDE:
            body = with_model(body, self.attempt.upstream_model)
        for name, text in self.endpoint.body:
            body = with_string(body, name, text)
        if self.endpoint.names:
            body = with_names(body, self.endpoint.names)
        if self.wire == "responses":
            body = without_envelopes(body)
        elif self.wire in _CLAUDES and has_foreign_turns(body):
            body = with_own_thoughts(body)
        elif self.attempt.channel.family == "vertex" and self.wire in _GEMINIS:
            body = for_vertex(body)
        if request.facts.store:
            body = unstored(request, self.wire, body, self.attempt)
        if self.endpoint.tells_usage:
            body = without(body, ("stream_options",))
        elif self.stream and self.wire in _USAGE_ON_REQUEST and not request.facts.include_usage:
            body = _asking_usage(body)
        if request.output_cap is not None:
            body = self._capped(body, request.output_cap)
        return body

    def _capped(self, body: bytes, cap: int) -> bytes:
        """The body with an output limit that the caller did not set: no more than their balance covers."""
        if self.wire == "gemini":
            return _with_generation_limit(body, cap)
        channel = self.attempt.channel
        profile = profile_for(channel.family, known_model(channel, self.attempt.upstream_model))
        return with_raw(body, _LIMIT_MEMBER.get(self.wire, profile.max_tokens_field), b"%d" % cap)

    def whole(self, body: bytes) -> Whole:
        given = self.request.facts
        if self.wire in _OF_CHOICES and _lacks_choices(body):
            raise Unreadable("no choices")
        if self.wire in _LISTED and _LISTED[self.wire] not in body:
            if (failure := self._failure(body)) is not None:
                return Whole(b"", None, failure=failure)
            raise Unreadable("no answer")
        if self.wire in _VECTOR and _lacks_vectors(body, given.items, *_VECTOR[self.wire]):
            raise Unreadable("no vector, or fewer than texts")
        usage, unsplit = metered(body, self.wire, given.upper, given.open_ended, given.output_limit is not None)
        if usage is not None and self.wire == "anthropic" and is_unbilled(body):
            usage, unsplit = Usage(), False
        tally = None
        if usage is not None and self.wire in _TOOLS_SHOWN and any(name in body for name in _TOOLS_SHOWN[self.wire]):
            usage = self._with_tools(body, usage)
        if usage is not None and is_blank(usage, self.request.facts.upper) and self._answers(body):
            usage = None
        # A failed answer may report it besides its usage so far.
        suspect = usage is None or (self.wire in _FAIL_WITH_USAGE and self._may_have_failed(body))
        if suspect and (failure := self._failure(body)) is not None:
            return Whole(b"", None, failure=failure)
        if usage is None:
            tally = self._tally(body) if self.request.operation.dialect is not None else None
        if self.mapped:
            member = MODEL_MEMBER.get(self.wire, "model")
            body = with_client_model(body, self.request.model, member, nested=self.wire == "responses")
        if given.base64:
            body = packed(body)
        if self.request.keep is not None:
            body = named_ours(self.request, body)
        elif self.request.line is not None and not is_readable(body):
            # It would be among the results of other lines, and make all of them unreadable.
            raise Unreadable
        flags = (UNPRICED_FLAG,) if self.wire == "responses" and _ran_unpriced(body) else ()
        return Whole(body, usage, unsplit, tally=tally, flags=flags)

    def _may_have_failed(self, body: bytes) -> bool:
        """A cheap look whether an answer that has a usage is to be searched for an error."""
        if self.wire == "responses" or _ERROR in body:
            return True
        if _STOPPED in body and self.request.facts.choices == 1:
            return False
        return any(word in body for word in _GAVE_UP)

    def _failure(self, body: bytes) -> Failure | None:
        """An error that a provider reports inside a success reply, or the finish reason of one; the caller never gets
        such an answer (guarantee 57)."""
        if _ERROR_INSIDE.search(body) is not None:
            try:
                told = bytes(_object.decode(body).get("error", b""))
            except NOT_JSON:
                return None
            if told[:1] not in (b"{", b'"') and self.wire not in _OF_CHOICES:
                return None
        elif self.wire not in _OF_CHOICES or not self._may_have_failed(body):
            return None
        events = DIALECTS.get(self.wire, DIALECTS["chat"]).read_reply(body)
        return next((event for event in events if isinstance(event, Failure)), None)

    def _with_tools(self, body: bytes, usage: Usage) -> Usage | None:
        """The usage including tools, as a stream of the answer would count it; None if impossible."""
        try:
            events = self.read_whole(body)
        except Unreadable:
            return usage
        seen, given = [event.usage for event in events if isinstance(event, UsageSeen)], self.request.facts
        if not seen or seen[-1] == usage:
            return usage
        return seen[-1] if is_possible(seen[-1], given.upper, given.open_ended, given.limited) else None

    def _answers(self, body: bytes) -> bool:
        """Whether an answer has content; vectors and scores always do."""
        return self.request.operation.dialect is None or not self._tally(body).is_empty

    def _tally(self, body: bytes) -> Tally:
        tally = Tally()
        for event in self.read_whole(body):
            tally.add(event)
        return tally

    def read_whole(self, body: bytes) -> list[Event]:
        return DIALECTS[self.wire].read_reply(body)

    def crossing(self) -> Crossing:
        dialect = DIALECTS[self.wire]
        if self.request.output_rules:
            facts = facts_for(self.request, self.created_s, self.clock)
            writer = writer_for(self.request, facts)
            return Guarded(dialect.reader(), writer, dialect.ends_by_close, self.request.output_rules)
        member = MODEL_MEMBER.get(self.wire, "model")
        strip = self.wire in _USAGE_ON_REQUEST and not self.request.facts.include_usage
        asked = ChatRequest(model=self.request.model, messages=[])
        writer = dialect.writer(facts_of(self.request, asked, self.wire, self.created_s, self.clock))
        rename = (member, self.request.model) if self.mapped else None
        if self.request.keep is not None:
            return kept_relayed(self.request, dialect, writer, strip, rename)
        way = Array if self.request.array else Numbered if self.wire == "responses" else Relayed
        return way(dialect.reader(), writer, dialect.ends_by_close, strip, rename, dialect.repeats)


class Text:
    """Both sides are text dialects: request and answer go through the hub."""

    translated = True

    def __init__(self, attempt: Attempt, request: Request, wire: Wire, endpoint: Endpoint, clock: Clock) -> None:
        self.attempt = attempt
        self.request = request
        self.wire = wire
        self.endpoint = endpoint
        self.stream = request.stream
        self.clock, self.created_s = clock, clock.now_ns() // 1_000_000_000
        self.ours: Dialect = DIALECTS[request.operation.wire]  # type: ignore[index]
        self.theirs: Dialect | UpstreamDialect = UPSTREAM_DIALECTS[wire]
        self.asked: ChatRequest = tool_search_for(configured(told_elsewhere(self.ours.read_request(request.body))))
        self.asked.model = request.model
        self.names = ToolNames(self.asked, wire)

    def body(self) -> bytes:
        channel, model = self.attempt.channel, self.attempt.upstream_model
        asked = msgspec.structs.replace(self.asked, model=model, stream=self.stream)
        if self.request.output_cap is not None:
            asked.max_output_tokens = self.request.output_cap
        if asked.n > 1:
            raise BadRequest("`n` must be 1 for this model.", param="n")
        self.ours.check_crossing(asked)
        profile = profile_for(channel.family, known_model(channel, model))
        try:
            body = self.theirs.write_request(custom_tools_for(self.names.of(asked), profile), profile)
        except BadRequest as error:
            error.param = member_of(self.wire_of_caller, error.param)
            raise
        if self.endpoint.tells_usage:
            body = without(body, ("stream_options",))
        if self.endpoint.left_out:
            body = without(body, self.endpoint.left_out)
        for name, text in self.endpoint.body:
            body = with_string(body, name, text)
        return body

    def whole(self, body: bytes) -> Whole:
        return self._written(self.theirs.read_reply(body))

    def _written(self, events: list[Event]) -> Whole:
        events = self.names.told(events)
        tally, usage, unsplit = Tally(), None, False
        for event in events:
            if isinstance(event, Failure):
                return Whole(b"", None, failure=event)
            if isinstance(event, UsageSeen):
                usage, unsplit = event.usage, event.unsplit
            tally.add(event)
        if self.asked.server_tools:
            events = in_paragraphs(events)
        facts = facts_of(self.request, self.asked, self.wire_of_caller, self.created_s, self.clock)
        given, answered = self.request.facts, not tally.is_empty
        flags = (UNPRICED_FLAG,) if tally.unpriced else ()
        if usage is None or not is_believable(usage, given.upper, given.open_ended, given.limited, answered=answered):
            said = [event for event in events if not isinstance(event, UsageSeen)]
            recount = partial(self._recounted, said, facts)
            return Whole(self.ours.write_reply(said, facts), None, tally=tally, recount=recount, flags=flags)
        return Whole(self.ours.write_reply(events, facts), usage, unsplit, tally=tally, flags=flags)

    def _recounted(self, said: Sequence[Event], facts: ReplyFacts, usage: Usage) -> bytes:
        return self.ours.write_reply([UsageSeen(usage), *said], facts)

    def read_whole(self, body: bytes) -> list[Event]:
        return self.theirs.read_reply(body)

    @property
    def wire_of_caller(self) -> Wire:
        wire = self.request.operation.wire
        assert wire is not None
        return wire

    def crossing(self) -> Crossing:
        facts = facts_of(self.request, self.asked, self.wire_of_caller, self.created_s, self.clock)
        writer, theirs = self.names.through(writer_for(self.request, facts)), self.theirs
        if may_come_late(self.asked, self.wire):
            writer = SourcesFirst(writer)
        if self.asked.server_tools:
            writer = Paragraphed(writer)
        if self.request.output_rules:
            return Guarded(theirs.reader(), writer, theirs.ends_by_close, self.request.output_rules)
        if self.request.keep is not None and self.request.keep.kind == "chat":
            return kept_translated(self.request, theirs, writer)
        # Anthropic's reader counts the text, for the places of its sources.
        return Translated(theirs.reader(), writer, theirs.ends_by_close, repeats=self.wire == "chat")


class Carried:
    """Another pair of wires, for whole answers only: embeddings and reranks between providers."""

    translated = True
    stream = False

    def __init__(self, attempt: Attempt, request: Request, wire: Wire, endpoint: Endpoint, carrier: Carrier) -> None:
        self.attempt = attempt
        self.request = request
        self.wire = wire
        self.endpoint = endpoint
        self.carrier = carrier

    def body(self) -> bytes:
        body = self.carrier.request(self.request.body, self.attempt.upstream_model)
        return with_names(body, self.endpoint.names) if self.endpoint.names else body

    def whole(self, body: bytes) -> Whole:
        answer, usage, flags = self.carrier.reply(self.request.body, body, self.request.model)
        if usage is not None and not is_believable(usage, self.request.facts.upper, answered=True):
            usage = None
        return Whole(answer, usage, flags=flags)

    def read_whole(self, body: bytes) -> list[Event]:
        raise TypeError("these answers are never streamed")

    def crossing(self) -> Crossing:
        raise TypeError("these answers are never streamed")


def facts_of(
    request: Request, asked: ChatRequest, wire: Wire, created_s: int, clock: Clock | None = None
) -> ReplyFacts:
    """What a writer of the caller's dialect needs besides the events."""
    if request.facts.store:
        asked = with_state(request, asked)
    return ReplyFacts(
        id=PREFIXES.get(wire, "") + request.call_id,
        model=request.model,
        created_s=created_s,
        request=asked,
        include_usage=request.facts.include_usage,
        clock=clock,
    )


def facts_for(request: Request, created_s: int, clock: Clock | None = None) -> ReplyFacts:
    """`facts_of` for a caller whose body no conversion has read: it is read here, as far as the hub can."""
    wire = request.operation.wire
    assert wire is not None
    try:
        asked = DIALECTS[wire].read_request(request.body)
    except BadRequest:
        # The upstream accepted what the hub cannot read; writing the answer does not need it.
        asked = ChatRequest(model=request.model, messages=[])
    return facts_of(request, asked, wire, created_s, clock)


def writer_for(request: Request, facts: ReplyFacts) -> Writer:
    """The writer of a stream in the caller's dialect and form."""
    return ArrayWriter(facts) if request.array else DIALECTS[request.operation.wire or ""].writer(facts)


def _lacks_vectors(body: bytes, items: int, name: bytes, pattern: re.Pattern[bytes]) -> bool:
    """Whether an answer has something else for a vector, or fewer of them (`name` is before each) than the call has
    texts: which texts the others belong to is unknown then."""
    found, at = 0, body.find(name)
    while at >= 0:
        at += len(name)
        if body[at : at + _BEGINNING_BYTES].translate(None, _BLANKS).startswith(_NO_VECTOR):
            return True
        found, at = found + 1, body.find(name, at)
    return _HOLE in body or (found < items and len(pattern.findall(body)) < items)


def _lacks_choices(body: bytes) -> bool:
    """Whether an answer has an empty list of choices anywhere. A pattern only if its only list does not begin with a
    choice, since every chat runs it."""
    if body.find(_FIRST_CHOICE) >= 0 and body.count(_CHOICES) == 1:
        return False
    return _NO_CHOICES.search(body) is not None


def _ran_unpriced(body: bytes) -> bool:
    """Whether a whole response shows tools that are billed per call; its bytes may name a shell that did not run."""
    if any(kind in body for kind in _UNPRICED):
        return True
    return _SHELL in body and any(where in body for where in _HOSTED)


_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_object_or_null = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
_NULL = msgspec.Raw(b"null")


def _asking_usage(body: bytes) -> bytes:
    """The body with a request for the stream's usage, whatever the caller asked (guarantees 45, 46)."""
    if b'"stream_options"' not in body:
        return with_raw(body, "stream_options", b'{"include_usage":true}')
    given = _object.decode(body).get("stream_options", msgspec.Raw(b"{}"))
    options = _object.decode(given) if bytes(given).lstrip().startswith(b"{") else {}
    return with_raw(body, "stream_options", msgspec.json.encode(options | {"include_usage": True}))


def _with_generation_limit(body: bytes, cap: int) -> bytes:
    members = _object.decode(body)
    name, limit = "generationConfig", "maxOutputTokens"
    if members.get("generation_config", _NULL) != _NULL:
        name, limit = "generation_config", "max_output_tokens"
    config = _object_or_null.decode(members.get(name, _NULL)) or {}
    return with_raw(body, name, msgspec.json.encode(config | {limit: msgspec.Raw(b"%d" % cap)}))
