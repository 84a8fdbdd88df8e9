"""Small real audio files: one second of silence as WAV."""

from __future__ import annotations

import struct

RATE_HZ = 8_000


def wav() -> bytes:
    """A WAV file (8 bit, mono) with one second of silence."""
    samples = b"\x80" * RATE_HZ
    form = struct.pack("<HHIIHH", 1, 1, RATE_HZ, RATE_HZ, 1, 8)
    chunks = (
        b"WAVE" + struct.pack("<4sI", b"fmt ", len(form)) + form + struct.pack("<4sI", b"data", len(samples)) + samples
    )
    return struct.pack("<4sI", b"RIFF", len(chunks)) + chunks
