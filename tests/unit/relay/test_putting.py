"""What of a caller's own headers a submit takes along to a provider."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from elkapi.ids import new_id
from elkapi.relay.call import Call
from elkapi.relay.putting import Putting
from elkapi.types import Attempt, Channel, ChannelKey

CREDENTIALS = ("Authorization", "X-Api-Key", "X-Goog-Api-Key", "Api-Key", "Cookie", "Host", "traceparent")


def test_what_the_channel_names_is_passed_on_and_never_what_the_caller_has_for_us() -> None:
    reply: Any = None
    own = [(b"x-mine", b"1"), (b"x-other", b"2"), (b"x-runway-version", b"3"), (b"x-mine", b"4")]
    headers = [*((name.lower().encode(), b"secret") for name in CREDENTIALS), *own]
    call = Call(new_id(), "POST", "/v1/videos", "", headers, "127.0.0.1", b"", reply, 0.0)
    parts: Any = SimpleNamespace()
    names = ("X-Mine", *CREDENTIALS)
    channel = Channel(1, "east", "kling", "https://east.example", keys=(), models=("m",), forward_headers=names)
    putting = Putting(parts, parts, (), {}, call)
    assert putting._more(Attempt(channel, ChannelKey(1, "k"), "m", "")) == {b"x-mine": b"1", b"x-runway-version": b"3"}
