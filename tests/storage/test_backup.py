"""Backup and restore across databases: everything arrives, nothing half, nothing over something else."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from sqlalchemy import Connection, select

from elkapi import ledger
from elkapi.admin import backup as backups
from elkapi.admin import channels, groups, keys, prices
from elkapi.admin.context import Admin
from elkapi.admin.errors import InvalidInput, Missing, Refused
from elkapi.clock import ManualClock
from elkapi.settings import Settings
from elkapi.storage import apikey, files, schema
from elkapi.storage import dialect as sql
from elkapi.storage.repos import channels as channel_rows
from elkapi.storage.repos import keys as key_rows
from elkapi.storage.repos import versions
from elkapi.storage.secrets import KEY_BYTES, install_secret_key, load_secret_key, secret_key_path

PLANTED = "sk-planted-provider-secret-0123456789"


def check_books(connection: Connection) -> None:
    report = ledger.check(connection)
    assert report.ok, report.lines()


@pytest.fixture
def filled(admin: Admin) -> Admin:
    groups.set_group(admin, "vip", "0.8")
    prices.set_price(admin, prices.PriceInput(model="m", input_per_1m="0.5"))
    channels.add_channel(
        admin,
        channels.ChannelFields(
            name="c",
            family="openai",
            base_url="http://127.0.0.1:9",
            allow_private=True,
            models=("m",),
            header_set={"x-a": PLANTED},
        ),
        [PLANTED],
    )
    for number in range(3):
        keys.create_key(admin, keys.KeyInput(name=f"k{number}", group="vip", balance="1.25"))
    return admin


@pytest.fixture(params=["to sqlite", pytest.param("to postgres", marks=pytest.mark.postgres)])
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """An empty installation on SQLite or on a PostgreSQL database that is not the filled one's."""
    folder = str(tmp_path / "elsewhere")
    if request.param == "to sqlite":
        yield Settings(data_dir=folder)
        return
    server, name = request.getfixturevalue("postgres_server"), f"elsewhere_{os.getpid()}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    yield Settings(data_dir=folder, database_url=f"{server}/{name}")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def everything(admin: Admin) -> dict[str, list[Any]]:
    """Every row of every table but the ones a restore is meant to change."""
    rows: dict[str, list[Any]] = {}
    with admin.database.read() as connection:
        for table in schema.metadata.sorted_tables:
            if table.name in {"meta", "audit", "migrations"}:
                continue
            columns = [column for column in table.columns if not (table.name == "keys" and column.name == "version")]
            rows[table.name] = sorted(map(repr, connection.execute(select(*columns)).all()))
    return rows


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_a_filesystem_without_hard_links_takes_a_backup_and_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def link(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)
    away = tmp_path / "share"
    away.mkdir()
    (away / "mine").write_text("mine")
    with Admin.open(Settings(data_dir=str(tmp_path / "data")), "test") as opened:
        backups.backup(opened, away / "copy", with_secret_key=True)
        with pytest.raises(FileExistsError):
            files.name_new_file(tmp_path / "data" / "secret.key", away / "mine")
    assert {path.name for path in away.iterdir()} == {"copy", "copy.secret-key", "mine"}
    assert {stat.S_IMODE((away / name).stat().st_mode) for name in ("copy", "copy.secret-key")} == {0o600}
    assert (away / "mine").read_text() == "mine"
    report = backups.restore(Settings(data_dir=str(tmp_path / "new")), away / "copy", check=check_books, actor="test")
    assert report.secret_key_path is not None
    assert load_secret_key(Settings(data_dir=str(tmp_path / "new")))


def test_a_folder_whose_name_has_signs_of_addresses_is_where_files_are_made(tmp_path: Path) -> None:
    data, away = tmp_path / "50%25 a b", tmp_path / "so?%41=#"
    away.mkdir()
    settings = Settings(data_dir=str(data))
    with Admin.open(settings, "test") as opened:
        keys.create_key(opened, keys.KeyInput(name="kept"))
        backups.backup(opened, away / "copy")
    report = backups.restore(settings, away / "copy", check=check_books, actor="test", force=True)
    assert report.rows["keys"] == 1
    assert {path.name for path in tmp_path.iterdir()} == {data.name, away.name}
    assert {path.name for path in away.iterdir()} == {"copy"}
    assert (data / "elkapi.sqlite3").exists()


def test_a_backup_restores_everything_on_either_database(filled: Admin, elsewhere: Settings, tmp_path: Path) -> None:
    report = backups.backup(filled, tmp_path / "copy", with_secret_key=True)
    assert report.rows["keys"] == 3
    restored = backups.restore(elsewhere, tmp_path / "copy", check=check_books, actor="test")
    assert restored.rows == report.rows
    with Admin.open(elsewhere, "test") as other:
        assert everything(other) == everything(filled)
        with other.database.read() as connection:
            opened = channel_rows.load_channels(connection, other.sealer)[0].channel
        assert opened.keys[0].secret == PLANTED
        assert opened.header_set == {"x-a": PLANTED}
        # New rows get ids of their own behind the restored ones.
        view, _ = keys.create_key(other, keys.KeyInput(name="after"))
        assert view.row.id == 4
        with other.database.read() as connection:
            check_books(connection)


def test_the_ids_of_removed_channels_are_given_to_no_other_after_a_restore(
    filled: Admin, elsewhere: Settings, tmp_path: Path
) -> None:
    """A task that the removed one took would be asked about at the new one."""

    def added(admin: Admin, name: str) -> tuple[int, int]:
        address: dict[str, Any] = {"family": "openai", "base_url": "http://127.0.0.1:9", "allow_private": True}
        fields = channels.ChannelFields(name=name, models=("m",), **address)
        view = channels.add_channel(admin, fields, [f"sk-{name}"])
        return view.id, view.keys[0].id

    gone = added(filled, "gone")
    channels.remove_channel(filled, "gone")
    backups.backup(filled, tmp_path / "first", with_secret_key=True)
    backups.restore(elsewhere, tmp_path / "first", check=check_books, actor="test")
    with Admin.open(elsewhere, "test") as other:
        backups.backup(other, tmp_path / "second")
    backups.restore(elsewhere, tmp_path / "second", check=check_books, actor="test", force=True)
    with Admin.open(elsewhere, "test") as other:
        new = added(other, "new")
    assert new[0] > gone[0]
    assert new[1] > gone[1]


def test_no_statement_of_a_restore_is_cut_off(filled: Admin, elsewhere: Settings, tmp_path: Path) -> None:
    if not elsewhere.database_url:
        pytest.skip("SQLite cuts no statement off")
    file, bounds = tmp_path / "copy", []
    backups.backup(filled, file, with_secret_key=True)

    def noted(connection: Connection) -> None:
        bounds.append(connection.exec_driver_sql("SHOW statement_timeout").scalar())

    backups.restore(elsewhere, file, check=noted, actor="test")
    assert bounds == ["0"]


@pytest.mark.parametrize("elsewhere", ["to postgres"], indirect=True)
@pytest.mark.postgres
def test_postgresql_plans_by_what_a_restore_wrote(filled: Admin, elsewhere: Settings, tmp_path: Path) -> None:
    """Its own count comes minutes later; until then lists would go through whole tables."""
    backups.backup(filled, tmp_path / "copy", with_secret_key=True)
    backups.restore(elsewhere, tmp_path / "copy", check=check_books, actor="test")
    with psycopg.connect(elsewhere.effective_database_url) as connection:
        query = "select relname, reltuples from pg_class where relname in ('keys', 'transfers', 'assets')"
        counted: dict[str, float] = dict(connection.execute(query).fetchall())
    assert counted == {"keys": 3, "transfers": 3, "assets": 0}


def test_the_backup_is_private_and_holds_no_secret_in_the_clear(filled: Admin, tmp_path: Path) -> None:
    report = backups.backup(filled, tmp_path / "copy", with_secret_key=True)
    assert report.secret_key_path is not None
    for file in (tmp_path / "copy", Path(report.secret_key_path)):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert PLANTED.encode() not in (tmp_path / "copy").read_bytes()
    assert not list(tmp_path.glob(".elkapi-*"))
    assert not list(tmp_path.glob("copy-*"))


def test_without_the_flag_the_secret_key_stays_at_home(filled: Admin, elsewhere: Settings, tmp_path: Path) -> None:
    backups.backup(filled, tmp_path / "copy")
    assert not list(tmp_path.glob("copy.*"))
    with pytest.raises(Refused, match="secret key"):
        backups.restore(elsewhere, tmp_path / "copy", check=check_books, actor="test")
    assert not secret_key_path(elsewhere).exists()
    own = secret_key_path(filled.settings)
    backups.restore(elsewhere, tmp_path / "copy", check=check_books, actor="test", secret_key_file=own)
    assert load_secret_key(elsewhere) == load_secret_key(filled.settings)


def test_a_disk_with_no_room_for_the_secret_key_gets_neither_rows_nor_copy(
    filled: Admin, elsewhere: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "copy"
    backups.backup(filled, file, with_secret_key=True)

    def full(*_: object) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(backups, "install_secret_key", full)
        with pytest.raises(OSError, match="No space left"):
            backups.restore(elsewhere, file, check=check_books, actor="test")
        with pytest.raises(OSError, match="No space left"):
            backups.backup(filled, tmp_path / "another", with_secret_key=True)
    assert not (tmp_path / "another").exists()
    # Nothing is in the way of the next one.
    backups.restore(elsewhere, file, check=check_books, actor="test")
    with Admin.open(elsewhere, "test") as restored:
        assert everything(restored) == everything(filled)


def test_rows_that_cannot_be_written_leave_no_secret_key_behind(
    filled: Admin, elsewhere: Settings, tmp_path: Path
) -> None:
    def refuse(_: Connection) -> None:
        raise Refused("the disk is full")

    backups.backup(filled, tmp_path / "copy", with_secret_key=True)
    with pytest.raises(Refused):
        backups.restore(elsewhere, tmp_path / "copy", check=refuse, actor="test")
    assert not secret_key_path(elsewhere).exists()


def test_a_key_file_that_another_process_makes_at_this_moment_is_neither_taken_for_ours_nor_removed(
    filled: Admin, elsewhere: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backups.backup(filled, tmp_path / "copy", with_secret_key=True)

    def second(path: Path, key: bytes) -> bool:
        assert install_secret_key(path, b"theirs".ljust(KEY_BYTES))
        return install_secret_key(path, key)

    monkeypatch.setattr(backups, "install_secret_key", second)
    with pytest.raises(Refused, match="at the same time"):
        backups.restore(elsewhere, tmp_path / "copy", check=check_books, actor="test")
    assert load_secret_key(elsewhere) == b"theirs".ljust(KEY_BYTES)
    with Admin.open(elsewhere, "test") as opened:
        assert not keys.list_keys(opened)
    with pytest.raises(Refused, match="at the same time"):
        backups.backup(filled, tmp_path / "another", with_secret_key=True)
    assert not (tmp_path / "another").exists()
    assert (tmp_path / "another.secret-key").exists()


def test_a_gateway_that_starts_beside_a_restore_keeps_the_key_it_found(
    filled: Admin, elsewhere: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backups.backup(filled, tmp_path / "copy", with_secret_key=True)
    monkeypatch.setattr(sql, "BUSY_TIMEOUT_MS", 60_000)

    def start() -> None:
        with Admin.open(elsewhere, "test") as opened, opened.change() as connection:
            keys.ensure_first_key(connection)

    starting = threading.Thread(target=start)

    def then_it_starts(path: Path, key: bytes) -> bool:
        made = install_secret_key(path, key)
        starting.start()
        starting.join(0.3)  # Longer than it takes where nothing keeps it waiting.
        return made

    monkeypatch.setattr(backups, "install_secret_key", then_it_starts)
    backups.restore(elsewhere, tmp_path / "copy", check=check_books, actor="test")
    starting.join()
    with Admin.open(elsewhere, "test") as restored:
        assert everything(restored) == everything(filled)


def test_a_restore_says_where_it_has_no_room_for_its_copy(
    filled: Admin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    backups.backup(filled, tmp_path / "copy")
    monkeypatch.setattr(shutil, "copyfile", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(Refused, match=f"{tmp_path} has no room for a copy .*TMPDIR"):
        backups.restore(filled.settings, tmp_path / "copy", check=check_books, actor="test")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root works in a directory of another user")
def test_what_root_restores_into_the_directory_of_a_service_is_that_services(
    filled: Admin, elsewhere: Settings, tmp_path: Path
) -> None:
    """Else the service, which is not root, could not open what was restored for it."""
    backups.backup(filled, tmp_path / "copy", with_secret_key=True)
    elsewhere.data_path.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chown(elsewhere.data_path, 65534, 65534)
    backups.restore(elsewhere, tmp_path / "copy", check=check_books, actor="test")
    found = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in elsewhere.data_path.iterdir()}
    assert found["secret.key"] == (65534, 65534)
    assert set(found.values()) == {(65534, 65534)}
    # Beside the copy it stays with whoever made that, also where the folder is somebody's.
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 65534, 65534)
    backups.backup(filled, tmp_path / "theirs" / "copy", with_secret_key=True)
    assert {path.stat().st_uid for path in (tmp_path / "theirs").iterdir()} == {0}


def test_another_secret_key_is_refused_and_never_replaced(filled: Admin, elsewhere: Settings, tmp_path: Path) -> None:
    backups.backup(filled, tmp_path / "copy", with_secret_key=True)
    other = load_secret_key(elsewhere)
    with pytest.raises(Refused, match="another secret key"):
        backups.restore(elsewhere, tmp_path / "copy", check=check_books, actor="test")
    wrong = tmp_path / "wrong"
    wrong.write_text("ab" * 32)
    with pytest.raises(Refused, match="not the secret key of this backup"):
        backups.restore(elsewhere, tmp_path / "copy", check=check_books, actor="test", secret_key_file=wrong)
    assert load_secret_key(elsewhere) == other


def test_a_backup_never_overwrites_a_file(filled: Admin, tmp_path: Path) -> None:
    (tmp_path / "copy").write_text("mine")
    with pytest.raises(Refused):
        backups.backup(filled, tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "mine"
    (tmp_path / "second.secret-key").write_text("mine")
    with pytest.raises(Refused):
        backups.backup(filled, tmp_path / "second", with_secret_key=True)
    with pytest.raises(Missing):
        backups.backup(filled, tmp_path / "no folder" / "copy")


def test_a_filled_target_needs_force_and_is_then_replaced(filled: Admin, tmp_path: Path) -> None:
    backups.backup(filled, tmp_path / "copy")
    before = everything(filled)
    with filled.database.read() as connection:
        version = versions.read(connection).config
    view, plaintext = keys.create_key(filled, keys.KeyInput(name="later"))
    with pytest.raises(Refused, match="--force"):
        backups.restore(filled.settings, tmp_path / "copy", check=check_books, actor="test")
    assert keys.show_key(filled, "later") == view
    backups.restore(filled.settings, tmp_path / "copy", check=check_books, actor="test", force=True)
    assert everything(filled) == before
    with filled.database.read() as connection:
        assert key_rows.find_grant(connection, apikey.digest(plaintext)) is None
        # Processes that saw the replaced rows must see a higher version, and every key as changed.
        assert versions.read(connection).config > version
        changed = key_rows.changed_since(connection, version)
        assert changed is not None
        assert len(changed) == 3


def test_prices_that_an_operator_set_are_not_replaced_unasked(filled: Admin, tmp_path: Path) -> None:
    backups.backup(filled, tmp_path / "copy")
    own = Settings(data_dir=str(tmp_path / "own"), secret_key=load_secret_key(filled.settings).hex())
    with Admin.open(own, "test") as fresh:
        prices.set_price(fresh, prices.PriceInput(model="mine", per_call="0.5"))
        with pytest.raises(Refused, match="--force"):
            backups.restore(own, tmp_path / "copy", check=check_books, actor="test")
        assert prices.history(fresh, "mine")


def test_a_restore_is_refused_while_a_gateway_runs(filled: Admin, tmp_path: Path) -> None:
    clock = ManualClock()
    backups.backup(filled, tmp_path / "copy")
    row = {"owner": bytes(16), "role": "worker", "started_ns": 1, "heartbeat_ns": clock.now_ns(), "scan_from": b""}
    row = {name: value for name, value in row.items() if name in schema.workers.c}
    with filled.database.write() as connection:
        connection.execute(schema.workers.insert(), row)
    options: dict[str, Any] = {"check": check_books, "actor": "test", "force": True, "clock": clock}
    with pytest.raises(Refused, match="running"):
        backups.restore(filled.settings, tmp_path / "copy", **options)
    clock.advance(filled.settings.heartbeat_lost_s + 1)
    backups.restore(filled.settings, tmp_path / "copy", **options)


def test_books_that_do_not_hold_are_not_let_in(filled: Admin, tmp_path: Path) -> None:
    backups.backup(filled, tmp_path / "copy")
    before = everything(filled)

    def refuse(_connection: Connection) -> None:
        raise Refused("the books are not in order")

    with pytest.raises(Refused, match="books"):
        backups.restore(filled.settings, tmp_path / "copy", check=refuse, actor="test", force=True)
    assert everything(filled) == before


@pytest.mark.parametrize("spoil", ["not a database", "another program's", "empty", "damaged"])
def test_a_file_that_is_no_backup_is_refused_untouched(filled: Admin, tmp_path: Path, spoil: str) -> None:
    path = tmp_path / "file"
    if spoil == "damaged":
        backups.backup(filled, path)
        content = bytearray(path.read_bytes())
        content[4096:-4096] = b"\xa5" * (len(content) - 8192)
        path.write_bytes(content)
    elif spoil == "another program's":
        theirs = sqlite3.connect(path)
        theirs.execute("CREATE TABLE theirs (x)")
        theirs.commit()
        theirs.close()
    else:
        path.write_bytes(b"hello" * 100 if spoil == "not a database" else b"")
    content_before, before = path.read_bytes(), everything(filled)
    with pytest.raises((InvalidInput, Refused)):
        backups.restore(filled.settings, path, check=check_books, actor="test", force=True)
    assert path.read_bytes() == content_before
    assert everything(filled) == before


def test_a_copy_taken_while_others_write_is_one_moment(filled: Admin, elsewhere: Settings, tmp_path: Path) -> None:
    stop = threading.Event()

    def keep_depositing() -> None:
        while not stop.is_set():
            keys.deposit(filled, "k0", "0.01", "load")

    thread = threading.Thread(target=keep_depositing)
    thread.start()
    try:
        for number in range(3):
            backups.backup(filled, tmp_path / f"copy{number}", with_secret_key=True)
    finally:
        stop.set()
        thread.join()
    # The ledger's own check decides: entries and balances of two different moments would not add up.
    backups.restore(elsewhere, tmp_path / "copy2", check=check_books, actor="test")


def test_an_older_backup_is_upgraded_on_the_way_in(
    filled: Admin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from elkapi.storage import migrations

    backups.backup(filled, tmp_path / "copy")
    ran: list[str] = []

    def step(name: str) -> Callable[[Connection, int], None]:
        return lambda connection, _now_ns: ran.append(f"{name} on {connection.dialect.name}")

    later = migrations.Migration("9000_later", step("pre"), step("post"))
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, later))
    report = backups.restore(filled.settings, tmp_path / "copy", check=check_books, actor="test", force=True)
    assert report.schema_version == 9000
    assert ran[:2] == ["pre on sqlite", "post on sqlite"]
    with filled.database.read() as connection:
        assert migrations.schema_version(connection) == 9000


def test_a_newer_backup_is_refused(filled: Admin, tmp_path: Path) -> None:
    from elkapi.storage.migrations import MigrationError

    with filled.database.write() as connection:
        connection.execute(schema.migrations.insert(), {"name": "9999_later.post", "applied_ns": 1})
    backups.backup(filled, tmp_path / "copy")
    with filled.database.write() as connection:
        connection.execute(schema.migrations.delete().where(schema.migrations.c.name == "9999_later.post"))
    with pytest.raises(MigrationError, match="newer"):
        backups.restore(filled.settings, tmp_path / "copy", check=check_books, actor="test", force=True)


def test_reports_are_json(filled: Admin, tmp_path: Path) -> None:
    report = backups.backup(filled, tmp_path / "copy")
    assert msgspec.json.decode(msgspec.json.encode(report), type=backups.BackupReport) == report
