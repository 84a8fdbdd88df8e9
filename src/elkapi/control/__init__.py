"""The control process: front page, docs, status and background jobs behind a unix socket; no call's money passes here.

Workers relay `/`, `/docs*`, `/console*` and `/api/*` to it, so it may be slow or down without touching the data plane.
"""

from elkapi.control.server import run

__all__ = ["run"]
