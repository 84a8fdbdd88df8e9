"""The HTTP interface of the control process: routes, errors, HEAD and security headers."""

from __future__ import annotations

import logging
from html import escape
from typing import Any

import msgspec
from litestar import Litestar, Request, Response, get
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, Message, Receive, Send

from elkapi.control.front import console_page, front_page, origin
from elkapi.control.html import ICON, SECURITY_HEADERS, error_page, page
from elkapi.control.library import Library, Page
from elkapi.control.status import StatusBook

log = logging.getLogger("elkapi.control")

Answer = Response[bytes]

# Pages contain the requested host and the state of the machine, so caches must revalidate.
_REVALIDATE = {"cache-control": "private, no-cache"}

_SAID = {
    400: ("Bad request", "The address or one of the headers is malformed."),
    404: ("Not found", "There is no page at this address."),
    405: ("Method not allowed", "This address cannot be used that way."),
}
_ANY_OTHER = ("Something went wrong", "The page could not be shown. The operator finds the reason in the log.")


def build_site(library: Library, status: StatusBook, fallback_host: str) -> ASGIApp:
    """The ASGI application; `fallback_host` (host:port) is used in examples if the Host header is invalid."""

    @get("/")
    async def front(request: Request[Any, Any, Any]) -> Answer:
        # Only workers reach this socket; each appends the caller's Host after any values the caller sent.
        hosts = request.headers.getall("x-forwarded-host", [request.headers.get("host", "")])
        scheme = request.headers.get("x-forwarded-proto", "http")
        base = origin(hosts[-1], scheme, fallback_host)
        return _html(front_page(base, await status.models()))

    @get(["/console", "/console/{_rest:path}"])
    async def console() -> Answer:
        return _html(console_page())

    @get(["/docs", "/docs/{name:path}"])
    async def docs(request: Request[Any, Any, Any]) -> Answer:
        return _docs_answer(library, str(request.path_params.get("name", "index")).strip("/") or "index")

    @get(["/favicon.svg", "/favicon.ico"])
    async def icon() -> Answer:
        return Response(ICON, media_type="image/svg+xml", headers={"cache-control": "public, max-age=86400"})

    @get("/api/status")
    async def api_status() -> Answer:
        return _json({"success": True, "message": "", "data": await status.site()})

    @get("/healthz")
    async def healthz() -> Answer:
        return _json({"status": "ok"})

    app = Litestar(
        [front, console, docs, icon, api_status, healthz],
        openapi_config=None,
        logging_config=None,
        debug=False,
        request_max_body_size=0,
        exception_handlers={Exception: _on_error},
    )
    return Shell(app)


class Shell:
    """Wraps the application: answers HEAD as GET without a body, and adds the security headers to every answer.

    Only HTTP arrives here: the server runs without WebSocket and lifespan.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._headers = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        is_head = scope["method"] == "HEAD"

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            elif message["type"] == "http.response.body" and is_head:
                message["body"] = b""
            await send(message)

        if is_head:
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send_on)


def _docs_answer(library: Library, name: str) -> Answer:
    if found := library.picture(name):
        content, media_type = found
        return Response(content, media_type=media_type, headers=dict(_REVALIDATE))
    wanted = library.page(name.removesuffix(".md"))
    if wanted is None:
        return _html(error_page(404, *_SAID[404]), 404)
    if name.endswith(".md"):
        return Response(wanted.markdown.encode(), media_type="text/markdown", headers=dict(_REVALIDATE))
    return _html(_docs_page(library, wanted))


def _docs_page(library: Library, shown: Page) -> str:
    rows = "".join(
        f'<li><a href="{p.path}"{" aria-current=page" if p is shown else ""}>{escape(p.title)}</a></li>'
        for p in library.pages.values()
    )
    body = f'<div class="doc"><article>{shown.html}</article><nav aria-label="Docs"><ul>{rows}</ul></nav></div>'
    return page(f"{shown.title} · elkapi", body, at="/docs")


def _on_error(request: Request[Any, Any, Any], error: Exception) -> Answer:
    """Errors as JSON below /api and as a page elsewhere; the exception is logged, never sent to the caller."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    path = request.scope["path"]
    if status >= 500:
        log.error("page_failed", exc_info=error, extra={"path": path, "status": status})
    title, text = _SAID.get(status, _ANY_OTHER)
    if path == "/api" or path.startswith("/api/"):
        answer = _json({"success": False, "message": text}, status)
    else:
        answer = _html(error_page(status, title, text), status)
    if status == 405:
        answer.headers["allow"] = "GET, HEAD"  # The same for every path here; the edge answers OPTIONS itself.
    return answer


def _html(text: str, status: int = 200) -> Answer:
    return Response(text.encode(), status_code=status, media_type="text/html", headers=dict(_REVALIDATE))


def _json(value: object, status: int = 200) -> Answer:
    body = msgspec.json.encode(value)
    return Response(body, status_code=status, media_type="application/json", headers={"cache-control": "no-store"})
