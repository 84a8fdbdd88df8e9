"""The control process: front page, docs, status, background jobs and the poller of tasks, behind a unix socket.

Workers relay `/`, `/docs*`, `/console*` and `/api/*` to it, so it may be slow or down without touching the data plane.
"""

from elkapi.roles import WorkerOrder


def run(order: WorkerOrder) -> None:
    """Serve until SIGTERM or SIGINT; ends with its supervisor. Raises OSError when the socket cannot be made."""
    # Others use parts of this package (the admin functions probe as the prober does) and must not load a web framework.
    from elkapi.control import server

    server.run(order)
