"""Everything that can go wrong between us and an upstream; what the caller is told about it is left to `relay`.

UpstreamFailure                     code, phase, sent, stale
├── RequestRefused                  upstream_request_refused    the request cannot be written safely; nothing left
├── ClientClosed                    upstream_client_closed      this client was closed
├── TransportMissing                upstream_transport_missing  an optional extra (HTTP/2) is not installed
├── AddressRefused                  upstream_address_refused    the guard permits none of the host's addresses
├── PoolFull                        upstream_pool_full          too many calls already wait for a connection
├── ConnectFailed                   upstream_connect_failed     name not found, refused, unreachable, proxy said no
│   └── TlsFailed                   upstream_tls_failed         certificate or handshake
├── DeadlinePassed                  upstream_timeout            one of the deadlines passed
│   ├── PoolTimeout                 upstream_pool_timeout       no connection became free within `connect_s`
│   ├── ConnectTimeout              upstream_connect_timeout    `connect_s`
│   ├── HeaderTimeout               upstream_header_timeout     `header_s`: request sent -> reply head complete
│   ├── FirstByteTimeout            upstream_first_byte_timeout `first_byte_s`: reply head -> first body byte
│   ├── IdleTimeout                 upstream_idle_timeout       `idle_s`: between body bytes, or write progress
│   └── TotalTimeout                upstream_total_timeout      `total_s`: from `send()` to the last body byte
├── SendFailed                      upstream_send_failed        the connection broke while the request was leaving
├── ProtocolViolation               upstream_protocol_violation the reply is not HTTP/1.1 we are willing to trust
└── Cut                             upstream_cut                the connection ended before the reply was complete
"""

from __future__ import annotations

__all__ = [
    "AddressRefused",
    "ClientClosed",
    "ConnectFailed",
    "ConnectTimeout",
    "Cut",
    "DeadlinePassed",
    "FirstByteTimeout",
    "HeaderTimeout",
    "IdleTimeout",
    "PoolFull",
    "PoolTimeout",
    "ProtocolViolation",
    "RequestRefused",
    "SendFailed",
    "TlsFailed",
    "TotalTimeout",
    "TransportMissing",
    "UpstreamFailure",
]


class UpstreamFailure(Exception):
    """One failed attempt.

    `code` is stable. `phase` is where it happened: `request`, `pool`, `resolve`, `connect`, `tls`, `send`, `header`,
    `first_byte` or `body`. `sent` is True when the upstream may have seen any part of the request; only False makes
    another attempt provably harmless. `stale` is True when a reused connection died before any byte of the reply:
    most likely the upstream had closed it and never read the request, but that cannot be proven from this side.
    The message is for the operator: it may name addresses, and is never shown to a caller.
    """

    code = "upstream_failure"

    def __init__(self, detail: str, *, phase: str, sent: bool, stale: bool = False) -> None:
        super().__init__(detail)
        self.phase = phase
        self.sent = sent
        self.stale = stale


class RequestRefused(UpstreamFailure):
    code = "upstream_request_refused"


class ClientClosed(UpstreamFailure):
    code = "upstream_client_closed"


class TransportMissing(UpstreamFailure):
    code = "upstream_transport_missing"


class AddressRefused(UpstreamFailure):
    code = "upstream_address_refused"


class PoolFull(UpstreamFailure):
    code = "upstream_pool_full"


class ConnectFailed(UpstreamFailure):
    code = "upstream_connect_failed"


class TlsFailed(ConnectFailed):
    code = "upstream_tls_failed"


class DeadlinePassed(UpstreamFailure):
    code = "upstream_timeout"


class PoolTimeout(DeadlinePassed):
    code = "upstream_pool_timeout"


class ConnectTimeout(DeadlinePassed):
    code = "upstream_connect_timeout"


class HeaderTimeout(DeadlinePassed):
    code = "upstream_header_timeout"


class FirstByteTimeout(DeadlinePassed):
    code = "upstream_first_byte_timeout"


class IdleTimeout(DeadlinePassed):
    code = "upstream_idle_timeout"


class TotalTimeout(DeadlinePassed):
    code = "upstream_total_timeout"


class SendFailed(UpstreamFailure):
    code = "upstream_send_failed"


class ProtocolViolation(UpstreamFailure):
    code = "upstream_protocol_violation"


class Cut(UpstreamFailure):
    code = "upstream_cut"
