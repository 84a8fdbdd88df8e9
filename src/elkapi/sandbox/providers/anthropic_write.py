"""Writes a neutral `Reply` as Anthropic's message, whole or as stream events.

Bedrock and Vertex answer with the same message and events, in their own framing.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec

from elkapi.sandbox.faults import Faults
from elkapi.sandbox.messages import Charge, Mark, Problem
from elkapi.sandbox.providers.anthropic_blocks import REDACTED, THINKING, Segment
from elkapi.sandbox.providers.anthropic_models import Model
from elkapi.sandbox.providers.anthropic_read import Asked
from elkapi.sandbox.script import reply_to
from elkapi.sandbox.sealing import seal
from elkapi.sandbox.talk import Call, Reply, Thinking, Usage, part_tokens, pieces

STOP_REASONS = {
    "stop": "end_turn",
    "stop_sequence": "stop_sequence",
    "length": "max_tokens",
    "tools": "tool_use",
    "refusal": "refusal",
    "filter": "refusal",
}


class Event(msgspec.Struct, frozen=True):
    """One stream event; `body["type"]` is its name. Marks and tokens as in `stream`."""

    body: dict[str, Any]
    mark: Mark
    output_tokens: int = 0

    @property
    def sse(self) -> bytes:
        """The event as Anthropic sends it, with both lines."""
        return b"event: %s\ndata: %s\n\n" % (self.body["type"].encode(), msgspec.json.encode(self.body))


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """One answered message: the request and reply, its id, its blocks, and the usage by Anthropic's classes."""

    asked: Asked
    reply: Reply
    model: Model
    message_id: str
    blocks: tuple[dict[str, Any], ...]
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    faults: Faults = Faults()
    tier: str = "standard"

    @property
    def usage(self) -> Usage:
        """The neutral counts, with the cache classes as part of the input."""
        written = self.cache_write_5m + self.cache_write_1h
        return msgspec.structs.replace(self.reply.usage, cached=self.cache_read, cache_write=written)

    def charge(self, output_tokens: int | None = None) -> Charge:
        """The charge of the call, or of one with only `output_tokens`; a batch costs half."""
        charge = self.model.rate.charge(self.asked.model, self.usage, output_tokens)
        cost = charge.cost_nano_usd + self.cache_write_1h * (self.model.cache_write_1h - self.model.rate.cache_write)
        return msgspec.structs.replace(charge, cost_nano_usd=cost // 2 if self.tier == "batch" else cost)


def say(asked: Asked, model: Model, seed: str, faults: Faults, tier: str = "standard") -> Said:
    """Answer a message. `seed` determines the ids. Raises Problem for an invalid script or an oversized prompt."""
    reply = reply_to(asked.ask)
    _check_limits(asked, model, reply.usage.input)
    read, write_5m, write_1h = cache_split(asked.segments, reply.usage)
    return Said(
        asked=asked,
        reply=reply,
        model=model,
        message_id="msg_01" + _id(seed),
        blocks=tuple(_block(part, f"{seed} {n}", asked) for n, part in enumerate(reply.parts) if _says(part)),
        cache_read=read,
        cache_write_5m=write_5m,
        cache_write_1h=write_1h,
        faults=faults,
        tier=tier,
    )


def _check_limits(asked: Asked, model: Model, tokens: int) -> None:
    if tokens > model.input_tokens_max:
        raise Problem(400, f"prompt is too long: {tokens} tokens > {model.input_tokens_max} maximum")
    if asked.max_tokens is not None and asked.max_tokens > model.output_tokens_max:
        limit = f"{model.output_tokens_max}, which is the maximum allowed number of output tokens for {asked.model}"
        raise Problem(400, f"max_tokens: {asked.max_tokens} > {limit}", param="max_tokens")


def cache_split(segments: tuple[Segment, ...], usage: Usage) -> tuple[int, int, int]:
    """Tokens read from the cache, written for 5 minutes, and written for an hour.

    Everything up to the last breakpoint before the newest assistant message was sent by an earlier call, so it is read;
    the segments up to each later breakpoint are written with its ttl. A script's own figures take precedence.
    """
    if usage.cached or usage.cache_write:
        return usage.cached, usage.cache_write, 0
    read = waiting = 0
    written = {"5m": 0, "1h": 0}
    for segment in segments:
        waiting += segment.tokens
        if segment.ttl is None:
            continue
        if segment.answered:
            read += waiting
        else:
            written[segment.ttl] += waiting
        waiting = 0
    return read, written["5m"], written["1h"]


def message(said: Said) -> dict[str, Any]:
    """The whole message."""
    return _message(said, list(said.blocks), _ending(said), _usage(said, said.reply.usage.output))


def events(said: Said) -> list[Event]:
    """The stream: message_start, the blocks in order with a ping in between, message_delta, message_stop."""
    unsaid = {"stop_reason": None, "stop_sequence": None}
    start = _message(said, [], unsaid, _usage(said, min(1, said.reply.usage.output)))
    found = [Event({"type": "message_start", "message": start}, "setup")]
    parts = [part for part in said.reply.parts if _says(part)]
    for index, (part, block) in enumerate(zip(parts, said.blocks, strict=True)):
        found += _block_events(index, part, block, said.asked.shows_thinking)
        if not index:
            found.insert(2, Event({"type": "ping"}, "setup"))
    if parts:
        # A stream that is cut before its end leaves its last block open.
        found[-1] = msgspec.structs.replace(found[-1], mark="terminal")
    delta: dict[str, Any] = {"type": "message_delta", "delta": _ending(said)}
    usage = _usage(said, said.reply.usage.output)
    if usage is not None:
        delta["usage"] = {name: count for name, count in usage.items() if name not in ("service_tier", "inference_geo")}
    # Tokens that no block shows, such as those of empty text, are counted at the end.
    rest = said.reply.usage.output - sum(event.output_tokens for event in found)
    return [*found, Event(delta, "terminal", rest), Event({"type": "message_stop"}, "terminal")]


def _says(part: Any) -> bool:
    return isinstance(part, Call | Thinking) or bool(part.text)


def _block(part: Any, seed: str, asked: Asked) -> dict[str, Any]:
    if isinstance(part, Call):
        given = {"input": part.arguments} if part.custom else json.loads(part.arguments)
        names = {"id": "toolu_01" + _id(seed), "name": part.name}
        return {"type": "tool_use", **names, "input": given, "caller": {"type": "direct"}}
    if isinstance(part, Thinking) and part.redacted:
        return {"type": "redacted_thinking", "data": seal(REDACTED, "", part.text)}
    if isinstance(part, Thinking):
        shown = part.text if asked.shows_thinking else ""
        return {"type": "thinking", "thinking": shown, "signature": seal(THINKING, shown, part.text)}
    return {"type": "text", "text": part.text}


def _block_events(index: int, part: Any, block: dict[str, Any], shows_thinking: bool) -> list[Event]:
    def delta(kind: str, name: str, value: str, tokens: int) -> Event:
        body = {"type": "content_block_delta", "index": index, "delta": {"type": kind, name: value}}
        return Event(body, "content", tokens)

    begun, tokens = dict(block), 0
    deltas: list[Event] = []
    if isinstance(part, Call):
        begun["input"], tokens = {}, 1
        written = json.dumps(block["input"], ensure_ascii=False, separators=(",", ":"))
        counts = iter([1] * (part_tokens(part) - 1))
        deltas.append(delta("input_json_delta", "partial_json", "", 0))
        deltas += [delta("input_json_delta", "partial_json", piece, next(counts, 0)) for piece in pieces(written)]
    elif block["type"] == "redacted_thinking":
        tokens = part_tokens(part)
    elif isinstance(part, Thinking):
        begun |= {"thinking": "", "signature": ""}
        deltas = [delta("thinking_delta", "thinking", piece, 1) for piece in pieces(block["thinking"])]
        hidden = 0 if shows_thinking else part_tokens(part)
        deltas.append(delta("signature_delta", "signature", block["signature"], hidden))
    else:
        begun["text"] = ""
        deltas = [delta("text_delta", "text", piece, 1) for piece in pieces(block["text"])]
    start = {"type": "content_block_start", "index": index, "content_block": begun}
    stop = Event({"type": "content_block_stop", "index": index}, "setup")
    return [Event(start, "content" if tokens else "setup", tokens), *deltas, stop]


def _message(said: Said, blocks: list[Any], ending: dict[str, Any], usage: dict[str, Any] | None) -> dict[str, Any]:
    body = {
        "model": said.asked.model,
        "id": said.message_id,
        "type": "message",
        "role": "assistant",
        "content": blocks,
        **ending,
    }
    return body if usage is None else {**body, "usage": usage}


def _ending(said: Said) -> dict[str, Any]:
    reason = STOP_REASONS[said.reply.finish]
    ending: dict[str, Any] = {"stop_reason": reason, "stop_sequence": None}
    if reason == "stop_sequence":
        ending["stop_sequence"] = said.reply.stopped_at
    if reason == "refusal":
        details = {"type": "refusal", "category": "general_harms", "explanation": said.reply.refusal}
        ending["stop_details"] = details
    return ending


def _usage(said: Said, output: int) -> dict[str, Any] | None:
    """The usage object, or None if a fault omits it."""
    counted = said.usage
    shown_input = said.faults.shown_tokens(counted.input - counted.cached - counted.cache_write)
    if shown_input is None:
        return None
    return {
        "input_tokens": shown_input,
        "cache_creation_input_tokens": counted.cache_write,
        "cache_read_input_tokens": counted.cached,
        "cache_creation": {
            "ephemeral_5m_input_tokens": said.cache_write_5m,
            "ephemeral_1h_input_tokens": said.cache_write_1h,
        },
        "output_tokens": said.faults.shown_tokens(output),
        "output_tokens_details": {"thinking_tokens": min(output, counted.reasoning)},
        "service_tier": said.tier,
        "inference_geo": "not_available",
    }


def _id(seed: str) -> str:
    return hashlib.sha256(seed.encode()).hexdigest()[:22]
