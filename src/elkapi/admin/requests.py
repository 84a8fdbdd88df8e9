"""Past calls for operators: every attempt, every price factor, every ledger entry."""

from __future__ import annotations

from elkapi.admin.context import Admin
from elkapi.admin.errors import InvalidInput, Missing
from elkapi.admin.keys import show_key
from elkapi.ids import parse_request_id
from elkapi.relay.account import RequestAccount, read_account
from elkapi.storage import dialect as sql
from elkapi.storage.repos import requests
from elkapi.types import RequestRecord


def show_request(admin: Admin, request_id: str) -> RequestAccount:
    """One call by its `req_...` id; raises InvalidInput, Missing."""
    with admin.database.read() as connection:
        account = read_account(connection, parsed_id(request_id), None)
    if account is None:
        raise Missing(f"no record of {request_id} exists; a call refused before its hold has only a line in the log")
    return account


def list_requests(
    admin: Admin, *, limit: int = 50, key: str | None = None, before: str | None = None
) -> list[RequestRecord]:
    """Calls, newest first, after `before`. Raises InvalidInput, and Missing and Refused like `show_key`."""
    key_id = None if key is None else show_key(admin, key).row.id
    behind = None if before is None else parsed_id(before)
    with admin.database.read() as connection:
        sql.take_time(connection)
        return requests.list_requests(connection, limit, key_id=key_id, before=behind)


def parsed_id(request_id: str) -> bytes:
    """The id from its public form; raises InvalidInput."""
    parsed = parse_request_id(request_id)
    if parsed is None:
        raise InvalidInput("a request id must be `req_` or `task_` followed by 32 hex digits", field="id")
    return parsed
