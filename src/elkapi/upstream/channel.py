"""What all requests to a channel share: the address, the rules for headers, the deadlines."""

from __future__ import annotations

from collections.abc import Mapping

from elkapi.catalog.upstreams import target_path
from elkapi.settings import Settings
from elkapi.types import Channel
from elkapi.upstream.origin import Deadlines, Origin, split_base_url


def place(channel: Channel, path: str) -> tuple[Origin, bytes]:
    """(origin, target) of a path below the channel's base. Raises ValueError for an invalid base URL or proxy."""
    origin = Origin.parse(
        channel.base_url, allow_private=channel.allow_private, proxy_url=channel.proxy_url, http2=channel.http2
    )
    return origin, target_path(split_base_url(channel.base_url), path).encode()


def header_rules(channel: Channel) -> tuple[frozenset[bytes], dict[bytes, bytes]]:
    """(the headers that the channel removes, those that it sets), names in lower case; both override ours."""
    removed = frozenset(name.lower().encode() for name in channel.header_remove)
    return removed, {name.lower().encode(): text.encode() for name, text in channel.header_set.items()}


def ruled(channel: Channel, ours: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Our headers after the channel's rules."""
    removed, replaced = header_rules(channel)
    return {name: value for name, value in ours.items() if name not in removed} | replaced


def deadlines_of(channel: Channel, settings: Settings, *, is_text: bool = False, stream: bool = False) -> Deadlines:
    """The channel's deadlines, else those of the settings. Text may take long to start; a render is not awaited on
    the connection."""
    limits = channel.limits
    header_s, idle_s, total_s = settings.header_s, settings.idle_s, settings.total_s
    if is_text:
        header_s, total_s = (settings.header_s if stream else settings.text_header_s), settings.text_total_s
        idle_s = settings.stream_idle_s if stream else settings.idle_s
    return Deadlines(
        connect_s=limits.connect_s or settings.connect_s,
        header_s=limits.header_s or header_s,
        first_byte_s=limits.first_byte_s or settings.first_byte_s,
        idle_s=limits.idle_s or idle_s,
        total_s=limits.total_s or total_s,
    )
