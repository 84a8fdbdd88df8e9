"""OpenAI's chat completions: writes a `Reply` whole or as chunks; `openai_read` reads the body."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from elkapi.sandbox.messages import Answer, Charge, Frame, Request, json_answer
from elkapi.sandbox.providers import openai_read as read
from elkapi.sandbox.providers.openai_models import rate_of, shows_thinking
from elkapi.sandbox.providers.openai_stored import keep_chat
from elkapi.sandbox.rates import Rate
from elkapi.sandbox.script import reply_to
from elkapi.sandbox.stream import stream_answer
from elkapi.sandbox.strict import strictly
from elkapi.sandbox.talk import Call, Finish, Refusal, Reply, Text, Thinking, Usage, part_tokens, pieces

FINGERPRINT = "fp_sandbox"
DONE = Frame(b"data: [DONE]\n\n", "terminal")
FINISHES: dict[Finish, str] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "tools": "tool_calls",
    "refusal": "stop",
    "filter": "content_filter",
}
# One fixed probability for every token: tests check only the format and that it is passed on.
LOGPROB = -0.125


class Chat(msgspec.Struct, frozen=True):
    """One chat call. `top_logprobs` is None if no log probabilities were requested."""

    request: Request
    model: str
    reply: Reply
    choices: int
    top_logprobs: int | None
    include_usage: bool
    service_tier: str
    metadata: dict[str, str] | None
    has_functions: bool = False

    @property
    def id(self) -> str:
        """The completion's id."""
        return "chatcmpl-" + self.request.id_suffix

    def rate(self) -> Rate:
        """The model's price record."""
        return rate_of(self.model)

    def usage(self) -> Usage:
        """The counts over all choices."""
        one = self.reply.usage
        return msgspec.structs.replace(one, output=one.output * self.choices, reasoning=one.reasoning * self.choices)

    def charge_at(self, output_tokens: int) -> Charge:
        """The charge with so many output tokens."""
        return self.rate().charge(self.model, self.usage(), output_tokens)


@strictly
def create(request: Request) -> Answer:
    """`POST /v1/chat/completions`."""
    body = read.json_object(request.body)
    model = read.text_model(body)
    streams = read.flag(body, "stream")
    ask = read.chat_ask(body, model)
    chat = Chat(
        request=request,
        model=model,
        reply=reply_to(ask),
        choices=read.whole(body, "n", 1, read.CHOICES_MAX, 1) or 1,
        top_logprobs=_top_logprobs(body),
        include_usage=read.include_usage(body, streams=streams),
        service_tier=_service_tier(body.get("service_tier")),
        metadata=body.get("metadata") if isinstance(body.get("metadata"), dict) else None,
        has_functions=read.has_functions(body),
    )
    completion = whole(chat)
    if read.flag(body, "store"):
        keep_chat(request.store, completion, list(body["messages"]), chat.metadata)
    if streams:
        return stream_answer(list(frames(chat)), error=error_frame(request), charge_at=chat.charge_at)
    return json_answer(completion, charge=chat.charge_at(chat.usage().output))


def whole(chat: Chat) -> dict[str, Any]:
    """The `chat.completion` object."""
    completion: dict[str, Any] = {
        "id": chat.id,
        "object": "chat.completion",
        "created": int(chat.request.now_s),
        "model": chat.model,
        "choices": [_choice(chat, index) for index in range(chat.choices)],
        "service_tier": chat.service_tier,
        "system_fingerprint": FINGERPRINT,
    }
    if chat.metadata is not None:
        completion["metadata"] = chat.metadata
    shown = usage_body(chat.request, chat.usage())
    if shown is not None:
        completion["usage"] = shown
    return completion


def usage_body(request: Request, usage: Usage) -> dict[str, Any] | None:
    """Usage in the format of chat and completions; None if a fault omits it."""
    shown = request.faults.shown_tokens(usage.input)
    if shown is None:
        return None
    return {
        "prompt_tokens": shown,
        "completion_tokens": usage.output,
        "total_tokens": shown + usage.output,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached,
            "cache_write_tokens": usage.cache_write,
            "audio_tokens": usage.audio,
            "image_tokens": usage.image,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def error_frame(request: Request) -> bytes:
    """OpenAI's error inside a stream of plain data lines."""
    code = request.faults.code or "server_error"
    message = "The server had an error while processing your request. Sorry about that!"
    return data_line({"error": {"message": message, "type": "server_error", "param": None, "code": code}})


def data_line(value: object) -> bytes:
    """One event without a name."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def _choice(chat: Chat, index: int) -> dict[str, Any]:
    reply = chat.reply
    message: dict[str, Any] = {
        "role": "assistant",
        "content": reply.text or (None if reply.calls or reply.refusal is not None else ""),
        "refusal": reply.refusal,
        "annotations": [],
    }
    if reply.thinking and shows_thinking(chat.model):
        message["reasoning_content"] = reply.thinking
    if reply.calls and chat.has_functions:
        message["function_call"] = {"name": reply.calls[0].name, "arguments": reply.calls[0].arguments}
    elif reply.calls:
        message["tool_calls"] = [tool_call(chat, index, at, call) for at, call in enumerate(reply.calls)]
    texts = {"content": reply.text, "refusal": reply.refusal or ""}
    logprobs = {
        kind: [logprob(piece, chat.top_logprobs or 0) for piece in _said(reply, kind)] or None for kind in texts
    }
    shown = logprobs if chat.top_logprobs is not None else None
    return {"index": index, "message": message, "logprobs": shown, "finish_reason": _finish(chat)}


def _finish(chat: Chat) -> str:
    return "function_call" if chat.has_functions and chat.reply.finish == "tools" else FINISHES[chat.reply.finish]


def _said(reply: Reply, kind: str) -> list[str]:
    wanted = Text if kind == "content" else Refusal
    return [piece for part in reply.parts if isinstance(part, wanted) for piece in pieces(part.text)]


def tool_call(chat: Chat, choice: int, index: int, call: Call, text: str | None = None) -> dict[str, Any]:
    """One tool call with its id; `text` in place of its arguments, for the first chunk of a stream."""
    call_id = f"call_{chat.id[-20:]}{choice:02}{index:02}"
    said = call.arguments if text is None else text
    if call.custom:
        return {"id": call_id, "type": "custom", "custom": {"name": call.name, "input": said}}
    return {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": said}}


def logprob(piece: str, likely_count: int) -> dict[str, Any]:
    """The log probability of one token with `likely_count` alternatives, itself the first of them."""
    likely = [(piece, LOGPROB), *((f"other{n}", LOGPROB * (n + 1)) for n in range(1, likely_count))]
    tokens = [{"token": token, "logprob": value, "bytes": list(token.encode())} for token, value in likely]
    return {**tokens[0], "top_logprobs": tokens[:likely_count]}


# The stream


def frames(chat: Chat) -> Iterator[Frame]:
    """The chunks in OpenAI's order, the usage where a fault wants it."""
    place = chat.request.faults.usage_in
    shown = usage_body(chat.request, chat.usage())
    produced = 0
    for index in range(chat.choices):
        deltas = list(_deltas(chat, index))
        for at, (delta, mark, tokens, logprobs) in enumerate(deltas):
            produced += tokens
            last = index == chat.choices - 1 and at == len(deltas) - 1
            usage = None
            if place == "every" and mark == "content":
                usage = usage_body(chat.request, msgspec.structs.replace(chat.usage(), output=produced))
            elif place == "last-content" and last:
                usage = shown
            yield Frame(_chunk(chat, _part(index, delta, None, logprobs), usage), mark, tokens)
        finish = _part(index, {}, _finish(chat), None)
        at_end = place == "finish" and index == chat.choices - 1
        # Thoughts that are not shown and came last still count; with content they count with its first frame.
        hidden = chat.reply.usage.output - sum(delta[2] for delta in deltas)
        yield Frame(_chunk(chat, finish, shown if at_end else None), "terminal", hidden)
    if place == "empty-delta" and shown is not None:
        yield Frame(_chunk(chat, _part(0, {}, None, None), shown), "usage")
    elif place is None and chat.include_usage and shown is not None:
        yield Frame(_chunk(chat, None, shown), "usage")
    yield DONE


Delta = tuple[dict[str, Any], Literal["setup", "content"], int, dict[str, Any] | None]


def _deltas(chat: Chat, index: int) -> Iterator[Delta]:
    """The deltas of one choice, each with its mark, its tokens and its log probabilities."""
    reply = chat.reply
    speaks = bool(reply.text) or not reply.calls
    yield {"role": "assistant", "content": "" if speaks else None, "refusal": None}, "setup", 0, None
    hidden, call_index = 0, -1
    for part in reply.parts:
        if isinstance(part, Thinking) and not shows_thinking(chat.model):
            hidden += part_tokens(part)
            continue
        if isinstance(part, Call):
            call_index += 1
        for delta, said in _part_deltas(chat, index, call_index, part):
            logprobs = _chunk_logprobs(chat, said, part) if chat.top_logprobs is not None else None
            yield delta, "content", 1 + hidden, logprobs
            hidden = 0


def _part_deltas(
    chat: Chat, index: int, call_index: int, part: Thinking | Text | Call | Refusal
) -> Iterator[tuple[dict[str, Any], str]]:
    if isinstance(part, Call) and chat.has_functions:
        yield {"function_call": {"name": part.name, "arguments": ""}}, ""
        for piece in pieces(part.arguments):
            yield {"function_call": {"arguments": piece}}, ""
        return
    if isinstance(part, Call):
        kind, field = ("custom", "input") if part.custom else ("function", "arguments")
        opening = {"index": call_index, **tool_call(chat, index, call_index, part, "")}
        yield {"tool_calls": [opening]}, ""
        for piece in pieces(part.arguments):
            yield {"tool_calls": [{"index": call_index, kind: {field: piece}}]}, ""
        return
    name = {Thinking: "reasoning_content", Text: "content", Refusal: "refusal"}[type(part)]
    for piece in pieces(part.text):
        yield {name: piece}, piece


def _chunk_logprobs(chat: Chat, said: str, part: object) -> dict[str, Any] | None:
    if not isinstance(part, Text | Refusal):
        return None
    token = [logprob(said, chat.top_logprobs or 0)]
    is_text = isinstance(part, Text)
    return {"content": token if is_text else None, "refusal": None if is_text else token}


def _part(index: int, delta: dict[str, Any], finish: str | None, logprobs: object) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def _chunk(chat: Chat, choice: dict[str, Any] | None, usage: dict[str, Any] | None) -> bytes:
    """One chunk. If usage was requested, `usage` is null in every chunk but the last; otherwise it is absent."""
    chunk: dict[str, Any] = {
        "id": chat.id,
        "object": "chat.completion.chunk",
        "created": int(chat.request.now_s),
        "model": chat.model,
        "service_tier": chat.service_tier,
        "system_fingerprint": FINGERPRINT,
        "choices": [] if choice is None else [choice],
    }
    if usage is not None or chat.include_usage:
        chunk["usage"] = usage
    return data_line(chunk)


# The rest of the body


def _top_logprobs(body: Mapping[str, Any]) -> int | None:
    count = read.whole(body, "top_logprobs", 0, read.TOP_LOGPROBS_MAX)
    wanted = read.flag(body, "logprobs")
    if count is not None and not wanted:
        raise read.invalid("top_logprobs is only allowed when logprobs is true.", "top_logprobs")
    return (count or 0) if wanted else None


def _service_tier(asked: object) -> str:
    return asked if isinstance(asked, str) and asked != "auto" else "default"
