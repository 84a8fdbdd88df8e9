"""`elkapi sandbox`: a stand-in for every provider, without an account."""

from __future__ import annotations

import sys

import click


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, add_help_option=False)
@click.pass_context
def sandbox(ctx: click.Context) -> int:
    """Start a stand-in for the providers on 127.0.0.1:8100. `elkapi sandbox --help` lists its options."""
    # The sandbox is independent and has its own command line.
    from elkapi.sandbox.__main__ import main

    try:
        return main(ctx.args)
    except SystemExit as ended:  # argparse exits after --help and misuse.
        sys.stdout.flush()
        return ended.code if isinstance(ended.code, int) else 2
