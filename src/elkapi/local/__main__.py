"""`python -m elkapi.local --socket PATH [--threads N] [--models-dir DIR]`: runs the model process alone."""

from __future__ import annotations

import argparse
import logging

from elkapi.local.server import run


def main() -> int:
    """Read the flags and run until SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m elkapi.local", description="Serve the bundled models.")
    parser.add_argument("--socket", required=True, help="path of the unix socket to listen on")
    parser.add_argument("--threads", type=int, default=0, help="threads that run models; 0 is one for every core")
    parser.add_argument("--models-dir", default="", help="folder with further models, one <id>/model.json each")
    flags = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    return run(flags.socket, flags.threads, flags.models_dir)


if __name__ == "__main__":
    raise SystemExit(main())
