"""What a stream's crossing learns of it, what the caller gets at once, and what waits until the money is written."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from elkapi.translate import crossing as c
from elkapi.translate.dialect import ReplyFacts
from elkapi.translate.dialects import DIALECTS
from elkapi.translate.ir import (
    ChatRequest,
    End,
    Event,
    Failure,
    Finish,
    ImageOut,
    RefusalDelta,
    Start,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolCallStart,
    UsageLost,
    UsageSeen,
)
from elkapi.translate.sse import Frame, SseDecoder
from elkapi.types import Usage
from tests.recordings import facts

USAGE = Usage(input_tokens=5, output_tokens=2, calls=1)


class Scripted:
    """A reader whose frames are events already."""

    def __init__(self, *several: list[Event]) -> None:
        self._several = list(several)

    def feed(self, _frame: Frame) -> list[Event]:
        return self._several.pop(0)


class Listed:
    """A writer that writes each event's name."""

    def feed(self, event: Event) -> bytes:
        return b"" if isinstance(event, Finish | UsageSeen) else type(event).__name__.encode() + b";"

    def finish(self) -> bytes:
        return b"finish;"

    def fail(self, failure: Failure) -> bytes:
        return b"fail " + failure.message.encode()

    def ping(self) -> bytes:
        return b"ping"


def relayed(dialect: str, kind: type[c.Relayed] = c.Relayed, **more: Any) -> c.Relayed:
    side = DIALECTS[dialect]
    return kind(side.reader(), side.writer(facts()), side.ends_by_close, **more)


def frames(*data: str) -> list[Frame]:
    return SseDecoder().feed(b"".join(b"data: " + piece.encode() + b"\n\n" for piece in data))


def translated(*several: list[Event], ends_by_close: bool = False) -> tuple[c.Translated, bytes]:
    crossing = c.Translated(Scripted(*several), Listed(), ends_by_close)
    return crossing, b"".join(crossing.feed(Frame(b"x", b"", b"x")) for _ in several)


@pytest.mark.parametrize(
    ("events", "content", "spoken", "refused"),
    [
        ([Start("a", "m")], False, False, False),
        ([TextDelta("a")], True, True, False),
        ([ThinkingDelta("a")], True, True, False),
        ([ToolCallStart(0, "i", "n")], True, True, False),
        ([ImageOut("image/png", "aGk=")], True, True, False),
        ([RefusalDelta("no")], True, False, True),
        ([RefusalDelta("no"), TextDelta("a")], True, True, True),
        ([Finish("stop")], False, False, False),
        ([Finish("content_filter")], False, False, True),
        ([Finish("refusal")], False, False, True),
        ([RefusalDelta("no"), Finish("stop")], True, False, True),
    ],
)
def test_what_a_model_said_and_declined_is_learnt(
    events: list[Event], content: bool, spoken: bool, refused: bool
) -> None:
    crossing, _ = translated(events)
    assert (crossing.content, crossing.spoken, crossing.refused) == (content, spoken, refused)


def test_the_latest_usage_counts_and_one_that_is_lost_takes_it_away() -> None:
    crossing, _ = translated([UsageSeen(Usage(calls=1)), UsageSeen(USAGE, unsplit=True)])
    assert (crossing.usage, crossing.unsplit) == (USAGE, True)
    crossing, _ = translated([UsageSeen(USAGE, unsplit=True), UsageLost()])
    assert (crossing.usage, crossing.unsplit) == (None, False)


def test_the_start_the_finish_and_the_end_are_learnt() -> None:
    crossing, sent = translated([Start("a", "m"), Finish("length")])
    assert crossing.start == Start("a", "m")
    assert (crossing.finish_reason, crossing.ended, crossing.whole) == ("length", False, False)
    assert sent == b"Start;"
    crossing, _ = translated([Finish("length"), End()])
    assert (crossing.ended, crossing.whole) == (True, True)
    crossing, _ = translated([TextDelta("a")], [Finish("stop")], ends_by_close=True)
    assert (crossing.ended, crossing.whole) == (False, True)
    crossing, _ = translated([TextDelta("a")], ends_by_close=True)
    assert not crossing.whole


def test_nothing_is_written_after_a_failure_and_nothing_read_after_the_end() -> None:
    failure = Failure(502, "upstream_error", "broken")
    crossing, sent = translated([TextDelta("a"), failure, TextDelta("b")])
    assert (crossing.failure, sent) == (failure, b"TextDelta;")
    crossing, sent = translated([TextDelta("a"), End()], [TextDelta("b")])
    assert (crossing.ended, sent) == (True, b"TextDelta;")
    assert crossing.feed(Frame(b": comment\n\n", b"", None)) == b""


def test_the_closing_frames_wait_and_a_count_of_our_own_is_told_in_them() -> None:
    crossing, sent = translated([Start("a", "m"), TextDelta("a"), UsageSeen(USAGE), Finish("stop"), End()])
    assert sent == b"Start;TextDelta;"
    assert crossing.finish() == b"finish;"
    assert crossing.fail(Failure(502, "x", "why")) == b"fail why"
    assert crossing.ping() == b"ping"
    assert crossing.whole_answer([TextDelta("a"), Finish("stop"), End()]) == b"TextDelta;"
    chat = c.Translated(Scripted(), DIALECTS["chat"].writer(facts()), False)
    chat.whole_answer([Start("a", "m"), TextDelta("a"), Finish("stop"), End()])
    assert b'"prompt_tokens":5,"completion_tokens":2' in chat.finish_counted(USAGE)


def test_the_tally_keeps_what_was_said_apart_from_what_was_thought_up_to_its_bound() -> None:
    tally = c.Tally()
    assert tally.is_empty
    said: list[Event] = [
        TextDelta("text "),
        RefusalDelta("no "),
        ToolCallStart(0, "id", "name "),
        ToolCallDelta(0, "{}"),
    ]
    unspoken: list[Event] = [ThinkingDelta("thought"), ImageOut("image/png", "aGk="), Start("a", "m")]
    for event in [*said, *unspoken]:
        tally.add(event)
    assert "".join(tally.text) == "text no name {}"
    assert tally.thinking == ["thought"]
    assert (tally.kept_bytes, tally.beyond_bytes, tally.is_empty) == (22, 0, False)
    tally.add(TextDelta("x" * (c.TALLY_BYTES_MAX - 22)))
    assert (tally.kept_bytes, tally.beyond_bytes) == (c.TALLY_BYTES_MAX, 0)
    tally.add(ThinkingDelta("\N{SNOWMAN}"))
    assert (tally.kept_bytes, tally.beyond_bytes, tally.thinking) == (c.TALLY_BYTES_MAX, 3, ["thought"])
    only_beyond = c.Tally()
    only_beyond.add(TextDelta("x" * (c.TALLY_BYTES_MAX + 1)))
    assert not only_beyond.is_empty
    assert only_beyond.text == []


def test_an_answer_that_does_not_end_is_ended_where_it_would_have_to_be_kept() -> None:
    piece: list[Event] = [TextDelta("x" * (c.TALLY_BYTES_MAX + 1))]
    times = c.ANSWER_BYTES_MAX // (c.TALLY_BYTES_MAX + 1)
    crossing, _ = translated(*[piece] * times)
    assert crossing.failure is None
    crossing, _ = translated(*[piece] * (times + 1))
    assert crossing.failure == c.ENDLESS


CHUNK = '{"id":"c","object":"chat.completion.chunk","model":"theirs","choices":[{"index":0,"delta":{"content":"hi"}}]}'
FINISH = '{"id":"c","model":"theirs","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
COUNTED = '{"id":"c","model":"theirs","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}'


def test_frames_of_one_dialect_pass_as_they_came_and_its_end_waits() -> None:
    crossing = relayed("chat")
    given = frames(CHUNK, FINISH, COUNTED, "[DONE]", "trailing")
    sent = [crossing.feed(frame) for frame in given]
    assert sent == [*(frame.raw for frame in given[:3]), b"", b""]
    assert crossing.finish() == given[3].raw + given[4].raw
    assert (crossing.usage, crossing.finish_reason, crossing.whole) == (USAGE, "stop", True)


def test_a_comment_passes_and_is_not_read() -> None:
    crossing = relayed("chat")
    assert crossing.feed(Frame(b": waiting\n\n", b"", None)) == b": waiting\n\n"


def test_the_usage_that_the_caller_did_not_ask_for_stays_with_us() -> None:
    crossing = relayed("chat", strip_usage=True)
    sent = [crossing.feed(frame) for frame in frames(CHUNK, FINISH, COUNTED)]
    assert [bool(piece) for piece in sent] == [True, True, False]
    assert crossing.usage == USAGE
    together = relayed("chat", strip_usage=True)
    for piece in (CHUNK, FINISH):
        both = piece[:-1] + ',"usage":{"prompt_tokens":5,"completion_tokens":2}}'
        assert together.feed(frames(both)[0]) == frames(both)[0].raw


def test_the_callers_name_of_a_model_replaces_the_upstreams_once_a_frame() -> None:
    crossing = relayed("chat", rename=("model", "ours"))
    odd = '{"id":"c", "model" : "theirs","choices":[{"index":0,"delta":{"content":"\\"model\\":\\"x\\""}}]}'
    assert crossing.feed(frames(CHUNK)[0]) == frames(CHUNK.replace("theirs", "ours"))[0].raw
    assert crossing.feed(frames(odd)[0]) == frames(odd.replace("theirs", "ours"))[0].raw
    twice = '{"model":"theirs","choices":[],"x":{"model":"theirs"}}'
    assert crossing.feed(frames(twice)[0]) == frames(twice.replace("theirs", "ours", 1))[0].raw


@pytest.mark.parametrize(
    ("dialect", "member", "event"),
    [
        (
            "anthropic",
            "model",
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "mcp_tool_use", "id": "m", "name": "car", "input": {"model": "T"}},
            },
        ),
        (
            "responses",
            "model",
            {
                "type": "response.output_item.done",
                "output_index": 0,
                "item": {"type": "tool_search_call", "arguments": {"model": "T"}},
            },
        ),
        (
            "gemini",
            "modelVersion",
            {
                "candidates": [
                    {"content": {"parts": [{"functionCall": {"name": "f", "args": {"modelVersion": "7"}}}]}}
                ],
                "modelVersion": "theirs",
            },
        ),
    ],
)
def test_what_a_tool_is_asked_keeps_its_own_model(dialect: str, member: str, event: dict[str, Any]) -> None:
    crossing = relayed(dialect, rename=(member, "ours"))
    data = msgspec.json.encode(event)
    frame = Frame(b"data: " + data + b"\n\n", str(event.get("type", "")).encode(), data)
    sent = msgspec.json.decode(crossing.feed(frame).removeprefix(b"data: "))
    assert sent == event | ({"modelVersion": "ours"} if dialect == "gemini" else {})


def test_an_error_inside_a_relayed_stream_is_not_passed_but_told_as_a_failure() -> None:
    crossing = relayed("chat")
    assert crossing.feed(frames('{"error":{"message":"secret host","type":"server_error"}}')[0]) == b""
    assert crossing.failure is not None
    assert not crossing.whole


def test_what_follows_the_end_of_a_relayed_stream_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c, "ENDING_BYTES_MAX", 30)
    crossing = relayed("chat")
    done, more = frames("[DONE]", "sixteen bytes")[0], Frame(b"x" * 16, b"", b"x")
    assert len(done.raw) == 14
    assert crossing.feed(done) == crossing.feed(more) == b""
    assert crossing.failure is None
    crossing.feed(Frame(b"x", b"", b"x"))
    assert crossing.failure == c.ENDLESS


def test_a_whole_answer_for_a_relayed_stream_holds_its_closing_frames_back() -> None:
    crossing = relayed("chat")
    sent = crossing.whole_answer([Start("c", "m"), TextDelta("hi"), Finish("stop"), End()])
    assert b'"content":"hi"' in sent
    assert b"[DONE]" not in sent
    assert crossing.finish().endswith(b"data: [DONE]\n\n")


GEMINI = '{"candidates":[{"content":{"parts":[{"text":"hi"}],"role":"model"}}],"usageMetadata":{"promptTokenCount":5}}'
GEMINI_END = (
    '{"candidates":[{"content":{"parts":[{"text":"!"}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":5}}'
)


def test_an_array_holds_each_frame_as_a_member_and_is_closed_with_the_last() -> None:
    crossing = relayed("gemini", c.Array)
    given = frames(GEMINI, GEMINI_END)
    assert crossing.feed(Frame(b": x\n\n", b"", None)) == b""
    first, last = (crossing.feed(frame) for frame in given)
    assert (first[:1], last) == (b"[", b"")
    assert crossing.ping().strip() == b""
    assert msgspec.json.decode(first + crossing.ping() + crossing.finish()) == [
        msgspec.json.decode(GEMINI),
        msgspec.json.decode(GEMINI_END),
    ]
    assert msgspec.json.decode(relayed("gemini", c.Array).finish()) == []


@pytest.mark.parametrize("begun", [False, True])
def test_an_array_that_fails_ends_as_an_array_with_the_error_in_it(begun: bool) -> None:
    crossing = relayed("gemini", c.Array)
    sent = crossing.feed(frames(GEMINI)[0]) if begun else b""
    told = msgspec.json.decode(sent + crossing.fail(Failure(503, "overloaded", "later")))
    assert len(told) == 1 + begun
    assert (told[-1]["error"]["code"], told[-1]["error"]["message"]) == (503, "later")


def test_the_end_of_another_candidate_neither_holds_the_first_back_nor_makes_it_whole() -> None:
    crossing = relayed("gemini")
    other = '{"candidates":[{"index":1,"finishReason":"STOP"}]}'
    for frame in frames(GEMINI, other, GEMINI):
        assert crossing.feed(frame) == frame.raw
    assert not crossing.whole
    crossing.feed(frames(GEMINI_END)[0])
    assert crossing.whole


def test_a_blocked_prompt_is_an_answer_in_its_own_dialect() -> None:
    blocked = '{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":5}}'
    crossing = relayed("gemini")
    crossing.feed(frames(blocked)[0])
    assert crossing.failure is None
    assert (crossing.refused, crossing.finish_reason, crossing.whole) == (True, "content_filter", True)
    assert crossing.finish() == frames(blocked)[0].raw
    across = c.Translated(DIALECTS["gemini"].reader(), DIALECTS["chat"].writer(facts()), True)
    across.feed(frames(blocked)[0])
    assert across.failure is not None


@pytest.mark.parametrize("numbers", [[], [0], [0, 41]])
def test_an_error_of_ours_takes_the_number_after_the_last_that_was_sent(numbers: list[int]) -> None:
    crossing = relayed("responses", c.Numbered)
    for number in numbers:
        delta = '{"type":"response.output_text.delta","delta":"hi","item_id":"i","output_index":0,"content_index":0,'
        crossing.feed(frames(delta + f'"sequence_number" : {number}}}')[0])
    crossing.feed(Frame(b": x\n\n", b"", None))
    held = frames(
        '{"type":"response.completed","sequence_number":99,"response":{"id":"r","status":"completed","output":[]}}'
    )
    assert crossing.feed(held[0]) == b""
    told = crossing.fail(Failure(502, "upstream_error", "cut"))
    first = numbers[-1] + 1 if numbers else 0
    assert re.findall(rb'"sequence_number":(\d+)', told) == [b"%d" % first, b"%d" % (first + 1)]
    # Some clients end only with the one, and the official SDK raises only on the other.
    failed, last = (msgspec.json.decode(one.data or b"") for one in SseDecoder().feed(told))
    assert (failed["type"], failed["response"]["id"], failed["response"]["status"]) == (
        "response.failed",
        "r",
        "failed",
    )
    assert (last["type"], failed["response"]["error"]["message"]) == ("error", "cut")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", [TextDelta, ThinkingDelta])
@pytest.mark.parametrize("wire", ["anthropic", "gemini"])
def test_a_whole_answer_of_very_many_pieces_is_put_together_once(wire: str, kind: Any) -> None:
    """Made anew with each piece, as many as an upstream's answer can hold took hours of a worker's threads."""
    pieces = [kind("abcdefgh")] * 1_000_000
    facts = ReplyFacts(id="x", model="m", created_s=1, request=ChatRequest(model="m", messages=[]))
    body = DIALECTS[wire].write_reply([*pieces, Finish("stop"), UsageSeen(USAGE), End()], facts)
    assert kind is ThinkingDelta or b"abcdefgh" * 1_000_000 in body
