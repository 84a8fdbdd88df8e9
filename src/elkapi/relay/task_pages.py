"""Endpoints of tasks after their submit: read, list, follow, cancel, delete; all free, from our own tables.

Native routes answer in the provider's format, neutral ones in the form of their operation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

import msgspec

from elkapi.catalog import Match, Operation, Role
from elkapi.catalog.jsonpath import compiled, put
from elkapi.catalog.task import Listing
from elkapi.errors import NOT_JSON, BadRequest, Conflict, NotFound, Unavailable, UpstreamError
from elkapi.ids import request_id_text
from elkapi.relay.asset_pages import answer_with
from elkapi.relay.call import EVENTS, JSON, Call, send_json
from elkapi.relay.note import note_end
from elkapi.relay.plane import DataPlane, Page
from elkapi.relay.query import number_in, query_of
from elkapi.relay.submit import AT_ONCE, submit
from elkapi.relay.task_store import not_found
from elkapi.routing.verdict import is_success
from elkapi.snapshot import Snapshot
from elkapi.storage.repos import assets
from elkapi.storage.repos.tasks import Wanted, parse_task_id
from elkapi.tasks import ending, machine
from elkapi.tasks.asking import Way, account_of, asked
from elkapi.tasks.record import Task, encode
from elkapi.tasks.request import ABSENT, ANSWER_BYTES_MAX, request_for
from elkapi.testing.crash import point
from elkapi.translate.kept import listing as page_listed
from elkapi.translate.task_chat import KEEP_ALIVE
from elkapi.types import Grant, State, TaskAsset, TaskStep
from elkapi.upstream import UpstreamFailure, answer_to
from elkapi.upstream.gcp import TokenRefused

_object = msgspec.json.Decoder(dict[str, Any])
_ID_NAMES = ("task_id", "id", "taskId", "file_id")
STEPS_MAX = 5
OFFSET_MAX, PAGES_MAX, PAGE_SIZE_MAX = 1_000_000_000, 1_000_000, (1 << 31) - 1


async def fetch(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """The current task. Raises NotFound, BadRequest, Unavailable."""
    name = await _named(match, call)
    task = await plane.tasks.find(grant, name)
    asked_for, found = match.operation.task, plane.catalog.by_id[task.row.operation].task
    if asked_for is not None and found is not None and asked_for.at_once is not found.at_once:
        # A character is no video, though the ids of both are below /v1/videos.
        raise not_found(name)
    if match.operation.form == "neutral-events":
        await follow_task(plane, task, call)
        return
    if match.operation.form == "video-content":
        await content(plane, grant, task, call)
        return
    _answer(plane, match.operation, task, call)


async def list_tasks(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """The caller's own tasks of a family. Raises BadRequest, Unavailable."""
    operation, listing = match.operation, match.operation.listing
    if listing is None:
        await list_by_cursor(plane, grant, operation, call)
        return
    asked = parse_qs(call.query)
    query = query_of(call.query)
    limit = _page_size(query, listing.limit, listing.limit_default, listing.limit_max)
    offset = (number_in(query, listing.offset, 0, OFFSET_MAX) if listing.offset else None) or 0
    if listing.page:
        offset = ((number_in(query, listing.page, 1, PAGES_MAX) or 1) - 1) * limit
    wanted = Wanted(
        wires=(operation.wire or "",),
        operations=_of_list(plane, match),
        # A provider lists the tasks that it started, not submits that it refused.
        begun=True,
        **_filters(operation, listing, asked),
    )
    found = await plane.tasks.page(grant, wanted, limit=limit + 1, offset=offset)
    has_more, found = len(found) > limit, found[:limit]
    total = await plane.tasks.count(grant, wanted) if listing.total else 0
    body = msgspec.json.decode(msgspec.json.encode(listing.envelope))
    items = [_item(listing, plane.showing.shown(operation, task, plane.origin(call))[1]) for task in found]
    for path, value in (
        (listing.items, items),
        (listing.total, total),
        (listing.more, has_more),
        (listing.request_id, request_id_text(call.id)),
    ):
        if path:
            put(path, body, value)
    for name, value in ((listing.limit, limit), (listing.offset, offset)):
        if name and name in body:
            body[name] = value
    if "count" in body:
        body["count"] = len(items)
    send_json(call, body if listing.items else items)


async def list_by_cursor(plane: DataPlane, grant: Grant, operation: Operation, call: Call) -> None:
    """A list in OpenAI's format: `after`, `limit`, `order`. Raises BadRequest, NotFound, Unavailable."""
    query = query_of(call.query)
    limit = _page_size(query, "limit", 20, 100)
    if (order := query.get("order") or "desc") not in ("asc", "desc"):
        raise BadRequest("`order` must be asc or desc.", param="order")
    after = None
    if named := query.get("after"):
        last = await plane.tasks.find_or_none(grant, named)
        # Ids are in the order of creation, so a page can continue after one that was deleted meanwhile.
        after = parse_task_id(named) if last is None else last.row.id
        if after is None:
            raise not_found(named)
    is_ours = operation.form == "neutral"
    forms = None if is_ours else (operation.form, "unified")
    wanted = Wanted(forms=forms, but_form=AT_ONCE, begun=not is_ours)
    found = await plane.tasks.page(grant, wanted, limit=limit + 1, after=after, ascending=order == "asc")
    origin = plane.origin(call)
    data = [plane.showing.shown(operation, task, origin)[1] for task in found[:limit]]
    send_json(call, page_listed(data, [one["id"] for one in data], len(found) > limit))


_VARIANTS = ("video", "thumbnail", "spritesheet")
# The type of OpenAI's spritesheets, which distinguishes them from its thumbnails; other providers' images are
# thumbnails.
_SPRITES = "image/jpeg"


async def content(plane: DataPlane, grant: Grant, task: Task, call: Call) -> None:
    """The content of a task: `variant` video, thumbnail or spritesheet. Raises BadRequest, NotFound."""
    variant = parse_qs(call.query).get("variant", ["video"])[-1]
    if variant not in _VARIANTS:
        raise BadRequest("`variant` must be video, thumbnail or spritesheet.", param="variant")
    if task.state is not State.SUCCEEDED:
        raise BadRequest(f"The video is not available: its task is {task.state.value}.", code="video_not_ready")
    is_openais = task.row.wire == "videos"

    def fits(asset: TaskAsset) -> bool:
        if variant == "video" or not asset.content_type.startswith("image/"):
            return asset.content_type.startswith(f"{variant}/")
        is_sprites = is_openais and asset.content_type == _SPRITES
        return is_sprites is (variant == "spritesheet")

    found = next((one for one in task.told.assets if fits(one)), None)
    if found is None:
        raise NotFound(f"This video has no {variant}.", param="variant")
    await _send_asset(plane, grant, found.id, call)


async def file_of_google(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """`GET /v1beta/files/{id}:download`: a file as Google's clients fetch it, with their key. Raises NotFound."""
    try:
        asset_id = bytes.fromhex(match.params["model"].rpartition("/files/")[2])
    except ValueError:
        asset_id = b""
    await _send_asset(plane, grant, asset_id, call)


async def _send_asset(plane: DataPlane, grant: Grant, asset_id: bytes, call: Call) -> None:
    now_ns = plane.clock.now_ns()
    row = await plane.reader.run(lambda connection: assets.find(connection, grant, asset_id, now_ns))
    if row is None:
        raise NotFound("The file does not exist or has expired.")
    await answer_with(plane, row, call)


async def follow_task(plane: DataPlane, task: Task, call: Call) -> None:
    """A task's changes as server-sent events, until its end: `event: task`, our object as data.

    Reads our own row; comments keep the connection alive. Raises Unavailable before the first event.
    """
    operation, origin, out = plane.catalog.by_id["tasks.get"], plane.origin(call), call.reply
    out.start(200, EVENTS)
    async for now in plane.tasks.moves(task, plane.settings.stream_ping_s):
        if now is None:
            await out.write(KEEP_ALIVE)
            continue
        shown = msgspec.json.encode(plane.showing.shown(operation, now, origin)[1])
        await out.write(b"event: task\ndata: " + shown + b"\n\n")
    out.finish()


def _filters(operation: Operation, listing: Listing, asked: dict[str, list[str]]) -> dict[str, Any]:
    """The filters of a list, as members of `Wanted`; an unknown word matches nothing."""
    wanted: dict[str, Any] = {}
    for name, what in listing.filters.items():
        values = [value for text in asked.get(name, []) for value in text.split(",")]
        if not values:
            continue
        if what == "state":
            assert operation.task is not None
            words = operation.task.states
            wanted["states"] = tuple({words[value].value for value in values if value in words})
        else:
            wanted["native_ids" if what == "ids" else "models"] = tuple(values)
    return wanted


def _of_list(plane: DataPlane, match: Match) -> tuple[str, ...] | None:
    """For a list of one kind of submit, the submits of that path."""
    if "action" not in match.params:
        return None
    wanted = "/".join(match.params[name] for name in ("action", "action2") if name in match.params)
    return tuple(one.id for one in plane.catalog.operations if one.upstream.endswith("/" + wanted))


def _item(listing: Listing, shown: Any) -> Any:
    if not listing.item:
        return shown
    found = compiled(listing.item)(shown)
    return found[0] if found else shown


async def cancel(plane: DataPlane, snapshot: Snapshot, grant: Grant, match: Match, call: Call) -> None:
    """Cancel an open task at its provider, or delete an ended one. Raises NotFound, Conflict, UpstreamError."""
    task = await plane.tasks.find(grant, await _named(match, call))
    if not task.state.is_end:
        task = await _cancelled(plane, snapshot, task)
        spec = plane.catalog.by_id[task.row.operation].task
        forgets = spec is None or not spec.keeps_cancelled
    else:
        forgets = True
    if forgets and match.operation.method == "DELETE":
        await _forget(plane, task)
    status, body = plane.showing.cancelled(match.operation, task, plane.origin(call))
    call.reply.send(status, JSON if body else (), body)


async def _cancelled(plane: DataPlane, snapshot: Snapshot, task: Task) -> Task:
    """Cancel a task at its provider and return it: free, since the provider confirms that it will not be made."""
    operation = plane.catalog.by_id[task.row.operation]
    spec = operation.task
    assert spec is not None
    if not spec.cancel or task.row.native_id is None:
        raise Conflict("This task cannot be cancelled after it has started.", code="task_not_cancellable")
    account = account_of(snapshot, task.row.channel_id, task.row.channel_key_id)
    if account is None:
        raise Unavailable("The provider account of this task is unavailable right now; please try again.")
    values = {"id": task.row.native_id, "submit": operation.upstream.partition(" ")[2]}
    way = Way(plane.settings, plane.signer, plane.client.send, plane.catalog.family_of, plane.clock)
    found = await asked(way, operation, account, spec.fetch, values)
    if isinstance(found, tuple) and machine.read(spec, found[0]).state in (State.SUCCEEDED, State.FAILED):
        # A finished task is billed, and some providers would delete it nevertheless; the poller will end it in a
        # moment.
        raise Conflict("The provider has just finished this task; fetch it instead.", code="task_not_cancellable")
    again = task.told.cancel_asked
    # Recorded before the request: if this process ends before the answer, the poller knows what a missing task means.
    task = await _stepped(plane, task, lambda now: _noted(plane, now, asked=True))
    if task.state.is_end:
        return task
    point("tasks.cancel.before")
    try:
        request = await request_for(plane.signer, plane.settings, operation, *account, spec.cancel, values)
        reply = await answer_to(plane.client.send, request, ANSWER_BYTES_MAX)
    except (UpstreamFailure, ValueError, TokenRefused):
        raise UpstreamError("The provider did not answer, so the task may still be running; check its state.") from None
    point("tasks.cancel.after")
    if not is_success(reply.status) and not (again and reply.status == ABSENT):
        if reply.status < 500:
            # It refused, so the task continues as if nobody had asked.
            task = await _stepped(plane, task, lambda now: _noted(plane, now, asked=False))
            if task.state.is_end:
                return task
        if reply.status in (400, 404, 409, 422):
            raise Conflict("The provider can no longer cancel this task.", code="task_not_cancellable")
        raise UpstreamError("The provider could not cancel the task; it is still running.")
    return await _stepped(plane, task, lambda now: plane.teller.told(now, ending.cancelled(now, plane.clock.now_ns())))


async def _stepped(plane: DataPlane, task: Task, step_of: Callable[[Task], TaskStep | None]) -> Task:
    """The task after a step from its current version; unchanged if it has ended or `step_of` returns none.

    Raises NotFound, Unavailable.
    """
    for _ in range(STEPS_MAX):
        if task.state.is_end or (step := step_of(task)) is None:
            return task
        made = await plane.ledger.step(step)
        found = await plane.tasks.again(task)
        if found is None:
            raise not_found(task.row.native_id or "")
        if made and step.settlement is not None:
            note_end(plane, task, step.settlement.record, timed=False)
        task = found
        if made:
            return task
    raise Unavailable("The task changed while it was being cancelled; please try again.")


def _noted(plane: DataPlane, task: Task, *, asked: bool) -> TaskStep | None:
    """The step that records whether the provider may have been asked to cancel a task; None if that is already
    recorded."""
    if task.told.cancel_asked is asked:
        return None
    told = encode(msgspec.structs.replace(task.told, cancel_asked=asked))
    return msgspec.structs.replace(task.step(plane.clock.now_ns()), told=told)


async def _forget(plane: DataPlane, task: Task) -> None:
    now_ns = plane.clock.now_ns()
    for _ in range(STEPS_MAX):
        if await plane.ledger.step(msgspec.structs.replace(task.step(now_ns), deleted_ns=now_ns)):
            return
        again = await plane.tasks.again(task)
        if again is None:
            return
        task = again


def _answer(plane: DataPlane, operation: Operation, task: Task, call: Call) -> None:
    status, body = plane.showing.shown(operation, task, plane.origin(call))
    headers: list[tuple[bytes, bytes]] = [*JSON, *plane.showing.headers(operation, task)]
    call.reply.send(status, headers, msgspec.json.encode(body))


async def _named(match: Match, call: Call) -> str:
    """The id of a call, from its path, query or body. Raises BadRequest."""
    if match.operation.names:
        return match.operation.names.format_map(match.params)
    for name in _ID_NAMES:
        if (found := match.params.get(name)) is not None:
            return found
    query = parse_qs(call.query)
    for name in _ID_NAMES:
        if query.get(name):
            return query[name][-1]
    if call.method == "POST":
        try:
            body = _object.decode(await call.body())
        except NOT_JSON:
            raise BadRequest("The body must be a JSON object.", code="invalid_json") from None
        for name in _ID_NAMES:
            if isinstance(found := body.get(name), str | int):
                return str(found)
    name = match.operation.asked_by
    raise BadRequest(f"`{name}` is missing.", param=name)


def _page_size(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    """Providers differ in the limits of a page and in how they report more, so a page has what there is."""
    return min(number_in(query, name, 1, PAGE_SIZE_MAX) or default, most)


TASK_PAGES: dict[Role, Page] = {Role.SUBMIT: submit, Role.FETCH: fetch, Role.CANCEL: cancel, Role.LIST: list_tasks}
TASK_FILE_PAGES: dict[str, Page] = {"veo.download": file_of_google}
