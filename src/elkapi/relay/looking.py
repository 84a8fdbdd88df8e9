"""Runs a call's guardrails on its texts, one after the other: lists and finders here, hooks in `hook`.

Callers find the texts; `guarding` and `submit` handle a refusal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

import msgspec

from elkapi.errors import BadRequest, GatewayError, Unavailable
from elkapi.guards.found import Blocked
from elkapi.guards.rules import Rule, checked
from elkapi.guards.shapes import Visit
from elkapi.ids import request_id_text
from elkapi.relay.call import Call
from elkapi.relay.hook import HookDown, Question, asked
from elkapi.relay.large import anywhere
from elkapi.relay.plane import DataPlane
from elkapi.relay.relay import blocked_error
from elkapi.snapshot import Snapshot
from elkapi.types import Grant, Policy

# Checking more text than this takes long enough to be worth a thread.
INLINE_CHARS = 4 * 1024
LOOKED_CHARS_MAX = 4 * 1024 * 1024
Direction = Literal["input", "output"]
Body = TypeVar("Body")


class TooLong(Exception):
    """More text than guardrails check."""


def too_long() -> BadRequest:
    """The caller's error for too much text."""
    return BadRequest(
        f"The guardrails of this API key check at most {LOOKED_CHARS_MAX} characters per call; send less."
    )


def rules_of(snapshot: Snapshot, policy: Policy) -> list[Rule]:
    """A policy's guardrails in order. Raises Unavailable if one no longer exists."""
    names = policy.guards or ()
    if any(name not in snapshot.rules for name in names):
        raise Unavailable(
            "A guardrail of this API key does not exist; please tell the operator.", code="guardrail_unavailable"
        )
    return [snapshot.rules[name] for name in names]


def refusal_of(refused: Blocked | HookDown) -> GatewayError:
    """The caller's error for a call that may not continue."""
    if isinstance(refused, Blocked):
        return blocked_error(refused)
    return Unavailable(
        f"The guardrail {refused.guard!r} is unavailable; please try again.", code="guardrail_unavailable"
    )


class Asker(msgspec.Struct, frozen=True):
    """The call that is checked; hooks are told about it."""

    plane: DataPlane
    grant: Grant
    call: Call
    operation: str
    model: str

    async def looked(
        self,
        body: Body,
        size_bytes: int,
        walk: Callable[[Body, Visit], Body],
        rules: Sequence[Rule],
        direction: Direction,
    ) -> Body:
        """The body after all rules. `walk` visits its texts, the same ones each time. Raises Blocked, HookDown,
        TooLong, and what `walk` raises."""
        texts: list[str] = []

        def note(text: str) -> str:
            texts.append(text)
            return text

        clean = await anywhere(size_bytes, walk, body, note)
        if sum(map(len, texts)) > LOOKED_CHARS_MAX:
            raise TooLong
        new = await self._passed(texts, rules, direction)
        if new == texts:
            return clean
        given: Iterator[str] = iter(new)
        return await anywhere(size_bytes, walk, clean, lambda _: next(given))

    async def _passed(self, texts: list[str], rules: Sequence[Rule], direction: Direction) -> list[str]:
        """The texts after all rules, each applied to the result of the one before. Raises Blocked, HookDown."""
        for rule in rules:
            if rule.find is None:
                texts = await asked(self.plane, rule, self._question(rule, direction, texts))
            elif sum(map(len, texts)) <= INLINE_CHARS:
                texts = [checked([rule], text) for text in texts]
            else:
                texts = await asyncio.to_thread(lambda one, many: [checked([one], text) for text in many], rule, texts)
        return texts

    def _question(self, rule: Rule, direction: Direction, texts: list[str]) -> Question:
        grant = self.grant
        return Question(
            request_id_text(self.call.id),
            rule.guard.name,
            direction,
            self.operation,
            self.model,
            grant.key_id,
            grant.key_name,
            grant.group,
            texts,
        )
