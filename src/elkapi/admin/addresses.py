"""Validates a channel's base URL and proxy when they are written; the dialer checks every address again at connect."""

from __future__ import annotations

import socket
import threading
from urllib.parse import urlsplit

from elkapi.admin.errors import InvalidInput
from elkapi.upstream import Origin, refusal
from elkapi.upstream.origin import check_proxy_url

RESOLVE_WAIT_S = 3.0
URL_CHARACTERS_MAX = 2_048


def check_base_url(base_url: str, *, allow_private: bool, field: str = "base_url") -> str:
    """The URL without its trailing slash. Raises InvalidInput; a private address requires `allow_private`."""
    if len(base_url) > URL_CHARACTERS_MAX or not base_url.startswith(("http://", "https://")):
        raise InvalidInput("it must start with http:// or https://", field=field)
    try:
        origin = Origin.parse(base_url)
    except ValueError as error:
        raise InvalidInput(_without_secrets(error, base_url), field=field) from None
    if not allow_private:
        _refuse_private(origin.host, origin.port, field)
    return base_url.rstrip("/")


def check_proxy(proxy_url: str, *, allow_private: bool) -> str:
    """An outbound proxy such as socks5://user:password@host:1080; raises InvalidInput, never repeating the URL."""
    try:
        check_proxy_url(proxy_url)
    except ValueError as error:
        raise InvalidInput(_without_secrets(error, proxy_url), field="proxy_url") from None
    host = urlsplit(proxy_url).hostname or ""
    if not allow_private:
        _refuse_private(host, urlsplit(proxy_url).port or 1080, "proxy_url")
    return proxy_url


def _refuse_private(host: str, port: int, field: str) -> None:
    for address in _addresses(host, port):
        if (reason := refusal(address)) is not None:
            hint = "if this upstream is intended, add it with --allow-private"
            raise InvalidInput(f"{host} is a {reason.replace('_', ' ')} address ({address}); {hint}", field=field)


def _addresses(host: str, port: int) -> list[str]:
    """The addresses a name resolves to. A failure or timeout is no error: the dialer checks again later."""
    found: list[str] = []

    def resolve() -> None:
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return
        found.extend(str(answer[4][0]) for answer in answers)

    # getaddrinfo has no timeout, so it runs in a thread that can be abandoned.
    thread = threading.Thread(target=resolve, daemon=True)
    thread.start()
    thread.join(RESOLVE_WAIT_S)
    return list(found)


def _without_secrets(error: ValueError, url: str) -> str:
    text = str(error)
    return text if url not in text and "@" not in text else "it is not a usable URL"
