"""Facts are those of the file; whatever bytes come, nothing but ProbeError is raised and reading stays bounded."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elkapi.assets import kinds
from elkapi.assets.kinds import kind_of
from elkapi.assets.probe import BOXES_MAX, MOOV_BYTES_MAX, Facts, ProbeError, probe
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


DAY_MS = 86_400_000
UPRIGHT = (1 << 16, 0, 0, 0, 1 << 16)
TURNED = (0, 1 << 16, 0, -(1 << 16), 0)
SKEWED = (1 << 16, 1 << 15, 0, 0, 1 << 16)


def times(name: bytes, scale: int, length: int, *, wide: bool = False) -> bytes:
    """`mvhd` or `mdhd`, with times of 32 or of 64 bits."""
    head = struct.pack(">IQQIQ", 1 << 24, 0, 0, scale, length) if wide else struct.pack(">5I", 0, 0, 0, scale, length)
    return media.box(name, head + bytes(80))


def track(
    *,
    length: int = 5000,
    sides: tuple[int, int] = (1280, 720),
    handler: bytes = b"vide",
    matrix: tuple[int, ...] = UPRIGHT,
    wide: bool = False,
) -> bytes:
    """A track of so many ms."""
    head = (b"\1" + bytes(51) if wide else bytes(40)) + struct.pack(">9i", *matrix, 0, 0, 0, 1 << 30)
    tkhd = media.box(b"tkhd", head + struct.pack(">II", *(side << 16 for side in sides)))
    hdlr = media.box(b"hdlr", bytes(8) + handler + bytes(13))
    return media.box(b"trak", tkhd + media.box(b"mdia", times(b"mdhd", 1000, length, wide=wide) + hdlr))


def film(*boxes: bytes) -> bytes:
    return media.box(b"ftyp", b"isom" + bytes(4)) + media.box(b"moov", b"".join(boxes))


@pytest.mark.parametrize("wide", [False, True])
async def test_a_film_may_write_its_times_in_32_bits_or_in_64(wide: bool) -> None:
    assert await facts(film(times(b"mvhd", 3, 5, wide=wide), track(wide=wide))) == Facts(1667, 1280, 720)
    unknown = (1 << 64) - 1 if wide else (1 << 32) - 1
    for scale, length in ((1000, unknown), (1000, 0), (0, 7000)):
        said = times(b"mvhd", scale, length, wide=wide)
        assert await facts(film(said, track(length=6000, wide=wide))) == Facts(6000, 1280, 720)
    two_days = times(b"mvhd", 90_000, 2 * 86_400 * 90_000, wide=True)
    assert await facts(film(two_days)) == Facts(2 * DAY_MS)


async def test_a_film_is_as_long_as_its_head_says_or_its_longest_track_and_as_large_as_its_first_picture() -> None:
    tracks = (
        track(length=9000, sides=(9, 9), handler=b"soun"),
        track(length=5000),
        track(length=0xFFFF_FFFF, sides=(640, 480)),
    )
    assert await facts(film(times(b"mvhd", 1000, 7000), *tracks)) == Facts(7000, 1280, 720)
    assert await facts(film(times(b"mvhd", 1000, 0), *tracks)) == Facts(9000, 1280, 720)
    assert await facts(film(*tracks[::-1])) == Facts(9000, 640, 480)
    assert await facts(film(*tracks[:1]), kinds.M4A) == await facts(film(*tracks[:1]), kinds.MOV) == Facts(9000)


@pytest.mark.parametrize(
    ("matrix", "sides", "shown"),
    [
        (TURNED, (1280, 720), (720, 1280)),
        (SKEWED, (1280, 720), (1280, 720)),
        ((0, 0, 0, 0, 0), (1280, 720), (1280, 720)),
        (UPRIGHT, (0, 720), (None, None)),
        (UPRIGHT, (1280, 0), (None, None)),
    ],
)
@pytest.mark.parametrize("wide", [False, True])
async def test_a_track_has_both_sides_as_they_are_seen_or_none(
    matrix: tuple[int, ...], sides: tuple[int, int], shown: tuple[int | None, int | None], wide: bool
) -> None:
    assert await facts(film(track(sides=sides, matrix=matrix, wide=wide))) == Facts(5000, *shown)


@pytest.mark.parametrize("wide", [False, True])
async def test_a_film_in_fragments_is_as_long_as_its_extension_says(wide: bool) -> None:
    said = struct.pack(">IQ", 1 << 24, 14_000) if wide else struct.pack(">II", 0, 14_000)
    extends = media.box(b"mvex", media.box(b"trex", bytes(24)) + media.box(b"mehd", said))
    assert await facts(film(times(b"mvhd", 2000, 0, wide=wide), extends)) == Facts(7000)
    # Neither what the head says nor what has no scale is replaced.
    assert await facts(film(times(b"mvhd", 2000, 10_000, wide=wide), extends)) == Facts(5000)
    assert await facts(film(times(b"mvhd", 0, 0, wide=wide), extends)) == Facts()
    assert await facts(film(extends, track())) == Facts(5000, 1280, 720)


async def test_the_last_box_may_reach_to_the_end_of_the_file() -> None:
    whole = media.mp4()
    at = whole.index(b"moov") - 4
    assert await facts(whole[:at] + bytes(4) + whole[at + 4 :]) == Facts(5000, 1280, 720)


@pytest.mark.parametrize(("length", "large"), [(2, None), (7, None), (1 << 31, None), (1, 8), (1, 15), (1, 1 << 40)])
@pytest.mark.parametrize("name", [b"free", b"udta"])
async def test_a_box_that_is_shorter_than_its_head_or_longer_than_what_holds_it_is_no_box(
    name: bytes, length: int, large: int | None
) -> None:
    wrong = struct.pack(">I4s", length, name) + (b"" if large is None else struct.pack(">Q", large))
    broken = film(wrong, track()) if name == b"udta" else media.box(b"ftyp", b"isom") + wrong + film(track())
    with pytest.raises(ProbeError, match="longer than what holds it"):
        await facts(broken, kinds.MP4)


@pytest.mark.parametrize("content", [b"", b"\0", b"\1" + bytes(20)])
async def test_a_head_that_ends_too_early_is_no_head(content: bytes) -> None:
    for name in (b"mvhd", b"trak"):
        inner = media.box(b"mdia", media.box(b"mdhd", content)) if name == b"trak" else content
        with pytest.raises(ProbeError, match="not what it says"):
            await facts(film(media.box(name, inner)))


async def test_so_many_boxes_are_read_and_not_one_more() -> None:
    free = media.box(b"free", b"")
    many = free * (BOXES_MAX - 2)
    assert await facts(many + film(track()), kinds.MP4) == Facts(5000, 1280, 720)
    assert await facts(film(many, free, track())) == Facts(5000, 1280, 720)
    for broken in (many + free + film(track()), film(many, free, free, track())):
        with pytest.raises(ProbeError, match="too many boxes"):
            await facts(broken, kinds.MP4)


@pytest.mark.parametrize(("more", "why"), [(0, "ends too early"), (1, "index is too large")])
async def test_no_index_above_the_limit_is_read(more: int, why: str) -> None:
    said = struct.pack(">I4s", 8 + MOOV_BYTES_MAX + more, b"moov") + bytes(24)
    asked: list[int] = []

    async def read(start: int, length: int) -> bytes:
        asked.append(length)
        return said[start : start + length]

    with pytest.raises(ProbeError, match=why):
        await probe(read, 1 << 40, kinds.MP4)
    assert asked == ([16] if more else [16, MOOV_BYTES_MAX])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (film(times(b"mvhd", 1000, 7 * DAY_MS)), Facts(7 * DAY_MS)),
        (film(times(b"mvhd", 1000, 7 * DAY_MS + 1)), Facts()),
        (media.png(1, 1).replace(struct.pack(">II", 1, 1), struct.pack(">II", 1 << 16, 1)), Facts(None, 1 << 16, 1)),
        (media.png(1, 1).replace(struct.pack(">II", 1, 1), struct.pack(">II", 0, (1 << 16) + 1)), Facts()),
    ],
    ids=["a-week", "more-than-a-week", "large", "too-large"],
)
async def test_what_no_file_can_be_is_unknown(data: bytes, expected: Facts) -> None:
    assert await facts(data) == expected


def riff(form: bytes, content: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(content) + 12) + b"WEBP" + form + struct.pack("<I", len(content)) + content


FRAME = b"\xff\xc2" + struct.pack(">HBHHB", 17, 8, 480, 640, 3) + bytes(9)
TABLE = b"\xff\xc4" + struct.pack(">H", 9) + bytes(7)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (media.png(31, 17).replace(b"IHDR", b"CgBI"), Facts()),
        (b"\xff\xd8" + TABLE + FRAME + bytes(9), Facts(None, 640, 480)),
        (b"\xff\xd8" + TABLE + b"\xff" + FRAME + bytes(9), Facts(None, 640, 480)),
        (b"\xff\xd8" + b"\xff\xc8\0\x09" + bytes(7) + FRAME + bytes(9), Facts(None, 640, 480)),
        (b"\xff\xd8" + b"\xff\xcc\0\x09" + bytes(7) + FRAME + bytes(9), Facts(None, 640, 480)),
        (b"\xff\xd8" + b"\xff\xda\0\x09" + bytes(7) + FRAME + bytes(9), Facts()),
        (b"\xff\xd8" + b"\xff\xd9\0\x09" + bytes(7) + FRAME + bytes(9), Facts()),
        (riff(b"VP8L", b"\x2f" + (299 | 199 << 14 | 1 << 28).to_bytes(4, "little") + bytes(9)), Facts(None, 300, 200)),
        (riff(b"VP8 ", bytes(6) + struct.pack("<HH", 1 << 14 | 300, 2 << 14 | 2000)), Facts(None, 300, 2000)),
        (riff(b"ICCP", bytes(20)), Facts()),
    ],
    ids=["apple-png", "table", "filled", "c8", "cc", "scan", "end", "lossless", "lossy", "unknown-webp"],
)
async def test_a_picture_has_the_sides_that_its_frame_says(data: bytes, expected: Facts) -> None:
    assert await facts(data) == expected


async def test_a_picture_with_a_broken_segment_is_none() -> None:
    with pytest.raises(ProbeError, match="does not begin with its mark"):
        await facts(b"\xff\xd8\xff\xe0\0\2\0" + FRAME + bytes(9))
    with pytest.raises(ProbeError, match="ends too early"):
        await facts(media.png()[:23])


def sound(*chunks: tuple[bytes, bytes], said: int | None = None) -> bytes:
    """A WAV of these chunks; the last one claims `said` bytes."""
    body = b""
    for number, (name, content) in enumerate(chunks, 1):
        length = said if said is not None and number == len(chunks) else len(content)
        body += struct.pack("<4sI", name, length) + content + bytes(len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WAVE" + body


async def test_sound_is_as_long_as_what_is_there_of_it() -> None:
    form = (b"fmt ", struct.pack("<HHIIHH", 1, 1, 8000, 16_000, 2, 16))
    data = (b"data", bytes(24_000))
    assert await facts(sound(form, (b"LIST", b"odd"), data)) == Facts(1500)
    # A recorder that streams does not know how long it will be.
    assert await facts(sound(form, data, said=0xFFFF_FFFF)) == Facts(1500)
    assert await facts(sound(form, data, said=8000)) == Facts(500)
    assert await facts(sound(data)) == await facts(sound(form)) == Facts()
    assert await facts(sound((b"fmt ", bytes(16)), data)) == Facts()


@pytest.mark.parametrize(
    ("head", "size", "mark", "duration_ms"),
    [
        (b"\xff\xfb\x90\x00", 16_000, b"", 1000),
        (b"\xff\xf3\x80\x00", 8000, b"", 1000),
        (b"\xff\xe3\x80\x00", 8000, b"", 1000),
        (b"\xff\xfb\x90\x00", 16_000, b"Info" + struct.pack(">II", 3, 1000), 26_122),
        (b"\xff\xf3\x80\x00", 8000, b"Xing" + struct.pack(">II", 1, 1000), 26_122),
        (b"\xff\xe3\x88\x00", 8000, b"Xing" + struct.pack(">II", 1, 1000), 72_000),
        (b"\xff\xfb\x90\x00", 16_000, b"VBRI" + bytes(10) + struct.pack(">I", 1000), 26_122),
        (b"\xff\xeb\x90\x00", 16_000, b"", None),
        (b"\xff\xfb\xf0\x00", 16_000, b"", None),
        (b"\xff\xfb\x00\x00", 16_000, b"", None),
        (b"\xff\xfb\x9c\x00", 16_000, b"", None),
        (b"\xff\xfd\x90\x00", 16_000, b"", None),
        (b"\xff\xfb\x90\x00", 39, b"", None),
    ],
)
async def test_music_of_every_version_is_as_long_as_its_first_frame_says(
    head: bytes, size: int, mark: bytes, duration_ms: int | None
) -> None:
    """Its tag, however long, is no music."""
    tag = b"ID3\x03\0\0" + bytes((0, 1, 2, 3)) + bytes((1 << 14) + (2 << 7) + 3)
    music = (head + bytes(32) + mark)[:size]
    assert await facts(tag + music + bytes(size - len(music))) == Facts(duration_ms)


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
