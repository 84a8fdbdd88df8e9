"""What an operator should hear after a change that is right in itself: a name that nothing prices or serves, or a
second key of one name. The change stands; a typo here would otherwise first be seen by a caller, as a 503."""

from __future__ import annotations

from collections.abc import Iterable

from elkapi.admin.context import Admin
from elkapi.local.chat.rows import BUNDLED_CHAT
from elkapi.local.models import read_rows
from elkapi.storage.repos import channels, keys, prices
from elkapi.storage.repos.channels import ChannelView
from elkapi.storage.repos.keys import KeyRow


def without_price(admin: Admin, view: ChannelView) -> list[str]:
    """The names that a channel serves and that have no price in force; a bundled model is free without one."""
    with admin.database.read() as connection:
        priced = {row.price.model for row in prices.in_force(connection)}
    return _without_bundled(admin, (name for name in _served(view) if name not in priced))


def without_channel(admin: Admin, names: Iterable[str], group: str | None) -> list[str]:
    """The names that no channel of this group, or of any group if it is None, serves; a disabled channel counts."""
    with admin.database.read() as connection:
        views = channels.view_channels(connection, admin.sealer)
    known = {name for view in views if group is None or group in view.config.groups for name in _served(view)}
    return _without_bundled(admin, (name for name in names if name not in known))


def namesakes(admin: Admin, row: KeyRow) -> list[int]:
    """The ids of the other keys with this key's name that are not revoked."""
    with admin.database.read() as connection:
        named = keys.find_by_name(connection, row.name)
    return [other.id for other in named if other.id != row.id and other.revoked_ns is None]


def _served(view: ChannelView) -> list[str]:
    return list(dict.fromkeys((*view.config.models, *view.config.aliases)))


def _without_bundled(admin: Admin, names: Iterable[str]) -> list[str]:
    if not (left := list(dict.fromkeys(names))):
        return []
    ours = {BUNDLED_CHAT.id, *(row.id for row, _ in read_rows(admin.settings.models_dir))}
    return [name for name in left if name not in ours]
