"""The dependencies of polling: the database, the ledger, requests to providers, the store of files."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

import msgspec
from sqlalchemy import Connection

from elkapi.catalog.operation import Operation
from elkapi.catalog.task import Made
from elkapi.clock import Clock
from elkapi.ledger import Ledger
from elkapi.settings import Settings
from elkapi.snapshot import Snapshot
from elkapi.storage.dialect import LookConnection
from elkapi.tasks.asking import Way
from elkapi.tasks.record import Task
from elkapi.tasks.telling import Tell
from elkapi.types import RequestRecord, TaskAsset
from elkapi.upstream import UpstreamRequest

T = TypeVar("T")


class Copier(Protocol):
    """Copies results into our store."""

    async def copy(self, task: Task, number: int, made: Made, request: UpstreamRequest, source: str) -> TaskAsset:
        """Raises CopyFailed."""


class Storage(Protocol):
    """Database access off the event loop."""

    async def read(self, ask: Callable[[Connection], T]) -> T: ...

    async def look(self, ask: Callable[[LookConnection], T]) -> T:
        """For frequent polls."""

    async def write(self, change: Callable[[Connection], T]) -> T: ...

    async def opened(self, task_id: bytes) -> Task | None:
        """The current task, unsealed."""


class Parts(msgspec.Struct, frozen=True):
    """The dependencies of a poller. `ended` is called for each end that it made; `refresh` brings the snapshot up to
    date, and raises Unavailable."""

    settings: Settings
    operations: Mapping[str, Operation]
    snapshot: Callable[[], Snapshot]
    refresh: Callable[[], Awaitable[None]]
    storage: Storage
    ledger: Ledger
    way: Way
    copier: Copier
    tell: Tell
    ended: Callable[[Task, RequestRecord], None]
    clock: Clock
    owner: bytes
