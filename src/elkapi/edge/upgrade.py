"""A request's head without its wish for another protocol; pure, it leaves parsing to `connection`.

An Upgrade that is not spoken may be ignored (RFC 9110, 7.8), and must be: Java's own client offers HTTP/2 with every
request it sends in the clear. The parser, though, drops the body of such a request, so it is given the head again.
"""

from __future__ import annotations

from elkapi.relay.call import Headers

_WISHES = frozenset({b"upgrade", b"http2-settings"})


def without_upgrade(method: bytes, target: bytes, version: str, headers: Headers) -> bytes:
    """The bytes of the head as it would be without Upgrade. `headers` have lower-case names."""
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
