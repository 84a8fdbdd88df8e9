"""The interface of a dialect, through which the relay and the tests treat all dialects alike."""

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
    """A success reply or frame that does not fit its dialect (an HTML page, invalid JSON, missing fields)."""


def view_of(decoder: msgspec.json.Decoder[T], data: bytes | msgspec.Raw) -> T:
    """Decode data from an upstream. Raises Unreadable."""
    try:
        return decoder.decode(data)
    except NOT_JSON as error:
        raise Unreadable(str(error)) from None


class ReplyFacts(msgspec.Struct, frozen=True):
    """What a writer needs beside the events: the ids and names that the caller sees, and the request.

    `model` is the client's name for it. `request` holds only the model if the caller's body was not decoded.
    `created_s` is Unix time. Without a `clock`, the completion time equals `created_s`.
    """

    id: str
    model: str
    created_s: int
    request: ChatRequest
    include_usage: bool = False
    clock: Clock | None = None

    @property
    def completed_s(self) -> int:
        """The Unix time of completion, never before `created_s`, even if the clock was set back."""
        return self.created_s if self.clock is None else max(self.created_s, self.clock.now_ns() // 1_000_000_000)


# OpenAI accepts call ids of up to 40 characters.
_REPLY_ID_CHARS_MAX = 28


def made_up_id(reply_id: str, index: int) -> str:
    """An id for a call without one: unique in a conversation, and the same each time its answer is read."""
    reply = re.sub(r"[^a-zA-Z0-9_-]", "", reply_id)[-_REPLY_ID_CHARS_MAX:]
    return f"call_{reply}_{index}" if reply else f"call_{index}"


def given(**members: Any) -> dict[str, Any]:
    """The members that are not None."""
    return {name: value for name, value in members.items() if value is not None}


_STOPS: dict[DialectName, str] = {"anthropic": "stop_sequences", "gemini": "generationConfig.stopSequences"}


def stop_member(request: ChatRequest) -> str:
    """The name of the stop sequences field in the caller's dialect."""
    return _STOPS.get(request.dialect, "stop")


# Writers name the fields of `ChatRequest` in errors; these are their names in the formats whose errors have a `param`.
_MEMBERS: dict[str, dict[str, str]] = {
    "chat": {"output": "response_format"},
    "completions": {"messages": "prompt"},
    "responses": {"messages": "input", "output": "text"},
    "responses-compact": {"messages": "input"},
}


def member_of(wire: str, param: str | None) -> str | None:
    """The field of the caller's body that corresponds to a writer's `param`."""
    return _MEMBERS.get(wire, {}).get((param or "").partition(".")[0], param)


class Reader(Protocol):
    """Frames of one streamed answer -> events, without I/O.

    Unknown events and fields are ignored, and unknown blocks become a `ServerToolPart` or nothing. Raises Unreadable
    for a frame that must be a JSON object and is not. It is not fed again after `End` or `Failure`.
    """

    def feed(self, frame: Frame) -> list[Event]:
        """The events of one frame, in order."""


class Writer(Protocol):
    """Events -> the caller's bytes. `Finish` and `UsageSeen` are stored until `finish` writes them.

    Each call returns whole frames.
    """

    def feed(self, event: Event) -> bytes:
        """The bytes of one event; b"" if there are none yet."""

    def finish(self) -> bytes:
        """Everything up to and including the terminal event; sent only after the money is written."""

    def fail(self, failure: Failure) -> bytes:
        """An explicit error event. Nothing follows it, not even a terminal event."""

    def ping(self) -> bytes:
        """A keep-alive frame that every SDK of the dialect ignores."""


def _anything_crosses(_request: ChatRequest) -> None:
    return None


class Dialect(msgspec.Struct, frozen=True):
    """One text dialect, in both directions.

    read_request(body) -> ChatRequest         raises BadRequest (with `param`) for what the dialect does not allow
    write_request(request, profile) -> body   raises BadRequest for what it cannot carry; see `losses`
    read_reply(body) -> events                a whole 200 body; ends in End, or holds a Failure; raises Unreadable
    write_reply(events, facts) -> body        a whole 200 body
    reader() / writer(facts)                  the two sides of a stream
    check_crossing(request)                   called before another dialect writes a request that this one read; raises
                                              BadRequest for fields of this dialect alone that change the meaning
    `ends_by_close`: the stream has no terminal event and ends with the body, so its reader gives no `End`. A body that
    ends without a `Finish` was truncated. `repeats`: the reader gives one event for a text, whatever the text is, and
    remembers nothing of it that a relayed stream needs; see `repeated`. Not together with `ends_by_close`.
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
    repeats: bool = False
    check_crossing: Callable[[ChatRequest], None] = _anything_crosses


class UpstreamDialect(msgspec.Struct, frozen=True):
    """A dialect that only upstreams speak; its fields mean the same as those of `Dialect`."""

    name: DialectName
    write_request: Callable[[ChatRequest, Profile], bytes]
    read_reply: Callable[[bytes], list[Event]]
    reader: Callable[[], Reader]
    losses: tuple[Loss, ...]
    ends_by_close: bool = False
