"""The control routes under `/_sandbox`: read and reset the bill and the recorded requests, set the standing fault.

They are neither recorded, billed nor faulted. They require a loopback Host, so that a web page that points its own
domain at this machine (DNS rebinding) cannot read the recorded keys.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import msgspec

from elkapi.sandbox.faults import DIRECTIVE_BYTES_MAX, RULES, FaultError
from elkapi.sandbox.messages import Receive, Scope, Send, first_header

if TYPE_CHECKING:
    from elkapi.sandbox.app import Sandbox

PREFIX = "/_sandbox"


def is_control(path: str) -> bool:
    """Whether a path is a control route."""
    return path == PREFIX or path.startswith(PREFIX + "/")


async def serve(sandbox: Sandbox, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one control request."""
    body = await _short_body(receive)
    if body is None:
        return
    status, answer = _answered(sandbox, scope, body)
    encoded = msgspec.json.encode(answer)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(encoded))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": encoded, "more_body": False})


def _answered(sandbox: Sandbox, scope: Scope, body: bytes) -> tuple[int, object]:
    if not sandbox.options.trust_any_host and not _is_loopback(first_header(tuple(scope["headers"]), b"host") or ""):
        return 421, {"error": "control routes answer only under a loopback host name"}
    name = scope["path"][len(PREFIX) :].strip("/")
    operation = f"{scope['method']} {name}".strip()
    if operation == "GET":
        return 200, _index(sandbox)
    if operation == "GET bill":
        return 200, sandbox.bill.statement()
    if operation == "GET requests":
        return _requests(sandbox, scope["query_string"].decode("latin-1"))
    if operation in ("GET fault", "PUT fault", "DELETE fault"):
        return _fault(sandbox, scope["method"], body)
    if operation == "DELETE bill":
        sandbox.bill.reset()
        return 200, {"reset": "bill"}
    if operation == "DELETE requests":
        sandbox.recorder.reset()
        return 200, {"reset": "requests"}
    return 404, {"error": f"no control route {operation!r}"}


def _index(sandbox: Sandbox) -> dict[str, object]:
    routes = {
        provider.name: {
            "mounts": list(provider.mounts),
            "routes": [f"{route.method} {route.path}" for route in provider.routes],
        }
        for provider in sandbox.options.providers
    }
    return {"sandbox": "elkapi", "providers": routes, "faults": [rule.name for rule in RULES]}


def _requests(sandbox: Sandbox, query: str) -> tuple[int, object]:
    last = parse_qs(query).get("last", [None])[-1]
    if last is not None and not re.fullmatch("[0-9]{1,9}", last):
        return 400, {"error": "last must be a whole number"}
    return 200, {"requests": sandbox.recorder.shown(None if last is None else int(last))}


def _fault(sandbox: Sandbox, method: str, body: bytes) -> tuple[int, object]:
    if len(body) > DIRECTIVE_BYTES_MAX:
        return 400, {"error": f"a directive has at most {DIRECTIVE_BYTES_MAX} bytes"}
    if method != "GET":
        try:
            sandbox.stand("" if method == "DELETE" else body.decode("ascii").strip())
        except (FaultError, UnicodeDecodeError) as error:
            return 400, {"error": str(error)}
    return 200, {"fault": sandbox.standing}


async def _short_body(receive: Receive) -> bytes | None:
    """The body of a control request, cut after the longest directive; None if the client left."""
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body = (body + message.get("body", b""))[: DIRECTIVE_BYTES_MAX + 1]
        more = message.get("more_body", False)
    return body


def _is_loopback(host: str) -> bool:
    """Whether a Host header is a loopback name; clients of a Unix socket may send anything, mostly `localhost`."""
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if name.lower() in ("localhost", "testserver", ""):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
