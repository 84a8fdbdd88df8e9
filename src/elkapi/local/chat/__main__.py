"""`python -m elkapi.local.chat --socket PATH`: runs the chat process alone."""

from __future__ import annotations

import argparse
import logging

from elkapi.local.chat.server import ChatLimits, run


def main() -> int:
    """Read the flags and run until SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m elkapi.local.chat", description="Serve the bundled chat model.")
    parser.add_argument("--socket", required=True, help="path of the unix socket to listen on")
    parser.add_argument("--window", type=int, default=ChatLimits().window, help="tokens of a prompt and its answer")
    parser.add_argument("--slots", type=int, default=ChatLimits().slots, help="answers written at once")
    parser.add_argument("--idle", type=float, default=0.0, help="seconds without a call after which it ends")
    flags = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    limits = ChatLimits(window=flags.window, slots=flags.slots, idle_s=flags.idle)
    return run(flags.socket, f"{flags.socket}.engine.sock", limits)


if __name__ == "__main__":
    raise SystemExit(main())
