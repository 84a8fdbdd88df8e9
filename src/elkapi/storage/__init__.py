"""Tables, engines, migrations and repositories: it and the ledger speak SQL, on SQLite and PostgreSQL alike."""
