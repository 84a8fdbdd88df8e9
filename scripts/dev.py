"""`make dev`: a gateway with a seeded key in front of the sandbox, both restarted when a file under src/ changes.

Its data is in elkapi-data/dev, separate from `make run`'s; the key is stored there (mode 0600), so that it stays the
same.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
ELKAPI = Path(sys.executable).parent / "elkapi"
DATA = ROOT / "elkapi-data" / "dev"
SANDBOX_PORT = 8001
SANDBOX_MODELS = "text-embedding-3-small,text-embedding-3-large,text-embedding-ada-002"
POLL_S = 0.5
STOP_S = 40

ENV = os.environ | {"ELKAPI_DATA_DIR": str(DATA)}


def cli(*arguments: str) -> str:
    return subprocess.run([ELKAPI, *arguments], env=ENV, check=True, stdout=subprocess.PIPE, text=True).stdout


def seeded_key() -> str:
    """The stored key. The first start creates it and a channel to the sandbox (common public prices are seeded)."""
    kept = DATA / "dev-key"
    if not kept.exists():
        DATA.mkdir(parents=True, exist_ok=True)
        sandbox = f"http://127.0.0.1:{SANDBOX_PORT}"
        channel = ["--family", "openai", "--base-url", sandbox, "--key", "sk-sandbox", "--models", SANDBOX_MODELS]
        cli("channel", "add", *channel, "--allow-private", "--json")
        key = json.loads(cli("key", "create", "--name", "dev", "--balance", "100", "--json"))["key"]
        kept.touch(mode=0o600)
        kept.write_text(key, "utf-8")
    return kept.read_text("utf-8")


def newest_change() -> float:
    return max(path.stat().st_mtime for path in (ROOT / "src").rglob("*") if path.suffix in {".py", ".html", ".css"})


def stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that `finally` stops the children
    key = seeded_key()
    commands: list[list[str | Path]] = [[ELKAPI, "sandbox", "--port", str(SANDBOX_PORT)], [ELKAPI, "serve"]]
    running: list[subprocess.Popen[bytes]] = []
    try:
        while True:
            seen = newest_change()
            running = [subprocess.Popen(command, env=ENV, start_new_session=True) for command in commands]
            print(
                f"\nELKAPI_KEY={key}  sandbox: http://127.0.0.1:{SANDBOX_PORT}  (restarts when src/ changes)\n",
                flush=True,
            )
            while newest_change() == seen:
                time.sleep(POLL_S)
            stop(running)
    except KeyboardInterrupt:
        pass
    finally:
        stop([process for process in running if process.poll() is None])


if __name__ == "__main__":
    main()
