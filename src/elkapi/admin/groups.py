"""Groups: a name, a price ratio, and the default policy of the group's keys."""

from __future__ import annotations

from sqlalchemy import Connection

from elkapi.admin.context import Admin, check_name
from elkapi.admin.errors import InvalidInput, Missing, Refused
from elkapi.admin.policies import PolicyFields, check_guards, merged
from elkapi.money import RATIO_ONE_MICRO, parse_ratio
from elkapi.storage.repos import channels, groups, keys
from elkapi.storage.repos.groups import GroupRow
from elkapi.storage.seeds import DEFAULT_GROUP

RATIO_MAX_MICRO = 1_000 * RATIO_ONE_MICRO
# How many users of a group an error lists.
USERS_NAMED_MAX = 5


def set_group(
    admin: Admin,
    name: str,
    ratio: str | None = None,
    description: str | None = None,
    policy: PolicyFields | None = None,
) -> GroupRow:
    """Create a group or change the given fields; `ratio` is decimal, such as "0.8". Raises InvalidInput, Refused."""
    name = check_name(name)
    given_micro = None if ratio is None else _ratio_micro(ratio)
    with admin.change() as connection:
        before = groups.get_group(connection, name)
        if before is None:
            if given_micro is None:
                raise InvalidInput("it is required for a new group, such as 1", field="ratio")
            before = GroupRow(name, given_micro, "")
        wanted = GroupRow(
            name,
            before.ratio_micro if given_micro is None else given_micro,
            before.description if description is None else description,
            before.policy if policy is None else merged(before.policy, policy),
        )
        check_guards(connection, wanted.policy)
        groups.set_group(
            connection,
            name=name,
            ratio_micro=wanted.ratio_micro,
            description=description,
            policy=None if policy is None else wanted.policy,
            **admin.who(),
        )
        if groups.get_group(connection, name) != wanted:
            raise Refused("the group cannot be stored as given; nothing was changed")
    return wanted


def _ratio_micro(ratio: str) -> int:
    try:
        ratio_micro = parse_ratio(ratio)
    except ValueError as error:
        raise InvalidInput(str(error), field="ratio") from None
    if ratio_micro > RATIO_MAX_MICRO:
        raise InvalidInput("it must be at most 1000", field="ratio")
    return ratio_micro


def list_groups(admin: Admin) -> list[GroupRow]:
    """Every group, by name."""
    with admin.database.read() as connection:
        return groups.all_groups(connection)


def remove_group(admin: Admin, name: str) -> None:
    """Remove a group without channels and keys; its revoked keys move to `default`. Raises Missing, Refused."""
    if name == DEFAULT_GROUP:
        raise Refused(f"{name!r} is the default group and cannot be removed")
    with admin.change() as connection:
        if groups.get_group(connection, name) is None:
            raise Missing(f"the group {name!r} does not exist")
        users, total = _users(connection, admin, name)
        if users:
            more = f" and {total - len(users)} more" if total > len(users) else ""
            raise Refused(
                f"the group {name!r} is used by {', '.join(users)}{more}; move them to "
                "another group first, with `elkapi key edit WHICH --group GROUP` and "
                "`elkapi channel edit CHANNEL --group GROUP`"
            )
        keys.move_revoked(connection, name, DEFAULT_GROUP)
        groups.remove_group(connection, name, **admin.who())


def _users(connection: Connection, admin: Admin, name: str) -> tuple[list[str], int]:
    """(the first channels and keys of a group, how many it has)."""
    rows = channels.view_channels(connection, admin.sealer)
    named = [f"channel {row.id} ({row.name})" for row in rows if name in row.config.groups]
    found, total = keys.in_group(connection, name, USERS_NAMED_MAX)
    users = named + [f"key {id_} ({key})" for id_, key in found]
    return users[:USERS_NAMED_MAX], len(named) + total
