"""Small files of known length and size, made here; enough of each format for its facts."""

from __future__ import annotations

import struct
import wave
import zlib
from io import BytesIO


def box(name: bytes, content: bytes, *, large: bool = False) -> bytes:
    if large:
        return struct.pack(">I4sQ", 1, name, len(content) + 16) + content
    return struct.pack(">I4s", len(content) + 8, name) + content


def mp4(duration_ms: int = 5000, width: int = 1280, height: int = 720, filler: int = 1000, last: bool = True) -> bytes:
    """`last`: moov stands behind the pictures, as most encoders leave it."""
    mvhd = box(b"mvhd", struct.pack(">IIIII", 0, 0, 0, 1000, duration_ms) + bytes(80))
    matrix = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    tkhd = box(b"tkhd", bytes(40) + matrix + struct.pack(">II", width << 16, height << 16))
    mdhd = box(b"mdhd", struct.pack(">IIIIII", 0, 0, 0, 1000, duration_ms, 0))
    hdlr = box(b"hdlr", bytes(8) + b"vide" + bytes(13))
    moov = box(b"moov", mvhd + box(b"trak", tkhd + box(b"mdia", mdhd + hdlr)))
    mdat = box(b"mdat", bytes(range(256)) * (filler // 256) + bytes(filler % 256), large=filler > 500)
    ftyp = box(b"ftyp", b"isom" + bytes(4) + b"isomiso2mp41")
    return ftyp + (mdat + moov if last else moov + mdat)


def png(width: int = 3, height: int = 2) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x80" * 3 * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg(width: int = 640, height: int = 480) -> bytes:
    app = b"\xff\xe0" + struct.pack(">H", 16) + b"JFIF\0" + bytes(9)
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)
    return b"\xff\xd8" + app + frame + b"\xff\xda" + bytes(20) + b"\xff\xd9"


def webp(width: int = 300, height: int = 200) -> bytes:
    content = b"VP8X" + struct.pack("<I", 10) + bytes(4)
    content += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(content) + 4) + b"WEBP" + content


def wav(seconds: float = 1.5) -> bytes:
    target = BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(int(seconds * 8000) * 2))
    return target.getvalue()


def mp3(frames: int = 40) -> bytes:
    """MPEG 1 layer 3, 128 kbit/s at 44.1 kHz: 417 bytes and about 26.1 ms a frame."""
    tag = b"ID3\x03\0\0" + bytes((0, 0, 0, 10)) + bytes(10)
    return tag + (b"\xff\xfb\x90\x00" + bytes(413)) * frames
