"""Measures a stored file (duration, width, height) from its boxes and headers, without decoding.

Reads in bounded steps through `read(start, length)`, which may return less at the end. An unknown format has no facts;
an inconsistent file raises ProbeError, and parsing raises nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable

import msgspec

from elkapi.assets import kinds
from elkapi.assets.kinds import FileKind

Read = Callable[[int, int], Awaitable[bytes]]

BOXES_MAX = 4096
MOOV_BYTES_MAX = 64 * 1024 * 1024
JPEG_SEGMENTS_MAX = 256
WAV_CHUNKS_MAX = 256
DURATION_MS_MAX = 7 * 86_400_000
SIDE_MAX = 1 << 16


class ProbeError(ValueError):
    """The file is inconsistent."""


class Facts(msgspec.Struct, frozen=True):
    """The measured facts; None is unknown."""

    duration_ms: int | None = None
    width: int | None = None
    height: int | None = None


async def probe(read: Read, size_bytes: int, kind: FileKind) -> Facts:
    """Facts of a file of this kind and size. Raises ProbeError, and what `read` raises."""
    probing = _PROBES.get(kind.content_type)
    if probing is None:
        return Facts()
    try:
        facts = await probing(read, size_bytes)
    except (struct.error, IndexError, OverflowError, ZeroDivisionError) as error:
        raise ProbeError(f"the file is not what it says: {type(error).__name__}") from None
    return Facts(
        _within(facts.duration_ms, DURATION_MS_MAX), _within(facts.width, SIDE_MAX), _within(facts.height, SIDE_MAX)
    )


def _within(value: int | None, most: int) -> int | None:
    return value if value is not None and 0 < value <= most else None


async def _exactly(read: Read, start: int, length: int) -> bytes:
    data = await read(start, length)
    if len(data) < length:
        raise ProbeError("the file ends too early")
    return data


# --- MP4, MOV, M4A ---------------------------------------------------------------------------------------------------


async def _iso(read: Read, size_bytes: int) -> Facts:
    """Only box headers are read on the way to `moov`, which may come after gigabytes of media."""
    at = 0
    for _ in range(BOXES_MAX):
        if at + 8 > size_bytes:
            return Facts()
        head = await read(at, 16)
        name, begin, end = _box(head, 0, size_bytes - at)
        if name == b"moov":
            length = end - begin
            if length > MOOV_BYTES_MAX:
                raise ProbeError("its index is too large")
            return _movie(await _exactly(read, at + begin, length))
        at += end
    raise ProbeError("it has too many boxes")


def _box(data: bytes, at: int, size: int) -> tuple[bytes, int, int]:
    """(name, start of the content, end) of the box at `at`; `size` is the end of its parent."""
    length, name = struct.unpack_from(">I4s", data, at)
    head = 8
    if length == 1:
        (length,) = struct.unpack_from(">Q", data, at + 8)
        head = 16
    elif length == 0:
        length = size - at
    if length < head or at + length > size:
        raise ProbeError("a box is longer than what holds it")
    return name, at + head, at + length


def _boxes(data: bytes, begin: int, end: int) -> list[tuple[bytes, int, int]]:
    found = []
    while begin + 8 <= end:
        name, start, begin_next = _box(data, begin, end)
        found.append((name, start, begin_next))
        if len(found) > BOXES_MAX:
            raise ProbeError("it has too many boxes")
        begin = begin_next
    return found


def _movie(moov: bytes) -> Facts:
    duration_ms = width = height = None
    tracks_ms = []
    for name, begin, end in _boxes(moov, 0, len(moov)):
        if name == b"mvhd":
            duration_ms = _duration_ms(moov, begin)
        elif name == b"trak":
            track_ms, sides = _track(moov, begin, end)
            tracks_ms.append(track_ms or 0)
            if sides is not None and width is None:
                width, height = sides
        elif name == b"mvex" and not duration_ms:
            duration_ms = _fragmented_ms(moov, begin, end)
    return Facts(duration_ms or max(tracks_ms, default=0) or None, width, height)


def _duration_ms(data: bytes, begin: int) -> int | None:
    """The duration in `mvhd` or `mdhd`, which start alike; all ones mean unknown."""
    wide = data[begin] == 1
    scale, length = struct.unpack_from(">IQ" if wide else ">II", data, begin + (20 if wide else 12))
    unknown = (1 << 64) - 1 if wide else (1 << 32) - 1
    return None if length in (0, unknown) or scale == 0 else (length * 1000 + scale // 2) // scale


def _track(data: bytes, begin: int, end: int) -> tuple[int | None, tuple[int, int] | None]:
    """(duration in ms, (width, height)) of a track; the size is after rotation."""
    length = sides = None
    is_video = False
    for name, start, stop in _boxes(data, begin, end):
        if name == b"tkhd":
            sides = _shown(data, start)
        elif name == b"mdia":
            for inner, inner_start, _ in _boxes(data, start, stop):
                if inner == b"mdhd":
                    length = _duration_ms(data, inner_start)
                elif inner == b"hdlr":
                    is_video = data[inner_start + 8 : inner_start + 12] == b"vide"
    return length, sides if is_video else None


def _shown(data: bytes, begin: int) -> tuple[int, int] | None:
    at = begin + (52 if data[begin] == 1 else 40)
    a, b = struct.unpack_from(">ii", data, at)
    width, height = (side >> 16 for side in struct.unpack_from(">II", data, at + 36))
    if not (width and height):
        return None
    return (height, width) if a == 0 and b != 0 else (width, height)


def _fragmented_ms(data: bytes, begin: int, end: int) -> int | None:
    """The duration of a fragmented movie from `mehd`, in the time scale of `mvhd`."""
    scale = next((_scale(data, start) for name, start, _ in _boxes(data, 0, len(data)) if name == b"mvhd"), 0)
    for name, start, _ in _boxes(data, begin, end):
        if name == b"mehd" and scale:
            (length,) = struct.unpack_from(">Q" if data[start] == 1 else ">I", data, start + 4)
            return int(length * 1000 // scale)
    return None


def _scale(data: bytes, begin: int) -> int:
    return int(struct.unpack_from(">I", data, begin + (20 if data[begin] == 1 else 12))[0])


# --- pictures --------------------------------------------------------------------------------------------------------


async def _png(read: Read, size_bytes: int) -> Facts:
    head = await _exactly(read, 0, 24)
    width, height = struct.unpack_from(">II", head, 16)
    return Facts(None, width, height) if head[12:16] == b"IHDR" else Facts()


async def _gif(read: Read, size_bytes: int) -> Facts:
    width, height = struct.unpack_from("<HH", await _exactly(read, 0, 10), 6)
    return Facts(None, width, height)


async def _jpeg(read: Read, size_bytes: int) -> Facts:
    at = 2
    for _ in range(JPEG_SEGMENTS_MAX):
        head = await read(at, 9)
        if len(head) < 9:
            return Facts()
        if head[0] != 0xFF:
            raise ProbeError("a segment does not begin with its mark")
        if head[1] == 0xFF:  # A fill byte.
            at += 1
            continue
        if 0xC0 <= head[1] <= 0xCF and head[1] not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", head, 5)
            return Facts(None, width, height)
        if head[1] in (0xD9, 0xDA):
            return Facts()
        at += 2 + max(2, int.from_bytes(head[2:4], "big"))
    return Facts()


async def _webp(read: Read, size_bytes: int) -> Facts:
    head = await _exactly(read, 0, 30)
    form = head[12:16]
    if form == b"VP8X":
        return Facts(None, int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1)
    if form == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return Facts(None, (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if form == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 26)
        return Facts(None, width & 0x3FFF, height & 0x3FFF)
    return Facts()


# --- sound -----------------------------------------------------------------------------------------------------------


async def _wav(read: Read, size_bytes: int) -> Facts:
    at, per_second = 12, 0
    for _ in range(WAV_CHUNKS_MAX):
        head = await read(at, 8)
        if len(head) < 8:
            return Facts()
        name, length = struct.unpack("<4sI", head)
        if name == b"fmt ":
            (per_second,) = struct.unpack_from("<I", await _exactly(read, at + 8, 16), 8)
        elif name == b"data":
            there = min(length, size_bytes - at - 8)
            return Facts(there * 1000 // per_second) if per_second else Facts()
        at += 8 + length + length % 2
    return Facts()


_RATES_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_RATES_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_SAMPLING = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


async def _mp3(read: Read, size_bytes: int) -> Facts:
    """The duration from the frame count in the first frame if the encoder wrote it, else from a constant bit rate."""
    at, head = 0, await _exactly(read, 0, 10)
    if head[:3] == b"ID3":
        at = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    frame = await read(at, 256)
    if len(frame) < 40 or frame[0] != 0xFF or frame[1] & 0xE6 != 0xE2:
        return Facts()
    version, rate, sampling = frame[1] >> 3 & 3, frame[2] >> 4, frame[2] >> 2 & 3
    if version == 1 or rate in (0, 15) or sampling == 3:
        return Facts()
    hertz, samples = _SAMPLING[version][sampling], 1152 if version == 3 else 576
    for mark, offset in ((b"Xing", 8), (b"Info", 8), (b"VBRI", 14)):
        found = frame.find(mark)
        if found > 0 and (mark == b"VBRI" or frame[found + 7] & 1):
            return Facts(struct.unpack_from(">I", frame, found + offset)[0] * samples * 1000 // hertz)
    kilobits = (_RATES_1 if version == 3 else _RATES_2)[rate]
    return Facts((size_bytes - at) * 8 // kilobits)


_PROBES: dict[str, Callable[[Read, int], Awaitable[Facts]]] = {
    kinds.MP4.content_type: _iso,
    kinds.MOV.content_type: _iso,
    kinds.M4A.content_type: _iso,
    kinds.PNG.content_type: _png,
    kinds.GIF.content_type: _gif,
    kinds.JPEG.content_type: _jpeg,
    kinds.WEBP.content_type: _webp,
    kinds.WAV.content_type: _wav,
    kinds.MP3.content_type: _mp3,
}
