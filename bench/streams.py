"""Requests streams on many connections at once and prints the results as JSON.

    streams.py < order.json    {"url", "path", "body", "headers", "connections", "secs", "timed"}

Each connection requests one stream after the other until `secs` have passed, and finishes the last one. A stream is
complete if every event of bench/upstream.c arrived and its chunked body ended. `timed` reads the send time from each
delta (CLOCK_MONOTONIC, the clock used here too), so a lag is the time from the upstream's send to this client.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import Any
from urllib.parse import urlsplit

import httptools
import uvloop

EVENTS = 101  # 99 deltas, the usage, [DONE]
EVENT = b"data: "
STAMP = re.compile(rb'"content":\s?"(\d{9,}) ')
PATIENCE_S = 60


class Log:
    """The counts and times of all connections; lags and times to first event in nanoseconds."""

    def __init__(self) -> None:
        self.begun = self.whole = self.refused = 0
        self.lags: list[int] = []
        self.first: list[int] = []


class Player(asyncio.Protocol):
    """One keep-alive connection. The parser removes the chunk framing, since a chunk may end anywhere in an event."""

    def __init__(self, request: bytes, until_s: float, timed: bool, log: Log) -> None:
        self.request, self.until_s, self.timed, self.log = request, until_s, timed, log
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._ask()

    def _ask(self) -> None:
        self.log.begun += 1
        self.events, self.tail = 0, b""
        self.parser = httptools.HttpResponseParser(self)
        self.asked_ns = time.monotonic_ns()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.now_ns = time.monotonic_ns()
        self.parser.feed_data(data)

    def on_headers_complete(self) -> None:
        if self.parser.get_status_code() != 200:
            self.log.refused += 1
            self.transport.close()

    def on_body(self, data: bytes) -> None:
        data = self.tail + data
        # The bytes after the last line break may be the start of an event: they are read with the next ones.
        whole = data.rfind(b"\n") + 1
        self.tail, data = data[whole:], data[:whole]
        self.events += data.count(EVENT)
        if self.asked_ns and self.events:
            self.log.first.append(self.now_ns - self.asked_ns)
            self.asked_ns = 0
        if self.timed:
            self.log.lags += [self.now_ns - int(stamp) for stamp in STAMP.findall(data)]

    def on_message_complete(self) -> None:
        self.log.whole += self.events == EVENTS
        if time.monotonic() < self.until_s:
            # Not called directly: it replaces the parser that is running now.
            asyncio.get_running_loop().call_soon(self._ask)
        else:
            self.transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


def quantile_ms(values_ns: list[int], share: float) -> float:
    ordered = sorted(values_ns)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1e6 if ordered else 0.0


async def play(order: dict[str, Any]) -> dict[str, float]:
    """Run one order and return its figures."""
    at, body = urlsplit(order["url"]), order["body"].encode()
    lines = "".join(f"{name}: {value}\r\n" for name, value in order["headers"].items())
    head = f"POST {order['path']} HTTP/1.1\r\nHost: {at.netloc}\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
    log, loop = Log(), asyncio.get_running_loop()
    started_s = time.monotonic()
    until_s = started_s + order["secs"]
    players = []
    for _ in range(order["connections"]):
        _, player = await loop.create_connection(
            lambda: Player(head.encode() + body, until_s, order["timed"], log), at.hostname, at.port
        )
        players.append(player.done)
    await asyncio.wait_for(asyncio.gather(*players), order["secs"] + PATIENCE_S)
    return {
        "requests": log.whole,
        "rps": log.whole / (time.monotonic() - started_s),
        "errors": log.begun - log.whole,
        "first_p50_ms": quantile_ms(log.first, 0.5),
        "p50_ms": quantile_ms(log.lags if order["timed"] else log.first, 0.5),
        "p99_ms": quantile_ms(log.lags if order["timed"] else log.first, 0.99),
        "max_ms": quantile_ms(log.lags, 1.0),
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(play(json.load(sys.stdin)))))
