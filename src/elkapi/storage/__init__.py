"""Tables, engines, migrations and repositories: the only room that speaks SQL, on SQLite and PostgreSQL alike."""
