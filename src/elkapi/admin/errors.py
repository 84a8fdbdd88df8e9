"""Errors of admin functions; each class has the HTTP status of its admin route.

AdminError               400
├── InvalidInput         422  (field names what was wrong)
├── Missing              404
└── Refused              409  (possible in principle, but not in this state)
"""

from __future__ import annotations

from typing import ClassVar


class AdminError(Exception):
    """Shown to the operator unchanged, so the message never contains a secret."""

    status: ClassVar[int] = 400

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidInput(AdminError):
    status = 422

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class Missing(AdminError):
    status = 404


class Refused(AdminError):
    status = 409
