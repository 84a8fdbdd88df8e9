"""`elkapi channel`: what is set reads back, no key is ever printed, and what could not work is refused."""

from __future__ import annotations

import json

import pytest

from elkapi.storage import apikey
from tests.unit.cli.conftest import PLANTED, Elkapi, add_channel


@pytest.mark.parametrize("value", ["9999999999", "-1", "0"])
def test_a_channels_limit_that_is_no_time_is_named(elkapi: Elkapi, value: str) -> None:
    add_channel(elkapi, "--name", "c")
    outcome = elkapi("channel", "edit", "c", "--limit", f"connect_s={value}")
    assert outcome.status == 2
    assert "limits: connect_s is" in outcome.err


def test_go_2026_4813_no_command_prints_a_channel_secret(elkapi: Elkapi) -> None:
    added = add_channel(
        elkapi, "--header-set", f"x-auth: {PLANTED}", "--proxy", f"http://u:{PLANTED}@127.0.0.1:1", "--name", "c"
    )
    assert PLANTED not in json.dumps(added)
    assert added["keys"][0]["hint"] == apikey.secret_hint(PLANTED)
    assert added["header_set"] == ["x-auth"]
    assert added["proxy"] == "set"
    more = f"{PLANTED}-2\n"
    outcomes = [
        elkapi("channel", "key", "add", "c", "--key-file", "-", stdin=more),
        *(elkapi(*command, *form) for form in ((), ("--json",)) for command in _reads_of_channels()),
        elkapi("channel", "key", "add", "c", "--key", f"{PLANTED} {PLANTED}"),
        elkapi("channel", "edit", "c", "--header-set", f"bad name: {PLANTED}"),
        elkapi("channel", "edit", "c", "--header-set", f"x-a: {PLANTED}\n"),
        elkapi("channel", "edit", "c", "--header-set", PLANTED),
        elkapi("channel", "edit", "c", "--proxy", f"ftp://u:{PLANTED}@h"),
        elkapi("channel", "edit", "c", "--proxy", f"http://u:{PLANTED}@h:99999"),
        elkapi("channel", "edit", "c", "--base-url", f"http://u:{PLANTED}@h"),
        elkapi("channel", "remove", "c"),
    ]
    for outcome in outcomes:
        assert PLANTED not in outcome.out + outcome.err


def _reads_of_channels() -> list[tuple[str, ...]]:
    return [
        ("channel", "list"),
        ("channel", "show", "c"),
        ("channel", "key", "list", "c"),
        ("channel", "disable", "c"),
        ("channel", "enable", "c"),
        ("doctor",),
    ]


def test_keys_that_a_full_channel_has_already_are_left_as_they_are(
    elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elkapi.admin.channels.KEYS_MAX", 2)
    add_channel(elkapi, "--name", "c")
    pasted = f"{PLANTED}\n{PLANTED}-2\n"
    assert len(elkapi("channel", "key", "add", "c", "--key-file", "-", "--json", stdin=pasted).json) == 1
    assert elkapi("channel", "key", "add", "c", "--key-file", "-", "--json", stdin=pasted).json == []
    refused = elkapi("channel", "key", "add", "c", "--key", f"{PLANTED}-3")
    assert (refused.status, refused.err) == (2, "elkapi: keys: a channel has at most 2\n")
    assert len(elkapi("channel", "key", "list", "c", "--json").json) == 2


def test_bulk_paste_is_deduplicated(elkapi: Elkapi) -> None:
    channel = add_channel(elkapi, "--name", "c")
    assert len(channel["keys"]) == 1
    pasted = f"one-key-one-key-one\n\n  two-key-two-key-two  \r\none-key-one-key-one\n{PLANTED}\n"
    added = elkapi("channel", "key", "add", "c", "--key-file", "-", "--json", stdin=pasted).json
    assert len(added) == 2
    assert len(elkapi("channel", "key", "list", "c", "--json").json) == 3


@pytest.mark.parametrize("command", [("add", "--family", "openai", "--models", "m"), ("key", "add", "c")])
def test_a_bad_line_among_pasted_keys_is_counted_and_never_shown(elkapi: Elkapi, command: tuple[str, ...]) -> None:
    add_channel(elkapi, "--name", "c")
    outcome = elkapi("channel", *command, "--key-file", "-", stdin=f"one-key\n\n{PLANTED} # the old one\ntwo-key\n")
    assert outcome.status == 2
    assert outcome.err.startswith("elkapi: keys: number 2 of 3: a key must be one line")
    assert PLANTED not in outcome.err


def test_a_model_without_a_price_is_told_to_whoever_adds_it_to_a_channel(elkapi: Elkapi) -> None:
    needed = ("--family", "openai", "--key", PLANTED, "--name", "c")
    bundled = "all-MiniLM-L6-v2"
    added = elkapi("channel", "add", *needed, "--models", f"gpt-4o,mine,{bundled}", "--alias", "yours=gpt-4o")
    told = "note: no price is set for {}, so calls are refused: elkapi price set --model {} ...\n"
    assert (added.status, added.err) == (0, told.format("mine, yours", "mine"))
    elkapi("price", "set", "--model", "mine", "--per-call", "0.01")
    assert elkapi("channel", "edit", "c", "--weight", "2").err == ""
    assert elkapi("channel", "edit", "c", "--models", "gpt-4o,mine").err == told.format("yours", "yours")
    many = [f"m{number}" for number in range(15)]
    assert (
        "m8, m9 and 5 more, so" in elkapi("channel", "edit", "c", "--clear", "aliases", "--models", ",".join(many)).err
    )


@pytest.mark.parametrize(
    ("family", "form", "good"),
    [
        ("kling", "ACCESS_KEY|SECRET_KEY", "AK|SK"),
        ("bedrock", "ACCESS_KEY_ID:SECRET_ACCESS_KEY[:SESSION_TOKEN] or an API key of Bedrock", "AK:SK"),
        ("bedrock", "ACCESS_KEY_ID:SECRET_ACCESS_KEY[:SESSION_TOKEN] or an API key of Bedrock", "ABSKQmVkcm9jaw=="),
        ("vertex", "a service account key: the JSON file's text", None),
    ],
)
def test_a_key_that_no_call_could_be_signed_with_is_refused_with_its_form(
    elkapi: Elkapi, family: str, form: str, good: str | None
) -> None:
    needed = ("--base-url", "http://127.0.0.1:9", "--allow-private", "--models", "m", "--name", "c")
    region = ("--option", "region=eu-west-1") if family == "bedrock" else ()
    for bad in (PLANTED, "|", ":"):
        outcome = elkapi("channel", "add", "--family", family, *needed, *region, "--key", bad)
        assert (outcome.status, outcome.err) == (2, f"elkapi: keys: a key of the family {family} is {form}\n")
    if good is not None:
        assert elkapi("channel", "add", "--family", family, *needed, *region, "--key", good).status == 0
        assert form in elkapi("channel", "key", "add", "c", "--key", PLANTED).err
        assert elkapi("channel", "key", "add", "c", "--key", f"{good}2").status == 0


def test_an_option_that_is_an_address_is_read_as_one(elkapi: Elkapi) -> None:
    needed = ("--family", "vertex", "--base-url", "https://192.0.2.1", "--models", "m", "--key", "{}")
    for url, said in (("oauth2.example.com/token", "it must start with http://"), ("http://10.0.0.1", "private")):
        outcome = elkapi("channel", "add", *needed, "--option", f"token-url={url}")
        assert outcome.status == 2
        assert outcome.err.startswith("elkapi: options: ")
        assert said in outcome.err


def test_an_option_of_few_words_takes_no_other(elkapi: Elkapi) -> None:
    needed = ("--family", "vertex", "--base-url", "https://192.0.2.1", "--models", "m", "--key", "{}")
    outcome = elkapi("channel", "add", *needed, "--option", "own-objects=yes")
    assert (outcome.status, outcome.err) == (2, "elkapi: options: own-objects must be refuse or allow\n")


def test_a_channel_key_is_switched_with_its_reason(elkapi: Elkapi) -> None:
    add_channel(elkapi, "--name", "c")
    off = elkapi("channel", "key", "disable", "1", "--reason", "leaked", "--json").json[0]
    assert (off["state"], off["reason"]) == ("disabled", "leaked")
    assert off["disabled_by"].startswith("cli:")
    on = elkapi("channel", "key", "enable", "1", "--json").json[0]
    assert (on["state"], on["reason"]) == ("enabled", "")


def test_a_channel_key_is_removed_with_its_secret(elkapi: Elkapi) -> None:
    add_channel(elkapi, "--name", "c")
    elkapi("channel", "key", "add", "c", "--key", "sk-another-one")
    assert elkapi("channel", "key", "remove", "1").out == "removed key 1 of channel 1\n"
    assert [key["id"] for key in elkapi("channel", "key", "list", "c", "--json").json] == [2]
    newest = elkapi("audit", "list", "--json").json[0]
    assert (newest["action"], newest["subject"]) == ("channel.key.remove", "channel:1")
    assert newest["detail"] == {"key": 1, "hint": apikey.secret_hint(PLANTED)}
    assert PLANTED not in json.dumps(newest)
    again = elkapi("channel", "key", "remove", "1")
    assert (again.status, "the channel key 1 does not exist" in again.err) == (1, True)
    assert elkapi("channel", "key", "remove", "2", "--json").json == {"removed": 2, "channel": 1}


def test_g16_every_channel_option_reads_back(elkapi: Elkapi) -> None:
    elkapi("group", "set", "vip", "--ratio", "1")
    options = (
        *("--name", "c", "--group", "vip", "--group", "default", "--priority", "-2", "--weight", "5"),
        *("--map", "a=A", "--alias", "n=a", "--set", 'x={"k": [1]}', "--default", "dimensions=8", "--remove", "foo"),
        *("--header-set", "X-Up: v", "--header-remove", "X-Down", "--forward-header", "X-Trace", "--status-map"),
        *("404=503", "--system-prompt", "be kind", "--tag", "t", "--limit", "connect_s=1.5"),
        *("--limit", "total_s=30", "--limit", "requests_per_min=60", "--limit", "parallel_max=4"),
    )
    expected = {
        "name": "c",
        "groups": ["vip", "default"],
        "priority": -2,
        "weight": 5,
        "allow_private": True,
        "models": ["a", "b"],
        "model_map": {"a": "A"},
        "aliases": {"n": "a"},
        "param_set": {"x": {"k": [1]}},
        "param_default": {"dimensions": 8},
        "param_remove": ["foo"],
        "header_set": ["x-up"],
        "header_remove": ["x-down"],
        "forward_headers": ["x-trace"],
        "status_map": {"404": 503},
        "system_prompt": "be kind",
        "tags": ["t"],
        "limits": {"connect_s": 1.5, "total_s": 30.0, "requests_per_min": 60, "parallel_max": 4},
    }
    for shown in (add_channel(elkapi, *options), elkapi("channel", "show", "c", "--json").json):
        assert {name: shown[name] for name in expected} == expected
    edited = elkapi("channel", "edit", "c", "--clear", "param_set", "--clear", "limits", "--weight", "1", "--json").json
    assert edited["param_set"] == {}
    assert edited["limits"] == {}
    assert edited["weight"] == 1
    assert {name: edited[name] for name in expected if name not in {"param_set", "limits", "weight"}} == {
        name: value for name, value in expected.items() if name not in {"param_set", "limits", "weight"}
    }


def test_a_private_upstream_is_refused_with_a_hint(elkapi: Elkapi) -> None:
    needed = ("--family", "openai", "--models", "m", "--key", "k" * 20)
    for url in (
        "http://127.0.0.1",
        "http://localhost:1234",
        "http://10.1.2.3/v1",
        "http://169.254.169.254",
        "http://[::1]",
    ):
        outcome = elkapi("channel", "add", *needed, "--base-url", url)
        assert outcome.status == 2, url
        assert "--allow-private" in outcome.err
    assert elkapi("channel", "list", "--json").json == []


@pytest.mark.parametrize(
    ("family", "base_url", "said"),
    [
        ("openai", "https://192.0.2.1/v1/chat/completions", "omit /chat/completions"),
        ("zhipu", "https://192.0.2.1/api/paas/v4/embeddings/", "omit /embeddings"),
        ("anthropic", "https://192.0.2.1/v1/messages", "omit /messages"),
        ("compatible", "https://192.0.2.1/v1beta/openai/chat/completions", "omit /chat/completions"),
        ("openai", "https://192.0.2.1/embeddings", None),
        ("anthropic", "https://192.0.2.1/v1", None),
    ],
)
def test_the_address_of_an_endpoint_is_no_base_url(
    elkapi: Elkapi, family: str, base_url: str, said: str | None
) -> None:
    needed = ("--family", family, "--models", "m", "--key", "k", "--allow-private")
    outcome = elkapi("channel", "add", *needed, "--base-url", base_url)
    assert outcome.status == (0 if said is None else 2)
    assert (said or "") in outcome.err


def test_an_empty_proxy_takes_the_proxy_away(elkapi: Elkapi) -> None:
    assert add_channel(elkapi, "--name", "c", "--proxy", "http://127.0.0.1:1")["proxy"] == "set"
    assert elkapi("channel", "edit", "c", "--proxy", "", "--json").json["proxy"] is None
    assert json.loads(elkapi("channel", "test", "c", "--json").out)[0]["outcome"] == "upstream_connect_failed"
    assert elkapi("channel", "edit", "c", "--proxy", "", "--http2", "--json").json["http2"] is True


def test_a_channel_that_does_not_answer_is_told(elkapi: Elkapi) -> None:
    add_channel(elkapi, "--name", "c")
    outcome = elkapi("channel", "test", "c", "--json")
    assert outcome.status == 1
    (result,) = json.loads(outcome.out)
    assert result["outcome"] == "upstream_connect_failed"
    # Why, by which a wrong name, port or certificate are told apart.
    assert result["detail"].startswith("127.0.0.1 [127.0.0.1]:9: ")
    assert result["detail"] in elkapi("channel", "test", "c").out


def test_an_address_whose_own_family_guards_more_is_said_so(elkapi: Elkapi) -> None:
    address = ("--base-url", "https://openrouter.ai/api/v1", "--models", "m", "--key", "k")
    elkapi("price", "set", "--model", "m", "--per-call", "0.01")
    outcome = elkapi("channel", "add", "--family", "openai", "--name", "o", *address)
    assert outcome.status == 0
    assert "is the address of the family openrouter" in outcome.err
    assert "is the address" in elkapi("channel", "edit", "o", "--weight", "2").err
    assert elkapi("channel", "edit", "o", "--family", "openrouter").err == ""
    assert elkapi("channel", "add", "--family", "openai", "--models", "m", "--key", "k").err == ""
    gemini = "https://generativelanguage.googleapis.com/v1beta/openai"
    assert elkapi("channel", "add", "--family", "openai", "--base-url", gemini, *address[2:]).err == ""
