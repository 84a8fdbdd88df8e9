"""What one call came to: the reply to finish, the usage to charge, and the attempts that led there."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from elkapi.relay.call import Headers, Reply
from elkapi.translate.crossing import Crossing, Tally
from elkapi.types import AttemptRecord, Channel, Usage


class Outcome(msgspec.Struct):
    """`usage` None means the upstream reported none that can be believed; `tally` is what is counted then.

    `body` is, for a started reply, what it still owes. `unsplit`: cache writes that may live long came without their
    lifetimes. `refused`: the model declined, none of it has reached the caller, and another model may be asked instead.
    `channel` None: no upstream was asked. `recount` is set when a translated answer came without usage: it writes
    `body` with a count of ours in it. `crossing` is that of a stream. `served` are the features of its price that the
    answer tells.
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
        """Let the last bytes go: only called after the money is written."""
        if self.started:
            reply.finish(self.body)
        else:
            reply.send(self.status, self.headers, self.body)
