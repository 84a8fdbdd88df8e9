"""Forwarded headers, trusted only from the proxies in `trusted_proxies`."""

from __future__ import annotations

import ipaddress
import re

from elkapi.relay.call import Call

_HOST = re.compile(r"[A-Za-z0-9._-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")
# Some proxies, such as Azure's Application Gateway, name each hop with its port.
_WITH_PORT = re.compile(r"(\d+\.\d+\.\d+\.\d+):\d{1,5}|\[([0-9A-Fa-f:.]+)\](?::\d{1,5})?")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TrustedProxies:
    """Addresses and networks (CIDR), as `settings` has checked them."""

    def __init__(self, entries: tuple[str, ...]) -> None:
        self._networks: list[Network] = [ipaddress.ip_network(entry, strict=False) for entry in entries]

    def client_ip(self, call: Call) -> str:
        """The nearest address that is not a trusted proxy: addresses before it come from the caller and prove
        nothing."""
        if not self._networks or not self._trusts(call.client_ip):
            return call.client_ip
        named = b",".join(value for name, value in call.headers if name == b"x-forwarded-for")
        hops = [_without_port(hop.strip()) for hop in named.decode("latin-1").split(",") if hop.strip()]
        for hop in reversed(hops):
            if not self._trusts(hop):
                return hop if _is_address(hop) else call.client_ip
        return hops[0] if hops else call.client_ip

    def scheme(self, call: Call) -> bytes:
        """https if a trusted proxy reports that the caller used it."""
        said = call.header(b"x-forwarded-proto") if self._networks and self._trusts(call.client_ip) else None
        return b"https" if said == b"https" else b"http"

    def origin(self, call: Call) -> str:
        """The gateway's origin as this caller addressed it, `https://host:port`; "" for an invalid Host header."""
        host = (call.header(b"host") or b"").decode("latin-1")
        return f"{self.scheme(call).decode()}://{host}" if _HOST.fullmatch(host) else ""

    def _trusts(self, address: str) -> bool:
        if not _is_address(address):
            return False
        parsed = ipaddress.ip_address(address)
        # A socket that listens on `::` sees IPv4 callers as `::ffff:192.0.2.1`.
        parsed = getattr(parsed, "ipv4_mapped", None) or parsed
        return any(parsed in network for network in self._networks)


def _without_port(hop: str) -> str:
    found = _WITH_PORT.fullmatch(hop)
    return hop if found is None else found[1] or found[2]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
