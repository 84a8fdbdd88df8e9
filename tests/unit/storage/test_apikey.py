"""The shape of keys."""

from __future__ import annotations

import hashlib

import pytest

from elkapi.storage import apikey

BODY = "A" * 24 + "b9" * 12
LIVE = f"sk-{BODY}"
TEST = f"sk-test-{BODY}"


def test_a_new_key_is_a_prefix_and_48_letters_and_digits() -> None:
    live, test = apikey.new_key("live"), apikey.new_key("test")
    assert live.startswith("sk-")
    assert test.startswith("sk-test-")
    assert len(live) == 3 + 48
    assert len(test) == 8 + 48
    assert apikey.normalize(live) == live
    assert apikey.normalize(test) == test
    assert "-" not in live[3:]
    assert live != apikey.new_key("live")


@pytest.mark.parametrize(
    "presented",
    [LIVE, BODY, f"Bearer {LIVE}", f"bearer {LIVE}", f"BEARER  {BODY}", f"  {LIVE}  ", f"Bearer\t{LIVE}"],
)
def test_bearer_and_prefix_are_optional(presented: str) -> None:
    assert apikey.normalize(presented) == LIVE


@pytest.mark.parametrize("presented", [TEST, f"test-{BODY}", f"Bearer {TEST}"])
def test_a_test_key_stays_a_test_key(presented: str) -> None:
    assert apikey.normalize(presented) == TEST


@pytest.mark.parametrize(
    "presented",
    [
        "",
        "sk-",
        "Bearer",
        "Bearer ",
        f"Basic {LIVE}",
        f"{LIVE}-3",
        f"{LIVE}x",
        LIVE[:-1],
        f"SK-{BODY}",
        f"sk-sk-{BODY}",
        f"sk-live-{BODY}",
        f"{LIVE}\n",
        f"{LIVE}\x00",
        f"sk-{'é' * 48}",
        f"sk-{'１' * 48}",
        f"Bearer Bearer {LIVE}",
        "sk-" + "A" * 100_000,
        " " * 100_000 + LIVE,
    ],
)
def test_anything_else_is_not_a_key(presented: str) -> None:
    assert apikey.normalize(presented) is None


def test_the_digest_is_the_sha256_of_the_whole_key() -> None:
    assert apikey.digest(LIVE) == hashlib.sha256(LIVE.encode()).digest()
    assert apikey.digest(LIVE) != apikey.digest(TEST)


def test_keys_inside_a_text_are_hinted_at() -> None:
    assert apikey.hinted(f"/v1/{LIVE}/x/{TEST}") == f"/v1/{apikey.hint(LIVE)}/x/{apikey.hint(TEST)}"
    assert apikey.hinted("/v1/sk-short/embeddings") == "/v1/sk-short/embeddings"


def test_hints_show_little_and_less_of_short_secrets() -> None:
    assert apikey.hint(LIVE) == "sk-AAAA...b9b9"
    assert apikey.secret_hint("sk-proj-0123456789abcdefghij") == "sk-proj...ghij"
    assert apikey.secret_hint("twelve chars") == "...rs"
    assert apikey.secret_hint("short") == "..."
