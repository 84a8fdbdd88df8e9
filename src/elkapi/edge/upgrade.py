"""Removes the Upgrade from a request's head; pure, parsing is in `connection`.

An unsupported Upgrade may be ignored (RFC 9110, 7.8), and must be: Java's client offers HTTP/2 with every plain-text
request. The parser, however, drops the body of such a request, so it is given the head again.
"""

from __future__ import annotations

from elkapi.relay.call import Headers

_WISHES = frozenset({b"upgrade", b"http2-settings"})


def without_upgrade(method: bytes, target: bytes, version: str, headers: Headers) -> bytes:
    """The bytes of the head without Upgrade. `headers` have lower-case names."""
    lines = [b"%b %b HTTP/%b\r\n" % (method, target, version.encode())]
    for name, value in headers:
        if name in _WISHES:
            continue
        if name == b"connection":
            kept = [word for word in value.split(b",") if word.strip().lower() not in _WISHES]
            if not kept:
                continue
            value = b",".join(kept).strip()
        lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines) + b"\r\n"
