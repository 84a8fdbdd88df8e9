"""The fault grammar: the faults a test may request, their syntax, and which of them apply to a try.

A directive is a comma-separated list such as `status=429, retry-after=2`. It arrives in the header `x-sandbox-fault`,
inside any text of the body as `[sandbox: ...]`, or as a standing fault set through the control routes.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

HEADER = b"x-sandbox-fault"

DIRECTIVE_BYTES_MAX = 1024
DIRECTIVES_MAX = 16
TRIES_KEPT_MAX = 10_000
DURATION_MAX_S = 3600.0
OVERSIZED_HEADER_BYTES = 128 * 1024
OVERSIZED_HEADER_BYTES_MAX = 4 * 1024 * 1024
USAGE_HUGE_TOKENS = 1_000_000_000_000
HALF_CLOSE_S = 5.0
USAGE_PLACES = ("last-content", "finish", "empty-delta", "every")

_WITHOUT_BODY = (204, 205, 304)
_IN_TEXT = re.compile(rb"\[sandbox:([^\[\]]{1,%d})\]" % DIRECTIVE_BYTES_MAX)
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s)?")
_EXTENT = re.compile(r"([0-9]{1,9})(b)?")


class FaultError(ValueError):
    """A directive has an unknown fault or an invalid value."""


class Extent(msgspec.Struct, frozen=True):
    """A position in a body: a count of pieces, or of bytes if `is_bytes`."""

    count: int
    is_bytes: bool


class Faults(msgspec.Struct, frozen=True):
    """The faults of one answer; the default has none."""

    status: int | None = None
    code: str | None = None
    retry_after_ms: int | None = None
    location: str | None = None
    refuse_key: str | None = None
    echo_secrets: bool = False
    html: bool = False
    invalid_json: bool = False
    no_usage: bool = False
    usage_tokens: int | None = None
    oversized_header_bytes: int = 0
    delay_s: float = 0.0
    hang: bool = False
    hang_after_headers: bool = False
    cut_after: Extent | None = None
    stall_after: Extent | None = None
    slow_drip_s: float = 0.0
    chunked: bool = False
    content_length: bool = False
    informational: int | None = None
    reset_after: Extent | None = None
    cut_mid_chunk_bytes: int | None = None
    until_close: bool = False
    close_keepalive_s: float | None = None
    half_close_s: float | None = None
    extra_answer: bool = False
    garbage: bool = False
    early_close: bool = False
    error_before: bool = False
    error_after: int | None = None
    truncated: int | None = None
    endless: bool = False
    usage_in: str | None = None
    pace_s: float = 0.0
    split_bytes: int | None = None
    comments: bool = False
    task_fails: bool = False
    task_moderated: bool = False
    task_refused: bool = False
    task_expires: bool = False
    task_queued_s: float | None = None
    task_takes_s: float | None = None
    task_odd_s: float = 0.0
    link_expires_s: float | None = None
    file_lost_s: float = 0.0
    callback_reversed: bool = False
    callback_twice: bool = False
    times: int | None = None
    marker: str | None = None

    def shown_tokens(self, true_tokens: int) -> int | None:
        """The count to report as usage: the true one, a wrong one, or None to omit usage."""
        if self.no_usage:
            return None
        return true_tokens if self.usage_tokens is None else self.usage_tokens

    def wire_names(self) -> tuple[str, ...]:
        """The requested faults that need access to the connection, not only ASGI."""
        return tuple(rule.name for rule in RULES if rule.wire and getattr(self, rule.field) != rule.absent)


class Rule(msgspec.Struct, frozen=True):
    """One row of the grammar: the name, the field it sets, and the parser of its value.

    `wire`: needs access to the connection; `stream`: affects only streams; `task`: only tasks.
    """

    name: str
    field: str
    read: Callable[[str | None], Any]
    absent: Any = None
    wire: bool = False
    stream: bool = False
    task: bool = False


def _flag(text: str | None) -> bool:
    if text is not None:
        raise FaultError("takes no value")
    return True


def _whole(low: int, high: int, default: int | None = None) -> Callable[[str | None], int]:
    def read(text: str | None) -> int:
        if text is None and default is not None:
            return default
        if text is None or not re.fullmatch(r"-?[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise FaultError(f"needs a whole number from {low} to {high}")
        return int(text)

    return read


def _status(text: str | None) -> int:
    number = _whole(200, 599)(text)
    if number in _WITHOUT_BODY:
        raise FaultError("cannot be a status without a body: the sandbox always sends one")
    return number


def _seconds(default_s: float | None = None) -> Callable[[str | None], float]:
    def read(text: str | None) -> float:
        if text is None and default_s is not None:
            return default_s
        found = _DURATION.fullmatch(text or "")
        if found is None:
            raise FaultError("needs a duration such as 150ms or 2s")
        seconds = float(found[1]) / (1000.0 if found[2] == "ms" else 1.0)
        if seconds > DURATION_MAX_S:
            raise FaultError(f"is limited to {DURATION_MAX_S:.0f}s")
        return seconds

    return read


def _retry_after(text: str | None) -> int:
    return round(_seconds()(text) * 1000)


def _extent(text: str | None) -> Extent:
    found = _EXTENT.fullmatch(text or "")
    if found is None:
        raise FaultError("needs a count of pieces such as 3, or of bytes such as 100b")
    return Extent(int(found[1]), found[2] is not None)


def _usage(text: str | None) -> int:
    return USAGE_HUGE_TOKENS if text == "huge" else _whole(-USAGE_HUGE_TOKENS, USAGE_HUGE_TOKENS)(text)


def _usage_place(text: str | None) -> str:
    if text not in USAGE_PLACES:
        raise FaultError(f"needs one of {', '.join(USAGE_PLACES)}")
    return text


def _word(text: str | None) -> str:
    if not text:
        raise FaultError("needs a value")
    return text


RULES: tuple[Rule, ...] = (
    Rule("status", "status", _status),
    Rule("code", "code", _word),
    Rule("retry-after", "retry_after_ms", _retry_after),
    Rule("location", "location", _word),
    Rule("refuse-key", "refuse_key", _word),
    Rule("echo-secrets", "echo_secrets", _flag, False),
    Rule("html", "html", _flag, False),
    Rule("invalid-json", "invalid_json", _flag, False),
    Rule("no-usage", "no_usage", _flag, False),
    Rule("usage", "usage_tokens", _usage),
    Rule(
        "oversized-headers", "oversized_header_bytes", _whole(1, OVERSIZED_HEADER_BYTES_MAX, OVERSIZED_HEADER_BYTES), 0
    ),
    Rule("delay", "delay_s", _seconds(), 0.0),
    Rule("hang", "hang", _flag, False),
    Rule("hang-after-headers", "hang_after_headers", _flag, False),
    Rule("cut-after", "cut_after", _extent),
    Rule("stall-after", "stall_after", _extent),
    Rule("slow-drip", "slow_drip_s", _seconds(), 0.0),
    Rule("chunked", "chunked", _flag, False),
    Rule("content-length", "content_length", _flag, False),
    Rule("1xx", "informational", _whole(102, 199, 103), wire=True),
    Rule("reset-after", "reset_after", _extent, wire=True),
    Rule("cut-mid-chunk", "cut_mid_chunk_bytes", _whole(0, 1 << 20), wire=True),
    Rule("until-close", "until_close", _flag, False, wire=True),
    Rule("close-keepalive", "close_keepalive_s", _seconds(0.0), wire=True),
    Rule("half-close", "half_close_s", _seconds(HALF_CLOSE_S), wire=True),
    Rule("extra-answer", "extra_answer", _flag, False, wire=True),
    Rule("garbage", "garbage", _flag, False, wire=True),
    Rule("early-close", "early_close", _flag, False, wire=True),
    Rule("error-before", "error_before", _flag, False, stream=True),
    Rule("error-after", "error_after", _whole(0, 1_000_000), stream=True),
    Rule("truncated", "truncated", _whole(0, 1000, 0), stream=True),
    Rule("endless", "endless", _flag, False, stream=True),
    Rule("usage-in", "usage_in", _usage_place, stream=True),
    Rule("pace", "pace_s", _seconds(), 0.0, stream=True),
    Rule("split", "split_bytes", _whole(1, 1 << 20), stream=True),
    Rule("comments", "comments", _flag, False, stream=True),
    Rule("task-fails", "task_fails", _flag, False, task=True),
    Rule("task-moderated", "task_moderated", _flag, False, task=True),
    Rule("task-refused", "task_refused", _flag, False, task=True),
    Rule("task-expires", "task_expires", _flag, False, task=True),
    Rule("task-queued", "task_queued_s", _seconds(), task=True),
    Rule("task-takes", "task_takes_s", _seconds(), task=True),
    Rule("task-odd", "task_odd_s", _seconds(), 0.0, task=True),
    Rule("link-expires", "link_expires_s", _seconds(), task=True),
    Rule("file-lost", "file_lost_s", _seconds(math.inf), 0.0, task=True),
    Rule("callback-reversed", "callback_reversed", _flag, False, task=True),
    Rule("callback-twice", "callback_twice", _flag, False, task=True),
    Rule("times", "times", _whole(1, 1_000_000)),
    Rule("marker", "marker", _word),
)
_BY_NAME = {rule.name: rule for rule in RULES}


def read_directive(text: str) -> dict[str, Any]:
    """The fields that a directive sets. Raises FaultError naming the invalid fault."""
    fields: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        rule = _BY_NAME.get(name)
        if rule is None:
            raise FaultError(f"unknown sandbox fault {name!r}")
        try:
            fields[rule.field] = rule.read(value if equals else None)
        except FaultError as error:
            raise FaultError(f"sandbox fault {name!r} {error}") from None
    return fields


def directives_in(body: bytes) -> list[str]:
    """The directives `[sandbox: ...]` anywhere in a body, in order; non-ASCII bytes are escaped."""
    if b"[sandbox:" not in body:
        return []
    found = _IN_TEXT.findall(body)
    if len(found) > DIRECTIVES_MAX:
        raise FaultError(f"more than {DIRECTIVES_MAX} sandbox directives in one request")
    return [text.decode("ascii", "backslashreplace") for text in found]


class Tries:
    """Counts tries per marker for `times=N`; keeps only the last `TRIES_KEPT_MAX` markers."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, int] = OrderedDict()

    def applies(self, directive: str, fields: dict[str, Any], marked_by: bytes) -> bool:
        """Whether a directive still applies to this try; every call with `times` counts one try."""
        limit = fields.get("times")
        if limit is None:
            return True
        marker = fields.get("marker")
        basis = marker.encode() if marker is not None else marked_by
        digest = hashlib.sha256(directive.encode() + b"\0" + basis).digest()
        count = self._seen.pop(digest, 0) + 1
        self._seen[digest] = count
        if len(self._seen) > TRIES_KEPT_MAX:
            self._seen.popitem(last=False)
        return count <= int(limit)


def resolve(directives: Iterable[tuple[str, bytes]], tries: Tries) -> Faults:
    """The faults of one request: directives in ascending precedence, each with the bytes that identify its tries.

    A directive is dropped once its `times` are used up. Raises FaultError for an invalid one.
    """
    merged: dict[str, Any] = {}
    for directive, marked_by in directives:
        fields = read_directive(directive)
        if tries.applies(directive, fields, marked_by):
            merged.update(fields)
    return Faults(**merged)
