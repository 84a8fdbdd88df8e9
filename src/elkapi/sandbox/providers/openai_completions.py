"""OpenAI's legacy completions: one or more prompts of text or tokens, whole or streamed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from elkapi.sandbox.messages import Answer, Charge, Frame, Request, json_answer
from elkapi.sandbox.providers import openai_read as read
from elkapi.sandbox.providers.openai_chat import DONE, FINGERPRINT, LOGPROB, data_line, error_frame, usage_body
from elkapi.sandbox.providers.openai_models import rate_of
from elkapi.sandbox.script import reply_to
from elkapi.sandbox.stream import stream_answer
from elkapi.sandbox.talk import Ask, Finish, Reply, Turn, Usage, pieces

PROMPTS_MAX = 2048
LOGPROBS_MAX = 5
MAX_TOKENS_DEFAULT = 16
FINISHES: dict[Finish, str] = {"length": "length", "filter": "content_filter"}


class Completing(msgspec.Struct, frozen=True):
    """One call: the text of every choice, in order, and the total usage."""

    request: Request
    model: str
    texts: list[str]
    replies: list[Reply]
    usage: Usage
    logprobs: int | None

    def charge_at(self, output_tokens: int) -> Charge:
        """The charge with so many output tokens."""
        return rate_of(self.model).charge(self.model, self.usage, output_tokens)


def create(request: Request) -> Answer:
    """`POST /v1/completions`."""
    body = read.json_object(request.body)
    model = read.text_model(body)
    read.sampling_checked(body)
    streams = read.flag(body, "stream")
    include_usage = read.include_usage(body, streams=streams)
    made = _made(request, body, model)
    if streams:
        frames = list(_frames(made, include_usage=include_usage))
        return stream_answer(frames, error=error_frame(request), charge_at=made.charge_at)
    choices = [
        _choice(made, at, text, reply) for at, (text, reply) in enumerate(zip(made.texts, made.replies, strict=True))
    ]
    shown = usage_body(request, made.usage)
    usage = {} if shown is None else {"usage": shown}
    return json_answer({**_head(made), "choices": choices, **usage}, charge=made.charge_at(made.usage.output))


def _made(request: Request, body: Mapping[str, Any], model: str) -> Completing:
    choices = read.whole(body, "n", 1, read.CHOICES_MAX, 1) or 1
    limit = read.whole(body, "max_tokens", 0, 1_000_000, MAX_TOKENS_DEFAULT)
    stops, echoes = read.stops(body), read.flag(body, "echo")
    texts: list[str] = []
    replies: list[Reply] = []
    usage = Usage()
    for prompt in _prompts(body.get("prompt", "")):
        reply = reply_to(Ask(turns=(Turn("user", prompt),), stops=stops, output_tokens_max=limit))
        texts += [(prompt if echoes else "") + reply.text] * choices
        replies += [reply] * choices
        usage = Usage(
            input=usage.input + reply.usage.input,
            cached=usage.cached + reply.usage.cached,
            output=usage.output + reply.usage.output * choices,
            reasoning=usage.reasoning + reply.usage.reasoning * choices,
        )
    return Completing(request, model, texts, replies, usage, read.whole(body, "logprobs", 0, LOGPROBS_MAX))


def _prompts(value: object) -> list[str]:
    """The prompts as text; a tokenised one becomes its ids as words, which count one token each."""
    listed = value if isinstance(value, list) else [value]
    if listed and all(type(one) is int for one in listed):
        listed = [listed]
    if not listed or len(listed) > PROMPTS_MAX:
        raise read.invalid(f"prompt must hold 1 to {PROMPTS_MAX} prompts.", "prompt")
    prompts = []
    for one in listed:
        if isinstance(one, list) and one and all(type(token) is int for token in one):
            prompts.append(" ".join(map(str, one)))
        elif isinstance(one, str):
            prompts.append(one)
        else:
            raise read.invalid("prompt must be a string, an array of strings, or an array of tokens.", "prompt")
    return prompts


def _head(made: Completing) -> dict[str, Any]:
    return {
        "id": "cmpl-" + made.request.id_suffix,
        "object": "text_completion",
        "created": int(made.request.now_s),
        "model": made.model,
        "system_fingerprint": FINGERPRINT,
    }


def _choice(made: Completing, index: int, text: str, reply: Reply) -> dict[str, Any]:
    finish = FINISHES.get(reply.finish, "stop")
    return {"text": text, "index": index, "logprobs": _logprobs(made, pieces(text), 0), "finish_reason": finish}


def _logprobs(made: Completing, tokens: list[str], offset: int) -> dict[str, Any] | None:
    if made.logprobs is None:
        return None
    starts = [offset + sum(map(len, tokens[:at])) for at in range(len(tokens))]
    top = [{token: LOGPROB} for token in tokens] if made.logprobs else None
    return {"tokens": tokens, "token_logprobs": [LOGPROB] * len(tokens), "top_logprobs": top, "text_offset": starts}


def _frames(made: Completing, *, include_usage: bool) -> Iterator[Frame]:
    null_usage = {"usage": None} if include_usage else {}

    def chunk(index: int, text: str, offset: int, finish: str | None) -> bytes:
        logprobs = _logprobs(made, [text], offset) if text else None
        choice = {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish}
        return data_line({**_head(made), "choices": [choice], **null_usage})

    for index, (text, reply) in enumerate(zip(made.texts, made.replies, strict=True)):
        offset, said = 0, pieces(text)
        # An echoed prompt is part of the text, but does not count.
        echoed = len(said) - len(pieces(reply.text))
        for at, piece in enumerate(said):
            yield Frame(chunk(index, piece, offset, None), "content", int(at >= echoed))
            offset += len(piece)
        hidden = reply.usage.output - max(0, len(said) - echoed)
        yield Frame(chunk(index, "", offset, FINISHES.get(reply.finish, "stop")), "terminal", hidden)
    shown = usage_body(made.request, made.usage)
    if include_usage and shown is not None:
        yield Frame(data_line({**_head(made), "choices": [], "usage": shown}), "usage")
    yield DONE
