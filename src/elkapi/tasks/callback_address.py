"""Checks a caller's callback address, and performs MiniMax's challenge.

The dialer checks every address again when it is called; this check tells the caller at once what can never work.
"""

from __future__ import annotations

import secrets
from ipaddress import ip_address
from urllib.parse import urlsplit

import msgspec

from elkapi.errors import NOT_JSON, BadRequest
from elkapi.routing.verdict import is_success
from elkapi.upstream import Deadlines, Origin, Send, UpstreamFailure, UpstreamRequest, answer_to, refusal

PARAM = "callback_url"
URL_CHARACTERS_MAX = 2_048
CHALLENGE_S = 3.0
ANSWER_BYTES_MAX = 64 * 1024


def check_callback_url(url: str, *, allow_private: bool = False, param: str = PARAM) -> None:
    """Raises BadRequest for an address that cannot be called; host names are resolved and checked at the call."""
    if len(url) > URL_CHARACTERS_MAX:
        raise BadRequest(f"`{param}` must be a URL of at most {URL_CHARACTERS_MAX} characters.", param=param)
    if "#" in url:
        raise BadRequest(f"`{param}` is not usable: the URL must not contain a fragment (`#`).", param=param)
    try:
        origin, _ = split(url, allow_private=allow_private)
    except ValueError as error:
        raise BadRequest(f"`{param}` is not usable: {error}.", param=param) from None
    if not allow_private and (_is_refused(origin.host) or _is_local_name(origin.host)):
        raise BadRequest(f"`{param}` is not usable: its host is not on the public internet.", param=param)


def split(url: str, *, allow_private: bool) -> tuple[Origin, bytes]:
    """The origin and the request target of a callback. Raises ValueError."""
    base, question, query = url.partition("?")
    if not base.startswith(("http://", "https://")):
        raise ValueError("the URL must start with http:// or https://")
    if any(not 0x20 < ord(sign) < 0x7F for sign in query):
        raise ValueError("the URL must not contain spaces, control characters or non-ASCII characters")
    origin = Origin.parse(base, allow_private=allow_private)
    return origin, ((urlsplit(base).path or "/") + question + query).encode()


def _is_refused(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        # Old spellings of an IPv4 address, such as 0x7f.1: no public host name ends in a number.
        last = host.rsplit(".", 1)[-1].lower()
        return last.isdecimal() or last.startswith("0x")
    return refusal(host) is not None


def _is_local_name(host: str) -> bool:
    name = host.lower()
    return name == "localhost" or name.endswith((".localhost", ".local", ".internal"))


async def challenge(send: Send, url: str, *, allow_private: bool = False, param: str = PARAM) -> None:
    """MiniMax's handshake: the receiver must return the challenge within three seconds, or the submit is refused.

    `url` is already checked. Raises BadRequest.
    """
    asked = secrets.token_hex(16)
    origin, target = split(url, allow_private=allow_private)
    wait = CHALLENGE_S
    order = UpstreamRequest(
        origin=origin,
        method=b"POST",
        target=target,
        headers=[(b"content-type", b"application/json"), (b"accept-encoding", b"identity")],
        body=msgspec.json.encode({"challenge": asked}),
        deadlines=Deadlines(connect_s=wait, header_s=wait, first_byte_s=wait, idle_s=wait, total_s=wait),
    )
    if await _repeated(send, order) != asked:
        raise BadRequest(
            f"The address in `{param}` did not answer the challenge within {CHALLENGE_S:.0f} seconds.", param=param
        )


async def _repeated(send: Send, order: UpstreamRequest) -> str:
    try:
        answer = await answer_to(send, order, ANSWER_BYTES_MAX)
        if not answer.complete or not is_success(answer.status):
            return ""
        return msgspec.json.decode(answer.body, type=dict[str, str]).get("challenge", "")
    except (UpstreamFailure, *NOT_JSON):
        return ""
