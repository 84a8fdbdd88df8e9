"""A guardrail's HTTP hook: the request, its signature, and the meaning of the answer.

The address is the operator's own, so it may be private. There is one try: a hook that fails, is slow or answers
incomprehensibly is down, and its guard decides what follows. Contract: docs/guardrails.md.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Literal

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.guards.found import Blocked
from elkapi.guards.rules import Rule
from elkapi.relay.plane import DataPlane
from elkapi.upstream import Deadlines, Origin, UpstreamFailure, UpstreamRequest, answer_to, split_base_url

SIGNATURE = b"x-elkapi-signature"
ANSWER_BYTES_MAX = 32 * 1024 * 1024
REASON_CHARS_MAX = 300


class HookDown(Exception):
    """The hook gave no usable answer, and its guard fails closed."""

    def __init__(self, guard: str) -> None:
        super().__init__(guard)
        self.guard = guard


class Question(msgspec.Struct, frozen=True):
    """A request to a hook: `texts` in the order of the body of the call or of its answer."""

    id: str
    guard: str
    direction: Literal["input", "output"]
    operation: str
    model: str
    key_id: int
    key_name: str
    group: str
    texts: list[str]


class _Answer(msgspec.Struct):
    action: Literal["allow", "block", "replace"]
    reason: str = ""
    texts: list[str] | None = None


_answer = msgspec.json.Decoder(_Answer)


def signature(secret: str, now_s: int, body: bytes) -> bytes:
    """`t=UNIX TIME,v1=HEX`: an HMAC-SHA256 of the time, a dot and the body."""
    mark = hmac.digest(secret.encode(), b"%d." % now_s + body, hashlib.sha256).hex()
    return f"t={now_s},v1={mark}".encode()


async def asked(plane: DataPlane, rule: Rule, question: Question) -> list[str]:
    """The texts after the hook. Raises Blocked, HookDown."""
    guard = rule.guard
    answer = await _answered(plane, rule, question)
    if answer is None:
        if guard.when_down == "closed":
            raise HookDown(guard.name)
        return question.texts
    if answer.action == "block":
        reason = "".join(sign for sign in answer.reason[:REASON_CHARS_MAX] if sign.isprintable())
        raise Blocked(guard.name, reason)
    return answer.texts if answer.action == "replace" and answer.texts is not None else question.texts


async def _answered(plane: DataPlane, rule: Rule, question: Question) -> _Answer | None:
    guard, body = rule.guard, msgspec.json.encode(question)
    if not guard.secret:
        # The secret cannot be decrypted with this installation's key; a signature that anybody can make is worse than
        # none.
        plane.log.write(
            "guard_hook_failed", "error", guard=guard.name, error="cannot decrypt its secret with this secret key"
        )
        return None
    wait_s = guard.deadline_s
    order = UpstreamRequest(
        origin=Origin.parse(guard.url, allow_private=True),
        method=b"POST",
        target=(split_base_url(guard.url) or "/").encode(),
        headers=[
            (b"content-type", b"application/json"),
            (b"accept", b"application/json"),
            (b"accept-encoding", b"identity"),
            (SIGNATURE, signature(guard.secret, plane.clock.now_ns() // 1_000_000_000, body)),
        ],
        body=body,
        deadlines=Deadlines(connect_s=wait_s, header_s=wait_s, first_byte_s=wait_s, idle_s=wait_s, total_s=wait_s),
    )
    try:
        said = await answer_to(plane.client.send, order, ANSWER_BYTES_MAX)
        answer = _answer.decode(said.body) if said.status == 200 and said.complete else None
    except (UpstreamFailure, *NOT_JSON) as error:
        plane.log.write("guard_hook_failed", "warning", guard=guard.name, error=type(error).__name__)
        return None
    if answer is None or (answer.action == "replace" and len(answer.texts or ()) != len(question.texts)):
        plane.log.write("guard_hook_failed", "warning", guard=guard.name, error=f"status {said.status}")
        return None
    return answer
