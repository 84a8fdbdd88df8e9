"""Tables, engines, migrations and repositories. Only this package and the ledger speak SQL, for SQLite and
PostgreSQL alike."""
