"""A provider of tasks that does what the test says: it answers requests by a function, or breaks off."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

Answer = tuple[int, Any] | None
Handler = Callable[["Provider", str, str, Any], Answer]


class Provider:
    """`tasks` are the states by id that fetches tell; `requests` what came in; `submits` whether and how one ends.

    `squeezes`: what it says comes as gzip, asked for or not.
    """

    def __init__(self) -> None:
        self.tasks: dict[str, dict[str, Any]] = {}
        self.marks: dict[str, str] = {}
        self.requests: list[tuple[str, str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.submit: Callable[[dict[str, Any]], Answer] | None = None
        self.cut_submits = False
        self.squeezes = False
        self.origin = ""
        self.polls = 0
        # What stands around every task that it tells of.
        self.told: dict[str, Any] = {"code": 0, "message": "SUCCEED", "request_id": "r"}

    def answer(self, method: str, path: str, body: Any) -> Answer:
        """Kling's protocol, as much of it as the engine's tests need. None cuts the connection."""
        if path.startswith("/files/"):
            return 200, b"made:" + path.encode()
        if method == "POST":
            if self.submit is not None and (own := self.submit(body)) != (0, None):
                return own
            task_id = f"9{len(self.tasks):017d}"
            self.tasks[task_id] = {"task_id": task_id, "task_status": "submitted", "created_at": 1, "updated_at": 1}
            self.marks[body.get("external_task_id", "")] = task_id
            if self.cut_submits:
                return None
            return 200, {"code": 0, "message": "SUCCEED", "request_id": "r", "data": self.tasks[task_id]}
        self.polls += 1
        name = path.rsplit("/", 1)[1]
        found = self.tasks.get(self.marks.get(name, name))
        if found is None:
            return 404, {"code": 1203, "message": "not found"}
        return 200, {**self.told, "data": found}

    def succeed(self, task_id: str) -> None:
        video = {"id": f"v-{task_id}", "url": f"{self.origin}/files/{task_id}.mp4", "duration": "5.0"}
        self.tasks[task_id] |= {"task_status": "succeed", "task_result": {"videos": [video]}}

    def fail(self, task_id: str, why: str = "risk control") -> None:
        self.tasks[task_id] |= {"task_status": "failed", "task_status_msg": why}


@contextlib.asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    """Listening on loopback until the block ends."""
    running = Provider()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *rest = head.strip().split("\r\n")
                method, path, _ = line.split(" ")
                fields = {name.strip().lower(): text.strip() for name, _, text in (one.partition(":") for one in rest)}
                raw = await reader.readexactly(int(fields.get("content-length", "0")))
                body = json.loads(raw) if raw else None
                running.requests.append((method, path, body))
                running.headers.append(fields)
                answer = running.answer(method, path, body)
                if answer is None:
                    break
                status, said = answer
                content = said if isinstance(said, bytes) else json.dumps(said).encode()
                kind = "video/mp4" if isinstance(said, bytes) else "application/json"
                squeezed = ""
                if running.squeezes and not isinstance(said, bytes):
                    content, squeezed = gzip.compress(content), "content-encoding: gzip\r\n"
                lines = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(content)}\r\n"
                writer.write(f"{lines}{squeezed}\r\n".encode() + content)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    running.origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield running
    finally:
        server.close()
