"""Converse of the models of other makers: a neutral `Reply` written whole or as the events of its stream.

Shapes: the Bedrock runtime's ConverseResponse and ConverseStreamOutput. Their thoughts carry no signature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import msgspec

from elkapi.sandbox.faults import Faults
from elkapi.sandbox.messages import Charge, Mark, Request
from elkapi.sandbox.providers.anthropic_read import json_object
from elkapi.sandbox.providers.bedrock_converse import METRICS
from elkapi.sandbox.providers.bedrock_models import Model
from elkapi.sandbox.providers.bedrock_read import read
from elkapi.sandbox.script import reply_to
from elkapi.sandbox.talk import Call, Finish, Refusal, Reply, Text, Thinking, part_tokens, pieces

Raw = dict[str, Any]

STOP_REASONS: dict[Finish, str] = {
    "stop": "end_turn",
    "stop_sequence": "stop_sequence",
    "length": "max_tokens",
    "tools": "tool_use",
    "refusal": "content_filtered",
    "filter": "content_filtered",
}


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """One answered call. `seed` determines the ids of its tool calls."""

    name: str
    model: Model
    reply: Reply
    seed: str
    faults: Faults

    def charge(self, output_tokens: int | None = None) -> Charge:
        """The charge of the call, or of one with only `output_tokens`."""
        return self.model.rate.charge(self.name, self.reply.usage, output_tokens)


class Event(msgspec.Struct, frozen=True):
    """One event of a stream: its name and body. Marks and tokens as in `stream`."""

    name: str
    body: Raw
    mark: Mark
    output_tokens: int = 0


def say(request: Request, name: str, model: Model) -> Said:
    """Answer a Converse body. Raises Problem."""
    reply = reply_to(read(json_object(request.body), model))
    return Said(name=name, model=model, reply=reply, seed=request.upstream_request_id, faults=request.faults)


def response(said: Said) -> Raw:
    """The whole Converse answer."""
    content = [_block(said, index, part) for index, part in enumerate(_spoken(said))]
    answer: Raw = {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": STOP_REASONS[said.reply.finish],
        "metrics": METRICS,
    }
    counts = _usage(said)
    return answer if counts is None else {**answer, "usage": counts}


def events(said: Said) -> Iterator[Event]:
    """The stream: messageStart, the blocks in order, messageStop, metadata."""
    yield Event("messageStart", {"role": "assistant"}, "setup")
    shown = 0
    for index, part in enumerate(_spoken(said)):
        shown += part_tokens(part)
        place = {"contentBlockIndex": index}
        if isinstance(part, Call):
            start = {"toolUse": {"toolUseId": _call_id(said, index), "name": part.name}}
            yield Event("contentBlockStart", {"start": start, **place}, "content", 1)
        tokens = iter([1] * (part_tokens(part) - isinstance(part, Call)))
        for piece in pieces(_arguments(part) if isinstance(part, Call) else part.text):
            yield Event("contentBlockDelta", {"delta": _delta(part, piece), **place}, "content", next(tokens, 0))
        yield Event("contentBlockStop", place, "setup")
    # Tokens that no block shows, such as those of empty text, are counted at the end.
    rest = said.reply.usage.output - shown
    yield Event("messageStop", {"stopReason": STOP_REASONS[said.reply.finish]}, "terminal", rest)
    counts = _usage(said)
    if counts is not None:
        yield Event("metadata", {"usage": counts, "metrics": METRICS}, "usage")


def _spoken(said: Said) -> list[Thinking | Text | Call | Refusal]:
    return [part for part in said.reply.parts if isinstance(part, Call) or part.text]


def _call_id(said: Said, index: int) -> str:
    return "tooluse_" + hashlib.sha256(f"{said.seed} {index}".encode()).hexdigest()[:22]


def _arguments(call: Call) -> str:
    """A call's arguments as JSON; free text from a script becomes `input`."""
    return json.dumps({"input": call.arguments}, ensure_ascii=False) if call.custom else call.arguments


def _block(said: Said, index: int, part: Thinking | Text | Call | Refusal) -> Raw:
    if isinstance(part, Call):
        use = {"toolUseId": _call_id(said, index), "name": part.name, "input": json.loads(_arguments(part))}
        return {"toolUse": use}
    if isinstance(part, Thinking):
        return {"reasoningContent": {"reasoningText": {"text": part.text}}}
    return {"text": part.text}


def _delta(part: Thinking | Text | Call | Refusal, piece: str) -> Raw:
    if isinstance(part, Call):
        return {"toolUse": {"input": piece}}
    return {"reasoningContent": {"text": piece}} if isinstance(part, Thinking) else {"text": piece}


def _usage(said: Said) -> Raw | None:
    """The usage object, or None if a fault omits it; `inputTokens` excludes cached tokens."""
    counted, faults = said.reply.usage, said.faults
    shown = faults.shown_tokens(counted.input - counted.cached - counted.cache_write)
    output = faults.shown_tokens(counted.output)
    if shown is None or output is None:
        return None
    usage = {
        "inputTokens": shown,
        "outputTokens": output,
        "totalTokens": shown + output + counted.cached + counted.cache_write,
    }
    if said.model.extras:
        usage |= {"cacheReadInputTokens": counted.cached, "cacheWriteInputTokens": counted.cache_write}
    return usage
