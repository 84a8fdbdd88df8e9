"""OpenAI's batches: the lines of an input file answered by the routes' own handlers, at half their price.

A batch is answered when it is created and shows it over `TAKES_S`: validating, in progress, finalizing, completed. It
is billed as one line with the first answer that shows it completed; one that failed or was cancelled costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from elkapi.errors import NOT_JSON
from elkapi.sandbox.messages import Answer, Charge, Problem, Request, json_answer
from elkapi.sandbox.providers import openai_read as read
from elkapi.sandbox.providers.openai_files import SHELF as FILES
from elkapi.sandbox.providers.openai_files import found, keep_file
from elkapi.sandbox.providers.openai_lists import page
from elkapi.sandbox.providers.openai_stored import metadata_of

SHELF = "openai.batches"
LINES_MAX = 50_000
TAKES_S = 0.5
# (end as a share of the batch's time, state).
STATES = ((0.2, "validating"), (0.8, "in_progress"), (1.0, "finalizing"))
CANCELLING_S = 0.1
EXPIRES_S = 24 * 3600
PRICE_DIVISOR = 2

Handlers = Mapping[str, Callable[[Request], Answer]]


class Batch(msgspec.Struct):
    """One batch: its request, the results of its lines, and its progress. `errors` are those of a refused input."""

    id: str
    asked: dict[str, Any]
    created_s: float
    outputs: list[bytes] = []
    failures: list[bytes] = []
    errors: list[dict[str, Any]] = []
    charges: list[Charge] = []
    cancelled_s: float | None = None
    billed: bool = False

    def status(self, now_s: float) -> str:
        """The current state."""
        if self.cancelled_s is not None:
            return "cancelling" if now_s < self.cancelled_s + CANCELLING_S else "cancelled"
        past = (now_s - self.created_s) / TAKES_S
        running = next((name for share, name in STATES if past < share), "completed")
        return "failed" if self.errors and running != "validating" else running


def routes(handlers: Handlers) -> tuple[tuple[str, str, Callable[[Request], Answer]], ...]:
    """The batch routes, with the handlers of the endpoints that a batch may use."""

    def create(request: Request) -> Answer:
        return _create(request, handlers)

    return (
        ("POST", "/batches", create),
        ("GET", "/batches", list_batches),
        ("GET", "/batches/{id}", get_batch),
        ("POST", "/batches/{id}/cancel", cancel_batch),
    )


def _create(request: Request, handlers: Handlers) -> Answer:
    """`POST /v1/batches`."""
    body = read.json_object(request.body)
    endpoint = body.get("endpoint")
    if not isinstance(endpoint, str) or endpoint not in handlers:
        raise read.invalid(f"endpoint must be one of {', '.join(handlers)}.", "endpoint")
    if body.get("completion_window") != "24h":
        raise read.invalid("completion_window must be '24h'.", "completion_window")
    kept = found(request.store, str(body.get("input_file_id")))
    if kept.shown["purpose"] != "batch":
        raise read.invalid("The input file must have the purpose 'batch'.", "input_file_id")
    asked = {name: body[name] for name in ("endpoint", "completion_window", "input_file_id")}
    batch = Batch("batch_" + request.id_suffix, asked, request.now_s)
    batch.asked["metadata"] = metadata_of(body)
    _answer_lines(batch, request, kept.content, handlers[endpoint])
    request.store.shelf(SHELF).put(batch.id, batch, sum(map(len, batch.outputs)) + sum(map(len, batch.failures)))
    return json_answer(_shown(batch, request))


def list_batches(request: Request) -> Answer:
    """`GET /v1/batches`, newest first."""
    kept = [_shown(batch, request) for batch in request.store.shelf(SHELF).all()]
    return json_answer(page(request, kept, "desc"))


def get_batch(request: Request) -> Answer:
    """`GET /v1/batches/{id}`."""
    batch = _found(request)
    return json_answer(_shown(batch, request), charge=_due(batch, request.now_s))


def cancel_batch(request: Request) -> Answer:
    """`POST /v1/batches/{id}/cancel`."""
    batch = _found(request)
    if batch.status(request.now_s) not in ("validating", "in_progress", "finalizing"):
        raise Problem(409, f"Cannot cancel a batch with status '{batch.status(request.now_s)}'.")
    batch.cancelled_s = request.now_s
    return json_answer(_shown(batch, request))


def _found(request: Request) -> Batch:
    batch = request.store.shelf(SHELF).get(request.params["id"])
    if not isinstance(batch, Batch):
        raise Problem(404, f"No batch found with id '{request.params['id']}'.", param="id")
    return batch


def _answer_lines(batch: Batch, request: Request, content: bytes, handler: Callable[[Request], Answer]) -> None:
    """Answer every line of the input, or record the errors of the whole input."""
    lines = [line for line in content.split(b"\n") if line.strip()]
    seen: set[str] = set()
    if not 1 <= len(lines) <= LINES_MAX:
        batch.errors.append({"code": "invalid_file", "message": f"A batch has 1 to {LINES_MAX} lines.", "line": None})
    for number, line in enumerate(lines[:LINES_MAX], start=1):
        item = _line(line, batch.asked["endpoint"])
        if isinstance(item, str) or item["custom_id"] in seen:
            code, message = ("invalid_line", item) if isinstance(item, str) else ("duplicate_custom_id", "used twice")
            batch.errors.append({"code": code, "message": message, "line": number, "param": None})
            continue
        seen.add(item["custom_id"])
        one = msgspec.structs.replace(
            request,
            method="POST",
            path=item["url"],
            body=msgspec.json.encode(item["body"]),
            upstream_request_id=f"{request.upstream_request_id}{number:05}",
        )
        _answer_line(batch, one, item["custom_id"], handler)


def _line(line: bytes, endpoint: str) -> dict[str, Any] | str:
    """A line as an object, or its error."""
    try:
        item = msgspec.json.decode(line)
    except NOT_JSON:
        return "This line is not valid JSON."
    if (
        not isinstance(item, dict)
        or not isinstance(item.get("custom_id"), str)
        or not isinstance(item.get("body"), dict)
    ):
        return "A line needs a custom_id and a body."
    if item.get("method") != "POST" or item.get("url") != endpoint:
        return "A line must be a POST to the endpoint of the batch."
    return item


def _answer_line(batch: Batch, request: Request, custom_id: str, handler: Callable[[Request], Answer]) -> None:
    try:
        answer = handler(request)
        if answer.stream is not None:
            raise read.invalid("A batch cannot stream.", "stream")
        status, body = answer.status, msgspec.Raw(answer.pieces[0])
        if answer.charge is not None:
            batch.charges.append(answer.charge)
    except Problem as problem:
        error = {
            "message": problem.message,
            "type": "invalid_request_error",
            "param": problem.param,
            "code": problem.code,
        }
        status, body = problem.status, msgspec.Raw(msgspec.json.encode({"error": error}))
    response = {"status_code": status, "request_id": request.upstream_request_id, "body": body}
    line_id = "batch_req_" + request.id_suffix
    line = msgspec.json.encode({"id": line_id, "custom_id": custom_id, "response": response, "error": None})
    (batch.outputs if status == 200 else batch.failures).append(line)


def _due(batch: Batch, now_s: float) -> Charge | None:
    """The charge of a completed batch, once: all its lines together."""
    if batch.billed or batch.status(now_s) != "completed" or not batch.charges:
        return None
    batch.billed = True
    return Charge(
        batch.charges[0].model,
        sum(charge.prompt_tokens for charge in batch.charges),
        sum(charge.cost_nano_usd for charge in batch.charges) // PRICE_DIVISOR,
        output_tokens=sum(charge.output_tokens for charge in batch.charges),
        cached_tokens=sum(charge.cached_tokens for charge in batch.charges),
        cache_write_tokens=sum(charge.cache_write_tokens for charge in batch.charges),
    )


def _shown(batch: Batch, request: Request) -> dict[str, Any]:
    status = batch.status(request.now_s)
    created = int(batch.created_s)
    moment = {name: created if status == name else None for name in ("failed", "finalizing", "completed")}
    cancelled = None if batch.cancelled_s is None else int(batch.cancelled_s)
    done = status == "completed"
    input_tokens = sum(charge.prompt_tokens for charge in batch.charges)
    output_tokens = sum(charge.output_tokens for charge in batch.charges)
    total = len(batch.outputs) + len(batch.failures)
    return {
        "id": batch.id,
        "object": "batch",
        **batch.asked,
        "status": status,
        "errors": {"object": "list", "data": batch.errors} if status == "failed" else None,
        "created_at": created,
        "in_progress_at": None if status == "validating" else created,
        "expires_at": created + EXPIRES_S,
        **{f"{name}_at": at for name, at in moment.items()},
        "cancelling_at": cancelled,
        "cancelled_at": cancelled if status == "cancelled" else None,
        "output_file_id": _file(batch, request, "output", batch.outputs) if done else None,
        "error_file_id": _file(batch, request, "error", batch.failures) if done else None,
        "request_counts": {
            "total": total,
            "completed": len(batch.outputs) if done else 0,
            "failed": len(batch.failures) if done else 0,
        },
        "usage": {
            "input_tokens": input_tokens if done else 0,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": output_tokens if done else 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": input_tokens + output_tokens if done else 0,
        },
    }


def _file(batch: Batch, request: Request, kind: str, lines: list[bytes]) -> str | None:
    """The id of the file with these lines, stored when first shown; None without lines."""
    if not lines:
        return None
    file_id = f"file-{kind}-{batch.id[6:]}"
    if request.store.shelf(FILES).get(file_id) is None:
        name = f"{batch.id}_{kind}.jsonl"
        keep_file(request.store, file_id, name, "batch_output", b"\n".join(lines) + b"\n", request.now_s)
    return file_id
