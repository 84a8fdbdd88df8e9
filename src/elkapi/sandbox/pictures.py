"""Small real pictures: a PNG of one colour that depends on a seed; where they are shown is each provider's."""

from __future__ import annotations

import hashlib
import struct
import zlib

SIDE_PX = 16


def png(seed: str, width_px: int = SIDE_PX, height_px: int = SIDE_PX) -> bytes:
    """A valid PNG (8 bit RGB) that is the same for the same seed and size."""
    colour = hashlib.sha256(seed.encode("utf-8", "surrogatepass")).digest()[:3]
    rows = (b"\0" + colour * width_px) * height_px
    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
