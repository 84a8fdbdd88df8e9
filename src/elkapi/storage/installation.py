"""Opens an installation: database, schema and secret key belong together; every process starts here."""

from __future__ import annotations

import msgspec

from elkapi.clock import SYSTEM_CLOCK, Clock
from elkapi.settings import Settings
from elkapi.storage.db import Database
from elkapi.storage.migrations import migrate
from elkapi.storage.secrets import Sealer, bind_secret_key, is_bound_to, load_secret_key


class Installation(msgspec.Struct, frozen=True):
    """The opened parts; `database.close()` is the caller's."""

    settings: Settings
    database: Database
    sealer: Sealer


def open_installation(settings: Settings, *, readers: int = 2, clock: Clock = SYSTEM_CLOCK) -> Installation:
    """Open, migrate and check. Raises dialect.DatabaseUrlError, migrations.MigrationError, secrets.SecretKeyError,
    errors.Unavailable when the database cannot be reached.
    """
    database = Database.open(settings.effective_database_url, synchronous=settings.sqlite_synchronous, readers=readers)
    try:
        migrate(database, clock=clock)
        sealer = Sealer(load_secret_key(settings))
        with database.read() as connection:
            bound = is_bound_to(connection, sealer)
        if not bound:
            with database.write() as connection:
                bind_secret_key(connection, sealer)
    except BaseException:
        database.close()
        raise
    return Installation(settings, database, sealer)
