"""Task notices for operators, and the secrets that sign them."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection

from elkapi.admin.context import Admin
from elkapi.admin.errors import InvalidInput, Missing, Refused
from elkapi.admin.keys import show_key
from elkapi.ids import parse_event_id
from elkapi.storage.repos import audit, notices, webhook_secrets
from elkapi.storage.repos.notices import NoticeId, NoticeRow, Try
from elkapi.storage.secrets import SealError
from elkapi.tasks.signing import new_secret
from elkapi.types import NoticeBody

# How long the previous secret signs too after a rotation.
OVERLAP_NS = 24 * 3_600_000_000_000


class NoticeView(msgspec.Struct, frozen=True):
    """A notice with its body and tries; `body` is None if it does not open."""

    row: NoticeRow
    body: NoticeBody | None
    tries: list[Try]


class SecretView(msgspec.Struct, frozen=True):
    """A key's secret, shown only once."""

    key_id: int
    secret: str
    previous_until_ns: int | None


def list_notices(
    admin: Admin, *, key: str | None = None, state: str | None = None, limit: int = 100, before: str | None = None
) -> list[NoticeRow]:
    """Notices, newest first, after `before`; raises InvalidInput, Missing for an unknown key or event."""
    key_id = None if key is None else show_key(admin, key).row.id
    with admin.database.read() as connection:
        behind = None if before is None else _found(connection, before)
        return notices.newest(connection, key_id=key_id, state=state, limit=limit, before=behind)


def show_notice(admin: Admin, event: str) -> NoticeView:
    """One event by its `evt_...` id; raises InvalidInput, Missing."""
    with admin.database.read() as connection:
        row = _found(connection, event)
        tries = notices.tries_of(connection, row.id)
    try:
        opened = admin.sealer.open(row.sealed, notices.body_context(*row.id))
    except SealError:
        return NoticeView(row, None, tries)
    return NoticeView(row, msgspec.msgpack.decode(opened, type=NoticeBody), tries)


def replay(admin: Admin, event: str) -> NoticeRow:
    """Send an event again, with the same id. Raises InvalidInput, Missing, Refused while it is being sent."""
    parsed, now_ns = _parsed(event), admin.clock.now_ns()
    until_ns = now_ns + round(admin.settings.webhook_retry_s * 1_000_000_000)
    with admin.database.write() as connection:
        _found(connection, event)
        if not notices.replay(connection, parsed, now_ns=now_ns, until_ns=until_ns):
            raise Refused(f"{event} is being sent right now")
        audit.write(connection, **admin.who(), action="webhook.replay", subject=f"event:{event}", detail={})
        row = notices.find(connection, parsed)
    assert row is not None
    return row


def tell_secret(admin: Admin, which: str, *, rotate: bool = False) -> SecretView:
    """A key's secret, created on first use and shown only once; `rotate` replaces it by a new one, which is shown.

    Raises Missing, and Refused if it was shown before.
    """
    key_id = show_key(admin, which).row.id
    now_ns = admin.clock.now_ns()
    with admin.change() as connection:
        try:
            found = webhook_secrets.ensure(connection, admin.sealer, key_id, new_secret, now_ns)
        except SealError:
            raise Refused("this key's secret was encrypted with another ELKAPI_SECRET_KEY") from None
        if rotate:
            until_ns = now_ns + OVERLAP_NS
            fresh = new_secret()
            webhook_secrets.rotate(connection, admin.sealer, found, fresh, until_ns=until_ns, **admin.who())
            found = msgspec.structs.replace(found, secret=fresh, previous_until_ns=until_ns)
        elif found.shown_ns is not None:
            raise Refused("this key's secret was already shown and is shown only once; use --rotate for a new one")
        webhook_secrets.show(connection, key_id, **admin.who())
    return SecretView(key_id, found.secret, found.previous_until_ns)


def _found(connection: Connection, event: str) -> NoticeRow:
    row = notices.find(connection, _parsed(event))
    if row is None:
        raise Missing(f"the event {event} does not exist")
    return row


def _parsed(event: str) -> NoticeId:
    parsed = parse_event_id(event)
    if parsed is None:
        raise InvalidInput("an event id must be `evt_` followed by 44 hex digits", field="event")
    return parsed
