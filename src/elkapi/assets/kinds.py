"""Detects a file's type by its first bytes; a claimed content type is ignored."""

from __future__ import annotations

import msgspec

from elkapi.types import AssetKind

HEAD_BYTES = 64


class FileKind(msgspec.Struct, frozen=True):
    """A type of file; `suffix` is the file name extension."""

    kind: AssetKind
    content_type: str
    suffix: str


MP4 = FileKind("video", "video/mp4", "mp4")
MOV = FileKind("video", "video/quicktime", "mov")
WEBM = FileKind("video", "video/webm", "webm")
MATROSKA = FileKind("video", "video/x-matroska", "mkv")
PNG = FileKind("image", "image/png", "png")
JPEG = FileKind("image", "image/jpeg", "jpg")
WEBP = FileKind("image", "image/webp", "webp")
GIF = FileKind("image", "image/gif", "gif")
AVIF = FileKind("image", "image/avif", "avif")
MP3 = FileKind("audio", "audio/mpeg", "mp3")
WAV = FileKind("audio", "audio/wav", "wav")
FLAC = FileKind("audio", "audio/flac", "flac")
OGG = FileKind("audio", "audio/ogg", "ogg")
M4A = FileKind("audio", "audio/mp4", "m4a")
AAC = FileKind("audio", "audio/aac", "aac")
GLB = FileKind("file", "model/gltf-binary", "glb")
ALL = (MP4, MOV, WEBM, MATROSKA, PNG, JPEG, WEBP, GIF, AVIF, MP3, WAV, FLAC, OGG, M4A, AAC, GLB)
BY_CONTENT_TYPE = {kind.content_type: kind for kind in ALL}

_MARKS = (
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"\xff\xd8\xff", JPEG),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
    (b"ID3", MP3),
    (b"fLaC", FLAC),
    (b"OggS", OGG),
    (b"glTF", GLB),
)
# Any other brand is a form of MP4, but these are the pictures of phones, which no provider of videos takes.
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BRANDS: dict[bytes, FileKind | None] = {
    **dict.fromkeys(_HEIF),
    b"qt  ": MOV,
    b"M4A ": M4A,
    b"M4B ": M4A,
    b"avif": AVIF,
    b"avis": AVIF,
}
# Older QuickTime files start with one of these instead of a brand.
_ATOMS = frozenset({b"moov", b"mdat", b"wide", b"free", b"skip"})


def kind_of(head: bytes) -> FileKind | None:
    """The kind of a file by its first bytes, or None if it is not one that we store, such as a web page or JSON."""
    for mark, kind in _MARKS:
        if head.startswith(mark):
            return kind
    if head[:4] == b"RIFF":
        return {b"WEBP": WEBP, b"WAVE": WAV}.get(head[8:12])
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return WEBM if b"webm" in head else MATROSKA
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], MP4)
    if head[4:8] in _ATOMS and len(head) >= 16:
        return MOV
    return _mpeg_audio(head)


def _mpeg_audio(head: bytes) -> FileKind | None:
    """MPEG audio without a tag: an 11-bit sync word, followed by no reserved value."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    if head[1] & 0xF6 == 0xF0:
        return AAC
    layer, rate, sampling = head[1] & 0x06, head[2] >> 4, head[2] >> 2 & 3
    return MP3 if layer == 0x02 and rate not in (0, 15) and sampling != 3 else None
