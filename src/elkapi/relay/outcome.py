"""The outcome of one call: the reply to finish, the usage to charge, and the attempts that led to it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from elkapi.relay.call import Headers, Reply
from elkapi.translate.crossing import Crossing, Tally
from elkapi.types import AttemptRecord, Channel, Usage


class Outcome(msgspec.Struct):
    """`usage` None: the upstream reported none that can be believed; `tally` is then counted.

    `body` is, for a started reply, the rest that is still to be sent. `unsplit`: cache writes that may be long-lived
    came without their lifetimes. `refused`: the model declined, none of it has reached the caller, and another model
    may be tried. `channel` None: no upstream was asked. `recount` is set if a translated answer came without usage: it
    rewrites `body` with a local count. `crossing` is that of a stream. `served` are the price features that the answer
    reports.
    """

    status: int
    headers: Headers
    body: bytes
    usage: Usage | None
    attempts: tuple[AttemptRecord, ...]
    channel: Channel | None
    started: bool = False
    unsplit: bool = False
    tally: Tally | None = None
    flags: tuple[str, ...] = ()
    refused: bool = False
    recount: Callable[[Usage], bytes] | None = None
    crossing: Crossing | None = None
    served: dict[str, str] = {}

    def finish(self, reply: Reply) -> None:
        """Send the last bytes; only called after the money is written."""
        if self.started:
            reply.finish(self.body)
        else:
            reply.send(self.status, self.headers, self.body)
