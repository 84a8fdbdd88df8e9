"""Where a submit may go, and as what: the account that made what it names, the provider's form, its callback's address.

Each function takes the submit as it was read and gives it back changed, or refuses it; money and rows are `submit`'s.
"""

from __future__ import annotations

import msgspec

from elkapi.catalog.upstreams import endpoint_for
from elkapi.errors import BadRequest, NoChannel
from elkapi.relay.asking import Asked, crossed
from elkapi.relay.plane import DataPlane
from elkapi.relay.task_store import not_found
from elkapi.storage.repos.tasks import text_id
from elkapi.tasks.callback_address import PARAM, challenge, check_callback_url
from elkapi.types import Attempt, Grant

DEFAULT_VIDEO_MODEL = "sora-2"


async def check_callback(plane: DataPlane, asked: Asked) -> None:
    """Raises BadRequest for an address that cannot be called, or that does not want to be."""
    allowed, param = plane.settings.webhook_allow_private, asked.task.callback or PARAM
    check_callback_url(asked.callback_url, allow_private=allowed, param=param)
    if asked.task.challenge and asked.form == "native":
        await challenge(plane.client.send, asked.callback_url, allow_private=allowed, param=param)


async def like_its_source(plane: DataPlane, grant: Grant, asked: Asked) -> Asked:
    """A follow-up that names no model: it is that of the task it goes on from. Raises NotFound, BadRequest."""
    if not asked.refs:
        # A file of the caller's own: the model is what it says, or the one that the provider would take.
        model = asked.body.get("model") or DEFAULT_VIDEO_MODEL
        if not isinstance(model, str):
            raise BadRequest("`model` must be the name of a model.", param="model")
        return msgspec.structs.replace(asked, model=model)
    source = await plane.tasks.find(grant, asked.refs[0])
    if source.row.wire != asked.operation.wire:
        raise BadRequest("The provider of this video cannot go on from it.", code="not_supported", param="id")
    upper = asked.upper
    if not asked.body.get("seconds"):
        upper = msgspec.structs.replace(upper, video_ms=source.asked.upper.video_ms)
    shown = {"size": source.asked.body.get("size"), "seconds": source.asked.body.get("seconds")}
    return msgspec.structs.replace(
        asked,
        model=source.row.model,
        said=source.asked.asked_model,
        upper=upper,
        features={**source.asked.features, **asked.features},
        shown={**shown, **asked.body, "remixed_from_video_id": text_id(source.row.id)},
    )


def crossed_over(plane: DataPlane, asked: Asked, attempts: tuple[Attempt, ...]) -> tuple[tuple[Attempt, ...], Asked]:
    """(the attempts of one kind of provider, the neutral request in its form); its own form passes as it came.

    Raises BadRequest for what that provider cannot carry.
    """
    operation = asked.operation
    wires = [
        found[0] if (found := endpoint_for(one.channel.family, operation.wire, True, one.upstream_model)) else None
        for one in attempts
    ]
    wire = wires[0]
    if wire is None:
        raise NoChannel(f"No channel makes videos with {asked.model!r}.")
    kept = tuple(one for one, its in zip(attempts, wires, strict=True) if its == wire)
    if wire == operation.wire and operation.form == "video":
        return kept, asked
    return kept, crossed(asked, plane.operations, plane.catalog.family_of, wire)


async def same_account(
    plane: DataPlane, grant: Grant, asked: Asked, attempts: tuple[Attempt, ...]
) -> tuple[tuple[Attempt, ...], dict[str, str]]:
    """(only the account that made what the submit refers to, the provider's names for it). Raises NotFound for what is
    not the caller's own.

    A name that no task of the caller's has may be the provider's own to know, where an account is the caller's alone;
    here accounts are shared, so it is nobody's.
    """
    named = {}
    for ref in asked.refs:
        task = await plane.tasks.find_or_none(grant, ref)
        if task is None:
            raise not_found(ref)
        # The name of what a task made is the provider's already.
        if ref == text_id(task.row.id) and task.row.native_id:
            named[ref] = task.row.native_id
        elif ref == task.row.native_id:
            named[ref] = ref
        place = (task.row.channel_id, task.row.channel_key_id)
        attempts = tuple(one for one in attempts if (one.channel.id, one.key.id) == place)
    if not attempts:
        raise NoChannel("The account that made what this task refers to is not served here any more.")
    return attempts, named
