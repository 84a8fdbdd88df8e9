"""Past calls as an operator sees them: every attempt, every price factor, every entry in the ledger."""

from __future__ import annotations

from elkapi.admin.context import Admin
from elkapi.admin.errors import InvalidInput, Missing
from elkapi.ids import parse_request_id
from elkapi.relay.account import RequestAccount, read_account
from elkapi.storage.repos import requests
from elkapi.types import RequestRecord


def show_request(admin: Admin, request_id: str) -> RequestAccount:
    """One call by its `req_...` id; raises InvalidInput, Missing."""
    parsed = parse_request_id(request_id)
    if parsed is None:
        raise InvalidInput("a request id is `req_` and 32 hex digits", field="id")
    with admin.database.read() as connection:
        account = read_account(connection, parsed, None)
    if account is None:
        raise Missing(f"there is no record of {request_id}")
    return account


def list_requests(admin: Admin, *, limit: int = 50) -> list[RequestRecord]:
    """The newest first."""
    with admin.database.read() as connection:
        return requests.list_requests(connection, limit=limit)
