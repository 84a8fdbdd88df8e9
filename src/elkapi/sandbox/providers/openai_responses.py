"""OpenAI's Responses routes: create, retrieve, replay, cancel, delete, compact and count, with stored responses.

A background response is queued for the first fifth of its duration ([[takes: 2s]]) and in progress for the rest; it
is billed with the first answer that shows it finished, and not at all if cancelled before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from elkapi.sandbox.messages import Answer, Charge, Problem, Request, json_answer
from elkapi.sandbox.providers import openai_read as read
from elkapi.sandbox.providers import openai_response_write as write
from elkapi.sandbox.providers.openai_lists import page
from elkapi.sandbox.providers.openai_models import rate_of
from elkapi.sandbox.providers.openai_response_read import History, input_items, response_ask, sealed
from elkapi.sandbox.providers.openai_response_write import Responding
from elkapi.sandbox.script import reply_to
from elkapi.sandbox.store import Store
from elkapi.sandbox.stream import stream_answer
from elkapi.sandbox.strict import strictly
from elkapi.sandbox.talk import Turn, Usage, pieces

SHELF = "openai.responses"
QUEUED_SHARE = 0.2


class Kept(msgspec.Struct):
    """One stored response. `takes_s` is 0 unless it runs in the background; `owed` is not yet billed."""

    made: Responding
    final: dict[str, Any]
    history: History
    inputs: list[dict[str, Any]]
    created_s: float
    takes_s: float
    owed: Charge | None = None
    cancelled: bool = False

    def shown(self, now_s: float) -> dict[str, Any]:
        """The response object at `now_s`."""
        if self.cancelled:
            return write.unfinished(self.made, "cancelled")
        past_s = now_s - self.created_s
        if past_s >= self.takes_s:
            return self.final
        status = "queued" if past_s < self.takes_s * QUEUED_SHARE else "in_progress"
        return write.unfinished(self.made, status)

    def due(self, shown: Mapping[str, Any]) -> Charge | None:
        """The charge to bill with this answer: once, when the response is finished."""
        if shown is not self.final:
            return None
        owed, self.owed = self.owed, None
        return owed


@strictly
def create(request: Request) -> Answer:
    """`POST /v1/responses`."""
    body = read.json_object(request.body)
    model = read.text_model(body)
    streams, background = read.flag(body, "stream"), read.flag(body, "background")
    stores = read.flag(body, "store", default=True)
    if background and not stores:
        raise read.invalid("Background mode requires store to be true.", "background")
    history = _history(request.store, body)
    ask = response_ask(body, model, history, _finder(request.store))
    made = Responding(request, body, model, reply_to(ask))
    final = write.finished(made)
    full = made.charge_at(made.reply.usage.output)
    own = [_in_full(one, f"item_{made.suffix}{at:03}") for at, one in enumerate(input_items(body))]
    inputs = [*_said_before(request.store, body), *own]
    kept = Kept(made, final, _grown(history, made, final), inputs, request.now_s, 0.0)
    if stores:
        request.store.shelf(SHELF).put(made.id, kept, len(request.body) + len(msgspec.json.encode(final)))
    if streams:
        # A background response continues when the caller leaves, and is billed in full.
        at: Callable[[int], Charge] = (lambda tokens: full) if background else made.charge_at
        frames = [write.frame(event) for event in write.events(made)]
        return stream_answer(frames, error=write.error_frame(request), charge_at=at, charge=full)
    if background:
        kept.takes_s, kept.owed = made.reply.takes_s, full
        return json_answer(kept.shown(request.now_s))
    return json_answer(final, charge=full)


def get_response(request: Request) -> Answer:
    """`GET /v1/responses/{id}`: the current object, or with `stream=true` its events after `starting_after`.

    A streamed read does not wait: it finishes the response and sends all of it at once.
    """
    kept = _kept(request)
    if request.query("stream") != "true":
        shown = kept.shown(request.now_s)
        return json_answer(shown, charge=kept.due(shown))
    after = request.query("starting_after") or "-1"
    if not after.removeprefix("-").isdecimal():
        raise Problem(400, "starting_after must be an integer.", param="starting_after")
    if kept.cancelled:
        raise Problem(400, "This response was cancelled and cannot be streamed.", param="stream")
    kept.takes_s = 0.0
    due = kept.due(kept.final)
    events = [event for event in write.events(kept.made) if event[0]["sequence_number"] > int(after)]
    return stream_answer(
        [write.frame(event) for event in events], error=write.error_frame(request), charge_at=lambda tokens: due
    )


def cancel_response(request: Request) -> Answer:
    """`POST /v1/responses/{id}/cancel`: background responses only; a finished one stays as it is."""
    kept = _kept(request)
    if not kept.final["background"]:
        raise Problem(400, "Only responses created with background=true can be cancelled.")
    shown = kept.shown(request.now_s)
    if shown is not kept.final:
        kept.cancelled, kept.owed = True, None
        shown = kept.shown(request.now_s)
    return json_answer(shown, charge=kept.due(shown))


def delete_response(request: Request) -> Answer:
    """`DELETE /v1/responses/{id}`."""
    response_id = _kept(request).made.id
    request.store.shelf(SHELF).pop(response_id)
    return json_answer({"id": response_id, "object": "response", "deleted": True})


def list_input_items(request: Request) -> Answer:
    """`GET /v1/responses/{id}/input_items`, earlier turns included, newest first by default; every item has an id."""
    return json_answer(page(request, _kept(request).inputs, "desc"))


def _in_full(item: dict[str, Any], item_id: str) -> dict[str, Any]:
    """An input item as listed: with a type, an id and a status, and string content as a content part."""
    full = {"type": "message", "id": item_id, "status": "completed", **item}
    if full["type"] == "message" and isinstance(text := full.get("content"), str):
        said: dict[str, Any] = {"type": "output_text", "text": text, "annotations": []}
        full["content"] = [said if full.get("role") == "assistant" else {"type": "input_text", "text": text}]
    return full


@strictly
def compact(request: Request) -> Answer:
    """`POST /v1/responses/compact`: the user's messages and one sealed item with the conversation's text."""
    body = read.json_object(request.body)
    model = read.text_model(body)
    history = _history(request.store, body)
    usage = reply_to(response_ask(body, model, history, _finder(request.store))).usage
    said = " ".join(turn.text for turn in history.turns if turn.text)
    suffix = request.id_suffix
    users = [item for item in input_items(body) if item.get("role") == "user"]
    items = [_in_full(one, f"msg_{suffix}{at:03}") for at, one in enumerate(users)]
    items.append({"id": f"cmp_{suffix}", "type": "compaction", "encrypted_content": sealed(f"Said before: {said}")})
    usage = Usage(input=usage.input, output=len(pieces(said)))
    answer = {
        "id": f"resp_{suffix}",
        "object": "response.compaction",
        "created_at": int(request.now_s),
        "output": items,
        "usage": write.usage_body(request, usage),
    }
    return json_answer(answer, charge=rate_of(model).charge(model, usage))


@strictly
def count_input(request: Request) -> Answer:
    """`POST /v1/responses/input_tokens`: the input tokens of a body; free."""
    body = read.json_object(request.body)
    model = read.text_model({"model": "gpt-4o", **body})
    history = _history(request.store, body)
    body = body if "input" in body or "previous_response_id" in body else {**body, "input": ""}
    ask = response_ask(body, model, history, _finder(request.store))
    return json_answer({"object": "response.input_tokens", "input_tokens": reply_to(ask).usage.input})


def _kept(request: Request) -> Kept:
    kept = request.store.shelf(SHELF).get(request.params["id"])
    if not isinstance(kept, Kept):
        raise Problem(404, f"Response with id '{request.params['id']}' not found.", param="id")
    return kept


def _history(store: Store, body: Mapping[str, Any]) -> History:
    """The history after the previous response; empty if none is named. Raises Problem if it is not found."""
    if body.get("conversation") is not None:
        raise Problem(404, "Conversation not found: the sandbox keeps none.", param="conversation")
    previous = body.get("previous_response_id")
    if previous is None:
        return History()
    kept = store.shelf(SHELF).get(str(previous))
    if not isinstance(kept, Kept):
        message = f"Previous response with id '{previous}' not found."
        raise Problem(400, message, code="previous_response_not_found", param="previous_response_id")
    return History(list(kept.history.turns), dict(kept.history.waiting))


def _said_before(store: Store, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The items that a continued response was made from and its answer, in full form."""
    kept = store.shelf(SHELF).get(str(body.get("previous_response_id")))
    return [*kept.inputs, *kept.final["output"]] if isinstance(kept, Kept) else []


def _grown(history: History, made: Responding, final: Mapping[str, Any]) -> History:
    """The history with the reply added; its calls wait for their outputs."""
    waiting = {item["call_id"]: item["name"] for item in final["output"] if "call_id" in item}
    return History([*history.turns, Turn("assistant", made.reply.text, calls=made.reply.calls)], waiting)


def _finder(store: Store) -> Callable[[str], dict[str, Any] | None]:
    """A function that finds an output item of any stored response by id."""

    def find(item_id: str) -> dict[str, Any] | None:
        kept = [one for one in store.shelf(SHELF).all() if isinstance(one, Kept)]
        return next((item for one in kept for item in one.final["output"] if item["id"] == item_id), None)

    return find


ROUTES: tuple[tuple[str, str, Callable[[Request], Answer]], ...] = (
    ("POST", "/responses", create),
    ("POST", "/responses/compact", compact),
    ("POST", "/responses/input_tokens", count_input),
    ("GET", "/responses/{id}", get_response),
    ("DELETE", "/responses/{id}", delete_response),
    ("POST", "/responses/{id}/cancel", cancel_response),
    ("GET", "/responses/{id}/input_items", list_input_items),
)
"""Method, path below the version, handler. OpenAI serves them under /v1, Azure also without."""
