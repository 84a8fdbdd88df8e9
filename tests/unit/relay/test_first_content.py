"""When the first content of a stream came, as a collector is told: whatever the caller can see first."""

from __future__ import annotations

import pytest

from elkapi.clock import ManualClock
from elkapi.relay.telemetry import Watched
from elkapi.translate.crossing import Relayed
from elkapi.translate.dialects import DIALECTS
from elkapi.translate.sse import SseDecoder
from tests.recordings import facts

SETUP = {"chat": b'{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}'}


@pytest.mark.parametrize(
    ("dialect", "event", "data"),
    [
        ("chat", b"", b'{"choices":[{"index":0,"delta":{"content":"a"}}]}'),
        ("chat", b"", b'{"choices":[{"index":0,"delta":{"reasoning_content":"a"}}]}'),
        (
            "chat",
            b"",
            b'{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f"}}]}}]}',
        ),
        (
            "anthropic",
            b"content_block_delta",
            b'{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"a"}}',
        ),
        (
            "responses",
            b"response.image_generation_call.partial_image",
            b'{"type":"response.image_generation_call.partial_image","item_id":"i","partial_image_b64":"aa"}',
        ),
        (
            "responses",
            b"response.code_interpreter_call_code.delta",
            b'{"type":"response.code_interpreter_call_code.delta","item_id":"i","output_index":0,"delta":"1"}',
        ),
    ],
)
def test_thinking_a_tool_call_and_part_of_a_picture_are_first_content(dialect: str, event: bytes, data: bytes) -> None:
    side, clock, decoder = DIALECTS[dialect], ManualClock(), SseDecoder()
    crossing = Relayed(side.reader(), side.writer(facts()), side.ends_by_close)
    tally = crossing.tally = Watched(clock, keeps=False)
    for setup in decoder.feed(b"data: %b\n\n" % SETUP[dialect]) if dialect in SETUP else ():
        crossing.feed(setup)
    assert (tally.first_s, crossing.content) == (None, False)
    clock.advance(5)
    for frame in decoder.feed((b"event: %b\n" % event if event else b"") + b"data: %b\n\n" % data):
        crossing.feed(frame)
    assert (tally.first_s, crossing.content) == (5, True)
