"""Starts and stops the servers of a bench: the C upstream, nginx as the baseline, and a gateway with a priced model.

Each listens on a free loopback port, is pinned to a core, logs to its own file and is stopped by its pid.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

BENCH = Path(__file__).parent
ROOT = BENCH.parent
ELKAPI = Path(sys.executable).parent / "elkapi"
START_S = 90.0
SERVER_CORE, DRIVER_CORE = 0, 1

# The model's name selects the upstream's reply; the free variant is priced zero, so it needs no hold.
MODELS = {
    "large": "mock-embed",
    "small": "mock-small",
    "small-free": "mock-small-free",
    "steady-large": "mock-embed",
    "steady-small": "mock-small",
    "chat": "mock-chat",
    "burst": "mock-chat",
    "paced": "mock-paced-10",
    "crowd": "mock-paced-50",
}
PRICE_USD_PER_1M, OUTPUT_USD_PER_1M = "0.02", "0.08"


class Server(NamedTuple):
    process: subprocess.Popen[bytes]
    url: str
    headers: dict[str, str]
    directory: Path
    keys: tuple[str, ...] = ()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until `url` answers (readyz: 200); raises RuntimeError with the end of the log otherwise."""
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except urllib.error.HTTPError as error:
            with error:
                if not url.endswith("/readyz"):
                    return
        except OSError:
            pass
        time.sleep(0.1)
    process.kill()
    process.wait()
    raise RuntimeError(f"{url} did not come up:\n{log.read_text('utf-8', 'replace')[-3000:]}")


def launch(command: list[str], core: int, log: Path, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    with log.open("ab") as sink:
        pinned = ["taskset", "-c", str(core), *command]
        return subprocess.Popen(pinned, stdout=sink, stderr=sink, cwd=log.parent, env=env)


def start_upstream(directory: Path) -> Server:
    """The C upstream on the driver's core."""
    binary, port, log = directory / "upstream", free_port(), directory / "upstream.log"
    subprocess.run(["cc", "-O2", "-o", binary, BENCH / "upstream.c"], check=True)
    process = launch([str(binary), str(port)], DRIVER_CORE, log)
    url = f"http://127.0.0.1:{port}"
    deadline_s = time.monotonic() + START_S
    while socket.socket().connect_ex(("127.0.0.1", port)):
        if time.monotonic() > deadline_s or process.poll() is not None:
            raise RuntimeError(f"the upstream did not start:\n{log.read_text()}")
        time.sleep(0.05)
    return Server(process, url, {"Content-Type": "application/json"}, directory)


def start_nginx(directory: Path, upstream: Server) -> Server:
    """The baseline, on the measured core."""
    binary = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if binary is None:
        raise RuntimeError("nginx is not installed: apt-get install nginx-light")
    port = free_port()
    text = (BENCH / "floor.nginx.conf").read_text("utf-8")
    text = text.replace("@PORT@", str(port)).replace("@UPSTREAM_PORT@", upstream.url.rpartition(":")[2])
    config, log = directory / "nginx.conf", directory / "nginx.log"
    config.write_text(text)
    directory.chmod(0o755)  # nginx's worker gives up root and still has to reach its folders.
    process = launch([binary, "-p", str(directory), "-c", str(config), "-e", "stderr"], SERVER_CORE, log)
    url = f"http://127.0.0.1:{port}"
    wait(url + "/v1/embeddings", process, log)
    return Server(process, url, {"Content-Type": "application/json", "Authorization": "Bearer sk-floor"}, directory)


def _cli(env: dict[str, str], *arguments: str) -> str:
    run = subprocess.run([ELKAPI, *arguments], env=env, capture_output=True, text=True, timeout=START_S)
    if run.returncode:
        raise RuntimeError(f"elkapi {' '.join(arguments)} failed:\n{run.stdout}{run.stderr}")
    return run.stdout


def gateway_environment(directory: Path, port: int, synchronous: str) -> dict[str, str]:
    """The environment of a gateway of our own: no ELKAPI_ variable of the caller's reaches it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("ELKAPI_")}
    env |= {"ELKAPI_DATA_DIR": str(directory / "data"), "ELKAPI_PORT": str(port)}
    return env | {"ELKAPI_LOG_FILE": str(directory / "gateway.jsonl"), "ELKAPI_SQLITE_SYNCHRONOUS": synchronous}


def start_gateway(directory: Path, upstream: Server, *, workers: int, synchronous: str, keys: int = 1) -> Server:
    """A gateway with one priced channel, on the measured core; with `keys` > 1 a key table of that many rows."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    env = gateway_environment(directory, port, synchronous)
    models = dict.fromkeys(MODELS.values())
    names = ",".join(models)
    channel = ["--family", "openai", "--base-url", upstream.url, "--key", "sk-upstream", "--models", names]
    _cli(env, "channel", "add", *channel, "--allow-private")
    for model in models:
        prices = ("0", "0") if "free" in model else (PRICE_USD_PER_1M, OUTPUT_USD_PER_1M)
        _cli(env, "price", "set", "--model", model, "--input-per-1m", prices[0], "--output-per-1m", prices[1])
    key = json.loads(_cli(env, "key", "create", "--name", "bench", "--balance", "1000000", "--json"))["key"]
    more = _seed_keys(env, keys, directory) if keys > 1 else ()
    log = directory / "serve.log"
    process = launch([str(ELKAPI), "serve", "--workers", str(workers)], SERVER_CORE, log, env)
    url = f"http://127.0.0.1:{port}"
    wait(url + "/readyz", process, log)
    return Server(process, url, {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}, directory, more)


def _seed_keys(env: dict[str, str], count: int, directory: Path) -> tuple[str, ...]:
    """Fill the key table to `count` rows; returns up to 100 of the keys, spread evenly over it."""
    out = directory / "keys.json"
    subprocess.run([sys.executable, BENCH / "seed_keys.py", str(count), out], env=env, check=True)
    return tuple(json.loads(out.read_text("utf-8")))
