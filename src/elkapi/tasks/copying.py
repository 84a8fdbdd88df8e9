"""Copies the results of tasks into our store, a few tasks at a time."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from urllib.parse import urlsplit

import msgspec

from elkapi.catalog.jsonpath import first
from elkapi.catalog.operation import Operation
from elkapi.catalog.task import Made
from elkapi.tasks import machine
from elkapi.tasks.asking import Account, asked
from elkapi.tasks.parts import Parts
from elkapi.tasks.record import Task
from elkapi.tasks.request import credential, request_for
from elkapi.testing.crash import point
from elkapi.types import Channel, TaskAsset
from elkapi.upstream import Origin, UpstreamFailure, UpstreamRequest
from elkapi.upstream.gcp import TokenRefused
from elkapi.upstream.origin import target_of

COPIES_AT_ONCE_MAX = 8
# Per channel: a provider whose files hang leaves slots to others.
COPIES_PER_CHANNEL_MAX = 6


class CopyFailed(Exception):
    """A file was not copied. `again`: it may be available later. `ours`: the fault is the gateway's, and the message
    is not shown to callers."""

    def __init__(self, message: str, *, again: bool, ours: bool = False) -> None:
        super().__init__(message)
        self.again = again
        self.ours = ours


class Copies:
    """The copies of one poller; `waiting` are the tasks whose files are queued or being copied."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._turns = asyncio.Semaphore(COPIES_AT_ONCE_MAX)
        self._turns_of: defaultdict[int, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(COPIES_PER_CHANNEL_MAX)
        )
        self.waiting = 0

    async def of(
        self, task: Task, operation: Operation, account: Account, reading: machine.Reading
    ) -> tuple[TaskAsset, ...]:
        """Copy the results of a task. Raises CopyFailed."""
        self.waiting += 1
        try:
            async with self._turns_of[account[0].id], self._turns:
                return await self._copied(task, operation, account, reading)
        finally:
            self.waiting -= 1

    async def _copied(
        self, task: Task, operation: Operation, account: Account, reading: machine.Reading
    ) -> tuple[TaskAsset, ...]:
        copied = []
        for number, (made, value) in enumerate(reading.made):
            try:
                request, source = await self._download(operation, account, made, value)
                asset = await self._parts.copier.copy(task, number, made, request, source)
                copied.append(msgspec.structs.replace(asset, beside=True) if made.optional else asset)
            except CopyFailed:
                if not made.optional:
                    raise
            point("tasks.copied.after")
        return tuple(copied)

    async def _download(
        self, operation: Operation, account: Account, made: Made, value: str
    ) -> tuple[UpstreamRequest, str]:
        """(the request for a file, the address in the answer). Raises CopyFailed."""
        way, (channel, key) = self._parts.way, account
        address = value
        try:
            if made.via:
                if not made.then:
                    values = {"value": value}
                    return await request_for(way.signer, way.settings, operation, channel, key, made.via, values), ""
                answer = await asked(way, operation, account, made.via, {"value": value})
                if not isinstance(answer, tuple):
                    raise CopyFailed("the provider did not name the file", again=True)
                address = str(first(made.then, answer[0]) or "")
                if not address:
                    raise CopyFailed("the provider did not name the file", again=True)
            headers = await credential(way.signer, operation, channel, key) if made.auth else []
        except (ValueError, TokenRefused, UpstreamFailure) as error:
            raise CopyFailed(str(error)[:200], again=True) from None
        return download_request(address, channel, headers), address


def download_request(address: str, channel: Channel, headers: list[tuple[bytes, bytes]]) -> UpstreamRequest:
    """A guarded request for a file; private addresses are allowed only to channels that have them. Raises
    CopyFailed."""
    try:
        parts = urlsplit(address)
        base = f"{parts.scheme}://{parts.netloc}"
        if channel.base_url.startswith("unix://"):
            # The built-in sandbox, whatever host name its answers contain.
            origin = Origin.parse(channel.base_url)
        else:
            origin = Origin.parse(base, allow_private=channel.allow_private, proxy_url=channel.proxy_url)
    except ValueError as error:
        raise CopyFailed(f"the provider's address of the file cannot be used: {error}", again=False) from None
    return UpstreamRequest(origin, b"GET", target_of(parts), [(b"accept", b"*/*"), *headers])
