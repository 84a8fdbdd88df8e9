"""Where a submit that goes on from earlier tasks may go, what a task may cost, and which callbacks are challenged."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from elkapi.errors import BadRequest, NoChannel, NoPrice, NotFound
from elkapi.relay import placing
from elkapi.relay.placing import check_callback, priced, same_account
from elkapi.routing.plan import Way
from elkapi.types import Attempt, Channel, ChannelKey, Grant, Price, Usage

KEYS = (ChannelKey(11, "a"), ChannelKey(12, "b"))
EAST = Channel(1, "east", "kling", "https://east.example", keys=KEYS, models=("m",))
WEST = Channel(2, "west", "kling", "https://west.example", keys=KEYS, models=("m",))
ATTEMPTS = tuple(Attempt(channel, key, "m", "plan") for channel in (EAST, WEST) for key in KEYS)
ONE, TWO, THREE = (number * 16 for number in (b"\1", b"\2", b"\3"))
OURS = f"task_{ONE.hex()}"


def task(id_: bytes, channel_id: int, key_id: int, native_id: str | None) -> Any:
    row = SimpleNamespace(id=id_, channel_id=channel_id, channel_key_id=key_id, native_id=native_id)
    return SimpleNamespace(row=row)


# The caller's own tasks, by all their names: `v1` is what the first one made.
FIRST = task(ONE, 2, 12, "n1")
TASKS = {
    **dict.fromkeys((OURS, "n1", "v1"), FIRST),
    "n2": task(TWO, 2, 12, "n2"),
    "n3": task(THREE, 2, 11, "n3"),
    f"task_{THREE.hex()}": task(THREE, 2, 12, None),
}


async def placed(*refs: str, attempts: tuple[Attempt, ...] = ATTEMPTS) -> tuple[list[tuple[int, int]], dict[str, str]]:
    """(the accounts that are left, the provider's names of what was named)."""

    async def find(_grant: Any, ref: str) -> Any:
        return TASKS.get(ref)

    plane: Any = SimpleNamespace(tasks=SimpleNamespace(find_or_none=find))
    asked: Any = SimpleNamespace(refs=refs, files=())
    grant: Any = None
    left, named = await same_account(plane, grant, asked, attempts, "")
    return [(one.channel.id, one.key.id) for one in left], named


@pytest.mark.parametrize(
    ("refs", "named"),
    [
        ((OURS,), {OURS: "n1"}),
        (("n1",), {"n1": "n1"}),
        # What a task made has the provider's name already.
        (("v1",), {}),
        ((OURS, "n2"), {OURS: "n1", "n2": "n2"}),
        # Of one whose submit is under way nobody knows a name.
        ((f"task_{THREE.hex()}",), {}),
    ],
)
async def test_what_goes_on_from_a_task_goes_to_the_very_key_that_made_it(
    refs: tuple[str, ...], named: dict[str, str]
) -> None:
    assert await placed(*refs) == ([(2, 12)], named)


async def test_what_nobody_has_or_no_one_account_made_goes_nowhere() -> None:
    with pytest.raises(NotFound):
        await placed("n1", "somebody's")
    with pytest.raises(NoChannel):
        await placed("n1", "n3")
    gone = tuple(one for one in ATTEMPTS if one.channel is not WEST)
    with pytest.raises(NoChannel):
        await placed("n1", attempts=gone)
    other = msgspec.structs.replace(WEST, keys=KEYS[:1])
    with pytest.raises(NoChannel):
        await placed("n1", attempts=(*gone, Attempt(other, KEYS[0], "m", "plan")))


PRICED = Price(id=1, model="m", version=1, call_nano=7)
HALF = 500_000


def price_of(price: Price | None, ratio_micro: int | None, *, unit: str = "call") -> tuple[Price, int]:
    """(the price with its variants, the most that the task may cost in nano)."""
    operation = SimpleNamespace(unit=unit, meter=SimpleNamespace(features=()))
    asked: Any = SimpleNamespace(model="m", operation=operation, features={}, upper=Usage(calls=2))
    found, bound = priced(
        asked, Grant(1, "k", 1, "vip", "live", (1,), None, None, True), Way((), None, price, ratio_micro)
    )
    return found, bound.nano


def test_a_task_is_held_for_what_it_may_cost_and_refused_where_nobody_can_say() -> None:
    assert price_of(PRICED, 1_000_000) == (PRICED, 14)
    assert price_of(PRICED, HALF) == (PRICED, 7)
    # A price of nothing, and a group that pays nothing, are meant.
    assert price_of(msgspec.structs.replace(PRICED, call_nano=0), HALF)[1] == 0
    assert price_of(PRICED, 0)[1] == 0
    # Nothing is held for what is free, whatever the model costs otherwise.
    assert [price_of(price, HALF, unit="free")[1] for price in (PRICED, None)] == [0, 0]
    other = msgspec.structs.replace(PRICED, call_nano=0, image_nano=5)
    for price, ratio_micro in ((None, HALF), (PRICED, None), (other, HALF)):
        with pytest.raises(NoPrice):
            price_of(price, ratio_micro)


@pytest.mark.parametrize(
    ("ask", "challenges", "form", "asked_for"),
    [
        (True, True, "native", ["https://hook.example/x"]),
        (False, True, "native", []),
        (True, False, "native", []),
        (True, True, "video", []),
    ],
)
async def test_a_callback_is_challenged_where_its_provider_would_do_so(
    monkeypatch: pytest.MonkeyPatch, ask: bool, challenges: bool, form: str, asked_for: list[str]
) -> None:
    challenged = []

    async def challenge(send: str, url: str, *, allow_private: bool, param: str) -> None:
        assert (send, allow_private, param) == ("guarded", False, "hook")
        challenged.append(url)

    monkeypatch.setattr(placing, "challenge", challenge)
    settings = SimpleNamespace(webhook_allow_private=False)
    plane: Any = SimpleNamespace(settings=settings, client=SimpleNamespace(send="guarded"))
    task = SimpleNamespace(callback="hook", challenge=challenges)

    def asked(url: str) -> Any:
        return SimpleNamespace(task=task, media=None, form=form, callback_url=url)

    await check_callback(plane, asked("https://hook.example/x"), ask=ask)
    assert challenged == asked_for
    with pytest.raises(BadRequest) as refused:
        await check_callback(plane, asked("https://127.0.0.1/x"), ask=ask)
    assert (refused.value.param, challenged) == ("hook", asked_for)
    settings.webhook_allow_private = True
    if not asked_for:
        await check_callback(plane, asked("https://127.0.0.1/x"), ask=ask)
