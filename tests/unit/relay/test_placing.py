"""Where a submit that goes on from earlier tasks may go: to the account that made them, and to no other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from elkapi.errors import NoChannel, NotFound
from elkapi.relay.placing import same_account
from elkapi.types import Attempt, Channel, ChannelKey

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
