"""A chat with a model that makes videos: begun as a task, told as a completion, billed as the task is.

    read_messages -> the submit of any video -> the task's row as it moves -> progress as text, the link last

Only a chat that no text channel serves comes here, so text calls pay nothing for it. A caller who leaves ends nothing:
the task is the poller's, and the call's id is the task's.
"""

from __future__ import annotations

from typing import Any

import msgspec

from elkapi.catalog import Catalog
from elkapi.errors import GatewayError, NoChannel, NotFound
from elkapi.money import format_usd
from elkapi.pricing.media import bound
from elkapi.relay.asking import Asked, put_as
from elkapi.relay.call import COST_USD, EVENTS, JSON, Call
from elkapi.relay.placing import REMIX, like_its_source
from elkapi.relay.plane import DataPlane, Places
from elkapi.relay.read import Request
from elkapi.relay.route import can_serve
from elkapi.relay.submit import CHAT_FORM, Submit, begun
from elkapi.snapshot import Snapshot
from elkapi.storage.repos import requests
from elkapi.storage.repos.tasks import task_id_text
from elkapi.tasks.record import Task
from elkapi.translate.decode import decode
from elkapi.translate.media import MediaAsk, read_messages
from elkapi.translate.task_chat import KEEP_ALIVE, Telling, continued, failure, whole
from elkapi.types import Grant, State, TaskView

CHAT, SUBMIT = "openai.chat", "seedance.unified-submit"
_object = msgspec.json.Decoder(dict[str, Any])


def makes_videos(catalog: Catalog, snapshot: Snapshot, grant: Grant, request: Request) -> bool:
    """Whether the model of a chat that no text channel serves makes videos on some channel."""
    return request.operation.id == CHAT and can_serve(snapshot, grant, catalog.by_id[SUBMIT], request.model)


async def video_in_chat(
    plane: DataPlane, snapshot: Snapshot, grant: Grant, request: Request, call: Call, refusal: GatewayError | None
) -> None:
    """Start the task and report it to its end; `refusal` is a guardrail's. Raises GatewayError while nothing was
    sent, ClientGone."""
    ask, one = await ready_chat(plane, snapshot, grant, request, call, refusal)
    stored = await one.reserve()
    if stored is None:
        await begun(plane, one)
    # A repeated call continues with the task that it started before.
    task = await plane.tasks.find(grant, task_id_text(call.id if stored is None else stored.request_id))
    completion_id = f"chatcmpl-{task.row.id.hex()}"
    if request.stream:
        options = decode(_object, request.body).get("stream_options")
        with_usage = isinstance(options, dict) and options.get("include_usage") is True
        await _told(plane, call, task, Telling(completion_id, ask.prompt, with_usage=with_usage))
        return
    view = await _end(plane, call, task)
    if view.state is not State.SUCCEEDED:
        raise failure(view)
    cost = await _cost(plane, task)
    call.reply.send(200, (*JSON, *cost), msgspec.json.encode(whole(view, completion_id, ask.prompt)))


async def ready_chat(
    plane: DataPlane, snapshot: Snapshot, grant: Grant, request: Request, call: Call, refusal: GatewayError | None
) -> tuple[MediaAsk, Submit]:
    """(what is asked for, its submit up to the hold). Raises GatewayError.

    A remix of the caller's earlier video where its provider has that, else at the account that made it, else, where
    that is not possible (another model, an account that is gone), of its own.
    """
    body = decode(_object, request.body)
    ask = read_messages(body, request.model)
    return ask, await _prepared(plane, snapshot, grant, request, call, ask, continued(body), refusal)


async def _prepared(
    plane: DataPlane,
    snapshot: Snapshot,
    grant: Grant,
    request: Request,
    call: Call,
    ask: MediaAsk,
    earlier_id: str,
    refusal: GatewayError | None,
) -> Submit:
    anew = msgspec.structs.replace(asked_in_chat(plane, request, ask), refusal=refusal)
    earlier = await plane.tasks.find_or_none(grant, earlier_id) if earlier_id else None
    if earlier is not None:
        refs = (task_id_text(earlier.row.id),)
        follow_ups = [msgspec.structs.replace(anew, refs=refs)]
        if _can_remix(earlier, request, ask):
            remix = put_as(anew, plane.catalog, REMIX, {"prompt": ask.prompt})
            remix = msgspec.structs.replace(remix, refs=refs, media=None)
            follow_ups.insert(0, await like_its_source(plane, grant, remix))
        for asked in follow_ups:
            try:
                return await Submit.prepared(plane, snapshot, grant, asked, call)
            except (NoChannel, NotFound):
                continue
    return await Submit.prepared(plane, snapshot, grant, anew, call)


def asked_in_chat(plane: Places, request: Request, ask: MediaAsk) -> Asked:
    """A chat's request as the submit of a video."""
    operation = plane.catalog.by_id[SUBMIT]
    assert operation.meter is not None
    shown: dict[str, Any] = {"model": request.asked or request.model, "prompt": ask.prompt}
    if ask.seconds is not None:
        shown["seconds"] = f"{ask.seconds:g}"
    upper, features = bound(operation.meter, shown)
    return Asked(
        operation=operation,
        family=plane.catalog.family_of[operation.id],
        model=request.model,
        said=request.asked,
        sent=request.body,
        body=shown,
        upper=upper,
        features=features,
        refs=(),
        callback_url="",
        form=CHAT_FORM,
        media=ask,
        shown=shown,
    )


def _can_remix(earlier: Task, request: Request, ask: MediaAsk) -> bool:
    row = earlier.row
    its_own = (row.wire, row.model, row.state) == ("videos", request.model, State.SUCCEEDED.value)
    return its_own and not ask.image and not ask.video and ask.seconds is None


async def _told(plane: DataPlane, call: Call, task: Task, telling: Telling) -> None:
    """The answer as a stream; a failure ends it with an error frame. Raises ClientGone."""
    out, origin, view = call.reply, plane.origin(call), plane.showing.view(task, plane.origin(call))
    out.start(200, EVENTS)
    async for now in plane.tasks.moves(task, plane.settings.stream_ping_s):
        if now is None:
            await out.write(KEEP_ALIVE)
            continue
        view = plane.showing.view(now, origin)
        if view.state.is_end:
            break
        if frames := telling.told(view):
            await out.write(frames)
    out.finish(telling.told(_ended(view)))


async def _end(plane: DataPlane, call: Call, task: Task) -> TaskView:
    last = task
    async for now in plane.tasks.moves(task, plane.settings.stream_ping_s):
        last = now or last
    return _ended(plane.showing.view(last, plane.origin(call)))


def _ended(view: TaskView) -> TaskView:
    """The view after following a task; one that was deleted before its end counts as cancelled."""
    return view if view.state.is_end else msgspec.structs.replace(view, state=State.CANCELLED)


async def _cost(plane: DataPlane, task: Task) -> tuple[tuple[bytes, bytes], ...]:
    try:
        record = await plane.reader.run(lambda connection: requests.get_request(connection, task.row.id, None))
    except GatewayError:
        return ()
    return () if record is None else ((COST_USD, format_usd(record.charge_nano).encode()),)
