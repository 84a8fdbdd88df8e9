"""Writes a Responses answer: output items and the response object, and the event stream derived from them.

The events are made from the finished items, so a stream always agrees with the whole answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from elkapi.sandbox.messages import Charge, Frame, Mark, Request
from elkapi.sandbox.providers.openai_chat import logprob
from elkapi.sandbox.providers.openai_models import rate_of, shows_thinking
from elkapi.sandbox.providers.openai_response_read import sealed
from elkapi.sandbox.talk import Call, Refusal, Reply, Text, Thinking, Usage, part_tokens, pieces

# Fields of the request that the response repeats, with their defaults.
ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "store": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
INCOMPLETE = {"length": "max_output_tokens", "filter": "content_filter"}


class Responding(msgspec.Struct, frozen=True):
    """One response being made: the request, its body, and what the model replied."""

    request: Request
    body: Mapping[str, Any]
    model: str
    reply: Reply

    @property
    def id(self) -> str:
        """The response's id."""
        return "resp_" + self.suffix

    @property
    def suffix(self) -> str:
        """The suffix of all ids of this response."""
        return self.request.id_suffix

    def charge_at(self, output_tokens: int) -> Charge:
        """The charge if `output_tokens` were produced."""
        return rate_of(self.model).charge(self.model, self.reply.usage, output_tokens)


def usage_body(request: Request, usage: Usage) -> dict[str, Any] | None:
    """Usage in the format of the Responses API; None if a fault omits it."""
    shown = request.faults.shown_tokens(usage.input)
    if shown is None:
        return None
    return {
        "input_tokens": shown,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": shown + usage.output,
    }


def finished(made: Responding) -> dict[str, Any]:
    """The final response object: completed, or incomplete."""
    reason = INCOMPLETE.get(made.reply.finish)
    return {
        **unfinished(made, "incomplete" if reason else "completed"),
        "completed_at": None if reason else int(made.request.now_s),
        "incomplete_details": {"reason": reason} if reason else None,
        "output": output(made),
        "usage": usage_body(made.request, made.reply.usage),
    }


def unfinished(made: Responding, status: str) -> dict[str, Any]:
    """The response object before it has any output."""
    body = made.body
    reasoning, text = body.get("reasoning") or {}, body.get("text") or {}
    echoed = {name: absent if body.get(name) is None else body[name] for name, absent in ECHOED.items()}
    tier = body.get("service_tier")
    return {
        "id": made.id,
        "object": "response",
        "created_at": int(made.request.now_s),
        "status": status,
        "background": body.get("background") is True,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "model": made.model,
        "output": [],
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "service_tier": tier if isinstance(tier, str) and tier != "auto" else "default",
        "text": {"format": text.get("format") or {"type": "text"}, "verbosity": text.get("verbosity") or "medium"},
        "usage": None,
        **echoed,
    }


def output(made: Responding) -> list[dict[str, Any]]:
    """The output items in order: reasoning, messages and calls. The last of a cut reply is incomplete."""
    items: list[dict[str, Any]] = []
    for kind, group in itertools.groupby(made.reply.parts, key=_item_kind):
        parts = list(group)
        if kind == "message":
            item_id = f"msg_{made.suffix}{len(items):02}"
            content = [_content(made, part) for part in parts]
            items.append({"id": item_id, "type": kind, "status": "completed", "role": "assistant", "content": content})
        else:
            items += [_single(made, part, len(items) + at) for at, part in enumerate(parts)]
    if items and made.reply.finish in INCOMPLETE and "status" in items[-1]:
        items[-1]["status"] = "incomplete"
    return items


def _item_kind(part: object) -> str:
    return "message" if isinstance(part, Text | Refusal) else "single"


def _content(made: Responding, part: object) -> dict[str, Any]:
    if isinstance(part, Refusal):
        return {"type": "refusal", "refusal": part.text}
    assert isinstance(part, Text)
    content: dict[str, Any] = {"type": "output_text", "text": part.text, "annotations": [], "logprobs": []}
    if "message.output_text.logprobs" in (made.body.get("include") or ()):
        content["logprobs"] = [logprob(piece, made.body.get("top_logprobs") or 0) for piece in pieces(part.text)]
    return content


def _single(made: Responding, part: object, at: int) -> dict[str, Any]:
    if isinstance(part, Thinking):
        item: dict[str, Any] = {"id": f"rs_{made.suffix}{at:02}", "type": "reasoning", "summary": []}
        if (made.body.get("reasoning") or {}).get("summary"):
            item["summary"] = [{"type": "summary_text", "text": part.text}]
        if shows_thinking(made.model):
            item["content"] = [{"type": "reasoning_text", "text": part.text}]
        if "reasoning.encrypted_content" in (made.body.get("include") or ()):
            item["encrypted_content"] = sealed(part.text)
        return item
    assert isinstance(part, Call)
    call_id, done = f"call_{made.suffix}{at:02}", "completed"
    if part.custom:
        named = {"call_id": call_id, "name": part.name, "input": part.arguments}
        return {"id": f"ctc_{made.suffix}{at:02}", "type": "custom_tool_call", "status": done, **named}
    named = {"call_id": call_id, "name": part.name, "arguments": part.arguments}
    return {"id": f"fc_{made.suffix}{at:02}", "type": "function_call", "status": done, **named}


# The stream


Event = tuple[dict[str, Any], Mark, int]


def events(made: Responding) -> list[Event]:
    """Every event with its sequence number, mark and output tokens."""
    last = finished(made)
    steps: list[Event] = [({"type": "response.created", "response": unfinished(made, "in_progress")}, "setup", 0)]
    if last["background"]:
        steps[0][0]["response"]["status"] = "queued"
        steps.append(({"type": "response.queued", "response": unfinished(made, "queued")}, "setup", 0))
    steps.append(({"type": "response.in_progress", "response": unfinished(made, "in_progress")}, "setup", 0))
    thoughts = iter([part_tokens(part) for part in made.reply.parts if isinstance(part, Thinking)])
    hidden = 0
    for index, item in enumerate(last["output"]):
        for event, tokens in _item_events(item, index):
            mark: Mark = "content" if tokens else "setup"
            steps.append((event, mark, tokens + (hidden if tokens else 0)))
            hidden = 0 if tokens else hidden
        if item["type"] == "reasoning":
            tokens = next(thoughts)
            # The tokens of hidden reasoning count with the first content after it.
            hidden += 0 if item["summary"] or item.get("content") else tokens
    steps.append(({"type": f"response.{last['status']}", "response": last}, "terminal", hidden))
    return [({**event, "sequence_number": at}, mark, tokens) for at, (event, mark, tokens) in enumerate(steps)]


def frame(event: Event) -> Frame:
    """One event as an SSE frame."""
    body, mark, tokens = event
    data = b"event: %s\ndata: %s\n\n" % (body["type"].encode("ascii"), msgspec.json.encode(body))
    return Frame(data, mark, tokens)


def error_frame(request: Request) -> bytes:
    """The `error` event; its fields are not nested."""
    body = {
        "type": "error",
        "code": request.faults.code or "server_error",
        "message": "The server had an error while processing your request. Sorry about that!",
        "param": None,
        "sequence_number": 0,
    }
    return frame((body, "error", 0)).data


def _item_events(item: dict[str, Any], index: int) -> Iterator[tuple[dict[str, Any], int]]:
    """The events of one item, each with its output tokens."""
    place = {"output_index": index}
    calls = {"function_call": "arguments", "custom_tool_call": "input"}
    field = calls.get(item["type"])
    started = {**item, "status": "in_progress"} if "status" in item else dict(item)
    for name in ("content", "summary", field):
        if name and name in started:
            started[name] = "" if name == field else []
    yield {"type": "response.output_item.added", **place, "item": started}, 1 if field else 0
    inside = {"item_id": item["id"], **place}
    if field:
        kind = "response.function_call_arguments" if field == "arguments" else "response.custom_tool_call_input"
        for piece in pieces(item[field]):
            yield {"type": f"{kind}.delta", **inside, "delta": piece}, 1
        named = {"name": item["name"]} if field == "arguments" else {}
        yield {"type": f"{kind}.done", **inside, **named, field: item[field]}, 0
    for at, part in enumerate(item.get("summary", ())):
        yield from _summary_events(part, {**inside, "summary_index": at}, counts=not item.get("content"))
    for at, part in enumerate(item.get("content", ())):
        yield from _content_events(part, {**inside, "content_index": at})
    yield {"type": "response.output_item.done", **place, "item": item}, 0


def _summary_events(
    part: dict[str, Any], inside: dict[str, Any], *, counts: bool
) -> Iterator[tuple[dict[str, Any], int]]:
    """The events of one summary; its tokens count unless the reasoning text is shown too."""
    kind = "response.reasoning_summary_text"
    yield {"type": "response.reasoning_summary_part.added", **inside, "part": {**part, "text": ""}}, 0
    for piece in pieces(part["text"]):
        yield {"type": f"{kind}.delta", **inside, "delta": piece}, int(counts)
    yield {"type": f"{kind}.done", **inside, "text": part["text"]}, 0
    yield {"type": "response.reasoning_summary_part.done", **inside, "part": part}, 0


def _content_events(part: dict[str, Any], inside: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int]]:
    kind, field = part["type"], "refusal" if part["type"] == "refusal" else "text"
    empty = {**part, field: ""} | ({"logprobs": []} if "logprobs" in part else {})
    yield {"type": "response.content_part.added", **inside, "part": empty}, 0
    for at, piece in enumerate(pieces(part[field])):
        shown = {"logprobs": part["logprobs"][at : at + 1]} if kind == "output_text" else {}
        yield {"type": f"response.{kind}.delta", **inside, "delta": piece, **shown}, 1
    shown = {"logprobs": part["logprobs"]} if kind == "output_text" else {}
    yield {"type": f"response.{kind}.done", **inside, field: part[field], **shown}, 0
    yield {"type": "response.content_part.done", **inside, "part": part}, 0
