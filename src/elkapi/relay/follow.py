"""A stored response as a stream: the log of a running one, the stored frames of an ended one, or its object.

A response without stored frames is streamed from its object, with the same events each time, so a reader can resume
after any of their numbers. One that another worker is making is followed through the tables.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.relay.background_log import sequence_of
from elkapi.relay.call import EVENTS, Call
from elkapi.relay.large import anywhere
from elkapi.relay.plane import DataPlane
from elkapi.relay.stored_objects import stored_id_text
from elkapi.relay.stream import Silence
from elkapi.storage.repos.stored import IN_PROGRESS
from elkapi.translate.kept import shown
from elkapi.translate.responses_replay import ended, replayed
from elkapi.translate.sse import SseDecoder
from elkapi.types import Grant

LOOK_FIRST_S, LOOK_MAX_S = 0.1, 2.0
# All frames may be available and the reader fast: after so many, others get their turn.
FRAMES_A_TURN = 100
PING = b": ping\n\n"


async def follow(plane: DataPlane, grant: Grant, object_id: bytes, after: int, call: Call) -> None:
    """Stream the events with a sequence number above `after`. Raises NotFound before the first byte."""
    running = plane.background.find(object_id)
    if running is None:
        await plane.stored.find(grant, "response", stored_id_text("response", object_id))
    out = call.reply
    out.start(200, EVENTS)
    silence = Silence(out, PING, plane.settings.stream_ping_s)
    passed = 0
    try:
        async for frame in _frames(plane, grant, object_id):
            if _number(frame) > after:
                silence.spoke = True
                await out.write(frame)
            passed += 1
            if passed % FRAMES_A_TURN == 0:
                await asyncio.sleep(0)
    finally:
        silence.end()
    out.finish()


async def _frames(plane: DataPlane, grant: Grant, object_id: bytes) -> AsyncIterator[bytes]:
    seen = 0
    running = plane.background.find(object_id)
    if running is not None:
        while fresh := await running.log.more(seen):
            for frame in fresh:
                yield frame
            seen += len(fresh)
        if seen:
            return
        # Not requested as a stream: its result is in the tables.
    last, pause_s = b"", LOOK_FIRST_S
    while True:
        before = seen
        # Read the row first: frames are written before its end or with it.
        found = await plane.stored.find(grant, "response", stored_id_text("response", object_id))
        for first, piece in await plane.stored.frames(object_id, seen):
            for number, kept in enumerate(SseDecoder().feed(piece), first):
                if number >= seen:
                    yield kept.raw
                    seen, last = number + 1, kept.raw
        if found.row.status != IN_PROGRESS:
            break
        pause_s = LOOK_FIRST_S if seen > before else min(pause_s * 1.5, LOOK_MAX_S)
        await asyncio.sleep(pause_s)
    answer = shown(found.kept, found.row.status)
    if not seen:
        for frame in await anywhere(len(answer), replayed, answer):
            yield frame
    elif not _is_terminal(last):
        yield ended(answer, seen)


def _number(frame: bytes) -> int:
    for one in SseDecoder().feed(frame):
        if one.data is not None:
            return sequence_of(one.data, 1 << 62)
    return 1 << 62


class _Kind(msgspec.Struct):
    type: str = ""


def _is_terminal(frame: bytes) -> bool:
    data = next((one.data for one in SseDecoder().feed(frame) if one.data is not None), b"{}")
    try:
        kind = msgspec.json.decode(data, type=_Kind).type
    except NOT_JSON:
        return False
    return kind in ("response.completed", "response.incomplete", "response.failed", "error")
