"""Small real videos: playable MP4 files of one colour, of any size and length.

The video is H.264 baseline profile, written bit by bit. The first macroblock of the first frame has the colour as raw
samples (I_PCM); every other one is predicted from its neighbours without a residual, and every further frame skips all
of them. So the first frame takes about a byte per macroblock and each further one about a dozen bytes, without an
encoder.
"""

from __future__ import annotations

import functools
import hashlib
import struct

import msgspec

BLOCK_PX = 16
FRAMES_PER_SECOND = 24
TIMESCALE = FRAMES_PER_SECOND * 512
# Level 5.2 allows every size that a provider offers; for decoders it is only an upper bound.
PROFILE, LEVEL = 66, 52
FRAME_NUMBER_BITS = 4
IDENTITY = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


class _Bits:
    """A bit writer."""

    def __init__(self) -> None:
        self._text: list[str] = []

    def fixed(self, value: int, width: int) -> None:
        self._text.append(format(value, f"0{width}b"))

    def ue(self, value: int) -> None:
        """Append an unsigned number in H.264's Exp-Golomb code."""
        code = format(value + 1, "b")
        self._text.append("0" * (len(code) - 1) + code)

    def raw(self, text: str) -> None:
        self._text.append(text)

    def align(self) -> None:
        self._text.append("0" * (-sum(map(len, self._text)) % 8))

    def unit(self, header: int) -> bytes:
        """The bits as a NAL unit: with stop bit and padding, and with start code patterns escaped."""
        text = "".join(self._text) + "1"
        text += "0" * (-len(text) % 8)
        data = int(text, 2).to_bytes(len(text) // 8, "big")
        escaped, zeros = bytearray([header]), 0
        for byte in data:
            if zeros >= 2 and byte <= 3:
                escaped.append(3)
                zeros = 0
            escaped.append(byte)
            zeros = zeros + 1 if byte == 0 else 0
        return bytes(escaped)


class _Grid(msgspec.Struct, frozen=True):
    """A frame's size in pixels and in macroblocks."""

    width_px: int
    height_px: int

    def across(self) -> int:
        return -(-self.width_px // BLOCK_PX)

    def down(self) -> int:
        return -(-self.height_px // BLOCK_PX)

    def blocks(self) -> int:
        return self.across() * self.down()


@functools.lru_cache(maxsize=64)
def mp4(seed: str, width_px: int, height_px: int, duration_ms: int) -> bytes:
    """A playable MP4 of this size (rounded down to even) and length (at least one frame); the seed sets its colour."""
    grid = _Grid(width_px // 2 * 2, height_px // 2 * 2)
    frames = max(1, round(duration_ms * FRAMES_PER_SECOND / 1000))
    colour = hashlib.sha256(seed.encode("utf-8", "surrogatepass")).digest()[:3]
    samples = [_first_frame(grid, colour), *(_same_frame(grid, number) for number in range(1, frames))]
    ftyp = _box(b"ftyp", b"isom\0\0\2\0isomiso2avc1mp41")
    # The chunk table needs the offset of the samples; its own length does not depend on that value.
    start = len(ftyp) + len(_movie(grid, samples, 0)) + 8
    return ftyp + _movie(grid, samples, start) + _box(b"mdat", b"".join(samples))


def seconds_of(content: bytes) -> float | None:
    """The length in an MP4's movie header; None if it has none."""
    at = content.find(b"mvhd")
    if at < 0 or len(content) < at + 24 or content[at + 4] != 0:
        return None
    timescale, duration = struct.unpack(">II", content[at + 16 : at + 24])
    return float(duration) / float(timescale) if timescale else None


def _sequence(grid: _Grid) -> bytes:
    bits = _Bits()
    bits.fixed(PROFILE, 8)
    bits.fixed(0b11000000, 8)
    bits.fixed(LEVEL, 8)
    for value in (0, FRAME_NUMBER_BITS - 4, 2, 1):  # id, frame number bits, decoding order, reference frames
        bits.ue(value)
    bits.raw("0")
    bits.ue(grid.across() - 1)
    bits.ue(grid.down() - 1)
    bits.raw("11")  # frame_mbs_only, direct_8x8_inference
    right = (grid.across() * BLOCK_PX - grid.width_px) // 2
    below = (grid.down() * BLOCK_PX - grid.height_px) // 2
    bits.raw("1" if right or below else "0")
    if right or below:
        for value in (0, right, 0, below):
            bits.ue(value)
    bits.raw("0")
    return bits.unit(0x67)


def _picture() -> bytes:
    bits = _Bits()
    bits.ue(0)
    bits.ue(0)
    bits.raw("00")
    for _ in range(3):
        bits.ue(0)
    bits.raw("000")
    for _ in range(3):
        bits.ue(0)
    bits.raw("000")
    return bits.unit(0x68)


def _first_frame(grid: _Grid, colour: bytes) -> bytes:
    bits = _Bits()
    for value in (0, 7, 0):  # first macroblock, intra slice, id of the picture parameters
        bits.ue(value)
    bits.fixed(0, FRAME_NUMBER_BITS)
    bits.ue(0)
    bits.raw("00")
    bits.ue(0)
    bits.ue(25)  # I_PCM
    bits.align()
    luma, blue, red = (16 + value % 220 for value in colour)
    bits.raw("".join(format(value, "08b") * count for value, count in ((luma, 256), (blue, 64), (red, 64))))
    for block in range(1, grid.blocks()):
        # DC prediction for luma and chroma, no change of the quantizer, no coefficients. The code for "none" depends on
        # the neighbours, and an I_PCM neighbour counts as having the maximum.
        bits.raw("0010011" + ("000011" if block in (1, grid.across()) else "1"))
    return _sample(bits.unit(0x65))


def _same_frame(grid: _Grid, number: int) -> bytes:
    bits = _Bits()
    for value in (0, 5, 0):
        bits.ue(value)
    bits.fixed(number % (1 << FRAME_NUMBER_BITS), FRAME_NUMBER_BITS)
    bits.raw("000")
    bits.ue(0)
    bits.ue(grid.blocks())  # all macroblocks are skipped
    return _sample(bits.unit(0x41))


def _sample(unit: bytes) -> bytes:
    return struct.pack(">I", len(unit)) + unit


def _box(kind: bytes, *parts: bytes) -> bytes:
    return struct.pack(">I4s", 8 + sum(map(len, parts)), kind) + b"".join(parts)


def _movie(grid: _Grid, samples: list[bytes], start: int) -> bytes:
    units = len(samples) * (TIMESCALE // FRAMES_PER_SECOND)
    size = struct.pack(">II", grid.width_px << 16, grid.height_px << 16)
    header = _box(
        b"mvhd", struct.pack(">5IIH10x", 0, 0, 0, TIMESCALE, units, 0x10000, 0x100), IDENTITY, bytes(24), b"\0\0\0\2"
    )
    track = _box(b"tkhd", struct.pack(">6I16x", 3, 0, 0, 1, 0, units), IDENTITY, size)
    media = _box(b"mdhd", struct.pack(">5IHH", 0, 0, 0, TIMESCALE, units, 0x55C4, 0))
    handler = _box(b"hdlr", bytes(8), b"vide", bytes(12), b"sandbox\0")
    place = _box(b"dinf", _box(b"dref", struct.pack(">II", 0, 1), _box(b"url ", b"\0\0\0\1")))
    information = _box(b"minf", _box(b"vmhd", b"\0\0\0\1", bytes(8)), place, _tables(grid, samples, start))
    return _box(b"moov", header, _box(b"trak", track, _box(b"mdia", media, handler, information)))


def _tables(grid: _Grid, samples: list[bytes], start: int) -> bytes:
    sequence, picture = _sequence(grid), _picture()
    setup = _box(
        b"avcC",
        bytes([1, *sequence[1:4], 0xFF, 0xE1]),
        struct.pack(">H", len(sequence)),
        sequence,
        struct.pack(">BH", 1, len(picture)),
        picture,
    )
    shape = struct.pack(">HH", grid.width_px, grid.height_px) + struct.pack(">IIIH", 0x480000, 0x480000, 0, 1)
    entry = _box(b"avc1", bytes(6), b"\0\1", bytes(16), shape, bytes(32), b"\0\x18\xff\xff", setup)
    lengths = struct.pack(f">{len(samples)}I", *map(len, samples))
    return _box(
        b"stbl",
        _box(b"stsd", struct.pack(">II", 0, 1), entry),
        _box(b"stts", struct.pack(">4I", 0, 1, len(samples), TIMESCALE // FRAMES_PER_SECOND)),
        _box(b"stss", struct.pack(">3I", 0, 1, 1)),
        _box(b"stsc", struct.pack(">5I", 0, 1, 1, len(samples), 1)),
        _box(b"stsz", struct.pack(">3I", 0, 0, len(samples)), lengths),
        _box(b"stco", struct.pack(">3I", 0, 1, start)),
    )
