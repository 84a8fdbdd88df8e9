"""What makes calls one session, which goes back to the channel that answered it last."""

from __future__ import annotations

import msgspec
import pytest

from elkapi.catalog import CATALOG, Facts
from elkapi.relay.candidates import SESSION_PREFIX_BYTES, session_of
from elkapi.relay.read import Request
from elkapi.types import Grant, Usage

GRANT = Grant(1, "k", 1, "default", "live", (1,), None, None, True)
STRANGER = msgspec.structs.replace(GRANT, owner_id=2)
CHAT = CATALOG.by_id["openai.chat"]
LONG = b'{"messages":[{"role":"user","content":"' + b"a" * SESSION_PREFIX_BYTES
CODING = {b"x-claude-code-session-id": b"one"}


class Headers:
    def __init__(self, given: dict[bytes, bytes]) -> None:
        self._given = given

    def header(self, name: bytes) -> bytes | None:
        return self._given.get(name)


def session(body: bytes, headers: dict[bytes, bytes] | None = None, model: str = "m", grant: Grant = GRANT) -> bytes:
    return session_of(grant, Request(CHAT, model, body, Facts(model, Usage())), Headers(headers or {}))


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b'{"prompt_cache_key":"k","messages":[]}', {}),
        (b'{"metadata":{"user_id":"k"},"messages":[]}', {}),
        (b"{}", CODING),
        (LONG + b'"}]}', {}),
    ],
    ids=["cache key", "user", "header", "beginning"],
)
def test_a_session_is_one_owners_with_one_model(body: bytes, headers: dict[bytes, bytes]) -> None:
    mine = session(body, headers)
    assert mine
    assert session(body, headers) == mine
    assert mine not in (session(body, headers, model="n"), session(body, headers, grant=STRANGER), session(b"{}"))


def test_what_a_caller_says_of_its_session_stands_before_its_header_and_that_before_the_prompt() -> None:
    named = b'{"prompt_cache_key":"k","metadata":{"user_id":"u"},"messages":[]}'
    by_user = b'{"metadata":{"user_id":"u"},"messages":[]}'
    assert session(named, CODING) == session(b'{"prompt_cache_key":"k"}')
    assert session(by_user, CODING) == session(b'{"metadata":{"user_id":"u"}}') != session(b'{"prompt_cache_key":"u"}')
    assert session(LONG, CODING) == session(b"{}", CODING) != session(LONG)
    # What says nothing is no session, and no other's.
    assert session(b'{"prompt_cache_key":"","metadata":{"user_id":null}}', CODING) == session(b"{}", CODING)
    assert session(b'{"prompt_cache_key":7}') == session(b"{}") == session(LONG[: SESSION_PREFIX_BYTES - 1]) == b""


def test_a_conversation_that_goes_on_is_the_same_session() -> None:
    assert session(LONG + b'"}]}') == session(LONG + b'"},{"role":"assistant","content":"so"}]}')
    assert session(LONG.replace(b"a" * 9, b"b" * 9, 1)) != session(LONG)
