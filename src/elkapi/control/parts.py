"""Assembles the control process: its database thread, upstream client, jobs and the model process."""

from __future__ import annotations

import logging
import random
from types import TracebackType

from elkapi.assets.store import open_store
from elkapi.clock import Clock
from elkapi.control.asset_expiry import AssetExpiry
from elkapi.control.expiry import Expiry
from elkapi.control.jobs import Job
from elkapi.control.outbox import NoticeOutbox
from elkapi.control.prober import Prober
from elkapi.control.status import LocalModels
from elkapi.control.store import Store
from elkapi.control.sweeper import Sweeper
from elkapi.ledger.recovery import Recoverer
from elkapi.local.chat.rows import BUNDLED_CHAT, locate_chat
from elkapi.local.listed import listed_models
from elkapi.local.models import ModelUnusable
from elkapi.settings import Settings
from elkapi.tasks.notify import Notifier
from elkapi.upstream import UpstreamClient

log = logging.getLogger("elkapi.control")


class Parts:
    """An async context manager; nothing is opened before it is needed."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._client = UpstreamClient()
        self._store = Store(settings, clock)

    async def __aenter__(self) -> Parts:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()
        self._store.close()

    def jobs(self) -> tuple[Job, ...]:
        """The background jobs, each with its own period."""
        return (
            Sweeper(self._store.on_thread, lambda database: Recoverer(database, self._settings, self._clock)),
            self._expiry(),
            Prober(self._store, self._client.send, self._clock),
            self._notifier(),
            AssetExpiry(open_store(self._settings), self._store.read, self._store.write, self._clock),
        )

    def _expiry(self) -> Expiry:
        settings = self._settings
        # A task is kept at least as long as its files.
        keeps = (settings.task_keep_s, settings.asset_keep_s)
        tasks_keep_s = max(keeps) if all(keeps) else 0.0
        return Expiry(self._store.write, self._clock, notices_keep_s=settings.webhook_keep_s, tasks_keep_s=tasks_keep_s)

    def _notifier(self) -> Notifier:
        settings = self._settings
        return Notifier(
            NoticeOutbox(self._store, self._clock),
            self._client.send,
            self._clock,
            random.random,
            allow_private=settings.webhook_allow_private,
            parallel_max=settings.webhook_parallel_max,
            host_parallel_max=settings.webhook_host_parallel_max,
        )

    async def database_answers(self) -> bool:
        """Whether a database read succeeds."""
        try:
            await self._store.answers()
        except Exception as error:
            log.warning("database_unavailable", extra={"error": str(error)})
            return False
        return True

    async def local_models(self) -> LocalModels:
        """The models that the model process lists (not ready if it does not answer) and the chat model if installed."""
        listed = await listed_models(self._client.send, self._settings.socket_path("models"))
        return LocalModels(listed is not None, listed or (), installed_chat_model())


def installed_chat_model() -> str:
    """The bundled chat model's name, or "" if its files or runtime are missing."""
    try:
        locate_chat()
    except ModelUnusable:
        return ""
    return BUNDLED_CHAT.id
