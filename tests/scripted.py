"""An upstream that sends a recorded stream frame by frame on the test's command, and a gateway in front of it.

Nothing depends on time: the upstream sends one frame, and the test waits until the gateway has processed it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from elkapi.money import parse_usd
from elkapi.relay.hold import Hold
from elkapi.storage.repos import prices
from elkapi.translate.crossing import Relayed, Translated
from elkapi.types import Amounts, ChannelLimits, RequestRecord, Settlement
from tests.gateway import ACTOR, Gateway, gateway
from tests.text_calls import Asked, ask
from tests.waiting import until

MODEL = "test-model"
PROMPT = "Tell me. " * 500
SECRETS = {"gemini": "AIzaUpstream", "anthropic": "sk-ant-upstream"}
RECORDINGS = Path(__file__).parent / "unit" / "translate" / "recordings"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
# Nano-USD per token of each class, all different so that no class can be mistaken for another.
NANO = {
    "input": 1_000,
    "cached": 100,
    "write_5m": 1_250,
    "write_1h": 2_000,
    "audio": 3_000,
    "output": 5_000,
    "reasoning": 7_000,
}
AMOUNTS = Amounts(
    input_nano_per_1m=NANO["input"] * 10**6,
    cached_nano_per_1m=NANO["cached"] * 10**6,
    cache_write_5m_nano_per_1m=NANO["write_5m"] * 10**6,
    cache_write_1h_nano_per_1m=NANO["write_1h"] * 10**6,
    audio_input_nano_per_1m=NANO["audio"] * 10**6,
    output_nano_per_1m=NANO["output"] * 10**6,
    reasoning_nano_per_1m=NANO["reasoning"] * 10**6,
)
BALANCE_USD = "1000"


def frames_of(name: str) -> list[bytes]:
    """A recording's frames, each with its terminating blank line."""
    text = (RECORDINGS / f"{name}.sse").read_bytes().replace(b"\r\n", b"\n")
    return [frame + b"\n\n" for frame in text.split(b"\n\n") if frame.strip()]


class Played:
    """One call that reached the upstream: `play` sends a frame of its answer, `break_off` aborts it."""

    def __init__(self, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.body = body
        self._reader = reader
        self._writer = writer

    def begin(self) -> None:
        """Send the head of a streamed answer."""
        self._writer.write(HEAD)

    def answer(self, body: object) -> None:
        """Send a JSON answer instead of a stream, and close the connection."""
        text = msgspec.json.encode(body)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        self._writer.write(head % len(text) + text)
        self._writer.close()

    def answer_partly(self, body: bytes) -> None:
        """Send the first half of a JSON answer, and nothing more."""
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._writer.write(head % (2 * len(body)) + body)

    def play(self, frame: bytes) -> None:
        """Send one frame in its own chunk."""
        self._writer.write(b"%x\r\n%b\r\n" % (len(frame), frame))

    def end(self) -> None:
        """End the answer."""
        self._writer.write(b"0\r\n\r\n")

    def break_off(self) -> None:
        """Abort the connection in the middle of the answer."""
        self._writer.transport.abort()

    async def given_up(self) -> None:
        """Wait until the gateway closes the connection; it may send nothing more."""
        with contextlib.suppress(ConnectionError):
            assert await self._reader.read() == b""
        self._writer.close()


class Upstream:
    """The scripted upstream; each call becomes a `Played` in `calls`."""

    def __init__(self) -> None:
        self.calls: asyncio.Queue[Played] = asyncio.Queue()
        self.url = ""
        self.writers: list[asyncio.StreamWriter] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            body = await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
        except asyncio.IncompleteReadError:
            writer.close()
        else:
            self.calls.put_nowait(Played(body, reader, writer))


@contextlib.asynccontextmanager
async def scripted() -> AsyncIterator[Upstream]:
    """A scripted upstream on a loopback port."""
    upstream = Upstream()
    server = await asyncio.start_server(upstream._serve, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        try:
            yield upstream
        finally:
            for writer in upstream.writers:
                writer.transport.abort()


class Watch:
    """Counts the frames that the gateway has processed, and collects every record written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passed = 0
        self._changed = asyncio.Event()
        self.records: asyncio.Queue[RequestRecord] = asyncio.Queue()
        for way in (Relayed, Translated):
            monkeypatch.setattr(way, "feed", self._counting(way.feed))
        write = Hold._write

        async def written(hold: Hold, settlement: Settlement, seen: Any = None) -> None:
            try:
                await write(hold, settlement, seen)
            finally:
                self.records.put_nowait(settlement.record)

        monkeypatch.setattr(Hold, "_write", written)

    def _counting(self, feed: Callable[..., bytes]) -> Callable[..., bytes]:
        def counted(crossing: Any, frame: Any) -> bytes:
            try:
                return feed(crossing, frame)
            finally:
                self.passed += 1
                self._changed.set()

        return counted

    async def until(self, count: int) -> None:
        while self.passed < count:
            self._changed.clear()
            await self._changed.wait()


class Stage:
    """A gateway in front of a scripted upstream, with one price and one key."""

    def __init__(self, gate: Gateway, upstream: Upstream, watch: Watch, key: str, asked: Asked) -> None:
        self.gate, self.upstream, self.watch = gate, upstream, watch
        body = msgspec.json.encode(asked.body)
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json", **asked.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {asked.path} HTTP/1.1\r\nhost: gateway\r\n{lines}content-length: {len(body)}\r\n\r\n"
        self._request = head.encode() + body

    def without_sse(self) -> None:
        """Request Gemini's stream as one JSON array."""
        self._request = self._request.replace(b"?alt=sse", b"", 1)

    async def call(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Played]:
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(self.gate.origin).port)
        writer.write(self._request)
        return reader, writer, await self.upstream.calls.get()

    async def play(self, played: Played, frames: list[bytes]) -> None:
        """Send the head and these frames."""
        played.begin()
        for frame in frames:
            await self.pass_on(played, frame)

    async def pass_on(self, played: Played, frame: bytes) -> None:
        """Send one frame and wait until the gateway has processed it."""
        count = self.watch.passed + 1
        played.play(frame)
        await self.watch.until(count)

    async def check_books(self, charged: int) -> None:
        """Assert that every hold is resolved and that exactly `charged` nano-USD were charged."""
        # The settlement may still be running if the caller left.
        await until(lambda: not self.gate.books().open_holds)
        assert self.gate.closed_books().customers_posted_nano == parse_usd(BALANCE_USD) - charged
        assert self.watch.records.empty()


@contextlib.asynccontextmanager
async def stage(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    client: str,
    *,
    channels: int = 1,
    limits: ChannelLimits | None = None,
    **more: Any,
) -> AsyncIterator[Stage]:
    """A gateway whose channels all use one scripted upstream; `more` are fields of the caller's body.

    `limits` apply to the first channel only, so that a busy machine cannot make the next one time out.
    """
    async with scripted() as upstream, gateway(tmp_path) as gate:
        for number in range(channels):
            await gate.channel(
                upstream.url,
                (MODEL,),
                family=family,
                secrets=(SECRETS.get(family, "sk-upstream"),),
                priority=-number,
                limits=limits if limits and number == 0 else ChannelLimits(),
            )
        with gate.database.write() as connection:
            prices.add_version(
                connection, model=MODEL, amounts=AMOUNTS, source="test", now_ns=time.time_ns(), actor=ACTOR
            )
        await gate.settled()
        asked = ask(client, MODEL, PROMPT, stream=True, **more)
        yield Stage(gate, upstream, Watch(monkeypatch), await gate.key(BALANCE_USD), asked)
