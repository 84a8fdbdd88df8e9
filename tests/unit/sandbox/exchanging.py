"""Owns a raw HTTP exchange that hides nothing from the test: bytes out, every byte in, and how the connection ended."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec

KEY = "sk-sandbox-1234567890abcd"
IDLE_S = 0.15
END_S = 10.0


class Exchange(msgspec.Struct):
    """What one raw request got: every byte, and how the connection stood at the end: "closed", "reset" or "open"."""

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


def read_until(connection: socket.socket, until: bytes | None) -> Exchange:
    """Read until `until` was seen, the peer ends, or nothing came for `IDLE_S`."""
    data = b""
    connection.settimeout(IDLE_S if until is None else END_S)
    while until is None or until not in data:
        try:
            piece = connection.recv(65536)
        except TimeoutError:
            return Exchange(data, "open")
        except ConnectionResetError:
            return Exchange(data, "reset")
        if not piece:
            return Exchange(data, "closed")
        data += piece
    return Exchange(data, "open")


def eventually(found: Callable[[], bool]) -> None:
    """Wait for something that another thread does soon; fails after `END_S`."""
    deadline_s = time.monotonic() + END_S
    while not found():
        assert time.monotonic() < deadline_s, "it did not happen"
        time.sleep(0.005)
