"""`elkapi backup` and `elkapi restore`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from elkapi.cli.output import actor, json_option, opened, print_json
from elkapi.settings import load_settings

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from elkapi.admin.backup import BackupReport

_path = click.Path(dir_okay=False, path_type=Path)
_existing = click.Path(exists=True, dir_okay=False, path_type=Path)


def _named(_ctx: click.Context, _param: click.Parameter, file: Path) -> Path:
    if not file.name:
        raise click.BadParameter("give the name of a file")
    return file


@click.command()
@click.argument("file", type=_path, callback=_named)
@click.option(
    "--with-secret-key", is_flag=True, help="also write FILE.secret-key; the two together reveal every secret"
)
@json_option
def backup(file: Path, with_secret_key: bool, as_json: bool) -> None:
    """Write a consistent copy of the database to FILE while the gateway runs.

    A copy of SQLite restores on PostgreSQL and vice versa. Provider keys in it are encrypted with the secret key
    (ELKAPI_SECRET_KEY or the file secret.key); keep that key too, in another place.
    """
    from elkapi.admin.backup import backup as write_backup

    with _ended_in_order(), opened() as admin:
        report = write_backup(admin, file, with_secret_key=with_secret_key)
    _print(report, as_json, "wrote")


@click.command()
@click.argument("file", type=_path, callback=_named)
@click.option("--force", is_flag=True, help="replace existing data")
@click.option("--secret-key-file", type=_existing, help="the secret key of this backup")
@json_option
def restore(file: Path, force: bool, secret_key_file: Path | None, as_json: bool) -> None:
    """Replace this installation's data with FILE, all or nothing. Stop the gateway first."""
    from elkapi.admin.backup import restore as read_backup

    with _ended_in_order():
        report = read_backup(
            load_settings(), file, check=_check_books, actor=actor(), force=force, secret_key_file=secret_key_file
        )
    _print(report, as_json, "restored")


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Handle SIGTERM and SIGHUP like Ctrl-C, so that no partial copy is left. Ignored signals, as under `nohup`, stay
    ignored."""
    ends = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) is not signal.SIG_IGN]
    before = [signal.signal(one, signal.default_int_handler) for one in ends]
    try:
        yield
    finally:
        for one, handler in zip(ends, before, strict=True):
            signal.signal(one, handler)


def _check_books(connection: Connection) -> None:
    from elkapi.admin.errors import Refused
    from elkapi.ledger import check

    report = check(connection)
    if not report.ok:
        raise Refused(f"the ledger in this backup fails its check; nothing was changed: {report.problems[0]}")


def _print(report: BackupReport, as_json: bool, verb: str) -> None:
    if as_json:
        print_json(report)
        return
    click.echo(f"{verb} {report.path}: schema {report.schema_version}, {sum(report.rows.values())} rows")
    if report.secret_key_path is not None:
        click.echo(f"secret key: {report.secret_key_path}")
