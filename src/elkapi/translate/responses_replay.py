"""Replay a whole response object as the equivalent stream; the same object always gives the same events.

Contract: openai.md (response, Stream, Order rules). Each text and each call's arguments are one delta; other items (a
call of a built-in tool, an image) are only added and done.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

_encode = msgspec.json.encode
_TEXTS = {"output_text": "text", "refusal": "refusal"}


def replayed(response_body: bytes) -> list[bytes]:
    """The frames of an ended response, in order."""
    response = msgspec.json.decode(response_body)
    events = list(_events(response))
    return [_frame(event, number) for number, event in enumerate(events)]


def ended(response_body: bytes, number: int) -> bytes:
    """The terminal frame, with sequence number `number`, of a stream that lacks it."""
    return _frame(_end(msgspec.json.decode(response_body)), number)


def _frame(event: dict[str, Any], number: int) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), _encode({**event, "sequence_number": number}))


def _events(response: dict[str, Any]) -> Iterator[dict[str, Any]]:
    begun = {**response, "status": "in_progress", "output": [], "usage": None, "completed_at": None, "error": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(response.get("output") or ()):
        if isinstance(item, dict):
            yield from _item(index, item)
    yield _end(response)


def _end(response: dict[str, Any]) -> dict[str, Any]:
    status = response.get("status")
    if status == "cancelled":
        # The dialect has no event for a cancelled response; an error keeps clients from treating it as complete.
        said = {"code": "response_cancelled", "message": "This response was cancelled.", "param": None}
        return {"type": "error", **said}
    kind = status if status in ("completed", "incomplete") else "failed"
    return {"type": f"response.{kind}", "response": response}


def _item(index: int, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    kind = item.get("type")
    where = {"item_id": item.get("id") or f"item_{index}", "output_index": index}
    if kind == "message":
        yield _added(index, {**item, "status": "in_progress", "content": []})
        for place, part in enumerate(item.get("content") or ()):
            yield from _part({**where, "content_index": place}, part)
    elif kind == "reasoning":
        yield _added(index, {**item, "summary": []})
        for place, part in enumerate(item.get("summary") or ()):
            yield from _summary({**where, "summary_index": place}, part)
    elif kind == "function_call":
        yield _added(index, {**item, "status": "in_progress", "arguments": ""})
        text = item.get("arguments") or ""
        if text:
            yield {"type": "response.function_call_arguments.delta", **where, "delta": text}
        yield {
            "type": "response.function_call_arguments.done",
            **where,
            "name": item.get("name"),
            "arguments": text,
        }
    elif kind == "custom_tool_call":
        yield _added(index, {**item, "status": "in_progress", "input": ""})
        text = item.get("input") or ""
        if text:
            yield {"type": "response.custom_tool_call_input.delta", **where, "delta": text}
        yield {"type": "response.custom_tool_call_input.done", **where, "input": text}
    else:
        yield _added(index, item)
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _added(index: int, item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def _part(where: dict[str, Any], part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    kind = part.get("type") or ""
    member = _TEXTS.get(kind)
    if member is None:
        yield {"type": "response.content_part.added", **where, "part": part}
        yield {"type": "response.content_part.done", **where, "part": part}
        return
    text = part.get(member) or ""
    blank = {**part, member: ""} | ({"annotations": []} if kind == "output_text" else {})
    yield {"type": "response.content_part.added", **where, "part": blank}
    rest = {"logprobs": part.get("logprobs") or []} if kind == "output_text" else {}
    if text:
        yield {"type": f"response.{kind}.delta", **where, "delta": text, **rest}
    for number, note in enumerate(part.get("annotations") or ()):
        yield {
            "type": "response.output_text.annotation.added",
            **where,
            "annotation_index": number,
            "annotation": note,
        }
    yield {"type": f"response.{kind}.done", **where, member: text, **rest}
    yield {"type": "response.content_part.done", **where, "part": part}


def _summary(where: dict[str, Any], part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    text = part.get("text") or ""
    yield {"type": "response.reasoning_summary_part.added", **where, "part": {"type": "summary_text", "text": ""}}
    if text:
        yield {"type": "response.reasoning_summary_text.delta", **where, "delta": text}
    yield {"type": "response.reasoning_summary_text.done", **where, "text": text}
    yield {"type": "response.reasoning_summary_part.done", **where, "part": part}
