"""Raw access to the connection, for faults that ASGI cannot express; `deliver` decides which.

uvicorn gives an application no connection. `WireProtocol` is uvicorn's own protocol, but it puts the transport into the
request's scope. Under any other server `wire_of` returns None and wire faults are refused.
"""

from __future__ import annotations

import asyncio
import http
import os
import socket
import struct

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from elkapi.sandbox.messages import Headers, Scope

EXTENSION = "elkapi.sandbox.wire"

GARBAGE = b"\x16\x03\x01\x02\x00 this is not HTTP\r\n\r\n"
EXTRA_BODY = b'{"poisoned":"this answer belongs to no request"}'


class WireProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol; it also gives its transport to the application."""

    def on_message_begin(self) -> None:
        """Begin a request as uvicorn does, then add the transport to its scope."""
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: {"transport": self.transport}}


class Wire:
    """Raw writes on one connection. After writing a whole answer, close it: uvicorn does not know of the answer."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def write(self, data: bytes) -> None:
        """Send bytes as they are, unless the connection is already closing."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Send what is buffered, then close with a FIN."""
        self._transport.close()

    def abort(self) -> None:
        """Close at once with a reset (RST), dropping what is buffered; a Unix socket is closed normally."""
        real = self._transport.get_extra_info("socket")
        if real is not None and real.family != socket.AF_UNIX:
            # A linger time of zero makes the kernel send a reset. The event loop's socket object does not allow
            # setting options, so it is set through a duplicate of the descriptor.
            with socket.socket(fileno=os.dup(real.fileno())) as duplicate:
                duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def write_eof(self) -> None:
        """Close the sending half only."""
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()


def wire_of(scope: Scope) -> Wire | None:
    """The connection of a request served through `WireProtocol`; None under any other server."""
    found = (scope.get("extensions") or {}).get(EXTENSION)
    return None if found is None else Wire(found["transport"])


def head(status: int, headers: Headers) -> bytes:
    """A status line and header block, as bytes."""
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    lines = [b"HTTP/1.1 %d %s" % (status, phrase.encode("ascii")), *(b"%s: %s" % pair for pair in headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One complete chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def broken_chunk(data: bytes, sent_bytes: int) -> bytes:
    """A chunk that announces all of `data` but contains only its first `sent_bytes` bytes."""
    return b"%x\r\n%s" % (len(data), data[:sent_bytes])


def extra_answer() -> bytes:
    """An unrequested answer: a client that reuses the connection gives it to the wrong caller."""
    headers = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(EXTRA_BODY)))
    return head(200, headers) + EXTRA_BODY
