"""The sandbox as an ASGI application: reads, matches, applies faults, delivers, bills and records; providers answer.

A request goes through: `record.open` (head received) -> `routes.match` -> header and standing faults -> the body,
bounded -> faults written in the body -> `answering.answer_to` (pure) -> `deliver` (sends, and settles with `bill`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec

from elkapi.sandbox import control, deliver
from elkapi.sandbox.answering import answer_to, early_answer, fault_refused
from elkapi.sandbox.bill import LINES_KEPT_MAX, Bill
from elkapi.sandbox.deliver import HANG_LIMIT_S, Client
from elkapi.sandbox.faults import HEADER, FaultError, Faults, Tries, directives_in, read_directive, resolve
from elkapi.sandbox.following import Follower
from elkapi.sandbox.messages import (
    Answer,
    Charge,
    Headers,
    Outcome,
    Problem,
    Receive,
    Request,
    Scope,
    Send,
    first_header,
)
from elkapi.sandbox.providers import PROVIDERS
from elkapi.sandbox.raw import wire_of
from elkapi.sandbox.record import BYTES_KEPT_MAX, REQUESTS_KEPT_MAX, Received, Recorder
from elkapi.sandbox.routes import Match, Provider, match
from elkapi.sandbox.store import Store
from elkapi.sandbox.tasks import forget

BODY_BYTES_MAX = 16 * 1024 * 1024
CLIENT_ID_CHARS_MAX = 200


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How one sandbox behaves. `keys`: the only keys it takes; None takes any key of a provider's own shape.

    `fault` is the standing directive it starts with. `trust_any_host` answers the control routes under any Host.
    """

    bill_path: Path | None = None
    keys: frozenset[str] | None = None
    fault: str = ""
    providers: tuple[Provider, ...] = PROVIDERS
    body_bytes_max: int = BODY_BYTES_MAX
    hang_limit_s: float = HANG_LIMIT_S
    bill_lines_kept_max: int = LINES_KEPT_MAX
    requests_kept_max: int = REQUESTS_KEPT_MAX
    request_bytes_kept_max: int = BYTES_KEPT_MAX
    trust_any_host: bool = False
    now: Callable[[], float] = time.time


class Sandbox:
    """The ASGI application. `bill`, `recorder` and `standing` may be read and changed by a test in the same process."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.bill = Bill(options.bill_path, options.bill_lines_kept_max, options.now)
        self.recorder = Recorder(options.requests_kept_max, options.request_bytes_kept_max, options.now)
        self.tries = Tries()
        self.store = Store()
        self.follower = Follower(self.bill, options.now)
        self.standing = ""
        self.stand(options.fault)

    def stand(self, directive: str) -> None:
        """Set the standing fault, "" for none. Raises FaultError, and keeps the old one, if it is not valid."""
        read_directive(directive)
        self.standing = directive
        self.tries = Tries()

    def close(self) -> None:
        """Close the bill file."""
        self.bill.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        if scope["type"] != "http":
            raise ValueError(f"the sandbox speaks HTTP, not {scope['type']}")
        self.follower.settle()
        if control.is_control(scope["path"]):
            await control.serve(self, scope, receive, send)
            return
        await self._provider_request(scope, Client(receive, send, wire_of(scope)), receive)

    async def _provider_request(self, scope: Scope, client: Client, receive: Receive) -> None:
        started_s = time.perf_counter()
        headers: Headers = tuple(scope["headers"])
        received = self.recorder.open(scope["method"], _target(scope), scope["http_version"], headers)
        found = match(self.options.providers, scope["method"], scope["raw_path"].decode("latin-1"), headers)
        upstream_id = found.provider.request_id_prefix + uuid.uuid4().hex
        received.upstream_request_id = upstream_id

        def request_with(body: bytes, faults: Faults) -> Request:
            target = _target(scope)
            place = (scope["method"], scope["path"], headers)
            now_s = self.options.now()
            return Request(*place, body, faults, upstream_id, found.params, target, self.store, now_s)

        header = first_header(headers, HEADER) or ""
        early = [text for text in (self.standing, header) if _closes_early(text)]
        request = request_with(b"", resolve([(text, b"") for text in early], self.tries))
        if request.faults.early_close:
            await self._early(found, request, client, received, started_s)
            return
        body = await self._body(receive, received)
        if body is None:
            return

        def faults_for(whole: bytes) -> Faults:
            # Precedence: a header over a directive in the body over the standing fault.
            # A retry repeats its body but may have a new request id, so the body identifies the tries.
            texts = [(text, whole) for text in directives_in(whole)]
            directives = [(self.standing, b""), *texts, (header, whole)]
            return resolve([pair for pair in directives if pair[0] not in early], self.tries)

        request, answer = self._answered(found, request_with, faults_for, body, client, started_s)
        answer = await self._begun(found, request, answer, started_s)

        def settle(outcome: Outcome, charge: Charge | None) -> None:
            received.status, received.outcome = answer.status, outcome
            if charge is not None:
                self.bill.append(found.provider.name, charge, outcome, _client_id(headers), upstream_id)

        received.outcome = await deliver.deliver(answer, request.faults, client, settle, self.options.hang_limit_s)

    async def _begun(self, found: Match, request: Request, answer: Answer, started_s: float) -> Answer:
        """Follow the tasks that a handler started; one whose callback URL does not consent is not created."""
        begun, self.store.begun = self.store.begun, []
        for task in begun:
            task.provider, task.upstream_id = found.provider.name, request.upstream_request_id
            task.client_id = _client_id(request.headers)
            try:
                await self.follower.challenged(task)
            except Problem as problem:
                forget(request, task)
                refused = found.provider.refusal(problem)
                return found.provider.dress(request, refused, time.perf_counter() - started_s)
            self.follower.follow(task)
        return answer

    async def _early(
        self, found: Match, request: Request, client: Client, received: Received, started_s: float
    ) -> None:
        answer = early_answer(found, request, time.perf_counter() - started_s, has_wire=client.wire is not None)
        received.status = answer.status
        expects = (request.header("expect") or "").lower() == "100-continue"
        if client.wire is not None:
            received.outcome = await deliver.answer_early(answer, client, expects_continue=expects)
        else:
            received.outcome = await deliver.deliver(answer, Faults(), client, lambda outcome, charge: None)

    def _answered(
        self,
        found: Match,
        request_with: Callable[[bytes, Faults], Request],
        faults_for: Callable[[bytes], Faults],
        body: bytes | Problem,
        client: Client,
        started_s: float,
    ) -> tuple[Request, Answer]:
        """The request with its faults, and its answer; a refused body or directive gets an error answer."""
        try:
            if isinstance(body, Problem):
                raise body
            faults = faults_for(body)
            fault_refused(faults, has_wire=client.wire is not None)
            request = request_with(body, faults)
            return request, answer_to(found, request, self.options.keys, started_s)
        except (Problem, FaultError) as error:
            problem = error if isinstance(error, Problem) else Problem(400, str(error), code="sandbox_fault_invalid")
            request = request_with(b"", Faults())
            answer = found.provider.refusal(problem)
            return request, found.provider.dress(request, answer, time.perf_counter() - started_s)

    async def _body(self, receive: Receive, received: Received) -> bytes | Problem | None:
        """The whole body; a Problem if it is too large; None if the client left before it was complete."""
        pieces: list[bytes] = []
        size_bytes = 0
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.recorder.add_body(received, b"".join(pieces), complete=False)
                return None
            piece = message.get("body", b"")
            size_bytes += len(piece)
            if size_bytes <= self.options.body_bytes_max:
                pieces.append(piece)
            more = message.get("more_body", False)
        complete = size_bytes <= self.options.body_bytes_max
        body = b"".join(pieces)
        self.recorder.add_body(received, body, complete)
        if complete:
            return body
        return Problem(413, f"The body is larger than {self.options.body_bytes_max} bytes.")


def _client_id(headers: Headers) -> str | None:
    given = first_header(headers, b"x-client-request-id")
    return given and given[:CLIENT_ID_CHARS_MAX]


def _closes_early(directive: str) -> bool:
    try:
        return bool(read_directive(directive).get("early_close"))
    except FaultError:
        return False  # Answered as an error once the body is read.


def _target(scope: Scope) -> str:
    query: bytes = scope["query_string"]
    target: bytes = scope["raw_path"] + (b"?" + query if query else b"")
    return target.decode("latin-1")


def create(options: Options | None = None) -> Sandbox:
    """A sandbox for any ASGI server; wire faults work only under `elkapi.sandbox.server`."""
    return Sandbox(options or Options())
