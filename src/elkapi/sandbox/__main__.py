"""`python -m elkapi.sandbox`: the command line of the sandbox."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from elkapi.sandbox.app import Options
from elkapi.sandbox.record import REQUESTS_KEPT_MAX
from elkapi.sandbox.server import HOST, PORT, run
from elkapi.settings import whole_number

PORT_MAX = 65_535


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sandbox from command line arguments; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="elkapi sandbox", description="A stand-in for the providers, without an account."
    )
    parser.add_argument("--host", default=HOST, help=f"the address to listen on; default {HOST}")
    parser.add_argument("--port", type=_number, help=f"0 picks a free one; default {PORT}, or none with --socket")
    parser.add_argument("--socket", metavar="PATH", help="listen on a Unix socket")
    parser.add_argument("--bill", metavar="FILE", type=Path, help="append every bill line to this file")
    parser.add_argument("--key", action="append", metavar="KEY", help="accept only this key (repeatable)")
    parser.add_argument("--fault", default="", metavar="DIRECTIVE", help="a standing fault, such as status=503")
    parser.add_argument(
        "--record", type=_number, default=REQUESTS_KEPT_MAX, metavar="N", help="how many requests to keep; 0 keeps none"
    )
    parser.add_argument("--allow-remote", action="store_true", help="bind a host other than loopback")
    given = parser.parse_args(arguments)
    port = PORT if given.port is None and given.socket is None else given.port
    if port is not None and not 0 <= port <= PORT_MAX:
        parser.error(f"argument --port: {port} is not a port, 0 to {PORT_MAX}")
    if given.record < 0:
        parser.error("argument --record: it cannot be below 0")
    options = Options(
        bill_path=given.bill,
        keys=frozenset(given.key) if given.key else None,
        fault=given.fault,
        requests_kept_max=given.record,
        trust_any_host=given.allow_remote,
    )
    try:
        run(given.host, port, given.socket, options=options, allow_remote=given.allow_remote)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"elkapi sandbox: {error}\n")
        return 1
    return 0


def _number(text: str) -> int:
    try:
        return whole_number(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
