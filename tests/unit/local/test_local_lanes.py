"""When a batch may run wide: only while nothing else runs and nothing waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np

from elkapi.local.batcher import Limits
from elkapi.local.engine import Vectors
from elkapi.local.lanes import Lanes
from tests.waiting import until


class Recorder:
    """Answers ones and remembers which batches ran wide; the first waits until it is released."""

    def __init__(self) -> None:
        self.wide: list[bool] = []
        self.begun, self.release = threading.Event(), threading.Event()

    def embed(self, batch: Sequence[Sequence[int]], wide: bool) -> Vectors:
        self.wide.append(wide)
        self.begun.set()
        self.release.wait(10)
        return np.ones((len(batch), 4), np.float32)


async def test_a_lone_text_runs_wide_and_one_beside_it_does_not() -> None:
    model = Recorder()
    lanes = Lanes(model, 4, Limits(), 2)
    try:
        first = asyncio.create_task(lanes.embed([[1, 2]]))
        await asyncio.to_thread(model.begun.wait, 10)
        second = asyncio.create_task(lanes.embed([[3, 4]]))
        await until(lambda: len(model.wide) >= 2)
        model.release.set()
        await asyncio.gather(first, second)
        await lanes.embed([[5]])
    finally:
        lanes.close()
    assert model.wide == [True, False, True]
