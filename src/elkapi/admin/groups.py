"""Groups: a name and the ratio its calls are multiplied with."""

from __future__ import annotations

from elkapi.admin.context import Admin, check_name
from elkapi.admin.errors import InvalidInput
from elkapi.money import RATIO_ONE_MICRO, parse_ratio
from elkapi.storage.repos import groups
from elkapi.storage.repos.groups import GroupRow

RATIO_MAX_MICRO = 1_000 * RATIO_ONE_MICRO


def set_group(admin: Admin, name: str, ratio: str, description: str | None = None) -> GroupRow:
    """Create a group or change its ratio, such as "0.8"; raises InvalidInput."""
    name = check_name(name)
    try:
        ratio_micro = parse_ratio(ratio)
    except ValueError as error:
        raise InvalidInput(str(error), field="ratio") from None
    if ratio_micro > RATIO_MAX_MICRO:
        raise InvalidInput("a ratio above 1000 is surely a mistake", field="ratio")
    with admin.database.write() as connection:
        groups.set_group(connection, name=name, ratio_micro=ratio_micro, description=description, **admin.who())
        row = groups.get_group(connection, name)
    if row is None or row.ratio_micro != ratio_micro:
        raise InvalidInput("the group was not stored as given", field="ratio")
    return row


def list_groups(admin: Admin) -> list[GroupRow]:
    with admin.database.read() as connection:
        return groups.all_groups(connection)
