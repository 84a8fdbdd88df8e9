"""What every dialect file offers, as types: the relay and the tests treat all dialects alike through them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from elkapi.clock import Clock
from elkapi.errors import NOT_JSON
from elkapi.translate.ir import ChatRequest, DialectName, Event, Failure, Loss
from elkapi.translate.profiles import Profile
from elkapi.translate.sse import Frame

T = TypeVar("T")


class Unreadable(Exception):
    """A success reply or a frame that is not of its dialect (an HTML page, broken JSON, missing members)."""


def view_of(decoder: msgspec.json.Decoder[T], data: bytes | msgspec.Raw) -> T:
    """What an upstream sent, decoded. Raises Unreadable."""
    try:
        return decoder.decode(data)
    except NOT_JSON as error:
        raise Unreadable(str(error)) from None


class ReplyFacts(msgspec.Struct, frozen=True):
    """What a writer needs beside the events: the ids and names the caller sees, and how it asked.

    `model` is the client's name for it. `request` has the model alone when the caller's body was not decoded.
    `created_s` is Unix time, `clock` what tells when the answer is whole; without one it is so at its beginning.
    """

    id: str
    model: str
    created_s: int
    request: ChatRequest
    include_usage: bool = False
    clock: Clock | None = None

    @property
    def completed_s(self) -> int:
        """When the answer is whole, asked at its end; a clock set back makes no answer older than its beginning."""
        return self.created_s if self.clock is None else max(self.created_s, self.clock.now_ns() // 1_000_000_000)


# OpenAI takes call ids of up to 40 characters.
_REPLY_ID_CHARS_MAX = 28


def made_up_id(reply_id: str, index: int) -> str:
    """The id of a call that its upstream gave none: unique in a conversation, the same whenever its answer is read."""
    reply = re.sub(r"[^a-zA-Z0-9_-]", "", reply_id)[-_REPLY_ID_CHARS_MAX:]
    return f"call_{reply}_{index}" if reply else f"call_{index}"


def given(**members: Any) -> dict[str, Any]:
    """The members of a wire's object that there is something to say of: those that are not None."""
    return {name: value for name, value in members.items() if value is not None}


_STOPS: dict[DialectName, str] = {"anthropic": "stop_sequences", "gemini": "generationConfig.stopSequences"}


def stop_member(request: ChatRequest) -> str:
    """What the caller's dialect calls its stop sequences."""
    return _STOPS.get(request.dialect, "stop")


# The hub's members, by whose names the writers refuse, as the wires spell them whose errors have a `param`.
_MEMBERS: dict[str, dict[str, str]] = {
    "chat": {"output": "response_format"},
    "completions": {"messages": "prompt"},
    "responses": {"messages": "input", "output": "text"},
    "responses-compact": {"messages": "input"},
}


def member_of(wire: str, param: str | None) -> str | None:
    """The member of the caller's own body that a writer's `param` is about."""
    return _MEMBERS.get(wire, {}).get((param or "").partition(".")[0], param)


class Reader(Protocol):
    """Frames of one streamed answer -> events, without I/O.

    Never raises for an unknown event, unknown member or unknown block (a `ServerToolPart`, or nothing); raises
    Unreadable for a frame that is no JSON object where one must be. After `End` or `Failure` it is not fed again.
    """

    def feed(self, frame: Frame) -> list[Event]:
        """The events of one frame, in order; often one, sometimes none."""


class Writer(Protocol):
    """Events -> the caller's bytes. `Finish` and `UsageSeen` are remembered, not written: `finish` writes them.

    Every call's bytes are whole frames, so one call is one write.
    """

    def feed(self, event: Event) -> bytes:
        """The bytes of one event, b"" when it needs none (yet)."""

    def finish(self) -> bytes:
        """Everything up to and including the terminal event; sent only after the money is written."""

    def fail(self, failure: Failure) -> bytes:
        """An explicit error event after which nothing follows; no terminal event, never a clean end."""

    def ping(self) -> bytes:
        """A frame that keeps a silent connection open and that every SDK of the dialect ignores."""


def _anything_crosses(_request: ChatRequest) -> None:
    return None


class Dialect(msgspec.Struct, frozen=True):
    """One text dialect, both ways.

    read_request(body) -> ChatRequest         raises BadRequest (with `param`) for what the dialect does not allow
    write_request(request, profile) -> body   raises BadRequest for what it cannot carry; see `losses`
    read_reply(body) -> events                a whole 200 body; ends in End, or holds a Failure; raises Unreadable
    write_reply(events, facts) -> body        a whole 200 body
    reader() / writer(facts)                  the two sides of a stream
    check_crossing(request)                   called before another dialect writes a request that this one read; raises
                                              BadRequest for what changes the meaning and only this dialect can say
    `ends_by_close`: the stream has no terminator of its own; its end is the upstream's orderly end of the body,
    so its reader gives no `End`; closed without a `Finish` it was cut.
    """

    name: DialectName
    read_request: Callable[[bytes], ChatRequest]
    write_request: Callable[[ChatRequest, Profile], bytes]
    read_reply: Callable[[bytes], list[Event]]
    write_reply: Callable[[Sequence[Event], ReplyFacts], bytes]
    reader: Callable[[], Reader]
    writer: Callable[[ReplyFacts], Writer]
    losses: tuple[Loss, ...]
    ends_by_close: bool = False
    check_crossing: Callable[[ChatRequest], None] = _anything_crosses


class UpstreamDialect(msgspec.Struct, frozen=True):
    """A dialect that only upstreams speak: the members of `Dialect` that face them, with the same meaning."""

    name: DialectName
    write_request: Callable[[ChatRequest, Profile], bytes]
    read_reply: Callable[[bytes], list[Event]]
    reader: Callable[[], Reader]
    losses: tuple[Loss, ...]
    ends_by_close: bool = False
