"""A file is what its first bytes say, and what says nothing that we know is no file."""

from __future__ import annotations

import pytest

from elkapi.assets import kinds
from elkapi.assets.kinds import HEAD_BYTES, kind_of

# As FFmpeg writes it: the type comes after a long size and four other elements.
EBML = bytes.fromhex("1a45dfa3 0100000000000023 42868101 42f78101 42f28104 42f38108 4282")


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x18ftypisom", kinds.MP4),
        (b"\0\0\0\x18ftypqt  ", kinds.MOV),
        (b"\0\0\0\x08wide\0\0\0\x08mdat", kinds.MOV),
        (b"\0\0\0\x08wide\0\0\0\x08mda", None),
        (b"\0\0\0\x18ftypM4A ", kinds.M4A),
        (b"\0\0\0\x18ftypM4B ", kinds.M4A),
        (b"\0\0\0\x18ftypavif", kinds.AVIF),
        (b"\0\0\0\x18ftypavis", kinds.AVIF),
        (b"\0\0\0\x18ftypheic", None),
        (b"\0\0\0\x18ftypmif1", None),
        (EBML + b"\x84webm", kinds.WEBM),
        (EBML + b"\x88matroska", kinds.MATROSKA),
        (b"\x89PNG\r\n\x1a\n", kinds.PNG),
        (b"\xff\xd8\xff\xe0", kinds.JPEG),
        (b"GIF87a", kinds.GIF),
        (b"GIF89a", kinds.GIF),
        (b"RIFF\0\0\0\0WEBP", kinds.WEBP),
        (b"RIFF\0\0\0\0WAVE", kinds.WAV),
        (b"RIFF\0\0\0\0AVI ", None),
        (b"fLaC", kinds.FLAC),
        (b"OggS", kinds.OGG),
        (b"glTF\2\0\0\0", kinds.GLB),
        (b"ID3\4", kinds.MP3),
        (b"\xff\xfb\x90\x00", kinds.MP3),
        (b"\xff\xf3\x80\x00", kinds.MP3),
        (b"\xff\xf1\x50\x80", kinds.AAC),
        (b"\xff\xf9\x50\x80", kinds.AAC),
        # Another layer, and values that no frame has.
        (b"\xff\xfd\x90\x00", None),
        (b"\xff\xfb\xf0\x00", None),
        (b"\xff\xfb\x00\x00", None),
        (b"\xff\xfb\x9c\x00", None),
        (b"\xff\xfb\x90", None),
        (b"\xfe\xfb\x90\x00", None),
        (b"\xff\xdb\x90\x00", None),
    ],
)
def test_a_kind_is_known_by_its_first_bytes(head: bytes, kind: kinds.FileKind | None) -> None:
    assert kind_of(head[:HEAD_BYTES]) == kind
