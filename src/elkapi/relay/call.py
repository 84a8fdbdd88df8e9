"""A call as the rooms see it and the seam for its reply; the edge fills both in, whatever server it runs on."""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

Headers = Sequence[tuple[bytes, bytes]]
Fields = dict[bytes, bytes]


class ClientGone(Exception):
    """The caller closed the connection; nobody is left to answer."""


class Reply(Protocol):
    """Where a reply goes. `started` turns true when a byte of it may have reached the client.

    `common` header lines (request id, CORS), as they stand in a head, are added to every reply.
    """

    started: bool
    common: bytes

    def send(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole reply at once; the server adds content-length."""

    def start(self, status: int, headers: Headers) -> None:
        """Begin a reply of unknown length."""

    def write(self, chunk: bytes) -> Awaitable[None]:
        """One piece of a started reply; waits while the client is slow."""

    def push(self, chunk: bytes) -> None:
        """One small piece of a started reply from outside its own flow of writes; never waits."""

    def finish(self, chunk: bytes = b"") -> None:
        """The last piece: the only thing that makes a started reply complete."""

    def abort(self) -> None:
        """Break a started reply off so that the client cannot take it for a whole one."""


class Call:
    """One request: `headers` have lower-case names, `path` is percent-encoded as it came, `query` without `?`.

    `text_id` is the id's public spelling, as it stands in headers.
    """

    __slots__ = (
        "_body",
        "_fields",
        "client_ip",
        "headers",
        "id",
        "method",
        "path",
        "query",
        "reply",
        "started_s",
        "text_id",
    )

    def __init__(
        self,
        id: bytes,
        method: str,
        path: str,
        query: str,
        headers: list[tuple[bytes, bytes]],
        client_ip: str,
        body: Callable[[], Awaitable[bytes]] | bytes,
        reply: Reply,
        started_s: float,
        fields: Fields | None = None,
    ) -> None:
        self.id = id
        self.text_id = b"req_" + hexlify(id)
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self._fields = dict(reversed(headers)) if fields is None else fields
        self.client_ip = client_ip
        self._body = body
        self.reply = reply
        self.started_s = started_s

    def header(self, name: bytes) -> bytes | None:
        """The first header of this lower-case name."""
        return self._fields.get(name)

    async def body(self) -> bytes:
        """The whole body. Raises BodyTooLarge, RequestTimeout, BadRequest (broken framing) or ClientGone."""
        return self._body if isinstance(self._body, bytes) else await self._body()
