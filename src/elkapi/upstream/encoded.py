"""A body that came compressed although every call asks for it plain."""

from __future__ import annotations

import zlib

from elkapi.upstream.reply import UpstreamReply


def plain(reply: UpstreamReply, body: bytes, whole: bool, bytes_max: int) -> bytes:
    """What was read of a reply, out of gzip or zlib, bounded; empty when such a body is not there `whole`."""
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
