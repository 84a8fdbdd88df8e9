"""Opens an installation, in which database, schema and secret key belong together; every process starts here."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, func, select

from elkapi.clock import SYSTEM_CLOCK, Clock
from elkapi.settings import Settings
from elkapi.storage import schema
from elkapi.storage.db import Database
from elkapi.storage.migrations import HALVES, MIGRATIONS, applied, migrate
from elkapi.storage.secrets import Sealer, SecretKeyError, bind_secret_key, is_bound_to, load_secret_key, lost_key


class Installation(msgspec.Struct, frozen=True):
    """The opened parts; the caller calls `database.close()`. `is_new`: there was no installation here before."""

    settings: Settings
    database: Database
    sealer: Sealer
    is_new: bool = False


def bring_forward(database: Database, settings: Settings, clock: Clock = SYSTEM_CLOCK) -> tuple[str, ...]:
    """Migrate as far as possible now and return the names of the halves that ran: both if nobody uses this database,
    only `pre` beside running workers, as they may be older than this version. Raises as `migrations.migrate` does.

    A `post` half that is skipped this way runs at the next start that finds nobody, or by `elkapi migrate`.
    """
    return migrate(database, clock=clock, halves=_halves_now(database, settings, clock))


def _halves_now(database: Database, settings: Settings, clock: Clock) -> Sequence[str]:
    with database.read() as connection:
        if not applied(connection):
            return HALVES
        alive_since_ns = clock.now_ns() - round(settings.heartbeat_lost_s * 1_000_000_000)
        return ("pre",) if running_workers(connection, alive_since_ns) else HALVES


def running_workers(connection: Connection, alive_since_ns: int) -> int:
    """How many workers, on any host, sent a heartbeat since then."""
    workers = schema.workers.c
    alive = select(func.count()).where(workers.ended_ns.is_(None), workers.heartbeat_ns > alive_since_ns)
    return connection.execute(alive).scalar_one()


def open_installation(settings: Settings, *, readers: int = 2, clock: Clock = SYSTEM_CLOCK) -> Installation:
    """Open, migrate and check. Raises dialect.DatabaseUrlError, migrations.MigrationError, secrets.SecretKeyError,
    and errors.Unavailable if the database is unreachable."""
    database = Database.open(settings.effective_database_url, synchronous=settings.sqlite_synchronous, readers=readers)
    try:
        done = bring_forward(database, settings, clock)
        with database.read() as connection:
            if (lost := lost_key(connection, settings)) is not None:
                raise SecretKeyError(lost)
            sealer = Sealer(load_secret_key(settings))
            bound = is_bound_to(connection, sealer)
        if not bound:
            with database.write() as connection:
                bind_secret_key(connection, sealer)
    except BaseException:
        database.close()
        raise
    return Installation(settings, database, sealer, is_new=f"{MIGRATIONS[0].name}.pre" in done)
