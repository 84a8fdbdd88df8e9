"""`elkapi operations`: every served route, from the catalog."""

from __future__ import annotations

import click

from elkapi.cli.output import json_option, print_rows

FIELDS = ("id", "method", "path", "family", "kind", "unit")


@click.command()
@json_option
def operations(as_json: bool) -> None:
    """List every operation the gateway serves, with its id, method and path."""
    from elkapi.catalog import CATALOG

    rows = []
    for operation in CATALOG.operations:
        row = {name: getattr(operation, name) for name in FIELDS}
        rows.append(row)
        # One route serves several rows of the contract: the streaming variant, the same list in another dialect.
        rows += [{**row, "id": id_, "family": id_.partition(".")[0], "kind": kind} for id_, kind in operation.also]
    print_rows(rows, FIELDS, as_json, none="no operations")
