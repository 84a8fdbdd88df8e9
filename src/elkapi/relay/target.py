"""Attempt -> the exact upstream request: address, credential, headers, and the body with the channel's overrides."""

from __future__ import annotations

import msgspec

from elkapi.catalog.jsonedit import with_overrides
from elkapi.catalog.text import names_objects
from elkapi.catalog.upstreams import auth_headers, endpoint_path, family_headers, guards_objects
from elkapi.errors import BadRequest
from elkapi.observe.trace import HEADER as TRACEPARENT
from elkapi.relay.call import Call
from elkapi.relay.exchange import Exchange
from elkapi.relay.telemetry import Telemetry
from elkapi.settings import Settings
from elkapi.translate.dialects import DIALECTS
from elkapi.translate.prompt import with_instructions
from elkapi.types import Attempt, Channel
from elkapi.upstream import Deadlines, Origin, UpstreamRequest
from elkapi.upstream.channel import deadlines_of, header_rules, place, ruled

CALL_ID = b"x-client-request-id"
_ACCEPT = {"sse": b"text/event-stream", "aws": b"application/vnd.amazon.eventstream"}
# What a caller of the same dialect says to the provider beside its body; anthropic.md sections 1 and 5.
NATIVE_HEADERS: dict[str, tuple[bytes, ...]] = {
    "anthropic": (b"anthropic-version", b"anthropic-beta", b"anthropic-user-profile-id"),
    "anthropic-count": (b"anthropic-version", b"anthropic-beta"),
    "responses": (b"openai-beta",),
}


# The one word of a caller's query that is handed on, and where: Anthropic's own paths.
BETA = "beta=true"
_MESSAGES = "/v1/messages"
# Routes kept; a changed channel is another object, and takes the place of the old one.
ROUTES_MAX = 4096
OBJECTS_REFUSED = (
    "Objects of Google Cloud Storage (`gs://`) and document stores are not supported by this model; send the data or "
    "a URL."
)


class Route(msgspec.Struct, frozen=True):
    """What all calls of one channel, key, model and way across have alike. `forwarded` are names taken from the caller.

    `traced`: the channel lets `traceparent` through, and telemetry has a span of ours for it. `beta_target` is where a
    call goes that says `beta=true` in its query, "" where nobody understands that. `guards_objects`: what its provider
    would read with the rights of the channel's key is not for its callers to name.
    """

    channel: Channel
    origin: Origin
    target: bytes
    deadlines: Deadlines
    shared: tuple[tuple[bytes, bytes], ...]
    sends_id: bool
    forwarded: tuple[bytes, ...]
    replaceable: frozenset[bytes]
    traced: bool = False
    beta_target: bytes = b""
    guards_objects: bool = False


_Key = tuple[int, int, str, str, bool, bool]
_routes: dict[_Key, Route] = {}


def build(
    attempt: Attempt, exchange: Exchange, call: Call, settings: Settings, telemetry: Telemetry | None = None
) -> UpstreamRequest:
    """The bytes to send. With no mapping and no override the caller's body goes out unchanged.

    Raises BadRequest for a body that the upstream's wire cannot carry.
    """
    channel = attempt.channel
    key = (channel.id, attempt.key.id, attempt.upstream_model, exchange.wire, exchange.stream, exchange.translated)
    route = _routes.get(key)
    if route is None or route.channel is not channel:
        route = _new_route(attempt, exchange, settings, key)
    body = exchange.body()
    if route.guards_objects and names_objects(body):
        raise BadRequest(OBJECTS_REFUSED)
    if channel.system_prompt is not None:
        body = with_instructions(body, exchange.wire, channel.system_prompt)
    if channel.param_set or channel.param_default or channel.param_remove:
        body = with_overrides(body, channel.param_set, channel.param_default, channel.param_remove)
    # The upstream's bill can be compared with our ledger by this id.
    headers = [(CALL_ID, call.text_id)] if route.sends_id else []
    shared = route.shared
    if route.traced and telemetry is not None:
        headers.append((TRACEPARENT, telemetry.onward(call)))
    for name in route.forwarded:
        if (value := call.header(name)) is not None:
            headers.append((name, value))
            if name in route.replaceable:
                shared = tuple(pair for pair in shared if pair[0] != name)
    target = route.target
    if route.beta_target and says_beta(call):
        target = route.beta_target
    return UpstreamRequest(route.origin, b"POST", target, headers, body, route.deadlines, shared=shared)


def says_beta(call: Call) -> bool:
    """Whether the caller says it with the one word of a query that is handed on."""
    return bool(call.query) and BETA in call.query.split("&")


def _new_route(attempt: Attempt, exchange: Exchange, settings: Settings, key: _Key) -> Route:
    """Ours, then the allow-listed headers of the client, then the channel's: later rules win, credentials stay ours."""
    channel = attempt.channel
    path = endpoint_path(channel, exchange.endpoint, attempt.upstream_model, exchange.stream)
    origin, target = place(channel, path)
    ours = {
        b"content-type": b"application/json",
        b"accept": _ACCEPT[exchange.endpoint.framing] if exchange.stream else b"application/json",
        b"accept-encoding": b"identity",
        **family_headers(channel),
        **dict(auth_headers(channel, attempt.key, exchange.endpoint.auth)),
    }
    removed, replaced = header_rules(channel)
    native = NATIVE_HEADERS.get(exchange.wire, ()) if not exchange.translated else ()
    asked = dict.fromkeys((*native, *(name.lower().encode() for name in channel.forward_headers)))
    taken = (ours.keys() - set(native)) | {CALL_ID} | removed | replaced.keys()
    kept = ruled(channel, ours)
    forwarded = tuple(name for name in asked if name not in taken)
    traced = TRACEPARENT in forwarded and settings.otlp_endpoint != ""
    takes_beta = not exchange.translated and exchange.endpoint.path.startswith(_MESSAGES)
    route = Route(
        channel=channel,
        origin=origin,
        target=target,
        deadlines=deadlines_of(channel, settings, is_text=exchange.wire in DIALECTS, stream=exchange.stream),
        shared=tuple(kept.items()),
        sends_id=CALL_ID not in removed and CALL_ID not in replaced,
        forwarded=tuple(name for name in forwarded if not (traced and name == TRACEPARENT)),
        # The caller's own version word wins over the one we would send.
        replaceable=frozenset(native).intersection(kept),
        traced=traced,
        beta_target=target + b"?" + BETA.encode() if takes_beta else b"",
        guards_objects=guards_objects(channel),
    )
    if len(_routes) >= ROUTES_MAX:
        _routes.clear()
    _routes[key] = route
    return route
