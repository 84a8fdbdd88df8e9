"""Our server sleeps between the second and the next, and still ends at once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import uvicorn

from elkapi.observe import serving
from elkapi.observe.serving import Server
from tests.waiting import until_blocking

HOUR_S = 3600.0
PROCESS = """
import asyncio, sys
from elkapi.observe import serving
from tests.unit.observe.test_serving import Counted

serving.DATE_EVERY_S = 3600.0
server = Counted()

async def main():
    serving = asyncio.ensure_future(server.serve())
    while not server.ticks:
        await asyncio.sleep(0)
    print("started", flush=True)
    await serving
    print("ended after", server.ticks, "ticks")

if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


async def app(scope: object, receive: object, send: object) -> None:
    raise AssertionError("nobody calls")


class Counted(Server):
    """A server that counts how often it woke."""

    def __init__(self, *, dated: bool = True) -> None:
        super().__init__(
            uvicorn.Config(app, port=0, ws="none", lifespan="off", log_level="critical", date_header=dated)
        )
        self.ticks = 0

    async def on_tick(self, counter: int) -> bool:
        self.ticks += 1
        return await super().on_tick(counter)


@contextlib.contextmanager
def serving_thread(server: Server) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        yield thread
    finally:
        server.stop()
        thread.join()


@pytest.mark.parametrize(
    "end", [Server.stop, lambda server: server.handle_exit(signal.SIGTERM, None)], ids=["stop", "signal"]
)
def test_a_server_ends_at_once_and_wakes_for_nothing_else(
    monkeypatch: pytest.MonkeyPatch, end: Callable[[Server], None]
) -> None:
    monkeypatch.setattr(serving, "DATE_EVERY_S", HOUR_S)
    server = Counted()
    with serving_thread(server) as thread:
        until_blocking(lambda: server._wake)
        end(server)
        thread.join()
    assert server.ticks <= 2  # When it began, unless it was already over then, and at the end.


def test_a_server_that_was_stopped_before_it_began_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "DATE_EVERY_S", HOUR_S)
    server = Counted()
    server.stop()
    with serving_thread(server) as thread:
        thread.join()


def test_the_date_is_renewed_each_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "DATE_EVERY_S", 0.001)
    server = Counted()

    def date() -> bytes:
        return dict(server.server_state.default_headers)[b"date"]

    with serving_thread(server):
        until_blocking(lambda: server.ticks)
        monkeypatch.setattr("uvicorn.server.time.time", lambda: 0.0)
        until_blocking(lambda: date() == b"Thu, 01 Jan 1970 00:00:00 GMT")


def test_a_server_without_the_date_sleeps_all_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "DATE_EVERY_S", 0.0)
    server = Counted(dated=False)
    with serving_thread(server) as thread:
        until_blocking(lambda: server.ticks)
        server.stop()
        thread.join()
    assert server.ticks == 2


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_wakes_a_sleeping_server_which_returns_to_its_caller(loop: str, signum: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PROCESS, loop], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            process.send_signal(signum)
            rest, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0
    assert rest.startswith("ended after ")
