"""`Passing`: a reply that forwards everything to the caller's own; subclasses override what they change."""

from __future__ import annotations

from collections.abc import Awaitable

from elkapi.relay.call import Headers, Reply


class Passing(Reply):
    """Forwards everything to `_reply`."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    @property
    def started(self) -> bool:  # type: ignore[override]
        """As of the reply behind it."""
        return self._reply.started

    @property
    def common(self) -> bytes:
        """As of the reply behind it."""
        return self._reply.common

    @common.setter
    def common(self, lines: bytes) -> None:
        self._reply.common = lines

    def send(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole reply at once."""
        self._reply.send(status, headers, body)

    def start(self, status: int, headers: Headers, length_bytes: int | None = None) -> None:
        """Begin a reply."""
        self._reply.start(status, headers, length_bytes)

    def put(self, chunk: bytes) -> Awaitable[None] | None:
        """One piece."""
        return self._reply.put(chunk)

    def write(self, chunk: bytes) -> Awaitable[None]:
        """One piece, and the wait."""
        return self._reply.write(chunk)

    def push(self, chunk: bytes) -> None:
        """One small piece from outside the flow."""
        self._reply.push(chunk)

    def finish(self, chunk: bytes = b"") -> None:
        """The last piece."""
        self._reply.finish(chunk)

    def abort(self) -> None:
        """Break off."""
        self._reply.abort()
