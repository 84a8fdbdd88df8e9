"""Downloads images that a neutral request gives by address, for providers that accept only bytes; before any hold.

The addresses are the caller's: the guarded dialer checks each one and every hop of a redirect, and errors reveal
nothing about what is behind it. Until then the body in `Asked.sent` contains the addresses, so a repeat under an
idempotency key is the same request whatever they return by now.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import msgspec

from elkapi import __version__
from elkapi.assets.kinds import HEAD_BYTES, kind_of
from elkapi.catalog.media import VIDEO_MAPS
from elkapi.errors import BadRequest
from elkapi.relay.asking import Asked, crossed
from elkapi.relay.plane import DataPlane
from elkapi.tasks.callback_address import split
from elkapi.translate.media_write import is_address
from elkapi.upstream import UpstreamClient, UpstreamFailure, UpstreamRequest
from elkapi.upstream.errors import AddressRefused, ConnectFailed, ConnectTimeout
from elkapi.upstream.follow import follow

# The same message for private and for missing addresses, so that callers cannot tell them apart.
_UNREACHED = "it cannot be reached"
# Some hosts refuse requests without a user agent.
_HEADERS = (
    (b"accept", b"image/*"),
    (b"accept-encoding", b"identity"),
    (b"user-agent", f"elkapi/{__version__}".encode()),
)


class _NotFetched(Exception):
    """Why an image could not be downloaded, for the caller."""


def to_fetch(asked: Asked) -> tuple[str, ...]:
    """The addresses of a converted request whose images its provider needs as bytes."""
    wire, ask = asked.operation.wire, asked.media
    if ask is None or wire not in VIDEO_MAPS or not VIDEO_MAPS[wire].inline:
        return ()
    return tuple(dict.fromkeys(one for one in (ask.image, ask.last_image, *ask.references) if is_address(one)))


async def with_pictures(plane: DataPlane, asked: Asked) -> Asked:
    """The request with its images in it. Raises BadRequest, naming the caller's field, if one cannot be downloaded."""
    ask = asked.media
    assert ask is not None
    assert asked.operation.wire is not None
    found = await _all_fetched(plane, asked)
    ask = msgspec.structs.replace(
        ask,
        image=found.get(ask.image, ask.image),
        last_image=found.get(ask.last_image, ask.last_image),
        references=tuple(found.get(one, one) for one in ask.references),
    )
    with_bytes = msgspec.structs.replace(asked, media=ask)
    # Base64 of this size would block the loop.
    return await asyncio.to_thread(crossed, with_bytes, plane.catalog, asked.operation.wire)


async def _all_fetched(plane: DataPlane, asked: Asked) -> dict[str, str]:
    """The images as data URLs, by their addresses. Raises as `with_pictures` does."""
    settings = plane.settings
    found: dict[str, str] = {}
    # Together at most what a caller could have sent along.
    left = settings.body_bytes_max
    address = ""
    try:
        async with asyncio.timeout(settings.picture_fetch_s):
            for address in to_fetch(asked):
                content_type, content = await _fetched(plane, address)
                left -= len(content)
                if left < 0:
                    raise _NotFetched(f"all images together must have at most {settings.body_bytes_max} bytes")
                text = await asyncio.to_thread(base64.b64encode, content)
                found[address] = f"data:{content_type};base64,{text.decode()}"
    except TimeoutError:
        raise _refusal(
            asked, address, f"it could not be downloaded within {settings.picture_fetch_s:g} seconds"
        ) from None
    except _NotFetched as reason:
        raise _refusal(asked, address, str(reason)) from None
    return found


async def _fetched(plane: DataPlane, address: str) -> tuple[str, bytes]:
    """(the content type by the first bytes, the image). Raises _NotFetched."""
    bytes_max = plane.settings.picture_bytes_max
    try:
        origin, target = split(address.partition("#")[0], allow_private=plane.settings.picture_allow_private)
    except ValueError:
        raise _NotFetched("its URL is not valid") from None
    request = UpstreamRequest(origin, b"GET", target, [*_HEADERS])
    try:
        try:
            content, whole = await _answer(plane.client, request, bytes_max)
        except UpstreamFailure as failure:
            if not failure.stale:
                raise
            # The host had closed the connection after an earlier image.
            content, whole = await _answer(plane.client, request, bytes_max)
    except (AddressRefused, ConnectFailed, ConnectTimeout):
        raise _NotFetched(_UNREACHED) from None
    except UpstreamFailure:
        raise _NotFetched("the download was interrupted") from None
    if not whole:
        raise _NotFetched(f"it must have at most {bytes_max} bytes")
    kind = kind_of(content[:HEAD_BYTES])
    if kind is None or kind.kind != "image":
        raise _NotFetched("it is not an image")
    return kind.content_type, content


async def _answer(client: UpstreamClient, request: UpstreamRequest, bytes_max: int) -> tuple[bytes, bool]:
    """(the first bytes, whether they are all). Raises _NotFetched, UpstreamFailure."""
    reply = await client.send(request)
    try:
        reply = await follow(client, reply, request)
        if reply.status != 200:
            raise _NotFetched(f"its server answered with status {reply.status}")
        return await reply.read(bytes_max)
    finally:
        await reply.aclose()


def _refusal(asked: Asked, address: str, why: str) -> BadRequest:
    # A chat keeps only its prompt; its images are in its messages.
    param = next(_places(asked.shown, address, ""), "messages")
    return BadRequest(f"The image in `{param}` cannot be used: {why}.", code="invalid_image_url", param=param)


def _places(value: Any, address: str, path: str) -> Iterator[str]:
    """Where an address occurs in a caller's body: `images[1]`, `input.image`."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _places(inner, address, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _places(inner, address, f"{path}[{number}]")
    elif value == address:
        yield path
