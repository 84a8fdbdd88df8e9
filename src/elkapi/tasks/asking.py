"""Polls the provider of a task through the account that took it, as its family declares."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from elkapi.catalog.operation import Family, Operation
from elkapi.clock import Clock
from elkapi.errors import NOT_JSON
from elkapi.routing.meaning import wait_told
from elkapi.routing.verdict import is_success, parse_retry_after_s
from elkapi.settings import Settings
from elkapi.snapshot import Snapshot
from elkapi.tasks import machine
from elkapi.tasks.request import ABSENT, ANSWER_BYTES_MAX, Signer, request_for
from elkapi.types import Channel, ChannelKey
from elkapi.upstream import Send, UpstreamFailure, answer_to
from elkapi.upstream.gcp import TokenRefused

Account = tuple[Channel, ChannelKey]


class Way(msgspec.Struct, frozen=True):
    """What requests to providers need; `families` are keyed by operation id."""

    settings: Settings
    signer: Signer
    send: Send
    families: Mapping[str, Family]
    clock: Clock


log = logging.getLogger("elkapi.tasks")
_body = msgspec.json.Decoder(Any)


def account_of(snapshot: Snapshot, channel_id: int | None, key_id: int | None) -> Account | None:
    """The account that took the task; a key that is disabled for new calls still serves old ones."""
    channel = None if channel_id is None else snapshot.channel(channel_id)
    if channel is None:
        return None
    key = next((key for key in channel.keys if key.id == key_id), None)
    return None if key is None else (channel, key)


async def asked(
    way: Way, operation: Operation, account: Account, what: str, values: Mapping[str, str]
) -> tuple[Any, bytes] | float | None:
    """(the provider's answer in the declared shape, its bytes), or how many seconds it asked us to wait. None if the
    provider says that the task does not exist."""
    channel, key = account
    try:
        request = await request_for(way.signer, way.settings, operation, channel, key, what, values)
        reply = await answer_to(way.send, request, ANSWER_BYTES_MAX)
    except (UpstreamFailure, ValueError, TokenRefused) as error:
        log.info("task_poll_unanswered", extra={"channel": channel.name, "error": str(error)[:200]})
        return 0.0
    if reply.status == ABSENT:
        return None
    if not is_success(reply.status):
        return parse_retry_after_s(wait_told(reply.header(b"retry-after"), reply.body), way.clock.now_ns())
    try:
        decoded = _body.decode(reply.body)
    except NOT_JSON:
        return 0.0
    family = way.families[operation.id]
    if machine.refused(family, decoded, operation.task) is not None:
        return 0.0
    accepted = decoded if family.hooks.accept is None else family.hooks.accept(decoded)
    return accepted, reply.body
