"""Writes a neutral `Reply` as Gemini's GenerateContentResponse, whole or in chunks; its framing is the API's."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec

from elkapi.sandbox.faults import Faults
from elkapi.sandbox.messages import Charge, Mark, Problem
from elkapi.sandbox.pictures import png
from elkapi.sandbox.providers.gemini_models import Model
from elkapi.sandbox.providers.gemini_read import SIGNED_CALL, Asked, call_text
from elkapi.sandbox.script import reply_to
from elkapi.sandbox.sealing import seal
from elkapi.sandbox.talk import IMAGE_TOKENS, Call, Reply, Text, Thinking, Usage, part_tokens, pieces

PICTURE_TOKENS = 1_290
FINISHES = {"stop": "STOP", "stop_sequence": "STOP", "tools": "STOP", "length": "MAX_TOKENS"}


class Chunk(msgspec.Struct, frozen=True):
    """One response of a stream. Marks and tokens as in `stream`."""

    body: dict[str, Any]
    mark: Mark
    output_tokens: int


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """One answer: what was asked and replied, by which model, under which names."""

    asked: Asked
    reply: Reply
    model: Model
    name: str
    response_id: str
    faults: Faults

    @property
    def blocked(self) -> bool:
        """Whether the prompt itself was refused: then there is no candidate at all."""
        return self.reply.refusal is not None

    def parts(self) -> list[tuple[dict[str, Any], int]]:
        """The parts of the whole answer, each with its output tokens; hidden thoughts count with the part after."""
        found: list[tuple[dict[str, Any], int]] = []
        hidden = 0
        for number, part in enumerate(self.reply.parts):
            if part in self._unasked():
                continue
            shown, tokens = self._part(part, number), part_tokens(part)
            if shown is None:
                hidden += tokens
                continue
            found.append((shown, tokens + hidden))
            hidden = 0
        if self.asked.pictures and self.reply.finish == "stop":
            data = base64.b64encode(png(self.reply.text)).decode("ascii")
            found.append(({"inlineData": {"mimeType": "image/png", "data": data}}, PICTURE_TOKENS + hidden))
        return found

    def _part(self, part: Any, number: int) -> dict[str, Any] | None:
        if isinstance(part, Thinking):
            return {"text": part.text, "thought": True} if self.asked.shows_thinking else None
        if isinstance(part, Call):
            return self._call(part, number)
        return {"text": part.text} if part.text else None

    def _unasked(self) -> tuple[Any, ...]:
        """Texts where only pictures were asked for."""
        return () if self.asked.texts else tuple(part for part in self.reply.parts if isinstance(part, Text))

    def _call(self, call: Call, number: int) -> dict[str, Any]:
        args = {"input": call.arguments} if call.custom else json.loads(call.arguments)
        shown: dict[str, Any] = {"functionCall": {"name": call.name, "args": args}}
        if self.model.signs_calls:
            shown["functionCall"]["id"] = f"call_{self.response_id[-20:]}{number:02}"
        first = not any(isinstance(part, Call) for part in self.reply.parts[:number])
        if self.model.thinks and first:
            # Of calls side by side only the first is signed.
            shown["thoughtSignature"] = seal(SIGNED_CALL, call_text(call.name, args), self.reply.thinking)
        return shown

    @property
    def usage(self) -> Usage:
        """The neutral counts; a picture counts as output, and what a refused prompt might have said does not."""
        counted = self.reply.usage
        if self.blocked:
            return msgspec.structs.replace(counted, output=0, reasoning=0)
        drawn = PICTURE_TOKENS if self.asked.pictures and self.reply.finish == "stop" else 0
        unsaid = (
            0 if self.asked.texts else sum(part_tokens(part) for part in self.reply.parts if isinstance(part, Text))
        )
        return msgspec.structs.replace(counted, output=counted.output + drawn - unsaid)

    def charge(self, output_tokens: int | None = None) -> Charge:
        """The charge of the call, or of one that produced only so many tokens."""
        return self.model.rate.charge(self.name, self.usage, output_tokens)


def say(asked: Asked, model: Model, name: str, response_id: str, faults: Faults) -> Said:
    """Answer a body. Raises Problem for a wrong script and for a prompt that the model cannot hold."""
    reply = reply_to(asked.ask)
    if reply.usage.input > model.input_tokens_max:
        message = (
            f"The input token count ({reply.usage.input}) exceeds the maximum number of tokens allowed "
            f"({model.input_tokens_max})."
        )
        raise Problem(400, message)
    return Said(asked=asked, reply=reply, model=model, name=name, response_id=response_id, faults=faults)


def response(said: Said) -> dict[str, Any]:
    """The whole response."""
    if said.blocked:
        return _envelope(said, None, said.usage)
    return _envelope(said, _candidate(said, [part for part, _ in said.parts()], ends=True), said.usage)


def chunks(said: Said) -> list[Chunk]:
    """The stream: one response for each piece, each with the usage so far; the last has the finish reason."""
    if said.blocked:
        return [Chunk(_envelope(said, None, said.usage), "terminal", 0)]
    found: list[Chunk] = []
    output = reasoning = 0
    for part, tokens in said.parts():
        texts = pieces(part["text"]) if "text" in part else []
        # Hidden thoughts come before the first piece of what follows them.
        hidden = tokens - len(texts) if texts else 0
        steps = [({**part, "text": text}, 1 + (hidden if not n else 0)) for n, text in enumerate(texts)] or [
            (part, tokens)
        ]
        for shown, count in steps:
            output += count
            reasoning = min(said.usage.reasoning, output)
            so_far = msgspec.structs.replace(said.usage, output=output, reasoning=reasoning)
            found.append(Chunk(_envelope(said, _candidate(said, [shown], ends=False), so_far), "content", count))
    last: dict[str, Any] = {"text": ""}
    if said.model.signs_calls and not said.reply.calls:
        last["thoughtSignature"] = seal("gemini text", said.reply.text)
    rest = said.usage.output - output
    return [*found, Chunk(_envelope(said, _candidate(said, [last], ends=True), said.usage), "terminal", rest)]


def count(said_usage: Usage) -> dict[str, Any]:
    """What countTokens answers."""
    return {"totalTokens": said_usage.input, "promptTokensDetails": _details(said_usage)}


def _candidate(said: Said, parts: list[dict[str, Any]], *, ends: bool) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if ends:
        candidate["finishReason"] = FINISHES.get(said.reply.finish, "SAFETY")
    return candidate


def _envelope(said: Said, candidate: dict[str, Any] | None, usage: Usage) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if candidate is None:
        body["promptFeedback"] = {"blockReason": "SAFETY", "blockReasonMessage": said.reply.refusal}
    else:
        body["candidates"] = [candidate]
    shown = _usage(usage, said.faults)
    if shown is not None:
        body["usageMetadata"] = shown
    return {**body, "modelVersion": said.name, "responseId": said.response_id}


def _usage(usage: Usage, faults: Faults) -> dict[str, Any] | None:
    """The usage, or None when a fault leaves it out. Thoughts are not among the candidates' tokens."""
    prompt, answer = faults.shown_tokens(usage.input), faults.shown_tokens(usage.output - usage.reasoning)
    if prompt is None or answer is None:
        return None
    shown: dict[str, Any] = {"promptTokenCount": prompt}
    if answer:
        shown["candidatesTokenCount"] = answer
    shown["totalTokenCount"] = prompt + answer + usage.reasoning
    shown["promptTokensDetails"] = _details(usage)
    if usage.cached:
        shown["cachedContentTokenCount"] = usage.cached
    if usage.reasoning:
        shown["thoughtsTokenCount"] = usage.reasoning
    return shown


def _details(usage: Usage) -> list[dict[str, Any]]:
    counts = {"TEXT": usage.input - usage.image - usage.audio, "IMAGE": usage.image, "AUDIO": usage.audio}
    return [{"modality": kind, "tokenCount": tokens} for kind, tokens in counts.items() if tokens]


def counted(asked: Asked) -> Usage:
    """The input of a body that is only counted."""
    turns = asked.ask.turns
    images = IMAGE_TOKENS * sum(len(turn.images) for turn in turns)
    return Usage(input=reply_to(asked.ask).usage.input, image=images)
