"""`elkapi migrate`: upgrades the schema, completely or in halves for a rolling upgrade."""

from __future__ import annotations

import click

from elkapi.cli.output import json_option, print_json
from elkapi.settings import load_settings


@click.command()
@click.option("--pre-only", is_flag=True, help="only the steps that the old version can work with")
@json_option
def migrate(pre_only: bool, as_json: bool) -> None:
    """Upgrade the database schema. `elkapi serve` does so too; before a rolling upgrade, run this with --pre-only."""
    from elkapi.storage.db import Database
    from elkapi.storage.migrations import HALVES, schema_version
    from elkapi.storage.migrations import migrate as bring_forward

    settings = load_settings()
    database = Database.open(settings.effective_database_url, synchronous=settings.sqlite_synchronous)
    try:
        names = bring_forward(database, halves=("pre",) if pre_only else HALVES)
        with database.read() as connection:
            version = schema_version(connection)
    finally:
        database.close()
    if as_json:
        print_json({"applied": names, "schema_version": version})
    else:
        click.echo("\n".join([*(f"applied {name}" for name in names), f"the schema is at version {version}"]))
