"""Owns a raw HTTP exchange that hides nothing from the test: bytes out, every byte in, and how the connection ended."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from elkapi.sandbox.bill import Line
from elkapi.sandbox.server import Running, running

KEY = "sk-sandbox-1234567890abcd"
IDLE_S = 0.1
END_S = 10.0
END_OF_PROBE = b"no control route 'GET probe'\"}"


class Exchange(msgspec.Struct):
    """What one raw request got: every byte, and how the connection stood at the end.

    "open": it then served another request; "closed": the peer sent its end; "reset"; "stalled": open, nothing came;
    "head, stalled": nothing after the head.
    """

    data: bytes
    end: str

    @property
    def status(self) -> int:
        return int(self.data.split(b" ", 2)[1])

    @property
    def head(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[0].lower()

    @property
    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]


def own_sandbox() -> Iterator[Running]:
    """A sandbox of each test's own, as a fixture: a task of another test would be billed here when it ends."""
    with running() as served:
        yield served


def embedding_body(text: str = "red", **more: Any) -> bytes:
    body = {"model": "text-embedding-3-small", "input": text, "dimensions": 8, **more}
    return json.dumps(body).encode()


def request_bytes(body: bytes, fault: str = "", extra: str = "") -> bytes:
    head = f"POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {KEY}\r\n{extra}"
    head += f"x-sandbox-fault: {fault}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def connected(base_url: str) -> socket.socket:
    target = urlsplit(base_url)
    return socket.create_connection((target.hostname, target.port), timeout=END_S)


def is_whole(data: bytes) -> bool:
    """Whether a final answer, after any informational ones, is complete by its own framing."""
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return False
    if head.startswith(b"HTTP/1.1 1"):
        return is_whole(body)
    length = re.search(rb"\r\ncontent-length: (\d+)", head)
    return len(body) >= int(length[1]) if length else body.endswith(b"\r\n0\r\n\r\n")


def read_whole(connection: socket.socket) -> bytes:
    """Read until one answer is complete; fails when the connection ends before that."""
    data = b""
    while not is_whole(data):
        piece = connection.recv(65536)
        assert piece, data
        data += piece
    return data


def read_to_end(connection: socket.socket) -> Exchange:
    """Read until the peer ends the connection; fails with TimeoutError when it does not."""
    data = b""
    while True:
        try:
            piece = connection.recv(65536)
        except ConnectionResetError:
            return Exchange(data, "reset")
        if not piece:
            return Exchange(data, "closed")
        data += piece


def read_until_stalled(connection: socket.socket) -> Exchange:
    """Read until nothing has come for `IDLE_S`, or the peer ends the connection."""
    data = b""
    connection.settimeout(IDLE_S)
    try:
        while piece := connection.recv(65536):
            data += piece
    except TimeoutError:
        return Exchange(data, "stalled")
    return Exchange(data, "closed")


def read_and_go_on(connection: socket.socket) -> Exchange:
    """Read one answer, then prove that the connection is open by another request; its answer is left out."""
    data = read_whole(connection)
    connection.sendall(b"GET /_sandbox/probe HTTP/1.1\r\nhost: localhost\r\n\r\n")
    while not data.endswith(END_OF_PROBE):
        piece = connection.recv(65536)
        assert piece, data
        data += piece
    return Exchange(data[: data.rindex(b"HTTP/1.1 404 ")], "open")


def read_head_until_stalled(connection: socket.socket) -> Exchange:
    """Read a head, however long it takes to come, and go on as `read_until_stalled`."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        assert piece, data
        data += piece
    rest = read_until_stalled(connection)
    return Exchange(data + rest.data, f"head, {rest.end}")


READERS = {
    "open": read_and_go_on,
    "closed": read_to_end,
    "reset": read_to_end,
    "stalled": read_until_stalled,
    "head, stalled": read_head_until_stalled,
}


def bill_lines(sandbox: Running) -> list[Line]:
    """What the sandbox has billed since its bill was last emptied."""
    return [msgspec.json.decode(line, type=Line) for line in sandbox.sandbox.bill.statement().lines]


def bill_shown(http: httpx.Client) -> list[dict[str, Any]]:
    """The same, as its control route tells."""
    found: list[dict[str, Any]] = http.get("/_sandbox/bill").json()["lines"]
    return found


class Clock:
    """Unix seconds that stand still until a test moves them."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s
