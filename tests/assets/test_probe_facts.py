"""Facts are those of the file; whatever bytes come, nothing but ProbeError is raised and reading stays bounded."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elkapi.assets import kinds
from elkapi.assets.kinds import kind_of
from elkapi.assets.probe import MOOV_BYTES_MAX, Facts, ProbeError, probe
from tests.assets import media


async def facts(data: bytes, kind: kinds.FileKind | None = None) -> Facts:
    found = kind or kind_of(data[: kinds.HEAD_BYTES])
    assert found is not None

    async def read(start: int, length: int) -> bytes:
        assert 0 <= length <= MOOV_BYTES_MAX
        return data[start : start + length] if start >= 0 else b""

    return await probe(read, len(data), found)


@pytest.mark.parametrize(
    ("data", "kind", "expected"),
    [
        (media.mp4(), kinds.MP4, Facts(5000, 1280, 720)),
        (media.mp4(8000, 720, 1280, last=False), kinds.MP4, Facts(8000, 720, 1280)),
        (media.png(31, 17), kinds.PNG, Facts(None, 31, 17)),
        (media.jpeg(), kinds.JPEG, Facts(None, 640, 480)),
        (media.webp(), kinds.WEBP, Facts(None, 300, 200)),
        (media.wav(), kinds.WAV, Facts(1500)),
        (media.mp3(), kinds.MP3, Facts(1042)),
        (b"GIF89a" + struct.pack("<HH", 10, 20) + bytes(20), kinds.GIF, Facts(None, 10, 20)),
    ],
    ids=["mp4", "mp4-moov-first", "png", "jpeg", "webp", "wav", "mp3", "gif"],
)
async def test_facts_are_measured(data: bytes, kind: kinds.FileKind, expected: Facts) -> None:
    assert kind_of(data[: kinds.HEAD_BYTES]) == kind
    assert await facts(data) == expected


async def test_a_rotated_film_has_the_sides_that_are_seen() -> None:
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    assert await facts(media.mp4().replace(upright, turned)) == Facts(5000, 720, 1280)


def lengths(data: bytes, name: bytes, said: int) -> bytes:
    """The same film with another length in a box of this name."""
    known = struct.pack(">4sIIIII", name, 0, 0, 0, 1000, 5000)
    assert known in data
    return data.replace(known, known[:-4] + struct.pack(">I", said))


@pytest.mark.parametrize("unknown", [0, 0xFFFF_FFFF])
async def test_a_film_that_does_not_know_its_length_is_as_long_as_its_track(unknown: int) -> None:
    film = lengths(media.mp4(), b"mvhd", unknown)
    assert await facts(film) == Facts(5000, 1280, 720)
    assert await facts(lengths(film, b"mdhd", unknown)) == Facts(None, 1280, 720)


@pytest.mark.parametrize(("mark", "flags", "duration_ms"), [(b"Xing", 1, 26_122), (b"Info", 0, 1042)])
async def test_music_is_as_long_as_its_encoder_says_or_as_its_rate_makes_it(
    mark: bytes, flags: int, duration_ms: int
) -> None:
    music = media.mp3()
    first = music.index(b"\xff\xfb") + 36
    said = mark + struct.pack(">II", flags, 1000)
    assert await facts(music[:first] + said + music[first + len(said) :]) == Facts(duration_ms)


async def test_music_without_a_frame_where_it_should_begin_has_no_length() -> None:
    music = media.mp3()
    assert await facts(music.replace(b"\xff\xfb", b"\xfe\xfb", 1), kinds.MP3) == Facts()


async def test_a_film_whose_index_never_comes_has_no_facts() -> None:
    whole = media.mp4(last=True)
    assert await facts(whole[: whole.index(b"moov") - 4]) == Facts()


@pytest.mark.parametrize(
    "head",
    [b"<!doctype html><html>", b'{"error": "expired"}', b"%PDF-1.7", b"<svg xmlns", b"", b"\xff\xfe<\0h\0", b"MZ\x90"],
)
def test_a_page_or_an_error_is_no_file(head: bytes) -> None:
    assert kind_of(head) is None


@pytest.mark.parametrize("kind", kinds.ALL, ids=lambda kind: kind.suffix)
@settings(max_examples=60)
@given(data=st.binary(max_size=400))
async def test_any_bytes_are_facts_or_a_probe_error(kind: kinds.FileKind, data: bytes) -> None:
    with contextlib.suppress(ProbeError):
        await facts(data, kind)


SAMPLES = [
    media.mp4(filler=40),
    media.mp4(filler=40, last=False),
    media.jpeg(),
    media.webp(),
    media.wav(0.01),
    media.mp3(2),
]


@settings(max_examples=400)
@given(data=st.data())
async def test_a_damaged_file_is_facts_or_a_probe_error(data: st.DataObject) -> None:
    whole = bytearray(data.draw(st.sampled_from(SAMPLES)))
    kind = kind_of(bytes(whole[: kinds.HEAD_BYTES]))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.sampled_from([0, 1, 2, 127, 128, 255]))
    end = data.draw(st.integers(0, len(whole)))
    with contextlib.suppress(ProbeError):
        await facts(bytes(whole[:end]), kind)
