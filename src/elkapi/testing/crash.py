"""Named points at which a process kills itself if a test requests it.

`ELKAPI_CRASH_AT=ledger.before_commit:3` sends SIGKILL to the process that reaches the point for the third time;
`ELKAPI_CRASH_AT=@FILE` lets only the first process that starts after FILE was written take its order. Unset, a point is
one comparison with None, so the points stay in production code.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

VARIABLE = "ELKAPI_CRASH_AT"

NAMES: tuple[str, ...] = (
    "ledger.before_commit",
    "ledger.after_commit_before_wake",
    "ledger.hold.before",
    "ledger.hold.after",
    "ledger.settle.before",
    "ledger.settle.after",
    "ledger.recover.before_commit",
    "ledger.server.before_reply",
    "relay.hold.before",
    "relay.hold.after",
    "relay.settle.before",
    "relay.settle.after",
    "batches.lease.after",
    "batches.end.before",
    "tasks.hold.before",
    "tasks.hold.after",
    "tasks.submit.before",
    "tasks.submit.after",
    "tasks.accepted.before",
    "tasks.accepted.after",
    "tasks.lease.after",
    "tasks.copied.after",
    "tasks.end.before",
    "tasks.end.after",
    "tasks.cancel.before",
    "tasks.cancel.after",
)


class CrashPointError(ValueError):
    """ELKAPI_CRASH_AT names a point that does not exist, so the test would prove nothing."""


def _taken(path: Path) -> str | None:
    """The order in a file, for this process only: just one process succeeds in renaming it."""
    mine = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.rename(mine)
    except FileNotFoundError:
        return None
    return mine.read_text("ascii").strip()


def _parse(text: str | None) -> tuple[str | None, int]:
    if text and text.startswith("@"):
        text = _taken(Path(text[1:]))
    if not text:
        return None, 0
    name, _, count = text.partition(":")
    if name not in NAMES or (count and not count.isdecimal()):
        raise CrashPointError(f"{VARIABLE}={text!r} is not one of: {', '.join(NAMES)} (with an optional :COUNT)")
    return name, int(count or 1)


_armed, _left = _parse(os.environ.get(VARIABLE))


def point(name: str) -> None:
    """Kill this process if this is the armed point and its count is reached."""
    if _armed is not None:
        _reach(name)


def _reach(name: str) -> None:
    global _left
    if name != _armed:
        return
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
