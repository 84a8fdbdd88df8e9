"""Converts the runtime's chunks to OpenAI's answers, whole and streamed; pure.

Chunks are decoded, never passed on: they contain a local file name and the runtime's timings.
"""

from __future__ import annotations

import msgspec

from elkapi.errors import BadRequest, GatewayError

_json = msgspec.json.Encoder()


class Usage(msgspec.Struct):
    """Tokens by the model's own tokenizer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Token(msgspec.Struct, omit_defaults=True):
    """One token's log probability, with the likeliest alternatives."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[Token] | None = None


class _Logprobs(msgspec.Struct):
    content: list[Token] = []


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Trouble(msgspec.Struct):
    code: int = 500
    message: str = ""
    type: str = ""
    n_prompt_tokens: int = 0


class Chunk(msgspec.Struct):
    """One chunk: text, an end, the usage or an error; empty if it only reports progress."""

    choices: list[_Choice] = []
    usage: Usage | None = None
    error: _Trouble | None = None


read_chunk = msgspec.json.Decoder(Chunk).decode


class Head(msgspec.Struct, frozen=True):
    """The fields of every frame of an answer; `created` is in Unix seconds."""

    id: str
    model: str
    created: int


class TextPiece(msgspec.Struct, frozen=True):
    """A piece of text, with the log probabilities of its tokens if requested."""

    text: str
    logprobs: tuple[Token, ...] = ()


def pieces(chunk: Chunk, top_logprobs: int = 0) -> list[TextPiece]:
    """The pieces of text in a chunk, each token with at most `top_logprobs` alternatives."""
    return [
        TextPiece(choice.delta.content or "", _cut(choice.logprobs, top_logprobs))
        for choice in chunk.choices
        if choice.delta.content or (choice.logprobs and choice.logprobs.content)
    ]


def _cut(logprobs: _Logprobs | None, top_logprobs: int) -> tuple[Token, ...]:
    tokens = logprobs.content if logprobs else []
    for token in tokens:
        # Alternatives have no alternatives of their own; the dialect omits the field there.
        token.top_logprobs = (token.top_logprobs or [])[:top_logprobs]
    return tuple(tokens)


def finish_of(chunk: Chunk) -> str | None:
    """Why the answer ended, if this chunk ends it."""
    return next((choice.finish_reason for choice in chunk.choices if choice.finish_reason), None)


def refusal(trouble: _Trouble, model: str, window: int) -> GatewayError:
    """The runtime's error, reworded where that is clearer, without its advice to an operator."""
    if trouble.type == "exceed_context_size_error":
        return BadRequest(
            f"The messages have {trouble.n_prompt_tokens} tokens; {model} reads at most {window}, its answer included.",
            code="context_length_exceeded",
            param="messages",
        )
    if 400 <= trouble.code < 500:
        return BadRequest(f"The local model refused the request: {trouble.message[:300]}")
    return GatewayError("The local model failed on this input.", code="local_inference_failed")


def _object(head: Head, kind: str, **more: object) -> dict[str, object]:
    return {"id": head.id, "object": kind, "created": head.created, "model": head.model, **more}


def frame(value: object) -> bytes:
    """One event of a stream."""
    return b"data: " + _json.encode(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def _choice_frame(head: Head, delta: dict[str, object], finish: str | None, **more: object) -> bytes:
    choice = {"index": 0, "delta": delta, **more, "finish_reason": finish}
    return frame(_object(head, "chat.completion.chunk", choices=[choice]))


def opening_frame(head: Head) -> bytes:
    return _choice_frame(head, {"role": "assistant", "content": ""}, None)


def piece_frame(head: Head, piece: TextPiece) -> bytes:
    more = {"logprobs": {"content": piece.logprobs, "refusal": None}} if piece.logprobs else {}
    return _choice_frame(head, {"content": piece.text}, None, **more)


def closing_frame(head: Head, finish: str) -> bytes:
    return _choice_frame(head, {}, finish)


def usage_frame(head: Head, usage: Usage) -> bytes:
    return frame(_object(head, "chat.completion.chunk", choices=[], usage=usage))


def whole(head: Head, text: str, logprobs: list[Token] | None, finish: str, usage: Usage) -> bytes:
    """The whole answer; `logprobs` None if they were not requested."""
    message = {"role": "assistant", "content": text, "refusal": None}
    tokens = None if logprobs is None else {"content": logprobs, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": tokens, "finish_reason": finish}
    return _json.encode(_object(head, "chat.completion", choices=[choice], usage=usage))
