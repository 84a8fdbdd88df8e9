"""The bytes of HTTP/1.1 that we decide ourselves: writing a request head, judging a reply head; parsing is httptools'.

Pure. A request head is checked as a whole after it was put together, so no single field can smuggle a line break past
a check made for another field. A reply's framing is decided here from its headers, more strictly than the parser does,
because a proxy that reads a body differently from its neighbours is how replies end up with the wrong caller.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from elkapi.upstream.errors import ProtocolViolation, RequestRefused

Fields = Sequence[tuple[bytes, bytes]]

# Hop-by-hop headers, and those the client writes itself: the caller's are left out.
OWN_HEADERS: Final = frozenset(
    {
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authorization",
        b"proxy-authenticate",
        b"te",
        b"trailer",
        b"upgrade",
        b"expect",
        b"http2-settings",
    }
)
BODILESS_METHODS: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"DELETE", b"TRACE"})
NO_BODY_STATUSES: Final = frozenset({204, 304})

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET_REFUSED: Final = bytes(range(0x21)) + bytes(range(0x7F, 0x100)) + b"#"
_CONTROLS: Final = bytes(code for code in range(0x20) if code != 0x09) + b"\x7f"
_METHODS_KNOWN: Final = frozenset({b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"HEAD", b"OPTIONS"})

# Header names and targets repeat endlessly, so each is checked once and then looked up. The value of a name tells
# whether the caller may send it. Bounded, because both may come from untrusted callers.
_names_seen: dict[bytes, bool] = {}
_NAMES_SEEN_MAX: Final = 2048
_targets_seen: set[bytes] = set()
_TARGETS_SEEN_MAX: Final = 2048
_KEPT_BYTES_MAX: Final = 256
# The start of a head that many calls share, encoded and checked: by method, target, authority and shared headers.
_shared_heads: dict[tuple[bytes, bytes, bytes, Fields], bytes] = {}
_SHARED_HEADS_MAX: Final = 1024

UNTIL_CLOSE: Final = -1
CHUNKED: Final = -2


def encode_head(
    method: bytes,
    target: bytes,
    authority: bytes,
    headers: Fields,
    framing: int,
    shared: tuple[tuple[bytes, bytes], ...] = (),
) -> bytes:
    """The request head including the empty line. `framing` is the body's length in bytes or CHUNKED.

    `shared` are headers that many calls have in common; with them the first part of the head is built and checked once.
    Raises RequestRefused for a method, target or header that could be read as anything but one request.
    """
    key = (method, target, authority, shared)
    begin = _shared_heads.get(key) if shared else None
    if begin is None:
        check_method(method)
        if target not in _targets_seen:
            check_target(target)
            if len(_targets_seen) < _TARGETS_SEEN_MAX and len(target) <= _KEPT_BYTES_MAX:
                _targets_seen.add(target)
        begin = b"%b %b HTTP/1.1\r\nhost: %b\r\n%b" % (method, target, authority, _lines(shared))
        if shared:
            if len(_shared_heads) >= _SHARED_HEADS_MAX:
                _shared_heads.clear()
            _shared_heads[key] = begin
    if framing == CHUNKED:
        end = b"transfer-encoding: chunked\r\n\r\n"
    elif framing or method not in BODILESS_METHODS:
        end = b"content-length: %d\r\n\r\n" % framing
    else:
        end = b"\r\n"
    return begin + _lines(headers) + end


def _lines(headers: Fields) -> bytes:
    """Header lines. Raises RequestRefused unless each is exactly one line."""
    if len(headers) == 1:
        # The usual case: our id of the call.
        [(name, value)] = headers
        if _names_seen.get(name) and len(value.translate(None, _CONTROLS)) == len(value):
            return b"%b: %b\r\n" % (name, value)
    lines = [
        name + b": " + value + b"\r\n"
        for name, value in headers
        if (known := _names_seen.get(name)) or (known is None and _is_callers(name))
    ]
    text = b"".join(lines)
    # One line break per line is ours; any other came in a value.
    if len(text.translate(None, _CONTROLS)) != len(text) - 2 * len(lines):
        raise _refused("a header holds a line break or a control character")
    return text


def check_method(method: bytes) -> None:
    """Raises RequestRefused unless `method` is a token; CONNECT is refused too, as it asks for a tunnel."""
    if method not in _METHODS_KNOWN and (method == b"CONNECT" or _TOKEN.fullmatch(method) is None):
        raise _refused("the method is not one that can be relayed")


def check_target(target: bytes) -> None:
    """Raises RequestRefused unless `target` is in origin form without fragment, space, control or non-ASCII byte."""
    if not target.startswith(b"/"):
        raise _refused("the target does not start with /")
    if len(target.translate(None, _TARGET_REFUSED)) != len(target):
        raise _refused("the target holds a space, a control character, a fragment or a non-ASCII byte")


def callers_headers(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The same check and filter, for the transports that write the head themselves."""
    for name, value in headers:
        if len(value.translate(None, _CONTROLS)) != len(value):
            raise _refused(f"the header {name!r} holds a line break or a control character")
    return [(name, value) for name, value in headers if _is_callers(name)]


def _is_callers(name: bytes) -> bool:
    known = _names_seen.get(name)
    if known is not None:
        return known
    if _TOKEN.fullmatch(name) is None:
        raise _refused("a header name is not a token")
    known = name.lower() not in OWN_HEADERS
    if len(_names_seen) < _NAMES_SEEN_MAX and len(name) <= _KEPT_BYTES_MAX:
        _names_seen[name] = known
    return known


def _refused(detail: str) -> RequestRefused:
    return RequestRefused(detail, phase="request", sent=False)


def fields_of(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by name, with the first value of a repeated one."""
    return dict(reversed(headers))


def reply_framing(
    is_head: bool, status: int, version: str, headers: list[tuple[bytes, bytes]], fields: dict[bytes, bytes]
) -> int:
    """How the reply's body ends: a length in bytes (0 for none), CHUNKED, or UNTIL_CLOSE.

    `headers` have lower-case names, `fields` are the same by name. Raises ProtocolViolation for anything that two
    readers could interpret differently: both kinds of framing, a repeated or malformed length, any coding but one plain
    `chunked`.
    """
    if version not in ("1.1", "1.0"):
        raise _violation(f"the reply speaks HTTP/{version}")
    if not 100 <= status <= 599:
        raise _violation(f"the reply's status is {status}")
    if len(fields) != len(headers):
        for once in (b"content-length", b"transfer-encoding"):
            if sum(name == once for name, _ in headers) > 1:
                raise _violation(f"the reply has more than one {once.decode()}")
    length, coding = fields.get(b"content-length"), fields.get(b"transfer-encoding")
    if coding is not None:
        if length is not None:
            raise _violation("the reply has both content-length and transfer-encoding")
        if version == "1.0" or coding.strip().lower() != b"chunked":
            raise _violation("the reply's transfer-encoding is not plain chunked over HTTP/1.1")
        framing = CHUNKED
    elif length is not None:
        # bytes.isdigit accepts only ASCII digits, so no sign, underscore or inner space.
        if not length.isdigit() or len(length) > 18:
            raise _violation("the reply's content-length is not a number")
        framing = int(length)
    else:
        framing = UNTIL_CLOSE
    if status < 200:
        if framing not in (UNTIL_CLOSE, 0):
            raise _violation("an interim reply announces a body")
        return 0
    return 0 if is_head or status in NO_BODY_STATUSES else framing


def _violation(detail: str) -> ProtocolViolation:
    return ProtocolViolation(detail, phase="header", sent=True)
