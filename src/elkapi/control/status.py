"""The gateway's public status: version, local models, database; never upstreams or customers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from elkapi import __version__
from elkapi.clock import Clock
from elkapi.local.listed import LocalModel
from elkapi.money import QUOTA_UNITS_PER_USD

# The model in the examples until the model process has answered.
DEFAULT_SAMPLE_MODEL = "all-MiniLM-L6-v2"
KEEP_S = 2.0


class LocalModels(msgspec.Struct, frozen=True):
    """The model process's answer; `ready` is False without one.

    `chat_model` is the bundled chat model if installed; its process is not queried, since its first call starts it.
    """

    ready: bool = False
    models: tuple[LocalModel, ...] = ()
    chat_model: str = ""

    @property
    def sample_model(self) -> str:
        return self.models[0].id if self.models else DEFAULT_SAMPLE_MODEL


class SiteStatus(msgspec.Struct, frozen=True):
    """The `data` of GET /api/status. `start_time` is in Unix seconds; `quota_per_unit` is quota units per US dollar."""

    version: str
    start_time: int
    database: str
    local_models_ready: bool
    local_models: tuple[LocalModel, ...]
    local_chat_model: str = ""
    system_name: str = "elkapi"
    docs_link: str = "/docs"
    quota_per_unit: int = QUOTA_UNITS_PER_USD


class StatusBook:
    """Caches the status for KEEP_S seconds."""

    def __init__(
        self,
        clock: Clock,
        ask_models: Callable[[], Awaitable[LocalModels]],
        ask_database: Callable[[], Awaitable[bool]],
    ) -> None:
        self._clock = clock
        self._ask_models = ask_models
        self._ask_database = ask_database
        self._started_s = clock.now_ns() // 1_000_000_000
        self._models: tuple[float, LocalModels] | None = None
        self._database: tuple[float, bool] | None = None

    async def models(self) -> LocalModels:
        if self._models is None or self._clock.monotonic_s() - self._models[0] > KEEP_S:
            answer = await self._ask_models()
            self._models = self._clock.monotonic_s(), answer
        return self._models[1]

    async def site(self) -> SiteStatus:
        if self._database is None or self._clock.monotonic_s() - self._database[0] > KEEP_S:
            answer = await self._ask_database()
            self._database = self._clock.monotonic_s(), answer
        models = await self.models()
        return SiteStatus(
            version=__version__,
            start_time=self._started_s,
            database="ok" if self._database[1] else "unavailable",
            local_models_ready=models.ready,
            local_models=models.models,
            local_chat_model=models.chat_model,
        )
