"""Every recorded stream, written in every client's dialect and broken off at every frame, obeys its grammar."""

from __future__ import annotations

from pathlib import Path

import pytest

from elkapi.translate.crossing import Translated
from elkapi.translate.dialects import DIALECTS
from elkapi.translate.ir import Failure
from elkapi.translate.sse import Frame, SseDecoder
from tests.grammar import check_stream
from tests.recordings import RECORDINGS, facts

CLIENTS = ("chat", "completions", "responses", "anthropic", "gemini")
# Only callers who can declare a tool of free text are answered with a call of one.
FREE_TEXT = {"chat-parallel", "responses-custom"}
CASES = [
    (recording, client)
    for recording in RECORDINGS
    for client in CLIENTS
    if client not in ("anthropic", "gemini") or recording.stem not in FREE_TEXT
]
CUT = Failure(502, "upstream_error", "The model's answer broke off before its end.")


def frames_of(recording: Path) -> list[Frame]:
    decoder = SseDecoder()
    return [*decoder.feed(recording.read_bytes()), *decoder.close()]


def crossing_to(client: str, recording: Path) -> Translated:
    source = DIALECTS[recording.stem.partition("-")[0]]
    return Translated(source.reader(), DIALECTS[client].writer(facts()), source.ends_by_close)


@pytest.mark.parametrize(("recording", "client"), CASES, ids=lambda value: getattr(value, "stem", value))
def test_g59_every_recorded_stream_obeys_the_grammar_of_every_client_whole_and_broken(
    recording: Path, client: str
) -> None:
    frames = frames_of(recording)
    crossing = crossing_to(client, recording)
    sent = b""
    for count, frame in enumerate(frames, 1):
        sent += crossing.feed(frame)
        if crossing.failure is not None:
            check_stream(client, sent + crossing.fail(crossing.failure), broken=True)
            return
        if crossing.content and not crossing.whole:
            # As if the upstream had broken off here: a second crossing, since an error ends one.
            broken = crossing_to(client, recording)
            before = b"".join(broken.feed(one) for one in frames[:count])
            check_stream(client, before + broken.fail(CUT), broken=True)
    assert crossing.whole
    check_stream(client, sent + crossing.finish())


@pytest.mark.parametrize("client", CLIENTS)
def test_the_grammar_refuses_what_strict_clients_refuse(client: str) -> None:
    crossing = crossing_to(client, next(path for path in RECORDINGS if path.stem == "anthropic-thinking"))
    recording = next(path for path in RECORDINGS if path.stem == "anthropic-thinking")
    whole = b"".join(crossing.feed(frame) for frame in frames_of(recording)) + crossing.finish()
    check_stream(client, whole)
    frames = whole.split(b"\n\n")
    cut = b"\n\n".join(frames[:-2]) + b"\n\n"
    doubled = whole + frames[0] + b"\n\n"
    multiline = whole.replace(b"data: ", b"data: \ndata: ", 1)
    for wrong in (cut, doubled, multiline, b"<html></html>\n\n", whole.rstrip()):
        with pytest.raises((AssertionError, KeyError, ValueError)):
            check_stream(client, wrong)
