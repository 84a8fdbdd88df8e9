"""The control process: front page, docs, status and background jobs behind a unix socket; no call's money passes here.

Workers relay `/`, `/docs*`, `/console*` and `/api/*` to it, so it may be slow or down without touching the data plane.
"""

from elkapi.settings import Settings


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; ends with its supervisor. Raises OSError when the socket cannot be made."""
    # Others use parts of this package (the admin functions probe as the prober does) and must not load a web framework.
    from elkapi.control import server

    server.run(settings)
