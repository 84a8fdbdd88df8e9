"""Turns of copies: a provider whose files do not come leaves some to the others."""

from __future__ import annotations

import asyncio
from typing import Any

from elkapi.catalog.task import Made
from elkapi.tasks.copying import COPIES_AT_ONCE_MAX, Copies
from elkapi.tasks.machine import Reading
from elkapi.types import Channel, ChannelKey, State
from elkapi.upstream import UpstreamRequest

VIDEO = Reading(State.SUCCEEDED, "done", True, 100, made=((Made("url"), "https://files.example/v.mp4"),))


class Host:
    """Copies at once what is not of the channel 1, and that never; it stands for all of a poller's parts."""

    def __init__(self) -> None:
        self.copier, self.way = self, None
        self.begun = 0

    async def copy(self, task: Any, number: int, made: Made, request: UpstreamRequest, source: str) -> Any:
        self.begun += 1
        if task == 1:
            await asyncio.Event().wait()


async def test_a_provider_whose_files_do_not_come_keeps_no_other_waiting() -> None:
    host: Any = Host()
    copies = Copies(host)

    def of(channel_id: int) -> Any:
        channel = Channel(channel_id, "east", "kling", "https://provider.example", keys=(), models=("m",))
        task: Any = channel_id
        return copies.of(task, None, (channel, ChannelKey(1, "k")), VIDEO)  # type: ignore[arg-type]

    hanging = [asyncio.ensure_future(of(1)) for _ in range(2 * COPIES_AT_ONCE_MAX)]
    await asyncio.sleep(0)
    await of(2)
    assert copies.waiting == len(hanging)
    assert 1 < host.begun <= COPIES_AT_ONCE_MAX
    for one in hanging:
        one.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    assert copies.waiting == 0
