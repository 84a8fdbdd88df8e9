"""The outermost layer of the data plane: request id, CORS, the gateway's own pages, errors in the caller's dialect.

An unexpected exception is a bug: the caller gets a plain 500 with the request id, and the log gets the trace.
"""

from __future__ import annotations

import asyncio
import hmac
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress

from elkapi.catalog.operation import Dialect
from elkapi.clock import milliseconds
from elkapi.edge.control import relay_to_control
from elkapi.edge.cors import Cors
from elkapi.edge.exchange import header_lines
from elkapi.edge.proxies import TrustedProxies
from elkapi.edge.render import render_error
from elkapi.errors import GatewayError, MethodNotAllowed, ModelForbidden, NoChannel, NoPrice, Unauthenticated
from elkapi.ids import request_id_text
from elkapi.observe.metrics import MetricsPages
from elkapi.relay.call import Call, ClientGone
from elkapi.relay.callbacks import called_back
from elkapi.relay.plane import DataPlane
from elkapi.relay.relay import Failed, Left
from elkapi.relay.serve import serve
from elkapi.storage.apikey import hinted
from elkapi.tasks.addresses import CALLBACKS

# Prefixes relayed to the control process, except `_ARK_PATH`.
CONTROL_PREFIXES = ("/api/", "/docs", "/console", "/assets/", "/favicon")
# The task routes of Volcengine's own clients, which the data plane answers.
_ARK_PATH = "/api/v3/"
# Prefixes that need no key.
_KEYLESS_PREFIXES = (*CONTROL_PREFIXES, CALLBACKS)
CONTROL_METHODS = ("GET", "HEAD", "OPTIONS")
_ANTHROPIC_PATHS = ("/anthropic/", "/v1/messages", "/v1/v1/messages")
# Native routes of tasks answer errors as their provider does, neutral and wrapped ones in both common shapes.
_TASK_PATHS: tuple[tuple[str, Dialect], ...] = (
    ("/kling/", "kling"),
    ("/runwayml/", "runway"),
    ("/dream-machine/", "luma"),
    *((prefix, "minimax") for prefix in ("/minimax/", "/v1/video_generation", "/v1/query/", "/v1/files/retrieve")),
    *((prefix, "ark") for prefix in ("/volc/", "/seedance/", "/api/v3/")),
    *((prefix, "task") for prefix in ("/runway/", "/pika/", "/sora/", "/veo/", "/v2/videos", "/v1/video/")),
    ("/v1/task", "task"),
)
TEXT = [(b"content-type", b"text/plain; charset=utf-8")]
# What the operator can mend. Their messages name the model and nothing else of the caller's body.
_EXPLAINED = (ModelForbidden, NoChannel, NoPrice)
REASON_CHARACTERS_MAX = 300


def _is_anthropic(call: Call) -> bool:
    """Whether the caller expects Anthropic's format, by its own routes, its prefix or its header."""
    return call.path.startswith(_ANTHROPIC_PATHS) or call.header(b"anthropic-version") is not None


def dialect_of(call: Call) -> Dialect:
    """The dialect of errors that the caller expects."""
    path = call.path
    if _is_anthropic(call):
        return "anthropic"
    if path.startswith("/v1beta/") and not path.startswith("/v1beta/openai/"):
        return "gemini"
    for prefix, dialect in _TASK_PATHS:
        if path.startswith(prefix):
            return dialect
    # Google's verbs are also used below /v1/models, which nobody else posts to.
    return "gemini" if call.method == "POST" and path.startswith("/v1/models/") else "openai"


class Front:
    """The handler of a worker's server. `ready` returns why the worker cannot serve yet, or None."""

    def __init__(self, plane: DataPlane, ready: Callable[[], str | None]) -> None:
        self._plane = plane
        self._ready = ready
        self._cors = Cors(plane.settings.cors_origins)
        self._proxies = TrustedProxies(plane.settings.trusted_proxies)
        self._pages = MetricsPages(plane.clock)
        self._own: dict[str, Callable[[Call], Awaitable[None]]] = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
        }

    async def __call__(self, call: Call) -> None:
        call.reply.common = b"x-request-id: " + call.text_id + b"\r\nx-oneapi-request-id: " + call.text_id + b"\r\n"
        if _is_anthropic(call):
            # The header that Anthropic's SDKs read.
            call.reply.common += b"request-id: %b\r\n" % call.text_id
        if cors := self._cors.headers(call):
            call.reply.common += header_lines(cors)
        try:
            await self._handled(call)
        except GatewayError as error:
            self._log(call, error.status, error.code, error.message if isinstance(error, _EXPLAINED) else None)
            self._answer(call, error)
        except Failed as failed:
            # Its record is already stored and logged, with the attempts.
            if failed.farewell:
                call.reply.finish(failed.farewell)
            else:
                self._answer(call, failed.error)
        except Left:
            raise ClientGone from None
        except (ClientGone, asyncio.CancelledError):
            self._log(call, 499, "client_gone")
            raise
        except Exception:
            self._plane.log.write(
                "unexpected", "error", request_id=request_id_text(call.id), trace=traceback.format_exc()
            )
            self._log(call, 500, GatewayError.code)
            self._answer(call, GatewayError("The gateway failed to handle this request."))

    def _handled(self, call: Call) -> Awaitable[None]:
        path = call.path
        if call.method == "OPTIONS":
            return self._preflight(call)
        if (own := self._own.get(path)) is not None:
            return own(call)
        if path == "/" or path.startswith(_KEYLESS_PREFIXES):
            if path.startswith(_ARK_PATH):
                return serve(self._plane, call)
            if path.startswith(CALLBACKS):
                return called_back(self._plane, call)
            if call.method not in CONTROL_METHODS:
                # These pages take no body, so nobody without a key can make us collect one. Below /api the catalog
                # decides which addresses exist (an Ollama client's do not).
                if path.startswith("/api/"):
                    with suppress(MethodNotAllowed):
                        self._plane.catalog.match(call.method, path)
                raise MethodNotAllowed(f"{call.method} is not allowed on {path}.", CONTROL_METHODS)
            return relay_to_control(self._plane, call, self._proxies)
        return serve(self._plane, call)

    async def _preflight(self, call: Call) -> None:
        call.reply.send(204, self._cors.preflight(call), b"")

    def _answer(self, call: Call, error: GatewayError) -> None:
        if call.reply.started:
            # A started reply is aborted, so that it does not look complete.
            call.reply.abort()
            return
        status, headers, body = render_error(error, call.id, dialect_of(call))
        call.reply.send(status, headers, body)

    def _log(self, call: Call, status: int, code: str, reason: str | None = None) -> None:
        """The line of a call that has no record: who made it, if the key is known, and the `reason` if it is ours."""
        plane = self._plane
        known: dict[str, object] = {}
        if (digest := call.memo.key_digest) is not None and (grant := plane.key_cache.get(digest)) is not None:
            known["key_id"] = grant.key_id
        if reason is not None:
            known["reason"] = reason[:REASON_CHARACTERS_MAX]
        plane.metrics.requests[("rejected", status)] += 1
        plane.log.write(
            "error" if status >= 500 else "refused",
            "warning" if status >= 500 else "info",
            request_id=request_id_text(call.id),
            method=call.method,
            path=hinted(call.path),
            status=status,
            code=code,
            client_ip=self._proxies.client_ip(call),
            **known,
            ms=milliseconds(plane.clock.monotonic_s() - call.started_s),
        )

    async def _healthz(self, call: Call) -> None:
        call.reply.send(200, TEXT, b"ok\n")

    async def _readyz(self, call: Call) -> None:
        reason = self._ready()
        call.reply.send(200 if reason is None else 503, TEXT, b"ready\n" if reason is None else reason.encode() + b"\n")

    async def _metrics(self, call: Call) -> None:
        """All metrics if the caller presents `metrics_token`; otherwise none of channels, tokens and money."""
        token = self._plane.settings.metrics_token.encode()
        said = call.header(b"authorization") if token else None
        if said is not None and not hmac.compare_digest(said, b"Bearer " + token):
            raise Unauthenticated("The token does not match ELKAPI_METRICS_TOKEN.")
        page = await self._pages.page(for_operator=said is not None)
        call.reply.send(200, [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")], page)
