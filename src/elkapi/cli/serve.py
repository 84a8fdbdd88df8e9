"""`elkapi serve`: the flags of the composition root."""

from __future__ import annotations

import click

from elkapi.cli.numbers import Whole
from elkapi.roles import ROLES, Role
from elkapi.settings import load_settings


@click.command()
@click.option("--host", help="address to listen on (ELKAPI_HOST)")
@click.option("--port", type=Whole(0, 65535), help="port to listen on (ELKAPI_PORT)")
@click.option("--workers", type=Whole(1, 256), help="worker processes (ELKAPI_WORKERS)")
@click.option("--role", type=click.Choice(ROLES), help="start only this role, for containers and clusters")
def serve(host: str | None, port: int | None, workers: int | None, role: Role | None) -> int:
    """Start the gateway with all its processes, and run until it is stopped."""
    from elkapi.app import serve as serve_all

    return serve_all(load_settings({"host": host, "port": port, "workers": workers}), role)
