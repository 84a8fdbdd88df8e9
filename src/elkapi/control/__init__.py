"""The control process: front page, docs, status, background jobs and the task poller, behind a unix socket.

Workers relay `/`, `/docs*`, `/console*` and `/api/*` to it, so it may be slow or down without affecting the data plane.
"""

from elkapi.roles import WorkerOrder


def run(order: WorkerOrder) -> None:
    """Serve until SIGTERM or SIGINT; ends with its supervisor. Raises OSError if the socket cannot be created."""
    # Other packages use parts of this one (admin functions use the prober) and must not load a web framework.
    from elkapi.control import server

    server.run(order)
