"""`elkapi operations`: every served route, straight from the catalog."""

from __future__ import annotations

import click

from elkapi.cli.output import json_option, print_json, print_table

FIELDS = ("id", "method", "path", "family", "kind", "unit")


@click.command()
@json_option
def operations(as_json: bool) -> None:
    """List every served route; ids equal the ids of the documented contract."""
    from elkapi.catalog import CATALOG

    rows = []
    for operation in CATALOG.operations:
        row = {name: getattr(operation, name) for name in FIELDS}
        rows.append(row)
        # One route serves several rows of the contract: the streamed twin, the same list in another dialect.
        rows += [{**row, "id": id_, "family": id_.partition(".")[0], "kind": kind} for id_, kind in operation.also]
    if as_json:
        print_json(rows)
    else:
        print_table(FIELDS, [tuple(row.values()) for row in rows], none="nothing is served")
