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
from elkapi.translate.anthropic_betas import without_beta_fields
from elkapi.translate.dialects import DIALECTS
from elkapi.translate.prompt import with_instructions
from elkapi.types import Attempt, Channel
from elkapi.upstream import Deadlines, Origin, UpstreamRequest
from elkapi.upstream.channel import deadlines_of, header_rules, place, ruled

CALL_ID = b"x-client-request-id"
_ACCEPT = {"sse": b"text/event-stream", "aws": b"application/vnd.amazon.eventstream"}
# Headers that a caller of the same dialect sends to the provider besides its body; anthropic.md sections 1 and 5.
NATIVE_HEADERS: dict[str, tuple[bytes, ...]] = {
    "anthropic": (b"anthropic-version", b"anthropic-beta", b"anthropic-user-profile-id"),
    "anthropic-count": (b"anthropic-version", b"anthropic-beta"),
    "responses": (b"openai-beta",),
}


# The only parameter of a caller's query that is forwarded, and where: Anthropic's own paths.
BETA = "beta=true"
_BETAS = b"anthropic-beta"
_MESSAGES = "/v1/messages"
# How many routes are cached; a changed channel is another object, and replaces the old one.
ROUTES_MAX = 4096
OBJECTS_REFUSED = (
    "Objects of Google Cloud Storage (`gs://`) and document stores are not supported by this model; send the data or "
    "a URL."
)


class Route(msgspec.Struct, frozen=True):
    """What all calls of one channel, key, model and conversion share.

    `forwarded` are the headers copied from the caller. `traced`: the channel permits `traceparent`, and telemetry has a
    span for it. `beta_target` is the target for calls with `beta=true` in the query, "" if the upstream does not
    support that. `guards_objects`: callers must not name objects that its provider would read with the rights of the
    channel's key. `betas`: what the upstream reads in place of the caller's header `anthropic-beta`; None: that header.
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
    betas: str | None = None


_Key = tuple[int, int, str, str, bool, bool]
_routes: dict[_Key, Route] = {}


def build(
    attempt: Attempt, exchange: Exchange, call: Call, settings: Settings, telemetry: Telemetry | None = None
) -> UpstreamRequest:
    """The bytes to send. Without mapping and override the caller's body is sent unchanged.

    Raises BadRequest for a body that the upstream's wire does not support.
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
    if route.betas is not None and (asked := call.header(_BETAS)) is not None:
        body = without_beta_fields(body, asked.decode("latin-1"), route.betas)
    # By this id the upstream's bill can be compared with our ledger.
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
    """Whether the caller's query has the parameter that is forwarded."""
    return bool(call.query) and BETA in call.query.split("&")


def _new_route(attempt: Attempt, exchange: Exchange, settings: Settings, key: _Key) -> Route:
    """Our headers, then the caller's allow-listed ones, then the channel's: later ones win, but credentials stay
    ours."""
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
    betas = None
    if _BETAS in native and exchange.endpoint.betas_in_body:
        native, betas = tuple(name for name in native if name != _BETAS), ""
    elif _BETAS in native and (_BETAS in removed or _BETAS in replaced):
        betas = replaced.get(_BETAS, b"").decode("latin-1")
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
        # The caller's own version wins over ours.
        replaceable=frozenset(native).intersection(kept),
        traced=traced,
        beta_target=target + b"?" + BETA.encode() if takes_beta else b"",
        guards_objects=guards_objects(channel),
        betas=betas,
    )
    if len(_routes) >= ROUTES_MAX:
        _routes.clear()
    _routes[key] = route
    return route
