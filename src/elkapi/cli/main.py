"""The group of all verbs, and the conversion of errors to one line and an exit status."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import pwd
import sys
import traceback
from pathlib import Path
from typing import Any

import click

from elkapi import __version__
from elkapi.errors import GatewayError, to_operator
from elkapi.settings import SettingsError

# Verb -> (module below elkapi.cli, attribute, one line of help).
VERBS = {
    "serve": ("serve", "serve", "start the gateway"),
    "sandbox": ("sandbox", "sandbox", "start a stand-in for the providers, for testing"),
    "embed": ("embed", "embed", "print the vector of a text from a bundled model"),
    "doctor": ("doctor", "doctor", "print the effective settings and any problems of this installation"),
    "migrate": ("migrate", "migrate", "upgrade the database schema"),
    "operations": ("operations", "operations", "list every operation the gateway serves"),
    "models": ("models", "models", "the bundled models: list, install"),
    "key": (
        "key",
        "key",
        "customers' keys: create, list, show, edit, disable, enable, revoke, rotate, deposit, adjust, credit",
    ),
    "channel": (
        "channel",
        "channel",
        "channels to upstreams: add, list, show, edit, enable, disable, remove, test, key",
    ),
    "price": ("price", "price", "prices: set, list, show, history, withdraw"),
    "group": ("group", "group", "groups of keys, their ratio and rules: set, list, remove"),
    "guard": ("guard", "guard", "guardrails: set, list, show, remove, try"),
    "route": ("route", "route", "where a call would go: explain"),
    "request": ("request", "request", "past calls: show, list"),
    "task": ("task", "task", "videos and other tasks: list, show, poll, end"),
    "webhook": ("webhook", "webhook", "webhook events about tasks: list, show, replay, secret"),
    "ledger": ("ledger", "ledger", "the ledger: check, alerts, unknown, holds, recover, refund"),
    "audit": ("audit", "audit", "the audit trail, who changed what: list"),
    "backup": ("backup", "backup", "write a consistent copy of the database to a file"),
    "restore": ("backup", "restore", "replace this installation's data with a backup"),
}
FAILURE, MISUSE = 1, 2


class _Verbs(click.Group):
    """Loads a verb's module only when it is called: `elkapi serve` must not import a database driver."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module, attribute, _ = VERBS[name]
        command: click.Command = getattr(importlib.import_module(f"elkapi.cli.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest verbs for a misspelt one, which click does only for commands that are loaded."""
        if args[0] not in VERBS and (close := difflib.get_close_matches(args[0], VERBS)):
            ctx.fail(f"No such command {args[0]!r}; did you mean {' or '.join(close)}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in VERBS.items()])


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="elkapi")
def cli() -> None:
    """elkapi: an AI API gateway with one base URL, one key and exact billing for every provider.

    Settings come from ELKAPI_... variables and an optional TOML file (ELKAPI_CONFIG). `elkapi doctor` prints them.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run one command and end the process with its exit status."""
    _open_standard_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal cannot encode must not abort a table.
        sys.stdout.reconfigure(errors="replace")
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def _open_standard_streams() -> None:
    """Open closed standard streams on /dev/null; otherwise the next opened file or socket would take their number, here
    and in child processes."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            # The kernel assigns the lowest free number, which is this stream's.
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(nowhere, True)
            setattr(sys, name, os.fdopen(nowhere, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False))


def run(arguments: list[str]) -> int:
    """Like `main`, but returns the exit status. Errors are written to stderr as one line."""
    try:
        result: Any = cli.main(arguments, prog_name="elkapi", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return MISUSE
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "elkapi"
        return _complain(f"{error.format_message()} (see `{where} --help`)", MISUSE)
    except click.ClickException as error:
        return _complain(error.format_message(), FAILURE)
    except (click.Abort, KeyboardInterrupt):
        return _complain("stopped", FAILURE)
    except SettingsError as error:
        return _complain(str(error), MISUSE)
    except GatewayError as error:
        return _complain(to_operator(error), FAILURE)
    except BrokenPipeError:
        # The reader of our output closed the pipe; keep the interpreter from reporting that at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except Exception as error:
        return _known_or_internal(error)
    return result if isinstance(result, int) else 0


def _known_or_internal(error: Exception) -> int:
    """Report an error. Classes of modules that are not always loaded are matched by name. Anything else is a bug: its
    class and location are printed, but not its message, which could contain a secret.
    """
    kind = type(error).__name__
    if kind in {"InvalidInput", "DatabaseUrlError"}:
        return _complain(str(error), MISUSE)
    if kind in {"AdminError", "Missing", "Refused", "MigrationError", "SecretKeyError", "StartError", "ModelUnusable"}:
        return _complain(str(error), FAILURE)
    if isinstance(error, OSError) and error.strerror:
        said = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        hint = _owner_hint(str(error.filename)) if isinstance(error, PermissionError) and error.filename else ""
        return _complain(said + hint, FAILURE)
    if isinstance(error, UnicodeEncodeError) and error.encoding == "utf-8":
        # Python decodes invalid bytes of arguments to surrogates, which UTF-8 cannot encode.
        return _complain("a word that was given is no text in the encoding of this terminal", MISUSE)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return _complain(f"internal error: {kind} in {Path(place.filename).name} line {place.lineno}", FAILURE)


def _owner_hint(path: str) -> str:
    """Whose the file or the closed folder above it is, if another user's: a service's data is often touched as root, or
    a command run as somebody else."""
    for place in (Path(path).absolute(), *Path(path).absolute().parents):
        with contextlib.suppress(OSError):
            owner = place.stat().st_uid
            if owner == os.geteuid():
                return ""
            return f"; {place} belongs to the user {_user(owner)}, and this command runs as {_user(os.geteuid())}"
    return ""


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _complain(message: str, status: int) -> int:
    click.echo(f"elkapi: {' '.join(message.split())}", err=True)
    return status
