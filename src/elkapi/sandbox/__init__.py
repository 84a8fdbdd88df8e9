"""The sandbox: simulates every upstream's protocol without an account, with faults, a bill and a record; independent.

`run` serves it; `elkapi.sandbox.app.create` is the bare ASGI application; `elkapi.sandbox.server.running` is for tests.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from elkapi.sandbox.app import Options

__all__ = ["run"]


def run(
    host: str = "127.0.0.1",
    port: int | None = 8100,
    unix_path: str | os.PathLike[str] | None = None,
    *,
    options: Options | None = None,
    allow_remote: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM; see `elkapi.sandbox.server.run`. The server is imported on the call."""
    from elkapi.sandbox import server

    server.run(host, port, unix_path, options=options, allow_remote=allow_remote)
