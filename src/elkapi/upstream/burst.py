"""Small writes of one turn of the loop, sent back to back at its end; what is written is the connections' business.

A peer that waits is woken by a write, and waking one costs the sender more than the write itself (on a virtual machine
an interrupt of another core). Whoever is still awake from the write before costs nothing more, so the messages that one
commit of the ledger lets go leave together. A message that is alone leaves at once: another turn of the loop would only
cost. docs/adr/0023-writes-leave-together.md has the figures.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Holder(Protocol):
    """A connection that holds a message back until `send_held`, which may find that nothing is held any more.

    What its peer sent or closed before that has been read by then.
    """

    loop: asyncio.AbstractEventLoop

    def send_held(self) -> None: ...


class Burst:
    """The connections of one event loop that hold a message back until the end of this turn."""

    __slots__ = ("holders",)

    def __init__(self) -> None:
        self.holders: list[Holder] = []

    def add(self, holder: Holder) -> None:
        """`holder.send_held` is called once the callbacks that are due now have run, and sockets have been read."""
        if not self.holders:
            loop = holder.loop
            if isinstance(loop, asyncio.BaseEventLoop):
                loop.call_soon(loop.call_soon, self._send)  # Reads what came after the callbacks that wait already.
            else:
                loop.call_soon(self._send)  # uvloop reads before them.
        self.holders.append(holder)

    def _send(self) -> None:
        holders, self.holders = self.holders, []
        for holder in holders:
            try:
                holder.send_held()
            except Exception as error:
                # The messages of the others wait behind this one, and nobody would come back for them.
                holder.loop.call_exception_handler({"message": "a held message was not sent", "exception": error})
