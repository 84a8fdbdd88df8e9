"""Answers with any member gone, doubled or of another type: read, or Unreadable, for every pair of dialects.

An upstream that answers so is at fault; any other exception would be told as the gateway's own (500, and no next
channel).
"""

from __future__ import annotations

import contextlib
from random import Random
from typing import Any

import msgspec
import pytest

from elkapi.translate.crossing import Crossing, Numbered, Relayed, Tally, Translated
from elkapi.translate.dialect import Unreadable
from elkapi.translate.dialects import DIALECTS
from elkapi.translate.ir import Failure, Finish
from elkapi.translate.sse import Frame, SseDecoder
from tests.recordings import events_of, facts, recordings_of

CLIENTS = ("chat", "completions", "responses", "anthropic", "gemini")
RECORDED = [(wire, name) for wire in CLIENTS for name in recordings_of(wire)]
# 1,500 of them found no more than these.
SEEDS = range(40)
OTHER: list[Any] = [None, True, 0, -1, 1.5, 1e308, 2**70, "", "x", "\0"]
OTHER += [[], {}, [None], [[]], {"a": None}, {"type": []}]
Path = tuple[Any, ...]


def paths(value: object, at: Path = ()) -> list[Path]:
    """The way to every member and item below `value`."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found: list[Path] = []
    for key, member in members:
        found += [(*at, key), *paths(member, (*at, key))]
    return found


def changed(value: Any, random: Random) -> Any:
    """`value` with one member or item removed, doubled or replaced."""
    if not (places := paths(value)):
        return random.choice(OTHER)
    *way, last = random.choice(places)
    holder: Any = value
    for step in way:
        holder = holder[step]
    chance = random.random()
    if chance < 0.2:
        del holder[last]
    elif chance < 0.3 and isinstance(holder, list):
        holder.append(holder[last])
    else:
        holder[last] = random.choice(OTHER)
    return value


def changed_frame(frame: Frame, random: Random) -> Frame:
    if frame.data is None:
        return frame
    try:
        value = msgspec.json.decode(frame.data)
    except msgspec.DecodeError:
        return frame
    for _ in range(random.choice((1, 1, 2))):
        value = changed(value, random)
    data = msgspec.json.encode(value)
    raw = (b"event: %b\n" % frame.event if frame.event else b"") + b"data: %b\n\n" % data
    return Frame(raw, frame.event, data)


def crossing_of(source: str, client: str) -> Crossing:
    dialect = DIALECTS[source]
    kind = Translated if source != client else Numbered if source == "responses" else Relayed
    return kind(dialect.reader(), DIALECTS[client].writer(facts()), dialect.ends_by_close)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("source", "name"), RECORDED)
def test_a_stream_with_any_member_changed_is_read_or_unreadable(source: str, name: str, client: str) -> None:
    frames = [*SseDecoder().feed(recordings_of(source)[name])]
    for seed in SEEDS:
        random = Random(seed)
        broken = {random.randrange(len(frames)) for _ in range(2)}
        crossing = crossing_of(source, client)
        with contextlib.suppress(Unreadable):
            for place, frame in enumerate(frames):
                crossing.feed(changed_frame(frame, random) if place in broken else frame)
                if crossing.failure is not None:
                    break
            crossing.finish()
        crossing.fail(Failure(502, "upstream_error", "broken"))


@pytest.mark.parametrize(("source", "name"), RECORDED)
def test_a_whole_answer_with_any_member_changed_is_read_or_unreadable(source: str, name: str) -> None:
    """Told by our own writers, which give every member that their readers know."""
    dialect = DIALECTS[source]
    told = [event for event in events_of(dialect, recordings_of(source)[name]) if not isinstance(event, Failure)]
    if not any(isinstance(event, Finish) for event in told):
        return
    answer = dialect.write_reply(told, facts())
    for seed in SEEDS:
        random = Random(seed)
        value = msgspec.json.decode(answer)
        for _ in range(random.choice((1, 1, 2))):
            value = changed(value, random)
        try:
            events = dialect.read_reply(msgspec.json.encode(value))
        except Unreadable:
            continue
        tally = Tally()
        for event in events:
            tally.add(event)
        if not any(isinstance(event, Failure) for event in events):
            for client in CLIENTS:
                with contextlib.suppress(Unreadable):
                    DIALECTS[client].write_reply(events, facts())
