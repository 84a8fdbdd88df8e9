"""Determines the provider, form, price and callback of a submit.

Each function takes the submit as read and returns it changed, or refuses it; money and rows are in `submit`.
"""

from __future__ import annotations

import base64
import contextlib

import msgspec

from elkapi.assets.kinds import HEAD_BYTES, kind_of
from elkapi.assets.probe import ProbeError, probe
from elkapi.catalog import Facts
from elkapi.catalog.upstreams import endpoint_for
from elkapi.errors import BadRequest, NoChannel, NoPrice
from elkapi.pricing.media import RESOLUTION, at_least, charged_ms, resolution_of, unfixed
from elkapi.pricing.price import dearest_for, quote
from elkapi.relay.asking import Asked, crossed
from elkapi.relay.large import anywhere
from elkapi.relay.own_files import made_at
from elkapi.relay.plane import DataPlane, Places
from elkapi.relay.read import Request
from elkapi.relay.route import route, way_of
from elkapi.relay.task_store import not_found
from elkapi.routing.plan import Way
from elkapi.snapshot import Snapshot
from elkapi.storage.repos.tasks import task_id_text
from elkapi.tasks.callback_address import PARAM, challenge, check_callback_url
from elkapi.tasks.record import Task
from elkapi.translate.media import is_own
from elkapi.types import Attempt, Grant, Price, Quote

OWN_MARK_CHARS_MAX = 256
DEFAULT_VIDEO_MODEL = "sora-2"
REMIX = "sora.remix"


async def check_callback(plane: DataPlane, asked: Asked, *, ask: bool) -> None:
    """Raises BadRequest for a callback address that cannot be called, or that fails its challenge."""
    allowed, param = plane.settings.webhook_allow_private, asked.task.callback or PARAM
    if asked.media is not None:
        param = asked.media.word("callback_url")
    check_callback_url(asked.callback_url, allow_private=allowed, param=param)
    if ask and asked.task.challenge and asked.form == "native":
        await challenge(plane.client.send, asked.callback_url, allow_private=allowed, param=param)


async def like_its_source(plane: DataPlane, grant: Grant, asked: Asked) -> Asked:
    """Complete a follow-up by the task that it continues from, such as its model. Raises NotFound, BadRequest."""
    meter, upper = asked.operation.meter, asked.upper
    assert meter is not None
    if not asked.refs:
        # For a file of the caller's own, the model is the given one, or the one that the provider would use.
        model = asked.body.get("model") or DEFAULT_VIDEO_MODEL
        if not isinstance(model, str):
            raise BadRequest("`model` must be the name of a model.", param="model")
        # A file's header can be forged to claim too little, so it can only raise the bound.
        ms, resolution = await _uploaded(asked)
        if not meter.extends:
            upper = msgspec.structs.replace(upper, video_ms=max(upper.video_ms, ms))
        features = at_least(asked.features, resolution)
        return msgspec.structs.replace(asked, model=model, upper=upper, features=features)
    source = await plane.tasks.find(grant, asked.refs[0])
    if source.row.wire != asked.operation.wire:
        raise BadRequest(
            "The provider of this video cannot extend or remix it; create a new video.",
            code="not_supported",
            param="id",
        )
    if not meter.extends:
        upper = msgspec.structs.replace(upper, video_ms=_length_ms(source))
    shown = {"size": source.asked.body.get("size"), "seconds": source.asked.body.get("seconds")}
    # An edit or extension has a source too, but is no remix.
    remixed = {"remixed_from_video_id": task_id_text(source.row.id)} if asked.operation.id == REMIX else {}
    return msgspec.structs.replace(
        asked,
        model=source.row.model,
        said=source.asked.asked_model,
        upper=upper,
        # A follow-up without a size gets that of its source, not the provider's default. With a size, some providers
        # would make a larger one.
        features=at_least(
            {**asked.features, **source.asked.features},
            asked.features.get(RESOLUTION) if asked.body.get("size") is not None else None,
        ),
        shown={**shown, **asked.body, **remixed},
    )


def _length_ms(source: Task) -> int:
    """The length of a video in ms: an extension lasts longer than what was requested."""
    asked_ms = source.asked.upper.video_ms
    files = [asset for asset in source.told.assets if asset.kind == "video"]
    return charged_ms(files[0].duration_ms, asked_ms) if files else asked_ms


async def _uploaded(asked: Asked) -> tuple[int, str | None]:
    """The length and resolution of a video that the caller uploads; (0, None) if unknown."""
    url = asked.body.get("video")
    with contextlib.suppress(ProbeError, ValueError):
        text = url.partition(",")[2] if isinstance(url, str) else ""
        content = await anywhere(len(text), base64.b64decode, text)

        async def read(start: int, length: int) -> bytes:
            return content[max(start, 0) : max(start, 0) + length]

        if (kind := kind_of(content[:HEAD_BYTES])) is not None:
            facts = await probe(read, len(content), kind)
            sized = resolution_of(facts.width, facts.height) if facts.width and facts.height else None
            return facts.duration_ms or 0, sized
    return 0, None


def planned(plane: Places, snapshot: Snapshot, grant: Grant, asked: Asked) -> tuple[Way, tuple[Attempt, ...], Asked]:
    """(the routing, its attempts, the submit for their provider). Raises ModelForbidden, NoChannel, BadRequest."""
    request = Request(asked.operation, asked.model, asked.sent, Facts(asked.model, asked.upper))
    way = way_of(snapshot, grant, request)
    attempts = route(plane, snapshot, grant, request, way)
    if asked.media is not None:
        attempts, asked = crossed_over(plane, asked, attempts)
    return way, attempts, asked


def priced(asked: Asked, grant: Grant, way: Way) -> tuple[Price, Quote]:
    """(the price with all its variants, the upper bound of the cost). Raises NoPrice."""
    price = Price(id=0, model=asked.model, version=0) if asked.operation.unit == "free" else way.price
    if price is None:
        raise NoPrice(f"The model {asked.model!r} has no price; ask the operator to set one with `elkapi price set`.")
    if way.ratio_micro is None:
        raise NoPrice(f"The group {grant.group!r} of this API key no longer exists; ask the operator.")
    assert asked.operation.meter is not None
    dearest = dearest_for(price, asked.features, unfixed(asked.operation.meter, asked.features))
    bound = quote(dearest, grant.group, way.ratio_micro, asked.upper)
    if not bound.nano and way.ratio_micro and not dearest.is_zero:
        raise NoPrice(
            f"The price of {asked.model!r} has no unit that applies to this task; ask the operator to set one."
        )
    return price, bound


def crossed_over(plane: Places, asked: Asked, attempts: tuple[Attempt, ...]) -> tuple[tuple[Attempt, ...], Asked]:
    """(the attempts at one kind of provider, the neutral request in its form); a provider's own body passes unchanged.

    Raises BadRequest for what that provider does not support, NoChannel if none of them makes videos.
    """
    operation = asked.operation
    wires = [
        found[0] if (found := endpoint_for(one.channel.family, operation.wire, True, one.upstream_model)) else None
        for one in attempts
    ]
    wire = wires[0]
    if wire is None:
        raise NoChannel(f"The model {asked.model!r} does not support videos.")
    kept = tuple(one for one, its in zip(attempts, wires, strict=True) if its == wire)
    if wire == operation.wire and operation.form == "video" and is_own(asked.body):
        return kept, asked
    return kept, crossed(asked, plane.catalog, wire)


async def own_mark_checked(plane: DataPlane, grant: Grant, asked: Asked, *, repeatable: bool) -> None:
    """Raises BadRequest for a caller's own name that is invalid or already used by a task; providers require it to be
    unique.

    `repeatable`: a submit under an idempotency key may be repeated, so its claim is checked first (`Submit.reserve`).
    """
    param = asked.task.mark
    mark = asked.body.get(param)
    # PostgreSQL stores no text with a NUL.
    if not isinstance(mark, str) or len(mark) > OWN_MARK_CHARS_MAX or "\0" in mark:
        text = f"`{param}` must be a string of at most {OWN_MARK_CHARS_MAX} characters without U+0000."
        raise BadRequest(text, param=param)
    if not repeatable and await plane.tasks.find_or_none(grant, mark) is not None:
        raise mark_taken(asked)


def mark_taken(asked: Asked) -> BadRequest:
    """The error for a caller's own name that another submit uses."""
    return BadRequest(
        f"`{asked.task.mark}` is already used by another task; choose a unique value.", param=asked.task.mark
    )


async def same_account(
    plane: DataPlane, grant: Grant, asked: Asked, attempts: tuple[Attempt, ...], origin: str
) -> tuple[tuple[Attempt, ...], dict[str, str]]:
    """(only the account that made what the submit refers to, the provider's names for it).

    Raises NotFound for what is not the caller's, NoChannel for an account that is no longer available. `origin` is how
    the caller addresses us. A provider may know a name that no task of the caller has, but accounts are shared here, so
    it belongs to nobody.
    """
    named, made = {}, []
    for ref in asked.refs:
        task = await plane.tasks.find_or_none(grant, ref)
        if task is None:
            raise not_found(ref)
        # The name of a result is already the provider's.
        if ref == task_id_text(task.row.id) and task.row.native_id:
            named[ref] = task.row.native_id
        elif ref == task.row.native_id:
            named[ref] = ref
        made.append(task)
    for address in asked.files:
        if (found := await made_at(plane, grant, address, origin)) is not None:
            task, named[address] = found
            made.append(task)
    for task in made:
        place = (task.row.channel_id, task.row.channel_key_id)
        attempts = tuple(one for one in attempts if (one.channel.id, one.key.id) == place)
    if not attempts:
        raise NoChannel("The provider account of the task or file that this task refers to is no longer available.")
    return attempts, named
