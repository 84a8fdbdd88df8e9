"""Legacy completions: metering relayed calls, and serving calls from chat models.

`chat_write_request` writes the request for a chat upstream. Contract: openai.md (Completions).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from elkapi.errors import NOT_JSON, BadRequest
from elkapi.translate.chat_read_reply import see_usage
from elkapi.translate.chat_views import BROKEN, NULL, gave_up, in_band_error
from elkapi.translate.chat_views import Chunk as ErrorView
from elkapi.translate.chat_write_reply import DONE, PING, error_body
from elkapi.translate.decode import decode
from elkapi.translate.dialect import ReplyFacts, Unreadable, view_of
from elkapi.translate.ir import (
    ChatRequest,
    End,
    Event,
    Failure,
    Finish,
    FinishReason,
    Message,
    RefusalDelta,
    Start,
    Text,
    TextDelta,
    TokenLogprob,
    UsageSeen,
)
from elkapi.translate.sse import Frame
from elkapi.translate.usage import chat_usage_object
from elkapi.types import Usage

# OpenAI's default.
MAX_TOKENS_DEFAULT = 16

_Positive = Annotated[int, msgspec.Meta(ge=1)]


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Body(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(min_length=1)]
    # Any kind of prompt, checked by `catalog.text`; `read_request` accepts only a single string.
    prompt: str | list[Any]
    suffix: str | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: _Positive | None = None
    best_of: _Positive | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=5)] | None = None
    echo: bool | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    user: str | None = None


_body = msgspec.json.Decoder(_Body)


def read_request(body: bytes) -> ChatRequest:
    """The `ChatRequest` of a completion: the prompt becomes one user message.

    Raises BadRequest for what a chat model cannot do: several prompts or answers, token ids, suffix, echo, best_of.
    """
    view = decode(_body, body)
    match view.prompt:
        case str(prompt) | [str(prompt)]:
            pass
        case _:
            raise BadRequest("`prompt` must be a single string for this model.", param="prompt")
    refused = {
        "suffix": view.suffix,
        "echo": view.echo,
        "n": (view.n or 1) > 1,
        "best_of": (view.best_of or 1) > 1,
        "max_tokens": view.max_tokens == 0,
    }
    for name, asked in refused.items():
        if asked:
            raise BadRequest(f"`{name}` is not supported by this model.", param=name)
    return ChatRequest(
        model=view.model,
        messages=[Message("user", (Text(prompt),))],
        max_output_tokens=view.max_tokens or MAX_TOKENS_DEFAULT,
        temperature=view.temperature,
        top_p=view.top_p,
        stop=(view.stop,) if isinstance(view.stop, str) else tuple(view.stop or ()),
        presence_penalty=view.presence_penalty,
        frequency_penalty=view.frequency_penalty,
        logit_bias=view.logit_bias,
        logprobs=view.logprobs is not None,
        top_logprobs=view.logprobs,
        seed=view.seed,
        user=view.user,
        stream=bool(view.stream),
    )


class _Echo(msgspec.Struct):
    prompt: str | list[str | int | list[int]] = ""
    n: _Positive | None = None
    echo: bool | None = None


_echo = msgspec.json.Decoder(_Echo)


def echoed(body: bytes) -> tuple[list[str], int, int]:
    """(texts, number of token ids beside them, repetitions): what an answer with `echo` repeats of its prompts."""
    try:
        view = _echo.decode(body)
    except NOT_JSON:
        return [], 0, 0
    prompts = [view.prompt] if isinstance(view.prompt, str) else view.prompt
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    ids = sum(1 if isinstance(prompt, int) else len(prompt) for prompt in prompts if not isinstance(prompt, str))
    return (texts, ids, view.n or 1) if view.echo else ([], 0, 0)


# --- the meter -------------------------------------------------------------------------------------------------------


class _Choice(msgspec.Struct):
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(ErrorView):
    choices: list[_Choice] | None = None  # type: ignore[assignment]


_chunk = msgspec.json.Decoder(_Chunk)
_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "content_filter": "content_filter"}


def _finish(word: str) -> Event:
    return gave_up(word) if word in BROKEN else Finish(_REASONS.get(word, "stop"))


class CompletionsReader:
    """The events of one answer, with all choices merged, for metering relayed answers."""

    def __init__(self) -> None:
        self._started = False

    def feed(self, frame: Frame) -> list[Event]:
        """The events of one chunk. Raises Unreadable."""
        data = frame.data
        if data is None or not data.strip():
            return []
        if data[:6] == b"[DONE]":
            return [End()]
        view = view_of(_chunk, data)
        failure = in_band_error(view, frame.event == b"error")
        return [failure] if failure is not None else self.read(view)

    def read(self, view: _Chunk) -> list[Event]:
        """The events of a decoded chunk or whole answer, without `End`."""
        events: list[Event] = []
        if not self._started:
            self._started = True
            events.append(Start(str(view.id or ""), str(view.model or "")))
        choices = view.choices or ()
        events += [TextDelta(choice.text) for choice in choices if choice.text]
        if view.usage != NULL:
            see_usage(view.usage, events)
        return events + [_finish(choice.finish_reason) for choice in choices if choice.finish_reason]


def read_reply(body: bytes) -> list[Event]:
    """The events of a whole answer. Raises Unreadable."""
    view = view_of(_chunk, body)
    if failure := in_band_error(view):
        return [failure]
    if not view.choices:
        raise Unreadable("no choices")
    return [*CompletionsReader().read(view), End()]


# --- the answer ------------------------------------------------------------------------------------------------------


class CompletionsWriter:
    """The chunks of one streamed answer, without thinking, which completions cannot express."""

    def __init__(self, facts: ReplyFacts) -> None:
        self._facts = facts
        self._usage: Usage | None = None
        self._finish: Finish | None = None
        self._offset = 0
        head = {"id": facts.id, "object": "text_completion", "created": facts.created_s, "model": facts.model}
        self._head = b"data: " + msgspec.json.encode(head)[:-1]
        self._tail = b',"usage":null}\n\n' if facts.include_usage else b"}\n\n"

    def feed(self, event: Event) -> bytes:
        """The bytes of one event."""
        if isinstance(event, TextDelta | RefusalDelta):
            tokens = event.logprobs if isinstance(event, TextDelta) and self._facts.request.logprobs else ()
            rows = _logprobs(tokens, self._offset)
            self._offset += len(event.text)
            return self._chunk(event.text, rows, None)
        if isinstance(event, UsageSeen):
            self._usage = event.usage
        elif isinstance(event, Finish):
            self._finish = event
        return b""

    def finish(self) -> bytes:
        """The finish reason, the usage if requested, and `[DONE]`."""
        usage = b""
        if self._facts.include_usage and self._usage is not None:
            usage = self._head + b',"choices":[],"usage":' + msgspec.json.encode(chat_usage_object(self._usage))
            usage += b"}\n\n"
        return self._chunk("", None, _reason(self._finish)) + usage + DONE

    def fail(self, failure: Failure) -> bytes:
        """A frame whose top-level `error` makes every SDK raise."""
        return b"data: " + msgspec.json.encode(error_body(failure)) + b"\n\n"

    def ping(self) -> bytes:
        """An SSE comment, as in chat."""
        return PING

    def _chunk(self, text: str, logprobs: dict[str, Any] | None, reason: str | None) -> bytes:
        choice = {"text": text, "index": 0, "logprobs": logprobs, "finish_reason": reason}
        return self._head + b',"choices":[' + msgspec.json.encode(choice) + b"]" + self._tail


def write_reply(events: Sequence[Event], facts: ReplyFacts) -> bytes:
    """The body of a whole answer."""
    texts = [event.text for event in events if isinstance(event, TextDelta | RefusalDelta)]
    tokens = [row for event in events if isinstance(event, TextDelta) for row in event.logprobs]
    finish = next((event for event in events if isinstance(event, Finish)), None)
    usages = [event.usage for event in events if isinstance(event, UsageSeen)]
    choice = {
        "text": "".join(texts),
        "index": 0,
        "logprobs": _logprobs(tokens, 0) if facts.request.logprobs else None,
        "finish_reason": _reason(finish),
    }
    head = {"id": facts.id, "object": "text_completion", "created": facts.created_s, "model": facts.model}
    usage = {"usage": chat_usage_object(usages[-1])} if usages else {}
    return msgspec.json.encode(head | {"choices": [choice]} | usage)


def _reason(finish: Finish | None) -> str:
    reason = finish.reason if finish else "stop"
    return {"length": "length", "content_filter": "content_filter", "refusal": "content_filter"}.get(reason, "stop")


def _logprobs(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any] | None:
    """The legacy format, with one list per property. `offset`: characters of text before the first token."""
    if not tokens:
        return None
    offsets = []
    for row in tokens:
        offsets.append(offset)
        offset += len(row.token)
    return {
        "tokens": [row.token for row in tokens],
        "token_logprobs": [row.logprob for row in tokens],
        "top_logprobs": [dict(row.top) for row in tokens],
        "text_offset": offsets,
    }
