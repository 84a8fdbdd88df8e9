"""The notices for their sender, with opened bodies and the secrets that sign them."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

import msgspec
from sqlalchemy import Connection

from elkapi.clock import Clock
from elkapi.control.store import Store
from elkapi.storage.installation import Installation
from elkapi.storage.repos import notices, webhook_secrets
from elkapi.storage.repos.notices import NoticeId, NoticeRow, Try
from elkapi.storage.secrets import Sealer, SealError
from elkapi.tasks.notify import Due
from elkapi.tasks.retrying import Next
from elkapi.tasks.signing import new_secret
from elkapi.types import NoticeBody

SEALED = "sealed_with_another_key"
_body = msgspec.msgpack.Decoder(NoticeBody)


class NoticeOutbox:
    """notify.Outbox over the control process's database."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        # Identifies the sender; new at each start.
        self._lease = os.urandom(16)

    async def is_any_due(self, now_ns: int) -> bool:
        return await self._store.look(lambda connection: notices.is_any_due(connection, now_ns))

    async def take(
        self,
        count: int,
        per_host_max: int,
        busy: Mapping[str, int],
        busy_keys: Mapping[int, int],
        paused: Collection[str],
        now_ns: int,
    ) -> list[Due]:
        """The notices that are due. Those whose body does not open are given up, since no retry would help."""

        def on_thread(parts: Installation) -> list[Due]:
            with parts.database.write() as connection:
                rows = notices.take(
                    connection,
                    self._lease,
                    count=count,
                    per_host_max=per_host_max,
                    busy=busy,
                    busy_keys=busy_keys,
                    paused=paused,
                    now_ns=now_ns,
                )
                return self._opened(connection, parts.sealer, rows)

        return await self._store.with_installation(on_thread)

    async def wait_no_longer(self, now_ns: int) -> None:
        await self._store.write(lambda connection: notices.wait_no_longer(connection, now_ns))

    async def ended(self, notice: NoticeId, told: Try, then: Next, tries: int) -> None:
        await self._store.write(lambda connection: self._end(connection, notice, told, then, tries))

    def _opened(self, connection: Connection, sealer: Sealer, rows: list[NoticeRow]) -> list[Due]:
        now_ns, due = self._clock.now_ns(), []
        for row in rows:
            try:
                body = _body.decode(sealer.open(row.sealed, notices.body_context(*row.id)))
                secret = webhook_secrets.ensure(connection, sealer, row.key_id, new_secret, now_ns)
            except SealError:
                then = Next("given_up", now_ns)
                self._end(connection, row.id, Try(now_ns, 0, None, SEALED), then, row.tries)
                continue
            due.append(Due(row.id, row.host, row.key_id, row.tries, row.until_ns, body, secret.in_force(now_ns)))
        return due

    def _end(self, connection: Connection, notice: NoticeId, told: Try, then: Next, tries: int) -> None:
        notices.end_try(connection, notice, self._lease, told, state=then.state, tries=tries, due_ns=then.due_ns)
