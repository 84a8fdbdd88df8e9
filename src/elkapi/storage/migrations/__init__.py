"""Runs the numbered migrations, each in two halves, and records their names; the steps are the modules of this package.

`pre` adds what new code needs and old code can ignore, so it runs before a rolling restart. `post` removes what only
old code used, so it runs after the last old process has ended. Code must work with its own `pre` and without its
`post`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from sqlalchemy import Connection, inspect, select

from elkapi.clock import SYSTEM_CLOCK, Clock
from elkapi.storage import dialect as sql
from elkapi.storage import schema
from elkapi.storage.db import Database
from elkapi.storage.migrations import (
    m0001_initial,
    m0002_stored_objects,
    m0003_message_batches,
    m0004_guards,
    m0005_requests_in_order,
    m0006_tasks,
    m0007_assets,
    m0008_notices,
    m0009_channel_ids,
    m0010_ended_tasks,
    m0011_notices_in_order,
    m0012_notices_by_host,
    m0013_keys_by_name,
    m0014_assets_of_key,
    m0015_tasks_listed,
    m0016_notices_given_up,
)

Step = Callable[[Connection, int], None]
HALVES = ("pre", "post")


class Migration(msgspec.Struct, frozen=True):
    """One numbered change of the schema; a step takes the connection and the time in nanoseconds."""

    name: str
    pre: Step
    post: Step


MIGRATIONS: tuple[Migration, ...] = (
    Migration("0001_initial", m0001_initial.pre, m0001_initial.post),
    Migration("0002_stored_objects", m0002_stored_objects.pre, m0002_stored_objects.post),
    Migration("0003_message_batches", m0003_message_batches.pre, m0003_message_batches.post),
    Migration("0004_guards", m0004_guards.pre, m0004_guards.post),
    Migration("0005_requests_in_order", m0005_requests_in_order.pre, m0005_requests_in_order.post),
    Migration("0006_tasks", m0006_tasks.pre, m0006_tasks.post),
    Migration("0007_assets", m0007_assets.pre, m0007_assets.post),
    Migration("0008_notices", m0008_notices.pre, m0008_notices.post),
    Migration("0009_channel_ids", m0009_channel_ids.pre, m0009_channel_ids.post),
    Migration("0010_ended_tasks", m0010_ended_tasks.pre, m0010_ended_tasks.post),
    Migration("0011_notices_in_order", m0011_notices_in_order.pre, m0011_notices_in_order.post),
    Migration("0012_notices_by_host", m0012_notices_by_host.pre, m0012_notices_by_host.post),
    Migration("0013_keys_by_name", m0013_keys_by_name.pre, m0013_keys_by_name.post),
    Migration("0014_assets_of_key", m0014_assets_of_key.pre, m0014_assets_of_key.post),
    Migration("0015_tasks_listed", m0015_tasks_listed.pre, m0015_tasks_listed.post),
    Migration("0016_notices_given_up", m0016_notices_given_up.pre, m0016_notices_given_up.post),
)


class MigrationError(RuntimeError):
    """This version cannot use or migrate the schema; the message says what to do."""


def schema_version(connection: Connection) -> int:
    """The number of the newest migration whose `pre` half has run; 0 for an empty database."""
    return max((int(name[:4]) for name in applied(connection)), default=0)


def applied(connection: Connection) -> tuple[str, ...]:
    """The names of the halves that have run here, such as `0001_initial.pre`, in order."""
    if not inspect(connection).has_table(schema.migrations.name):
        return ()
    names = connection.execute(select(schema.migrations.c.name).order_by(schema.migrations.c.name)).scalars()
    return tuple(sorted(names, key=_order))


def pending(connection: Connection, halves: Sequence[str] = HALVES) -> tuple[str, ...]:
    """The names of this version's halves that have not run yet. Raises MigrationError for a newer schema."""
    done = set(applied(connection))
    known = {f"{migration.name}.{half}" for migration in MIGRATIONS for half in HALVES}
    # A newer `pre` is harmless by contract (an old worker may restart during a rolling upgrade); a newer `post` is not.
    if newer := sorted(name for name in done - known if name.endswith(".post")):
        raise MigrationError(f"the database was upgraded by a newer elkapi ({newer[-1]}); start that version instead")
    return tuple(
        f"{migration.name}.{half}"
        for migration in MIGRATIONS
        for half in HALVES
        if half in halves and f"{migration.name}.{half}" not in done
    )


def migrate(database: Database, *, clock: Clock = SYSTEM_CLOCK, halves: Sequence[str] = HALVES) -> tuple[str, ...]:
    """Migrate the schema in one transaction and return the names that ran. Any number of processes may call it at once.

    Raises MigrationError for the schema of a newer version, errors.Unavailable if the database is unreachable.
    """
    with database.read() as connection:
        if not pending(connection, halves):
            return ()
    with database.write() as connection:
        return migrate_in(connection, clock=clock, halves=halves)


def migrate_in(
    connection: Connection, *, clock: Clock = SYSTEM_CLOCK, halves: Sequence[str] = HALVES
) -> tuple[str, ...]:
    """As `migrate`, inside the caller's write transaction."""
    sql.lock_for_migration(connection)
    schema.migrations.create(connection, checkfirst=True)
    names = pending(connection, halves)
    for migration in MIGRATIONS:
        for half in HALVES:
            if (name := f"{migration.name}.{half}") in names:
                now_ns = clock.now_ns()
                (migration.pre if half == "pre" else migration.post)(connection, now_ns)
                connection.execute(schema.migrations.insert(), {"name": name, "applied_ns": now_ns})
    return names


def _order(name: str) -> tuple[str, int]:
    stem, _, half = name.partition(".")
    return stem, HALVES.index(half) if half in HALVES else len(HALVES)
