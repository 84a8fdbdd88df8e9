"""Which IP addresses an upstream may have; pure, without names or sockets, which are in `dialer`.

An address is judged by its class, never by its spelling: `0`, `0x7f.1`, `::ffff:127.0.0.1` and a name that resolves to
any of them are equal here. IPv6 forms that contain an IPv4 address are judged by that one.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

# The first match gives the reason, so narrow entries come before wide ones.
_IPV4_REFUSED: tuple[tuple[IPv4Network, str], ...] = tuple(
    (IPv4Network(network), reason)
    for network, reason in (
        ("169.254.169.254/32", "metadata"),
        ("169.254.170.2/32", "metadata"),
        ("169.254.170.23/32", "metadata"),
        ("168.63.129.16/32", "metadata"),
        ("100.100.100.200/32", "metadata"),
        ("192.0.0.192/32", "metadata"),
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier_nat"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link_local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "reserved"),
        ("192.88.99.0/24", "reserved"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "reserved"),
        ("198.51.100.0/24", "reserved"),
        ("203.0.113.0/24", "reserved"),
        ("224.0.0.0/4", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("240.0.0.0/4", "reserved"),
    )
)

_IPV6_REFUSED: tuple[tuple[IPv6Network, str], ...] = tuple(
    (IPv6Network(network), reason)
    for network, reason in (
        ("fd00:ec2::254/128", "metadata"),
        ("fd00:ec2::23/128", "metadata"),
        ("fd20:ce::254/128", "metadata"),
        ("fd00:42::42/128", "metadata"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("fe80::/10", "link_local"),
        ("fec0::/10", "private"),
        ("fc00::/7", "private"),
        ("ff00::/8", "multicast"),
        ("64:ff9b:1::/48", "private"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "reserved"),
        ("3fff::/20", "reserved"),
    )
)

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = IPv6Network("2002::/16")
_ISATAP_MARKS = (0x0000_5EFE, 0x0200_5EFE)


def refusal(address: str) -> str | None:
    """Why this address must not be dialed, as one word; None for an ordinary public address.

    Anything that is not an IP address is `malformed`.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return "malformed"
    return _refusal_v4(parsed) if isinstance(parsed, IPv4Address) else _refusal_v6(parsed)


def _refusal_v4(address: IPv4Address) -> str | None:
    for network, reason in _IPV4_REFUSED:
        if address in network:
            return reason
    return None


def _refusal_v6(address: IPv6Address) -> str | None:
    for embedded in _embedded_v4(address):
        reason = _refusal_v4(embedded)
        if reason is not None:
            return reason
    for network, reason in _IPV6_REFUSED:
        if address in network:
            return reason
    routable = address in _GLOBAL_UNICAST or address in _NAT64 or address in _MAPPED
    return None if routable else "reserved"


def _embedded_v4(address: IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses that a routable address leads to; forms that are refused as a whole need none."""
    value, found = int(address), []
    if address in _SIX_TO_FOUR:
        found.append(IPv4Address((value >> 80) & 0xFFFF_FFFF))
    if address in _MAPPED or address in _NAT64 or (value >> 32) & 0xFFFF_FFFF in _ISATAP_MARKS:
        found.append(IPv4Address(value & 0xFFFF_FFFF))
    return found
