"""Puts together what the control process works with: its database thread, its way out, its jobs, the model process."""

from __future__ import annotations

import logging
import random
from types import TracebackType

import msgspec

from elkapi.assets.store import open_store
from elkapi.clock import Clock
from elkapi.control.asset_expiry import AssetExpiry
from elkapi.control.expiry import Expiry
from elkapi.control.jobs import Job
from elkapi.control.outbox import NoticeOutbox
from elkapi.control.prober import Prober
from elkapi.control.status import LocalModel, LocalModels
from elkapi.control.store import Store
from elkapi.control.sweeper import Sweeper
from elkapi.errors import NOT_JSON
from elkapi.ledger.recovery import Recoverer
from elkapi.local.chat.rows import BUNDLED_CHAT, locate_chat
from elkapi.local.models import ModelUnusable
from elkapi.settings import Settings
from elkapi.tasks.notify import Notifier
from elkapi.upstream import Deadlines, Origin, UpstreamClient, UpstreamFailure, UpstreamRequest, answer_to

MODELS_ANSWER_BYTES_MAX = 256 * 1024
MODELS_DEADLINES = Deadlines(connect_s=1.0, header_s=2.0, first_byte_s=2.0, idle_s=2.0, total_s=3.0)

log = logging.getLogger("elkapi.control")


class _Listing(msgspec.Struct):
    data: list[LocalModel]


_listing = msgspec.json.Decoder(_Listing)


class Parts:
    """Used as an async context manager; nothing is opened before it is needed."""

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
            Expiry(self._store.write, self._clock, notices_keep_s=self._settings.webhook_keep_s),
            Prober(self._store, self._client.send, self._clock),
            self._notifier(),
            AssetExpiry(open_store(self._settings), self._store.read, self._store.write, self._clock),
        )

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
        """Whether a read works now."""
        try:
            await self._store.answers()
        except Exception as error:
            log.warning("database_unavailable", extra={"error": str(error)})
            return False
        return True

    async def local_models(self) -> LocalModels:
        """What the model process lists, not ready when it does not answer; and the chat model, if it is installed."""
        listed = await self._listed()
        return msgspec.structs.replace(listed, chat_model=installed_chat_model())

    async def _listed(self) -> LocalModels:
        request = UpstreamRequest(
            origin=Origin.parse(f"unix://{self._settings.socket_path('models')}"),
            method=b"GET",
            target=b"/v1/models",
            headers=[(b"accept", b"application/json")],
            deadlines=MODELS_DEADLINES,
        )
        try:
            answer = await answer_to(self._client.send, request, MODELS_ANSWER_BYTES_MAX)
            if answer.status != 200 or not answer.complete:
                return LocalModels()
            return LocalModels(ready=True, models=tuple(_listing.decode(answer.body).data))
        except (UpstreamFailure, *NOT_JSON):
            return LocalModels()


def installed_chat_model() -> str:
    """The bundled chat model's name, or "" where its files or its runtime are missing."""
    try:
        locate_chat()
    except ModelUnusable:
        return ""
    return BUNDLED_CHAT.id
