"""Guarantee 76: what is kept of a stream does not grow with it, or ends at a bound, for every pair of dialects."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator

import pytest

from elkapi.translate import crossing as crossings
from elkapi.translate.crossing import Crossing, Numbered, Relayed, Translated
from elkapi.translate.dialects import DIALECTS
from elkapi.translate.ir import Event, Finish, Start, TextDelta
from elkapi.translate.sse import Frame, SseDecoder
from tests.recordings import facts

CLIENTS = ("chat", "completions", "responses", "anthropic", "gemini")
PAIRS = [(source, client) for source in CLIENTS for client in CLIENTS]
# Its terminal event tells the whole answer again.
TELLS_AGAIN = [(source, "responses") for source in CLIENTS if source != "responses"]
FRAMES = 1_000
TEXT = "word " * 20
# Of a frame of a hundred characters; noise is far below it, and a frame that is kept far above.
GROWTH_MAX_BYTES_PER_FRAME = 16


def crossing_of(source: str, client: str) -> Crossing:
    dialect = DIALECTS[source]
    kind = Translated if source != client else Numbered if source == "responses" else Relayed
    return kind(dialect.reader(), DIALECTS[client].writer(facts()), dialect.ends_by_close)


def begun(source: str, client: str) -> tuple[Crossing, Frame]:
    """A crossing whose tally is full, and a frame of text as the upstream goes on sending it."""
    crossing, decoder, upstream = crossing_of(source, client), SseDecoder(), DIALECTS[source].writer(facts())
    frames: list[Frame] = []
    pieces: list[Event] = [TextDelta(TEXT)] * (crossings.TALLY_BYTES_MAX // len(TEXT) + 2)
    for event in (Start("answer-1", "m"), *pieces):
        frames = decoder.feed(upstream.feed(event))
        for frame in frames:
            crossing.feed(frame)
    assert len(frames) == 1
    assert crossing.tally.beyond_bytes
    return crossing, frames[0]


def kept_bytes() -> int:
    """What the room's own lines hold; threads that other tests left behind allocate what they like meanwhile."""
    gc.collect()
    own = tracemalloc.Filter(inclusive=True, filename_pattern="*/elkapi/translate/*")
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([own]).traces)


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(("source", "client"), [pair for pair in PAIRS if pair not in TELLS_AGAIN])
def test_g76_what_is_kept_of_a_stream_does_not_grow_with_it(source: str, client: str) -> None:
    crossing, frame = begun(source, client)
    before = kept_bytes()
    for _ in range(FRAMES):
        assert crossing.feed(frame)
    assert kept_bytes() - before < FRAMES * GROWTH_MAX_BYTES_PER_FRAME
    assert crossing.failure is None


@pytest.mark.parametrize(("source", "client"), TELLS_AGAIN)
def test_g76_an_answer_that_is_told_again_ends_in_an_error_where_it_never_stops(
    source: str, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crossings, "ANSWER_BYTES_MAX", 100 * len(TEXT))
    crossing, frame = begun(source, client)
    for _ in range(200):
        crossing.feed(frame)
        if crossing.failure is not None:
            break
    assert crossing.failure is crossings.ENDLESS
    assert crossing.tally.beyond_bytes <= 102 * len(TEXT)


def test_g76_frames_behind_the_closing_one_are_held_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemini's streams end by closing: an upstream may send anything behind its finish."""
    monkeypatch.setattr(crossings, "ENDING_BYTES_MAX", 10_000)
    crossing, frame = begun("gemini", "gemini")
    upstream, decoder = DIALECTS["gemini"].writer(facts()), SseDecoder()
    for event in (Start("answer-1", "m"), TextDelta(TEXT), Finish("stop")):
        upstream.feed(event)
    for closing in decoder.feed(upstream.finish()):
        assert crossing.feed(closing) == b""
    for _ in range(200):
        assert crossing.feed(frame) == b""
        if crossing.failure is not None:
            break
    assert crossing.failure is crossings.ENDLESS
