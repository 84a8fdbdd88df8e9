"""Sends the small writes of one loop iteration back to back at its end; connections decide what is written.

A write wakes a waiting peer, and waking one costs the sender more than the write itself (on a virtual machine, an
interrupt of another core). A peer that is still awake from the previous write costs nothing more, so the messages
released by one commit of the ledger leave together. A single message leaves at once, since another loop iteration would
only cost. docs/adr/0023-writes-leave-together.md has the figures.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Holder(Protocol):
    """A connection that holds a message back until `send_held`, which may find nothing held any more.

    Whatever its peer sent or closed before that has been read by then.
    """

    loop: asyncio.AbstractEventLoop

    def send_held(self) -> None: ...


class Burst:
    """The connections of one event loop that hold a message back until the end of the iteration."""

    __slots__ = ("holders",)

    def __init__(self) -> None:
        self.holders: list[Holder] = []

    def add(self, holder: Holder) -> None:
        """Call `holder.send_held` after the callbacks that are due now have run and sockets have been read."""
        if not self.holders:
            loop = holder.loop
            if isinstance(loop, asyncio.BaseEventLoop):
                # asyncio reads sockets after the callbacks that are already scheduled.
                loop.call_soon(loop.call_soon, self._send)
            else:
                # uvloop reads sockets before them.
                loop.call_soon(self._send)
        self.holders.append(holder)

    def _send(self) -> None:
        holders, self.holders = self.holders, []
        for holder in holders:
            try:
                holder.send_held()
            except Exception as error:
                # The others' messages wait behind this one, and nobody else would send them.
                holder.loop.call_exception_handler({"message": "a held message was not sent", "exception": error})
