"""Counting a call's input locally: exactly, with the vocabularies of the model process, or as a flagged estimate.

The vocabularies are only in the model process (33 and 64 MB), so an ordinary call never needs this: only if a hold by
byte length is refused, or an upstream reports no usage.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from elkapi.catalog.families.openai import token_ids
from elkapi.catalog.jsonedit import with_string
from elkapi.errors import NOT_JSON, BadRequest
from elkapi.pricing.meter import is_believable
from elkapi.pricing.tokens import vocabulary_of
from elkapi.relay.large import anywhere
from elkapi.relay.plane import DataPlane
from elkapi.relay.read import Request
from elkapi.translate.completions import echoed
from elkapi.translate.crossing import Crossing, Tally
from elkapi.translate.dialects import DIALECTS
from elkapi.translate.estimate import MESSAGE_TOKENS, estimated_tokens, quarter
from elkapi.translate.ir import is_all_text, texts_of
from elkapi.types import Usage
from elkapi.upstream import Deadlines, Origin, UpstreamFailure, UpstreamRequest, answer_to

COUNT_DEADLINES = Deadlines(connect_s=0.5, header_s=5.0, first_byte_s=5.0, idle_s=5.0, total_s=5.0)
# What a drain leaves a count that began before it, behind its own time: less than a server waits for what it cut off.
AFTER_DRAIN_S = 2.5
ANSWER_BYTES_MAX = 1024 * 1024
COUNTED, ESTIMATED = "counted_locally", "estimated_locally"


class _Counts(msgspec.Struct):
    tokens: list[int]


_counts = msgspec.json.Decoder(_Counts)


async def count_exactly(plane: DataPlane, request: Request) -> Usage | None:
    """The exact input tokens; None if the call is not all text of a known vocabulary, or nobody can count now."""
    ids = token_ids(request.facts)
    if ids is not None:
        return Usage(input_tokens=ids, calls=request.facts.upper.calls)
    if vocabulary_of(request.model) is None:
        return None
    items, complete = await anywhere(len(request.body), _input_texts, request)
    counts = await count_texts(plane, request.model, items) if complete else None
    if counts is None:
        return None
    framing = MESSAGE_TOKENS * len(items) if request.operation.dialect is not None else 0
    return Usage(input_tokens=sum(counts) + framing, calls=request.facts.upper.calls)


async def count_texts(plane: DataPlane, model: str, texts: list[str]) -> list[int] | None:
    """The tokens of each text in the model's own vocabulary; None if it is unknown or nobody can count now."""
    vocabulary = vocabulary_of(model)
    if vocabulary is None or not texts:
        return None
    # The model process rejects empty text.
    spoken = [text for text in texts if text]
    if not spoken:
        return [0] * len(texts)
    counts = await _ask(plane, msgspec.json.encode({"vocabulary": vocabulary, "input": spoken}))
    if counts is None:
        return None
    tokens = iter(counts)
    return [next(tokens) if text else 0 for text in texts]


async def count_embedded(plane: DataPlane, request: Request) -> Usage | None:
    """The tokens that a bundled embedding model will report for a call; None if nobody can count now."""
    counts = await _ask(plane, with_string(request.body, "model", request.model))
    return None if counts is None else Usage(input_tokens=sum(counts), calls=request.facts.upper.calls)


async def _ask(plane: DataPlane, body: bytes) -> list[int] | None:
    """The model process's count of each text of a body; None if nobody can count now, or in time before a stop."""
    deadlines, left_s = COUNT_DEADLINES, plane.cut_at_s - plane.clock.monotonic_s()
    if left_s <= 0:
        return None
    # A drain may begin at any moment from now on.
    total_s = min(deadlines.total_s, left_s, plane.settings.drain_s + AFTER_DRAIN_S)
    if total_s < deadlines.total_s:
        deadlines = msgspec.structs.replace(deadlines, total_s=total_s)
    order = UpstreamRequest(
        origin=Origin.parse("unix://" + plane.settings.socket_path("models")),
        method=b"POST",
        target=b"/v1/tokenize/count",
        headers=[(b"content-type", b"application/json")],
        body=body,
        deadlines=deadlines,
    )
    try:
        answer = await answer_to(plane.client.send, order, ANSWER_BYTES_MAX)
        return _counts.decode(answer.body).tokens if answer.status == 200 and answer.complete else None
    except (UpstreamFailure, *NOT_JSON):
        return None


async def count_locally(plane: DataPlane, request: Request, tally: Tally | None = None) -> tuple[Usage, str]:
    """(usage, flag): exact if possible, otherwise a quarter of the bytes; never above the bound. `tally` is what was
    sent to the caller of a text answer."""
    if (exactly := await count_exactly(plane, request)) is not None:
        usage, flag = exactly, COUNTED
    else:
        usage, flag = await anywhere(len(request.body), estimated, request)
    if tally is None:
        return usage, flag
    output, reasoning, exact = await count_output(plane, request, tally)
    usage = msgspec.structs.replace(usage, output_tokens=output, reasoning_tokens=reasoning)
    return usage, flag if exact else ESTIMATED


async def count_output(plane: DataPlane, request: Request, tally: Tally) -> tuple[int, int, bool]:
    """(text tokens, reasoning tokens, exact) of what was sent to the caller, never more than the model could write.

    A prompt that a completion echoes before its own text is not output.
    """
    said = await anywhere(len(request.body), _said, request, tally)
    counts = await count_texts(plane, request.model, said.texts)
    output, reasoning = _output(request, tally, said, counts or quarters(said.texts))
    return output, reasoning, counts is not None and not tally.beyond_bytes


class _Said(NamedTuple):
    """An answer's text, its thinking and the prompts that it echoes: their texts, the number of their token ids, and
    how often."""

    texts: list[str]
    ids: int
    times: int


def _said(request: Request, tally: Tally) -> _Said:
    echoes = request.operation.wire == "completions" and b'"echo"' in request.body
    repeated, ids, times = echoed(request.body) if echoes else ([], 0, 0)
    return _Said(["".join(tally.text), "".join(tally.thinking), *repeated], ids, times)


def _output(request: Request, tally: Tally, said: _Said, counts: list[int]) -> tuple[int, int]:
    """(text tokens, reasoning tokens) from the counts of what was said."""
    output, reasoning, *again = counts
    output = output + quarter(tally.beyond_bytes) - said.times * (sum(again) + said.ids)
    output = min(max(output, 0), request.output_tokens_max)
    return output, min(reasoning, request.output_tokens_max - output)


def quarters(texts: list[str]) -> list[int]:
    """An estimate of each text's tokens, by its bytes."""
    return [quarter(len(text.encode())) for text in texts]


async def count_left(plane: DataPlane, request: Request, crossing: Crossing, tally: Tally) -> tuple[Usage, str]:
    """(usage, flag) of a stream that its caller left, or that broke: the upstream's figures as far as they arrived.

    Its input counts once it was reported. Its output counts only if the answer was finished: an earlier figure is of an
    unknown moment, so what was sent to the caller is counted instead. Impossible figures are ignored.
    """
    seen, facts = crossing.usage, request.facts
    if seen is not None and not is_believable(
        seen, facts.upper, facts.open_ended, facts.limited, answered=not tally.is_empty
    ):
        seen = None
    if seen is not None and crossing.finish_reason:
        return seen, "upstream_usage"
    if seen is None:
        return await count_locally(plane, request, tally)
    output, reasoning, exact = await count_output(plane, request, tally)
    usage = msgspec.structs.replace(
        seen, output_tokens=output, reasoning_tokens=reasoning, audio_output_tokens=0, image_output_tokens=0
    )
    return usage, COUNTED if exact else ESTIMATED


def estimated(request: Request, tally: Tally | None = None) -> tuple[Usage, str]:
    """(usage, flag) of the input, and of an answer with a tally, as a quarter of their bytes."""
    upper = request.facts.upper
    texts, complete = _input_texts(request)
    if request.operation.dialect is None:
        tokens = sum(quarters(texts)) if complete else quarter(min(upper.input_tokens, len(request.body)))
    else:
        tokens = estimated_tokens(texts)
    usage = Usage(input_tokens=min(tokens, upper.input_tokens), calls=upper.calls)
    if tally is not None:
        said = _said(request, tally)
        output, reasoning = _output(request, tally, said, quarters(said.texts))
        usage = msgspec.structs.replace(usage, output_tokens=output, reasoning_tokens=reasoning)
    return usage, ESTIMATED


def _input_texts(request: Request) -> tuple[list[str], bool]:
    """(the input of a tokenizer, one text per message; whether the model gets nothing else)."""
    operation = request.operation
    if operation.dialect is None:
        given = request.facts.texts
        items = [given] if isinstance(given, str) else given if isinstance(given, list) else []
        texts = [text for text in items if isinstance(text, str)]
        return texts, 0 < len(texts) == len(items)
    try:
        asked = DIALECTS[operation.wire or ""].read_request(request.body)
    except BadRequest:
        # The upstream accepted a body that we cannot read; only its size is known.
        return [request.body.decode("utf-8", "replace")], False
    return texts_of(asked), is_all_text(asked) and request.facts.previous is None
