"""Notices of tasks inside the books' transactions, and their encryption; `tasks.notify` sends them.

A notice is written with the transition that it reports, so nobody hears of a transition that a crash could undo, and
everybody hears of a committed one (guarantee 72).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from elkapi.ledger.orders import NoticeRow
from elkapi.ledger.statements import Statements
from elkapi.storage.repos.notices import body_context
from elkapi.storage.secrets import Sealer
from elkapi.types import Notice, NoticeBody

_encode = msgspec.msgpack.Encoder().encode


async def seal_notices(sealer: Sealer, notices: Sequence[Notice]) -> tuple[NoticeRow, ...]:
    """The rows of a transition's notices, due at once."""
    return tuple([await _row(sealer, notice) for notice in notices])


async def _row(sealer: Sealer, notice: Notice) -> NoticeRow:
    body = _encode(NoticeBody(notice.url, notice.body, notice.headers))
    return NoticeRow(
        notice.task_id,
        notice.place,
        notice.number,
        notice.key_id,
        notice.owner_id,
        urlsplit(notice.url).hostname or "",
        notice.form,
        notice.created_ns,
        notice.created_ns,
        notice.until_ns,
        await sealer.seal_beside(body, body_context(notice.task_id, notice.place, notice.number)),
    )


class Noticer:
    """The table of notices on the books' own cursor."""

    def __init__(self, cursor: Any, sql: Statements) -> None:
        self._cursor = cursor
        self._sql = sql

    def write(self, notices: Iterable[NoticeRow]) -> None:
        """Insert these notices. Repeating it changes nothing."""
        flat: list[Any] = []
        for notice in notices:
            flat += msgspec.structs.astuple(notice)
        self._sql.notices.insert(self._cursor, flat)
