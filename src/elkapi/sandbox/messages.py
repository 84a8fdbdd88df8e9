"""The sandbox's data types: requests, answers and charges."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Literal
from urllib.parse import parse_qs

import msgspec

from elkapi.sandbox.faults import Faults
from elkapi.sandbox.store import Store

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

Headers = tuple[tuple[bytes, bytes], ...]

OWN_ACCOUNT = "org-sandbox-account-7f3a"
"""The account the sandbox claims to be: leak tests look for it in what a gateway passes on."""

Outcome = Literal["complete", "cut", "aborted", "unanswered"]
"""How an answer ended. complete: handed to the socket in full; cut: the sandbox stopped it; aborted: the client left
first; unanswered: not one byte was sent on purpose (never billed)."""


class Charge(msgspec.Struct, frozen=True):
    """What the provider would bill for one call, by its own price table.

    `prompt_tokens` is the whole input, of which `cached_tokens` and `cache_write_tokens` are parts.
    """

    model: str
    prompt_tokens: int
    cost_nano_usd: int
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0


Mark = Literal["setup", "content", "usage", "terminal", "error", "stop"]


class Frame(msgspec.Struct, frozen=True):
    """One event of a stream as bytes; `stream` defines the marks. `output_tokens`: the tokens it adds."""

    data: bytes
    mark: Mark
    output_tokens: int = 0


class Stream(msgspec.Struct, frozen=True):
    """The frames of one streamed answer, the frame of a failure inside it, and its price by output tokens."""

    frames: tuple[Frame, ...]
    error: bytes
    charge_at: Callable[[int], Charge | None]


class Request(msgspec.Struct, frozen=True):
    """One received request with its whole body. `params` are the decoded `{name}` segments of the route's path.

    `raw_target` is the path and query as received, still percent-encoded: signatures cover those bytes. `store` is the
    sandbox's state, `now_s` the Unix time of its clock.
    """

    method: str
    path: str
    headers: Headers
    body: bytes
    faults: Faults
    upstream_request_id: str
    params: dict[str, str] = {}
    raw_target: str = ""
    store: Store = msgspec.field(default_factory=Store)
    now_s: float = 0.0

    @property
    def id_suffix(self) -> str:
        """The suffix of all ids that this request creates: the random digits of its own id."""
        return self.upstream_request_id.rpartition("_")[2]

    def query(self, name: str) -> str | None:
        """The first value of a query parameter, decoded; None if absent."""
        values = parse_qs(self.raw_target.partition("?")[2], keep_blank_values=True).get(name)
        return values[0] if values else None

    def header(self, name: str) -> str | None:
        """The first value of a header, decoded as Latin-1; None if absent."""
        return first_header(self.headers, name.encode("ascii"))


class Answer(msgspec.Struct, frozen=True):
    """An answer. A stream has one piece per event, a plain body one piece. Without a charge nothing is billed.

    With `stream` set (see `stream.stream_answer`) the frames are sent and priced, and `charge` is only shown.
    """

    status: int
    pieces: tuple[bytes, ...]
    media_type: str = "application/json"
    headers: Headers = ()
    charge: Charge | None = None
    stream: Stream | None = None


class Problem(Exception):
    """Raised by a handler that refuses a request; each provider renders it in its own error format."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None, kind: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.kind = kind


def first_header(headers: Headers, name: bytes) -> str | None:
    """The first value of a lower-case header name, or None."""
    for key, value in headers:
        if key == name:
            return value.decode("latin-1")
    return None


def json_answer(body: object, *, status: int = 200, charge: Charge | None = None) -> Answer:
    """An answer whose single piece is `body` as JSON."""
    return Answer(status, (msgspec.json.encode(body),), charge=charge)
