"""The parts of a call to an upstream: origin, deadlines, request; `client` sends it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import SplitResult, quote, urlsplit

import msgspec

DEFAULT_PORTS = {"http": 80, "https": 443, "unix": 0}
# Characters that a target keeps as they are; `%` too, since a target that contains one is already encoded.
_TARGET_SIGNS = "!\"$%&'()*+,/:;<=>?@[\\]^`{|}"
PROXY_SCHEMES = frozenset({"http", "https", "socks4", "socks4a", "socks5", "socks5h"})


class Origin(msgspec.Struct, frozen=True, cache_hash=True):
    """One upstream host, as the key of the pool: two calls share a connection only if all of this is equal.

    `allow_private` lifts the address guard for this origin (the target, and the proxy in front of it).
    """

    scheme: str
    host: str
    port: int
    unix_path: str | None = None
    allow_private: bool = False
    proxy_url: str | None = None
    http2: bool = False

    @classmethod
    def parse(
        cls,
        base_url: str,
        *,
        allow_private: bool = False,
        proxy_url: str | None = None,
        http2: bool = False,
    ) -> Origin:
        """Parse `https://host[:port][/any/path]` or `unix:///path.sock`; the path of an http(s) URL is dropped.

        Raises ValueError for another scheme, user information, a query, a fragment, or an invalid host or port.
        """
        if proxy_url is not None:
            check_proxy_url(proxy_url)
        if base_url.startswith("unix://"):
            return cls(scheme="unix", host="localhost", port=0, unix_path=_unix_path(base_url, proxy_url, http2))
        scheme, host, port = _host_and_port(base_url, frozenset({"http", "https"}))
        return cls(scheme=scheme, host=host, port=port, allow_private=allow_private, proxy_url=proxy_url, http2=http2)

    @property
    def authority(self) -> str:
        """The value of the Host header, with the port unless it is the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def is_tls(self) -> bool:
        return self.scheme == "https"


def split_base_url(base_url: str) -> str:
    """The path of a base URL without its trailing slash, "" for none: the prefix of every target of this channel."""
    return "" if base_url.startswith("unix://") else urlsplit(base_url).path.rstrip("/")


def target_of(url: SplitResult) -> bytes:
    """The target of any URL; spaces and non-ASCII characters are percent-encoded, as browsers do."""
    return quote((url.path or "/") + (f"?{url.query}" if url.query else ""), safe=_TARGET_SIGNS).encode()


def check_proxy_url(proxy_url: str) -> None:
    """Raises ValueError unless it is `scheme://[user:password@]host[:port]` with a supported scheme."""
    _host_and_port(proxy_url, PROXY_SCHEMES, user_allowed=True)


def _unix_path(base_url: str, proxy_url: str | None, http2: bool) -> str:
    path = base_url.removeprefix("unix://")
    if not path.startswith("/") or any(sign in path for sign in "?#\0\r\n"):
        raise ValueError("a unix origin is unix:///absolute/path.sock")
    if proxy_url is not None or http2:
        raise ValueError("a unix origin takes neither a proxy nor HTTP/2")
    return path


def _host_and_port(url: str, schemes: frozenset[str], *, user_allowed: bool = False) -> tuple[str, str, int]:
    if any(ord(sign) <= 0x20 or ord(sign) >= 0x7F or sign == "\\" for sign in url):
        raise ValueError("the URL must not contain spaces, control characters, backslashes or non-ASCII characters")
    parts = urlsplit(url)
    if parts.scheme not in schemes:
        raise ValueError(f"the URL must start with {' or '.join(f'{scheme}://' for scheme in sorted(schemes))}")
    if "@" in parts.netloc and not user_allowed:
        raise ValueError("the URL must not contain a user name or password")
    if "?" in url or "#" in url:
        raise ValueError("the URL must not contain a query or a fragment")
    host = (parts.hostname or "").rstrip(".")
    if not host or "%" in host:
        raise ValueError("the URL must contain a valid host name")
    port = parts.port  # Itself raises ValueError outside 0..65535.
    if port == 0:
        raise ValueError("port 0 cannot be connected to")
    fallback = DEFAULT_PORTS.get(parts.scheme, 1080)
    return parts.scheme, host, fallback if port is None else port


class Deadlines(msgspec.Struct, frozen=True):
    """Five separate limits in seconds; each has its own failure class.

    connect_s: a free connection, name resolution, TCP and TLS together. header_s: request sent -> reply head complete.
    first_byte_s: reply head -> first body byte. idle_s: between body bytes, and between two signs of write progress.
    total_s: from `send()` to the last body byte. Time in which our own reader or the caller's own body iterator is
    slow counts against `total_s` alone. "Sent" means handed to the kernel, save for at most one write buffer.
    """

    connect_s: float = 5.0
    header_s: float = 60.0
    first_byte_s: float = 60.0
    idle_s: float = 60.0
    total_s: float = 600.0


class UpstreamRequest(msgspec.Struct):
    """One request. `target` is the origin form, `/path?query`, already percent-encoded.

    `headers` need neither Host nor framing nor connection headers: the client writes those and leaves out the caller's.
    A body of bytes leaves with the head in one write. An iterator is sent chunked, or with Content-Length when
    `body_bytes` says how many bytes it will give; an exception of the iterator is raised to the caller as it is.
    `shared` are further headers, sent first: a tuple that many calls share is encoded once.
    """

    origin: Origin
    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes | AsyncIterator[bytes] = b""
    deadlines: Deadlines = Deadlines()
    body_bytes: int | None = None
    shared: tuple[tuple[bytes, bytes], ...] = ()


class ClientLimits(msgspec.Struct, frozen=True):
    """The limits of one client (one worker process)."""

    connections_per_origin_max: int = 512
    idle_connections_per_origin_max: int = 128
    waiters_per_origin_max: int = 1024
    idle_keep_s: float = 30.0
    connection_life_s_max: float = (
        600.0  # New connections follow DNS changes; a pooled one would otherwise live for ever.
    )
    header_bytes_max: int = 64 * 1024
    header_count_max: int = 128
    interim_replies_max: int = 16
    reply_buffer_bytes_max: int = (
        128 * 1024
    )  # Above this, reading pauses until the loop iteration after they were consumed.
    write_buffer_bytes_max: int = 64 * 1024
