"""Decodes bodies that arrive compressed although every request asks for identity."""

from __future__ import annotations

import zlib

from elkapi.upstream.reply import UpstreamReply


def plain(reply: UpstreamReply, body: bytes, whole: bool, bytes_max: int) -> bytes:
    """The decoded bytes of a gzip or zlib body, bounded; empty if such a body is not `whole`."""
    encoding = (reply.header(b"content-encoding") or b"").lower()
    if encoding in (b"", b"identity"):
        return body
    if not whole:
        return b""
    try:
        stream = zlib.decompressobj(zlib.MAX_WBITS | 32)
        text = stream.decompress(body, bytes_max)
    except zlib.error:
        return b""
    return text if stream.eof else b""
