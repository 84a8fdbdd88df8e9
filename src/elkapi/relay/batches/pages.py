"""The operations of message batches: create, list, get, cancel, delete, results. Contract: anthropic.md section 1.4."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from itertools import islice

import msgspec
from sqlalchemy import Connection

from elkapi.catalog import Match
from elkapi.errors import BadRequest, Conflict, GatewayError, NotFound, RateLimited
from elkapi.ids import new_id
from elkapi.relay.batches import shape
from elkapi.relay.batches.asked import Asked, understood
from elkapi.relay.batches.line import LINE_MATCH, QUERY
from elkapi.relay.caching import CACHE_HEADER, wish_of
from elkapi.relay.call import JSON, REPLAYED, Call, send_json
from elkapi.relay.candidates import FALLBACK_HEADER, candidates
from elkapi.relay.hold import checked_key
from elkapi.relay.plane import DataPlane, Page
from elkapi.relay.query import number_in, query_of
from elkapi.relay.read import check_media_type, read
from elkapi.relay.target import BETA, says_beta
from elkapi.snapshot import Snapshot
from elkapi.storage.repos import batch_lines, batches
from elkapi.storage.repos.batches import BatchRow, NewLine
from elkapi.storage.secrets import Sealer
from elkapi.types import Grant

EXPIRES_S = 24 * 3600
PAGE_DEFAULT, PAGE_MAX = 20, 1000
# Lines per transaction: a few milliseconds, so that the ledger's transactions never wait long.
LINES_AT_ONCE = 500
RESULT_ROWS_AT_ONCE, RESULT_BYTES_AT_ONCE = 500, 1024 * 1024
OPEN_BATCHES_MAX = 100
PATH = "/v1/messages/batches"
JSON_LINES = [(b"content-type", b"application/x-jsonl")]
# The caller's headers that are sent with each line, besides those that a channel asks for.
_KEPT_HEADERS = (
    b"anthropic-version",
    b"anthropic-beta",
    b"anthropic-user-profile-id",
    b"x-claude-code-session-id",
    FALLBACK_HEADER,
    CACHE_HEADER,
)


# Making one


async def create_batch(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """Check every line, store them, and hand them to the runners. Raises BadRequest, RateLimited, Conflict, and
    ModelForbidden, NoChannel or NoPrice if a line's model could not be called now."""
    check_media_type(call.header(b"content-type"))
    wish_of(call)
    sent = call.header(b"idempotency-key")
    name = None if sent is None else checked_key(sent)
    body = await call.body()
    async with plane.batches.creating:
        asked = await asyncio.to_thread(understood, body)
        made = await plane.reader.run(lambda c: batches.find_made(c, grant.key_id, name)) if name else None
        if made is not None and not _is_forgotten(made, plane):
            _show_made(plane, call, made, asked)
            return
        await _check_models(plane, snapshot, grant, call, asked)
        batch = _new_batch(plane, snapshot, grant, call, asked, name)
        if made is not None:
            await plane.batches.write(lambda c: batches.forget_key(c, made.id))
        await _keep(plane, batch, asked)
    _show(plane, call, batch)


async def _keep(plane: DataPlane, batch: BatchRow, asked: Asked) -> None:
    """Store it in pieces, which become visible with the last."""
    store, lines_max = plane.batches, plane.settings.batch_open_lines_max
    add = partial(batches.add_staging, batch=batch, open_max=OPEN_BATCHES_MAX, lines_max=lines_max)
    try:
        # The write completes even if the caller leaves meanwhile.
        if not await store.write(add):
            raise Conflict(
                "A batch with this Idempotency-Key is being created; try again later.", code="idempotency_in_progress"
            )
        lines = _sealed(store.sealer, batch.id, asked)
        while part := await asyncio.to_thread(lambda: list(islice(lines, LINES_AT_ONCE))):
            await store.write(partial(batches.add_lines, batch_id=batch.id, lines=part))
        if not await store.write(lambda c: batches.begin(c, batch.id)):
            # A runner took it for abandoned, and may have deleted it before its last lines were written.
            while await store.write(lambda c: batch_lines.remove(c, batch.id, LINES_AT_ONCE)):
                pass
            raise GatewayError("The batch took too long to store; please try again.")
    except batches.NoRoom as full:
        raise RateLimited(
            f"This batch would exceed the limits of this API key, which has {full.count} of {OPEN_BATCHES_MAX} open "
            f"batches and {full.waiting} of {lines_max} open requests. Wait for one to end, or send fewer requests.",
            code="batch_limit",
            retry_after_s=60,
        ) from None
    except BaseException:
        await asyncio.shield(store.write(lambda c: batches.give_up(c, batch.id)))
        raise
    store.look()


def _show_made(plane: DataPlane, call: Call, made: BatchRow, asked: Asked) -> None:
    if made.fingerprint != asked.fingerprint:
        message = "This Idempotency-Key was used with a different batch; use a new key for a new batch."
        raise Conflict(message, code="idempotency_key_reused")
    if made.status not in batches.SHOWN:
        raise Conflict(
            "A batch with this Idempotency-Key is being created; try again later.", code="idempotency_in_progress"
        )
    _show(plane, call, made, replayed=True)


# Looking at one


async def list_batches(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """A page of this key's batches, the newest first. Raises BadRequest."""
    query = query_of(call.query)
    limit = number_in(query, "limit", 1, PAGE_MAX) or PAGE_DEFAULT
    before, after = _cursor(query, "before_id"), _cursor(query, "after_id")
    if before is not None and after is not None:
        raise BadRequest("Send either `before_id` or `after_id`, not both.", param="before_id")

    def page(connection: Connection) -> tuple[list[BatchRow], bool]:
        return batches.list_batches(connection, grant.owner_id, grant.key_id, limit, before=before, after=after)

    rows, has_more = await plane.reader.run(page)
    data = [shape.shown(row, _home(plane, call)) for row in rows]
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    send_json(call, {"data": data, "has_more": has_more, **ends})


async def get_batch(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """One batch of this key. Raises NotFound."""
    _show(plane, call, await _own(plane, grant, match))


async def batch_results(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """The results of a batch that has ended, streamed from the table. Raises NotFound."""
    batch = await _own(plane, grant, match)
    if batch.status != "ended" or batch.archived_ns is not None:
        when = "any more" if batch.archived_ns is not None else "yet"
        raise NotFound(f"Message batch {match.params['id']} has no available results {when}.")
    sealer, last = plane.batches.sealer, -1

    def piece(connection: Connection) -> tuple[int, bytes]:
        rows = batches.results_after(
            connection, batch.id, last, rows_max=RESULT_ROWS_AT_ONCE, bytes_max=RESULT_BYTES_AT_ONCE
        )
        lines = [shape.result_line(row.custom_id, row.state, _opened(sealer, batch.id, row)) for row in rows]
        return (rows[-1].number if rows else -1), b"".join(lines)

    last, text = await plane.reader.run(piece)
    call.reply.start(200, JSON_LINES)
    while last >= 0:
        await call.reply.write(text)
        last, text = await plane.reader.run(piece)
    call.reply.finish()


# Ending one


async def cancel_batch(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """Start no further lines; running ones are finished. Raises NotFound."""
    batch = await _own(plane, grant, match)
    now_ns = plane.clock.now_ns()
    await plane.batches.write(lambda c: batches.cancel(c, batch.id, grant.owner_id, grant.key_id, now_ns))
    plane.batches.look()
    _show(plane, call, await _own(plane, grant, match))


async def delete_batch(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """Delete an ended batch with its results. Raises NotFound, BadRequest."""
    batch = await _own(plane, grant, match)
    if not await plane.batches.write(lambda c: batches.delete(c, batch.id, grant.owner_id, grant.key_id)):
        await _own(plane, grant, match)
        raise BadRequest(f"Message batch {match.params['id']} has not ended; cancel it before you delete it.")
    plane.batches.look()
    gone = {"id": shape.batch_id_text(batch.id), "type": "message_batch_deleted"}
    send_json(call, gone)


def _show(plane: DataPlane, call: Call, batch: BatchRow, *, replayed: bool = False) -> None:
    headers = (*JSON, REPLAYED) if replayed else JSON
    call.reply.send(200, headers, msgspec.json.encode(shape.shown(batch, _home(plane, call))))


def _home(plane: DataPlane, call: Call) -> str:
    """The address of the batches with the caller's own prefix, since its SDK follows it with the caller's key.

    Without an origin it is a path, to which the SDK prepends its base address, and so the prefix.
    """
    origin = plane.origin(call)
    return f"{origin}{call.path.partition(PATH)[0]}{PATH}" if origin else PATH


async def _own(plane: DataPlane, grant: Grant, match: Match) -> BatchRow:
    batch_id = shape.parse_batch_id(match.params["id"])
    found = None
    if batch_id is not None:
        found = await plane.reader.run(lambda c: batches.get_batch(c, batch_id, grant.owner_id, grant.key_id))
    if found is None:
        raise NotFound(f"Message batch {match.params['id'][:80]!r} was not found.", param="id")
    return found


async def _check_models(plane: DataPlane, snapshot: Snapshot, grant: Grant, call: Call, asked: Asked) -> None:
    """Check each model once, as its first line would use it: allowed, served and priced."""
    policy = snapshot.policy_for(grant)
    for number in asked.models.values():
        _, params = asked.line(number)
        line = Call(call.id, "POST", PATH, "", call.headers, "", params, call.reply, call.started_s)
        try:
            candidates(plane, snapshot, grant, policy, await read(line, LINE_MATCH, policy.aliases), call)
        except GatewayError as error:
            error.message = f"requests.{number}.params.model: {error.message}"
            raise


def _new_batch(
    plane: DataPlane, snapshot: Snapshot, grant: Grant, call: Call, asked: Asked, name: str | None
) -> BatchRow:
    now_ns = plane.clock.now_ns()
    wanted = {*_KEPT_HEADERS}
    for channel in snapshot.channels.values():
        wanted.update(header.lower().encode() for header in channel.forward_headers)
    kept = {header.decode(): value.decode("latin-1") for header in wanted if (value := call.header(header)) is not None}
    if says_beta(call):
        kept[QUERY] = BETA
    return BatchRow(
        id=new_id(now_ns),
        owner_id=grant.owner_id,
        key_id=grant.key_id,
        status="in_progress",
        total=len(asked.items),
        created_ns=now_ns,
        expires_ns=now_ns + EXPIRES_S * 1_000_000_000,
        headers=msgspec.json.encode(kept).decode(),
        idempotency_key=name,
        fingerprint=asked.fingerprint,
    )


def _sealed(sealer: Sealer, batch_id: bytes, asked: Asked) -> Iterator[NewLine]:
    for number, custom_id, params in asked.lines():
        yield NewLine(number, custom_id, sealer.seal(params, batches.request_context(batch_id, number)))


def _opened(sealer: Sealer, batch_id: bytes, row: batches.ResultRow) -> bytes | None:
    if row.result_sealed is None:
        return None
    return sealer.open(row.result_sealed, batches.result_context(batch_id, row.number))


def _is_forgotten(made: BatchRow, plane: DataPlane) -> bool:
    keep_ns = round(plane.settings.idempotency_keep_s * 1e9)
    return made.status in batches.SHOWN and made.created_ns + keep_ns < plane.clock.now_ns()


def _cursor(query: dict[str, str], name: str) -> bytes | None:
    if not (text := query.get(name)):
        return None
    found = shape.parse_batch_id(text)
    if found is None:
        raise BadRequest(f"`{name}` must be the id of a batch.", param=name)
    return found


BATCH_PAGES: dict[str, Page] = {
    "anthropic.batches-create": create_batch,
    "anthropic.batches-list": list_batches,
    "anthropic.batches-get": get_batch,
    "anthropic.batches-cancel": cancel_batch,
    "anthropic.batches-delete": delete_batch,
    "anthropic.batches-results": batch_results,
}
