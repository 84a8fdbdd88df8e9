"""The migration runner, and that the migrations and schema.py describe the same tables."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, event, inspect, select

from elkapi.clock import ManualClock
from elkapi.ledger import accounts as ledger_accounts
from elkapi.ledger import server
from elkapi.settings import Settings
from elkapi.storage import migrations, schema, seeds
from elkapi.storage.db import Database
from elkapi.storage.installation import Installation, open_installation


@pytest.fixture
def database_url(empty_database_url: str) -> str:
    """Migrations begin with nothing here."""
    return empty_database_url


def test_migrating_twice_changes_nothing(database_url: str) -> None:
    database = Database.open(database_url)
    try:
        names = [migration.name for migration in migrations.MIGRATIONS]
        assert migrations.migrate(database) == tuple(f"{name}.{half}" for name in names for half in migrations.HALVES)
        assert migrations.migrate(database) == ()
        with database.read() as connection:
            assert migrations.schema_version(connection) == int(names[-1][:4])
    finally:
        database.close()


def test_usage_rows_of_an_older_version_are_all_there_after_their_table_is_laid_anew(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    every, rows = migrations.MIGRATIONS, []
    database = Database.open(database_url)
    try:
        monkeypatch.setattr(migrations, "MIGRATIONS", every[:1])
        migrations.migrate(database)
        for number in range(3):
            rows.append((bytes([number]) * 16, 1, 2, "m", 200, 30 + number, 0, 40 + number, b"{}"))
        names = [column.name for column in schema.requests.columns]
        with database.write() as connection:
            connection.execute(schema.requests.insert(), [dict(zip(names, row, strict=True)) for row in rows])
        monkeypatch.setattr(migrations, "MIGRATIONS", every)
        migrations.migrate(database)
        with database.read() as connection:
            assert [tuple(row) for row in connection.execute(select(schema.requests).order_by("id"))] == rows
    finally:
        database.close()


TASK: dict[str, Any] = {"id": b"t", "asked_sealed": b"", "told_sealed": None, "worker": None, "poller": None}
TASK |= dict.fromkeys(("operation", "wire", "form", "model", "state"), "") | {"poked": False}
TASK |= {"native_id": None, "error_code": None, "channel_id": 4, "channel_key_id": 9}


def test_channels_of_an_older_version_and_their_keys_are_all_there_after_their_tables_are_laid_anew(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = migrations.MIGRATIONS
    database = Database.open(database_url)
    channel = {"id": 3, "name": "c", "family": "openai", "base_url": "u", "enabled": True, "priority": 2, "weight": 1}
    channel |= {"allow_private": False, "config": "{}", "proxy_sealed": b"p", "headers_sealed": None, "created_ns": 5}
    key = {"id": 7, "channel_id": 3, "sealed": b"s", "fingerprint": b"f", "hint": "h", "enabled": False}
    key |= {"reason": "r", "disabled_by": "auto", "changed_ns": 6}
    try:
        monkeypatch.setattr(migrations, "MIGRATIONS", every[:8])
        migrations.migrate(database)
        with database.write() as connection:
            connection.execute(schema.channels.insert(), channel)
            connection.execute(schema.channel_keys.insert(), key)
            # A task of a channel that is gone, and was the newest.
            connection.execute(schema.tasks.insert(), dict.fromkeys(schema.tasks.columns.keys(), 0) | TASK)
        monkeypatch.setattr(migrations, "MIGRATIONS", every)
        migrations.migrate(database)
        with database.write() as connection:
            assert [dict(row) for row in connection.execute(select(schema.channels)).mappings()] == [channel]
            assert [dict(row) for row in connection.execute(select(schema.channel_keys)).mappings()] == [key]
            connection.execute(schema.channels.delete())
            assert connection.execute(select(schema.channel_keys)).all() == []
            if database.dialect == "sqlite":
                del channel["id"], key["id"]
                given = connection.execute(schema.channels.insert(), channel).inserted_primary_key
                assert given == (5,)
                key["channel_id"] = 5
                assert connection.execute(schema.channel_keys.insert(), key).inserted_primary_key == (10,)
    finally:
        database.close()


@pytest.mark.postgres
def test_a_process_waits_for_anothers_migration_however_long_it_takes(migrated_postgres_url: str) -> None:
    database, asked = Database.open(migrated_postgres_url), list[str]()
    try:
        with database.write() as connection:
            event.listen(connection, "before_cursor_execute", lambda _c, _cursor, text, *_: asked.append(text))
            migrations.migrate_in(connection)
    finally:
        database.close()
    limits = [text for text in asked if "statement_timeout" in text or "pg_advisory" in text]
    assert ["statement_timeout = 0" in limits[0], "pg_advisory" in limits[1]] == [True, True]


def test_the_gateway_starts_with_the_post_half_not_yet_applied(database_url: str) -> None:
    database = Database.open(database_url)
    try:
        assert all(name.endswith(".pre") for name in migrations.migrate(database, halves=("pre",)))
        with database.read() as connection:
            assert connection.execute(select(schema.groups.c.name)).scalars().all() == ["default"]
        assert all(name.endswith(".post") for name in migrations.migrate(database))
    finally:
        database.close()


def test_a_newer_schemas_post_half_is_refused_and_its_pre_half_is_not(installation: Installation) -> None:
    database = installation.database
    with database.write() as connection:
        connection.execute(schema.migrations.insert(), {"name": "9999_later.pre", "applied_ns": 1})
    assert migrations.migrate(database) == ()
    with database.write() as connection:
        connection.execute(schema.migrations.insert(), {"name": "9999_later.post", "applied_ns": 1})
    with pytest.raises(migrations.MigrationError, match="newer elkapi"):
        migrations.migrate(database)


def test_a_failing_step_leaves_the_database_as_it_was(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(connection: Connection, _now_ns: int) -> None:
        schema.audit.drop(connection)
        raise RuntimeError("power cut")

    newest = int(migrations.MIGRATIONS[-1].name[:4])
    later = migrations.Migration("9000_later", fail, fail)
    database = Database.open(database_url)
    try:
        migrations.migrate(database)
        monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, later))
        with pytest.raises(RuntimeError, match="power cut"):
            migrations.migrate(database)
        with database.read() as connection:
            assert inspect(connection).has_table("audit")
            assert migrations.schema_version(connection) == newest
    finally:
        database.close()


def test_processes_that_start_together_migrate_once_and_agree_on_the_key(settings: Settings) -> None:
    program = (
        "import sys; from elkapi.settings import Settings; from elkapi.storage.installation import open_installation\n"
        "opened = open_installation(Settings(data_dir=sys.argv[1], database_url=sys.argv[2]))\n"
        "print(opened.sealer.fingerprint(b'x').hex()); opened.database.close()"
    )
    command = [sys.executable, "-c", program, settings.data_dir, settings.database_url]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0, 0], outputs
    assert len({out for out, _ in outputs}) == 1
    opened = open_installation(settings)
    with opened.database.read() as connection:
        assert connection.execute(select(schema.owners.c.name)).scalars().all() == ["operator"]
    opened.database.close()


def start_of_a_process(settings: Settings, clock: ManualClock) -> None:
    open_installation(settings, clock=clock).database.close()


def start_of_the_ledger_process(settings: Settings, clock: ManualClock) -> None:
    server.run(settings, clock)


@pytest.mark.parametrize("start", [start_of_a_process, start_of_the_ledger_process])
def test_beside_running_workers_only_the_pre_half_is_applied(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, start: Callable[[Settings, ManualClock], None]
) -> None:
    monkeypatch.setattr(server, "set_title", lambda _: None)
    monkeypatch.setattr(server, "run_loop", lambda serving: serving.close())
    clock, ran = ManualClock(), []
    start_of_a_process(settings, clock)
    steps = [lambda _connection, _now_ns, half=half: ran.append(half) for half in migrations.HALVES]
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, migrations.Migration("9000_later", *steps)))
    worker = {"owner": bytes(16), "role": "worker", "started_ns": 1, "heartbeat_ns": clock.now_ns(), "scan_from": b""}
    database = Database.open(settings.effective_database_url)
    with database.write() as connection:
        connection.execute(schema.workers.insert(), worker)
    database.close()
    start(settings, clock)
    assert ran == ["pre"]
    clock.advance(settings.heartbeat_lost_s + 1)
    start(settings, clock)
    assert ran == ["pre", "post"]


def test_a_fresh_installation_has_prices_and_a_group_and_nobody_who_could_sign_in(database: Database) -> None:
    with database.read() as connection:
        assert connection.execute(select(schema.groups.c.name, schema.groups.c.ratio_micro)).all() == [
            ("default", 1_000_000)
        ]
        models = set(connection.execute(select(schema.prices.c.model)).scalars())
    assert "text-embedding-3-small" in models


def test_one_api_default_login_no_default_password(database: Database) -> None:
    assert not [
        column.name
        for table in schema.metadata.tables.values()
        for column in table.columns
        if "password" in column.name
    ]
    with database.read() as connection:
        assert connection.execute(select(schema.keys)).all() == []
        assert connection.execute(select(schema.channels)).all() == []


def test_the_seeded_accounts_are_the_ones_the_ledger_names() -> None:
    assert seeds.SYSTEM_ACCOUNTS == ledger_accounts.SYSTEM_ACCOUNTS


def _described(connection: Connection) -> dict[str, Any]:
    inspector = inspect(connection)
    return {
        table: {
            "columns": [(c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns(table)],
            "primary_key": inspector.get_pk_constraint(table)["constrained_columns"],
            "indexes": sorted((i["name"] or "", *map(str, i["column_names"])) for i in inspector.get_indexes(table)),
            "unique": sorted(str(u["column_names"]) for u in inspector.get_unique_constraints(table)),
            "checks": sorted(str(c["name"]) for c in inspector.get_check_constraints(table)),
            "foreign": sorted(str(f["constrained_columns"]) for f in inspector.get_foreign_keys(table)),
        }
        for table in inspector.get_table_names()
    }


def test_the_migrations_end_in_exactly_the_tables_of_schema(database_url: str) -> None:
    database = Database.open(database_url)
    try:
        migrations.migrate(database)
        with database.read() as connection:
            migrated = _described(connection)
        with database.write() as connection:
            schema.metadata.drop_all(connection)
            schema.metadata.create_all(connection)
        with database.read() as connection:
            assert migrated == _described(connection)
    finally:
        database.close()
