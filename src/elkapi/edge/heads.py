"""A request's head, and how one that a connection sends again is recognised without parsing it.

Clients repeat their head from request to request, all but the length of the body. Only the bytes of a head that the
parser has accepted are recognised, so nothing passes here that it would refuse or read differently.
"""

from __future__ import annotations

import re

import httptools
import msgspec

from elkapi.relay.call import Fields, HeadMemo

CONTENT_LENGTH = b"content-length"
# A longer number is left to the parser.
DIGITS_MAX = 10

_METHODS = {method.encode(): method for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)(?=\r\n)", re.IGNORECASE)


class RequestHead(msgspec.Struct, frozen=True):
    """`headers` have lower-case names. `plain`: the answer must be neither chunked nor followed by another one
    (HTTP/1.0). `memo` is shared by the heads that differ in their Content-Length alone."""

    method: str
    path: str
    query: str
    headers: list[tuple[bytes, bytes]]
    fields: Fields
    plain: bool
    close_after: bool
    memo: HeadMemo


class KnownHead(msgspec.Struct, frozen=True):
    """A head that a connection has sent: its bytes `before` and `after` the digits of its Content-Length, which is
    `headers[place]`."""

    before: bytes
    after: bytes
    place: int
    head: RequestHead

    def recognise(self, data: bytes) -> tuple[RequestHead, int, int] | None:
        """(head, body length in bytes, size of the head in `data`) if `data` begins with this head, else None."""
        before, after = self.before, self.after
        if not data.startswith(before):
            return None
        start = len(before)
        end = data.find(b"\r", start, start + DIGITS_MAX + 1)
        if end < 0 or not data.startswith(after, end):
            return None
        digits = data[start:end]
        if not digits.isdigit():
            return None
        head = self.head
        if head.fields[CONTENT_LENGTH] != digits:
            headers = head.headers.copy()
            headers[self.place] = (CONTENT_LENGTH, digits)
            fields = head.fields | {CONTENT_LENGTH: digits}
            head = RequestHead(head.method, head.path, head.query, headers, fields, False, False, head.memo)
        return head, int(digits), end + len(after)


def parsed(
    parser: httptools.HttpRequestParser, url: bytes, headers: list[tuple[bytes, bytes]], fields: Fields
) -> RequestHead:
    """The head that the parser has just read."""
    method = parser.get_method()
    path, _, query = url.decode("latin-1").partition("?")
    if path[:1] != "/":
        # The absolute form names an authority; only its path is used (never route on Host).
        path = "/" + path.partition("://")[2].partition("/")[2]
    # HTTP/1.0 has no chunks, and a client may wait for the end of the connection whatever it requested.
    plain = parser.get_http_version() < "1.1"
    text = _METHODS.get(method) or method.decode("ascii", "replace")
    return RequestHead(text, path, query, headers, fields, plain, plain or not parser.should_keep_alive(), HeadMemo())


def known(data: bytes, head: RequestHead) -> KnownHead | None:
    """By what to recognise `head`, which the parser read at the beginning of `data`; None if more than its length may
    matter to how it is read."""
    size = data.find(b"\r\n\r\n") + 4
    found = _LENGTH.search(data, 0, size)
    # Each line but the first and the last is a header, as it was read: nothing precedes the head, and nothing of it was
    # left out (an Upgrade).
    if head.close_after or found is None or data.count(b"\r\n", 0, size) != len(head.headers) + 2:
        return None
    places = [place for place, (name, _) in enumerate(head.headers) if name == CONTENT_LENGTH]
    if len(places) != 1 or b"expect" in head.fields:
        return None
    start, end = found.span(1)
    return KnownHead(data[:start], data[end:size], places[0], head)
