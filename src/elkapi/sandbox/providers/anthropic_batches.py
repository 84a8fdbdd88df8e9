"""Anthropic's message batches: stored, processed by the sandbox's clock, billed once when first seen ended.

Every request of a batch is done after the time its script takes (half a second unless `[[takes: ...]]` says otherwise);
the batch ends with its last one. A cancelled batch keeps what was done and ends `CANCELING_S` after the cancel.
"""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.sandbox.messages import Answer, Charge, Problem, Request, json_answer
from elkapi.sandbox.providers.anthropic_models import model_of, page
from elkapi.sandbox.providers.anthropic_read import json_object, read
from elkapi.sandbox.providers.anthropic_write import message, say
from elkapi.sandbox.providers.dressing import stamp

SHELF = "anthropic.batches"
REQUESTS_MAX = 1_000
EXPIRES_S = 24 * 3600
CANCELING_S = 0.2


class Item(msgspec.Struct, frozen=True):
    """One request of a batch, answered in advance: its result, when it is available, and its charge."""

    custom_id: str
    result: dict[str, Any]
    done_s: float
    charge: Charge | None


class Batch(msgspec.Struct):
    """One batch. Times are Unix seconds; `billed` once its end was seen."""

    id: str
    key: str
    created_s: float
    items: list[Item]
    cancelled_s: float | None = None
    billed: bool = False

    def ended_s(self) -> float:
        """The time at which the batch ends or ended."""
        last = max(item.done_s for item in self.items)
        return last if self.cancelled_s is None else min(last, self.cancelled_s + CANCELING_S)

    def result(self, item: Item) -> dict[str, Any]:
        """The result of one item once the batch has ended."""
        in_time = self.cancelled_s is None or item.done_s <= self.cancelled_s
        return item.result if in_time else {"type": "canceled"}


def create(request: Request) -> Answer:
    """`POST /v1/messages/batches`."""
    wanted = json_object(request.body).get("requests")
    if not isinstance(wanted, list) or not 1 <= len(wanted) <= REQUESTS_MAX:
        raise Problem(400, f"requests: List should have 1 to {REQUESTS_MAX} items", param="requests")
    ids = [entry.get("custom_id") if isinstance(entry, dict) else None for entry in wanted]
    if not all(isinstance(given, str) and 1 <= len(given) <= 64 for given in ids):
        raise Problem(400, "requests: every request needs a custom_id of 1 to 64 characters", param="requests")
    if len(set(ids)) < len(ids):
        raise Problem(400, "requests: custom_id must be unique within the batch", param="requests")
    items = [_item(request, number, entry) for number, entry in enumerate(wanted)]
    batch = Batch("msgbatch_01" + request.upstream_request_id[4:26], key_of(request), request.now_s, items)
    request.store.shelf(SHELF).put(batch.id, batch, len(request.body))
    return json_answer(_shown(batch, request))


def retrieve(request: Request) -> Answer:
    """`GET /v1/messages/batches/{id}`."""
    return _answer(request, _found(request))


def cancel(request: Request) -> Answer:
    """`POST /v1/messages/batches/{id}/cancel`."""
    batch = _found(request)
    if batch.cancelled_s is None and request.now_s < batch.ended_s():
        batch.cancelled_s = request.now_s
    return _answer(request, batch)


def delete(request: Request) -> Answer:
    """`DELETE /v1/messages/batches/{id}`, for one that has ended."""
    batch = _found(request)
    if request.now_s < batch.ended_s():
        raise Problem(400, f"Message Batch {batch.id} cannot be deleted while it is in progress.")
    request.store.shelf(SHELF).pop(batch.id)
    return json_answer({"id": batch.id, "type": "message_batch_deleted"}, charge=_charge_once(batch, request.now_s))


def list_all(request: Request) -> Answer:
    """`GET /v1/messages/batches`, the newest first."""
    own = [batch for batch in request.store.shelf(SHELF).all() if batch.key == key_of(request)]
    return json_answer(page(request, [_shown(batch, request) for batch in reversed(own)]))


def results(request: Request) -> Answer:
    """`GET /v1/messages/batches/{id}/results`: JSON lines, in no guaranteed order."""
    batch = _found(request)
    if request.now_s < batch.ended_s():
        raise Problem(404, f"Message Batch {batch.id} has no available results.")
    lines = [{"custom_id": item.custom_id, "result": batch.result(item)} for item in reversed(batch.items)]
    body = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    charge = _charge_once(batch, request.now_s)
    return Answer(200, (body,), "application/x-jsonl", charge=charge)


ROUTES = (
    ("POST", "/v1/messages/batches", create),
    ("GET", "/v1/messages/batches", list_all),
    ("GET", "/v1/messages/batches/{id}", retrieve),
    ("DELETE", "/v1/messages/batches/{id}", delete),
    ("POST", "/v1/messages/batches/{id}/cancel", cancel),
    ("GET", "/v1/messages/batches/{id}/results", results),
)


def _item(request: Request, number: int, entry: dict[str, Any]) -> Item:
    params = entry.get("params")
    if not isinstance(params, dict):
        raise Problem(400, f"requests.{number}.params: Field required", param=f"requests.{number}.params")
    try:
        asked = read(params)
        if asked.stream:
            raise Problem(400, "stream: Input should be False in a batch", param="stream")
        seed = f"{request.upstream_request_id} {number}"
        said = say(asked, model_of(asked.model), seed, request.faults, tier="batch")
    except Problem as problem:
        kind = "not_found_error" if problem.status == 404 else "invalid_request_error"
        error = {"type": "error", "error": {"type": kind, "message": problem.message}}
        return Item(entry["custom_id"], {"type": "errored", "error": error}, request.now_s, None)
    done_s = request.now_s + said.reply.takes_s
    return Item(entry["custom_id"], {"type": "succeeded", "message": message(said)}, done_s, said.charge())


def _found(request: Request) -> Batch:
    batch = request.store.shelf(SHELF).get(request.params["id"])
    if batch is None or batch.key != key_of(request):
        raise Problem(404, f"Message Batch {request.params['id']} not found.")
    found: Batch = batch
    return found


def key_of(request: Request) -> str:
    """The owner of a batch or file: the caller's key."""
    return request.header("x-api-key") or request.header("authorization") or ""


def _answer(request: Request, batch: Batch) -> Answer:
    return json_answer(_shown(batch, request), charge=_charge_once(batch, request.now_s))


def _charge_once(batch: Batch, now_s: float) -> Charge | None:
    """The batch's charge, for the first call that sees its end; one line, under its first model."""
    if batch.billed or now_s < batch.ended_s():
        return None
    batch.billed = True
    done = [item.charge for item in batch.items if item.charge and batch.result(item) is item.result]
    if not done:
        return None
    sums = {
        name: sum(getattr(charge, name) for charge in done)
        for name in ("prompt_tokens", "cost_nano_usd", "output_tokens", "cached_tokens", "cache_write_tokens")
    }
    return Charge(model=done[0].model, **sums)


def _shown(batch: Batch, request: Request) -> dict[str, Any]:
    ended = request.now_s >= batch.ended_s()
    # Anthropic returns a URL on its own host, and its SDK follows it with the caller's key.
    origin = f"http://{request.header('host') or 'localhost'}{request.path.partition('/v1/')[0]}"
    counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
    for item in batch.items:
        counts[batch.result(item)["type"] if ended else "processing"] += 1
    status = "ended" if ended else "in_progress" if batch.cancelled_s is None else "canceling"
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": status,
        "request_counts": counts,
        "created_at": stamp(batch.created_s),
        "expires_at": stamp(batch.created_s + EXPIRES_S),
        "ended_at": stamp(batch.ended_s()) if ended else None,
        "cancel_initiated_at": None if batch.cancelled_s is None else stamp(batch.cancelled_s),
        "archived_at": None,
        "results_url": f"{origin}/v1/messages/batches/{batch.id}/results" if ended else None,
    }
