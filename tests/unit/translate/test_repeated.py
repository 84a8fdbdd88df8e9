"""A stream's repeated events are recognised by the bytes around their text, and nothing anyone sees depends on it."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elkapi.translate import crossing as c
from elkapi.translate import repeated
from elkapi.translate.dialects import DIALECTS
from elkapi.translate.ir import Event, RefusalDelta, TextDelta, ThinkingDelta, TokenLogprob, ToolCallDelta
from elkapi.translate.repeated import ALIKE_MIN, SHAPE_BYTES_MAX, SHAPES_MAX, Shape, shape_of
from elkapi.translate.sse import Frame, SseDecoder, frame_of
from tests.recordings import facts, recordings_of

WIRES = ("anthropic", "chat", "completions")


def crossing_of(wire: str, repeats: bool, rename: bool = False) -> c.Relayed:
    dialect = DIALECTS[wire]
    named = ("model", "named by the caller") if rename else None
    return c.Relayed(dialect.reader(), dialect.writer(facts()), dialect.ends_by_close, False, named, repeats)


def event(value: Any, name: str = "") -> bytes:
    data = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return (f"event: {name}\n" if name else "").encode() + f"data: {data}\n\n".encode()


def chat(delta: Any, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return event({"id": "c-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more})


def text_frame(text: str = "hello", **more: Any) -> Frame:
    return frame_of(chat({"content": text}, **more))


def learned(frame: Frame, event: Event) -> Shape:
    shape = shape_of(frame, event)
    assert shape is not None
    return shape


def translated(caller: str, repeats: bool) -> c.Translated:
    """A chat for a caller of another dialect."""
    return c.Translated(DIALECTS["chat"].reader(), DIALECTS[caller].writer(facts()), False, repeats)


class Run:
    """One stream: what the caller got for each piece, and what was learned of it."""

    def __init__(self, crossing: c.Relayed | c.Translated) -> None:
        self.crossing, self.decoder, self.known = crossing, SseDecoder(), 0

    def begun(self) -> Run:
        """The same, after the first event of a chat."""
        self.take(chat({"role": "assistant", "content": ""}))
        return self

    def take(self, piece: bytes) -> bytes:
        """As `relay.stream` does."""
        if self.decoder.is_between and (known := self.crossing.repeat(piece)) is not None:
            self.known += 1
            return known
        return b"".join([self.crossing.feed(frame) for frame in self.decoder.feed(piece)])

    @property
    def state(self) -> tuple[object, ...]:
        of = self.crossing
        tally = of.tally
        counted = ("".join(tally.text), "".join(tally.thinking), tally.kept_bytes, tally.beyond_bytes)
        return (counted, of.content, of.spoken, of.refused, of.ended, of.finish_reason, of.failure, of.usage, of.whole)


# What is said of an event's text --------------------------------------------------------------------------------------


def test_an_event_with_another_text_is_recognised() -> None:
    shape = learned(text_frame(), TextDelta("hello"))
    assert shape.kind is TextDelta
    assert shape.text_of(text_frame(" wörld, 世界 ").raw) == " wörld, 世界 "


def test_reasoning_is_recognised_as_such() -> None:
    shape = learned(frame_of(chat({"reasoning_content": "hmm"})), ThinkingDelta("hmm"))
    assert (shape.kind, shape.text_of(chat({"reasoning_content": "so"}))) == (ThinkingDelta, "so")
    assert shape.text_of(text_frame("so").raw) == ""


@pytest.mark.parametrize("text", ["", "a\nb", 'say "x"', "back\\slash", "\x7f", "​"])
def test_a_text_that_needs_more_than_copying_is_left_to_the_reader(text: str) -> None:
    assert learned(text_frame(), TextDelta("hello")).text_of(text_frame(text).raw) == ""


@pytest.mark.parametrize(
    "raw",
    [
        text_frame("x").raw[:-1],
        text_frame("x").raw + b"\n",
        text_frame("x").raw + text_frame("y").raw,
        b" " + text_frame("x").raw,
        text_frame("x").raw.replace(b'"x"', b'"x" '),
        text_frame("x").raw.replace(b'"x"', b'"\xff"'),
        text_frame("x").raw.replace(b'"x"', b'"x","role":"a"'),
        text_frame("x").raw.replace(b'"x"', b'"x'),
        text_frame("x").raw.replace(b'"x"', b'"\xed\xa0\x80"'),
        chat({"content": "x"}, usage=None),
        text_frame("x").raw.replace(b"null", b"true"),
        b"",
    ],
)
def test_any_other_bytes_are_left_to_the_reader(raw: bytes) -> None:
    assert learned(text_frame(), TextDelta("hello")).text_of(raw) == ""


def test_the_random_letters_of_openai_may_differ_too() -> None:
    shape = learned(text_frame(obfuscation="Zq1"), TextDelta("hello"))
    assert shape.text_of(text_frame("x", obfuscation="abcdef12").raw) == "x"
    for other in ("", "a b", "ä", "a\\u0041", 'a","b":"c'):
        assert shape.text_of(text_frame("x").raw[:-3] + f',"obfuscation":"{other}"}}\n\n'.encode()) == ""
    assert shape.text_of(text_frame("x", obfuscation=None).raw) == ""
    assert shape.text_of(text_frame("x", obfuscation="abc").raw.replace(b"}\n\n", b"]\n\n")) == ""


@pytest.mark.parametrize(
    ("frame", "event"),
    [
        (text_frame(), TextDelta("hello", (TokenLogprob("hello", -0.5, ()),))),
        (text_frame(), TextDelta("another")),
        (text_frame(id="hello"), TextDelta("hello")),
        (text_frame(hello=1), TextDelta("hello")),
        (text_frame(":"), TextDelta(":")),
        (text_frame("hel\nlo"), TextDelta("hel\nlo")),
        (text_frame('say "x"'), TextDelta('say "x"')),
        (text_frame(obfuscation=5), TextDelta("hello")),
        (text_frame(obfuscation="hello"), TextDelta("hello")),
        (text_frame(obfuscation="a-b"), TextDelta("hello")),
        (frame_of(event({"obfuscation": "abc", "x": "hello", "service_tier": "abc"})), TextDelta("hello")),
        (frame_of(event('{"x":"\\u0068ello","y":"hello"}')), TextDelta("hello")),
        (frame_of(event('{"x":"a","y":1} {"z":"hello"}')), TextDelta("hello")),
        (frame_of(b": hello\n\n"), TextDelta("hello")),
        (frame_of(b'event: "hello"\ndata: {"x":"\\u0068ello"}\n\n'), TextDelta("hello")),
        (frame_of(b'event: "hello"\ndata: {"x":1}\n\n'), TextDelta("hello")),
        (frame_of(b': "hello"\ndata: {"x":1}\n\n'), TextDelta("hello")),
        (frame_of(event('{"x":"hello","y":' + "[" * 3000 + "]" * 3000 + "}")), TextDelta("hello")),
    ],
)
def test_an_event_whose_text_is_not_certain_has_no_shape(frame: Frame, event: Event) -> None:
    assert shape_of(frame, event) is None


@pytest.mark.parametrize("depth", [100, 300, 400, 480, 600, 900, 1500])
def test_no_depth_of_an_event_is_an_error(depth: int) -> None:
    """Python may give up before the decoder does."""
    shape_of(frame_of(event('{"x":"hello","y":' + "[" * depth + "]" * depth + "}")), TextDelta("hello"))


def test_a_text_may_stand_anywhere() -> None:
    shape = learned(frame_of(event(["hello", [1, {"x": None}]])), TextDelta("hello"))
    assert shape.text_of(event(["bye", [1, {"x": None}]])) == "bye"
    assert shape.text_of(event(["bye", [1, {"x": False}]])) == ""


def test_only_text_has_a_shape() -> None:
    frame = frame_of(chat({"refusal": "no"}))
    assert shape_of(frame, RefusalDelta("no")) is None
    assert shape_of(frame, ToolCallDelta(0, "no")) is None


# What it does to a stream ---------------------------------------------------------------------------------------------


def test_a_stream_of_text_is_soon_known() -> None:
    run = Run(crossing_of("chat", repeats=True)).begun()
    pieces = [chat({"content": f"word {i} "}) for i in range(20)]
    assert [run.take(piece) for piece in pieces] == pieces
    assert run.known == 20 - ALIKE_MIN
    assert "".join(run.crossing.tally.text) == "".join(f"word {i} " for i in range(20))


def test_an_unusual_text_between_does_not_end_it() -> None:
    run = Run(crossing_of("chat", repeats=True)).begun()
    for text in (*"abc", "line\n", *"def"):
        run.take(chat({"content": text}))
    assert run.known == 3


@pytest.mark.parametrize(
    ("between", "alike"),
    [
        (chat({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]}), 0),
        (chat({"reasoning_content": "hm"}), 1),
        (
            chat({"content": "x", "reasoning_content": "hm"})
            .replace(b'"content":"x",', b"")
            .replace(b'"hm"', b'"hm","content":"x"'),
            0,
        ),
        (chat({"content": "x", "reasoning": "y"}), 0),
        (chat({"content": "x\n"}).replace(b"c-1", b"c-2"), 1),
        (chat({"content": "x"}, citations=["https://a.example"]), 1),
        (chat({"content": "x"}, usage={"prompt_tokens": 1, "completion_tokens": 1}), 0),
        (event({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}), 0),
    ],
)
def test_anything_else_between_makes_it_unknown_again(between: bytes, alike: int) -> None:
    run = Run(crossing_of("chat", repeats=True)).begun()
    for text in "abcd":
        run.take(chat({"content": text}))
    assert run.known == 1
    run.take(between)
    for text in "efghi":
        run.take(chat({"content": text}))
    assert run.known == 1 + 5 - (ALIKE_MIN - alike)


def test_comments_between_change_nothing() -> None:
    run = Run(crossing_of("chat", repeats=True)).begun()
    for piece in (*[chat({"content": text}) for text in "abc"], b": ping\n\n", chat({"content": "d"})):
        assert run.take(piece) == piece
    assert run.known == 1


def test_a_stream_that_goes_to_and_fro_is_not_learned_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Event] = []

    def noted(frame: Frame, event: Event) -> Shape | None:
        asked.append(event)
        return shape_of(frame, event)

    monkeypatch.setattr(repeated, "shape_of", noted)
    run = Run(crossing_of("chat", repeats=True)).begun()
    for _ in range(50):
        for text in "abcd":
            run.take(chat({"content": text}))
        run.take(chat({"refusal": "no"}))
    assert (len(asked), run.known) == (SHAPES_MAX, SHAPES_MAX)


def test_a_stream_whose_events_have_no_shape_is_asked_about_only_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Event] = []

    def none_of(_frame: Frame, event: Event) -> None:
        asked.append(event)

    monkeypatch.setattr(repeated, "shape_of", none_of)
    run = Run(crossing_of("chat", repeats=True)).begun()
    for number in range(4 * ALIKE_MIN):
        run.take(chat({"content": f"word {number}"}))
    assert len(asked) == 4


@pytest.mark.parametrize("model", ["m", "word 3"])
def test_the_callers_name_of_the_model_may_stand_behind_the_text(model: str) -> None:
    choice = {"index": 0, "delta": {"content": ""}}
    run = Run(crossing_of("chat", repeats=True, rename=True)).begun()
    for number in range(9):
        choice["delta"] = {"content": f"word {number}"}
        sent = run.take(event({"choices": [choice], "model": model}))
        assert sent == event({"choices": [choice], "model": "named by the caller"})


def test_a_long_event_is_not_learned() -> None:
    run = Run(crossing_of("chat", repeats=True)).begun()
    for text in "abcdef":
        run.take(chat({"content": text}, padding="x" * SHAPE_BYTES_MAX))
    assert run.known == 0


def test_nothing_is_known_unless_the_reader_allows_it() -> None:
    run = Run(crossing_of("chat", repeats=False)).begun()
    for text in "abcdef":
        run.take(chat({"content": text}))
    assert run.known == 0


def test_an_event_in_two_pieces_is_not_taken_for_a_whole_one() -> None:
    run = Run(crossing_of("chat", repeats=True)).begun()
    for text in "abcd":
        run.take(chat({"content": text}))
    whole = chat({"content": "e"})
    # The second piece looks like a known event, but is the end of a comment.
    assert run.take(b": ") + run.take(whole) == b": " + whole
    assert (run.known, "".join(run.crossing.tally.text)) == (1, "abcd")


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("rename", [False, True])
def test_recorded_streams_are_relayed_and_metered_the_same(wire: str, rename: bool) -> None:
    for name, recording in recordings_of(wire).items():
        frames = SseDecoder().feed(recording)
        plain, known = (Run(crossing_of(wire, repeats, rename)) for repeats in (False, True))
        # Each event alone, four times over, so that even a short recording has repeated ones.
        for frame in [frame for frame in frames for _ in range(4)]:
            assert plain.take(frame.raw) == known.take(frame.raw), name
            assert plain.state == known.state, name


def test_anthropics_text_and_thinking_are_known() -> None:
    run = Run(crossing_of("anthropic", repeats=True))
    for kind, member in (("thinking_delta", "thinking"), ("text_delta", "text")):
        for text in ("ab", "cd", "ef", "gh", "ij"):
            delta = {"type": kind, member: text}
            run.take(event({"type": "content_block_delta", "index": 0, "delta": delta}, "content_block_delta"))
    assert run.known == 4
    assert "".join(run.crossing.tally.thinking) == "".join(run.crossing.tally.text) == "abcdefghij"


_TEXTS = st.one_of(
    st.sampled_from(["a", " the", "\n", '"', "\\", "é", "世界", ":", "m", "index", ""]), st.text(max_size=5)
)


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    """One event of a chat, mostly of text."""
    text = draw(_TEXTS)
    more: dict[str, Any] = {}
    if draw(st.booleans()) and draw(st.booleans()):
        more["obfuscation"] = draw(_TEXTS)
    kind = draw(
        st.sampled_from(["content"] * 8 + ["reasoning_content", "refusal", "tool", "finish", "comment", "usage"])
    )
    if kind == "tool":
        return chat({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": text}}]}, **more)
    if kind == "finish":
        return event({"model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if kind == "usage":
        return event({"model": "m", "choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3}})
    return b": c\n\n" if kind == "comment" else chat({kind: text}, **more)


@settings(max_examples=300)
@given(pieces=st.lists(chunks(), max_size=30), cuts=st.lists(st.integers(0, 4000), max_size=6), rename=st.booleans())
def test_a_relayed_stream_does_not_depend_on_what_is_known(pieces: list[bytes], cuts: list[int], rename: bool) -> None:
    plain, known = (Run(crossing_of("chat", repeats, rename)) for repeats in (False, True))
    for piece in pieces:
        assert plain.take(piece) == known.take(piece)
        assert plain.state == known.state
    # Cut anywhere, the caller gets the same bytes.
    stream = b"".join(pieces)
    at = [0, *sorted({cut for cut in cuts if cut < len(stream)}), len(stream)]
    cut = Run(crossing_of("chat", True, rename))
    sent = b"".join([cut.take(stream[start:end]) for start, end in pairwise(at)])
    whole = Run(crossing_of("chat", False, rename))
    assert sent == whole.take(stream)
    assert cut.state == whole.state


CALLERS = ("anthropic", "gemini", "responses")


@pytest.mark.parametrize("caller", CALLERS)
def test_a_translated_stream_is_known_too(caller: str) -> None:
    plain, known = (Run(translated(caller, repeats)).begun() for repeats in (False, True))
    for member in ("reasoning_content", "content"):
        for number in range(10):
            piece = chat({member: f"word {number} "})
            assert plain.take(piece) == known.take(piece)
            assert plain.state == known.state
    assert (plain.known, known.known) == (0, 20 - 2 * ALIKE_MIN)
    assert plain.crossing.finish() == known.crossing.finish()


def test_a_long_translated_answer_is_read_again_so_that_it_cannot_be_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c, "TALLY_BYTES_MAX", 40)
    monkeypatch.setattr(c, "ANSWER_BYTES_MAX", 40)
    run = Run(translated("anthropic", repeats=True)).begun()
    for number in range(20):
        run.take(chat({"content": f"word {number} "}))
    assert run.crossing.failure is c.ENDLESS
    assert run.known == 40 // len("word 0 ") + 1 - ALIKE_MIN


@settings(max_examples=200)
@given(pieces=st.lists(chunks(), max_size=30), cuts=st.lists(st.integers(0, 4000), max_size=6))
@pytest.mark.parametrize("caller", CALLERS)
def test_a_translated_stream_does_not_depend_on_what_is_known(
    caller: str, pieces: list[bytes], cuts: list[int]
) -> None:
    plain, known = (Run(translated(caller, repeats)) for repeats in (False, True))
    for piece in pieces:
        assert plain.take(piece) == known.take(piece)
        assert plain.state == known.state
    stream = b"".join(pieces)
    at = [0, *sorted({cut for cut in cuts if cut < len(stream)}), len(stream)]
    cut, whole = Run(translated(caller, True)), Run(translated(caller, False))
    assert b"".join([cut.take(stream[start:end]) for start, end in pairwise(at)]) == whole.take(stream)
    assert cut.state == whole.state
    assert plain.crossing.finish() == known.crossing.finish() == cut.crossing.finish() == whole.crossing.finish()
