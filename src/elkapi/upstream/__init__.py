"""Connections to upstreams: guarded, pooled and bounded; `relay` decides what is sent and charged."""

from elkapi.upstream.answer import Answer, Send, answer_to
from elkapi.upstream.client import UpstreamClient
from elkapi.upstream.errors import (
    AddressRefused,
    ClientClosed,
    ConnectFailed,
    ConnectTimeout,
    Cut,
    DeadlinePassed,
    FirstByteTimeout,
    HeaderTimeout,
    IdleTimeout,
    PoolFull,
    PoolTimeout,
    ProtocolViolation,
    RequestRefused,
    SendFailed,
    TlsFailed,
    TotalTimeout,
    TransportMissing,
    UpstreamFailure,
)
from elkapi.upstream.follow import follow
from elkapi.upstream.guard import refusal
from elkapi.upstream.origin import ClientLimits, Deadlines, Origin, UpstreamRequest, split_base_url
from elkapi.upstream.reply import UpstreamReply
from elkapi.upstream.timers import LoopTimers

__all__ = [
    "AddressRefused",
    "Answer",
    "ClientClosed",
    "ClientLimits",
    "ConnectFailed",
    "ConnectTimeout",
    "Cut",
    "DeadlinePassed",
    "Deadlines",
    "FirstByteTimeout",
    "HeaderTimeout",
    "IdleTimeout",
    "LoopTimers",
    "Origin",
    "PoolFull",
    "PoolTimeout",
    "ProtocolViolation",
    "RequestRefused",
    "Send",
    "SendFailed",
    "TlsFailed",
    "TotalTimeout",
    "TransportMissing",
    "UpstreamClient",
    "UpstreamFailure",
    "UpstreamReply",
    "UpstreamRequest",
    "answer_to",
    "follow",
    "refusal",
    "split_base_url",
]
