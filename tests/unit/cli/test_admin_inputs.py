"""What the control plane refuses before it writes: fields nobody knows, addresses, overrides, secrets."""

from __future__ import annotations

import socket
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elkapi.admin import addresses, overrides
from elkapi.admin.channels import ChannelFields
from elkapi.admin.context import read_input
from elkapi.admin.errors import InvalidInput
from elkapi.admin.keys import KeyInput, KeyPatch
from elkapi.admin.prices import PriceInput
from elkapi.catalog import CATALOG
from elkapi.money import parse_usd


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (KeyInput, {"name": "k", "budget": 5}),
        (KeyInput, {"name": "k", "role": "admin"}),
        (KeyPatch, {"account_id": 1}),
        (KeyPatch, {"owner_id": 1}),
        (KeyPatch, {"enabled": True}),
        (ChannelFields, {"models": ["m"], "api_base": "http://evil"}),
        (ChannelFields, {"id": 3}),
        (PriceInput, {"model": "m", "per_cal": "1"}),
    ],
)
def test_g16_unknown_fields_are_refused_never_dropped(kind: type[Any], values: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_input(kind, values)
    assert refused.value.status == 422
    assert refused.value.field in values


@pytest.mark.parametrize("amount", ["1e999999", "1." + 30 * "0" + "1", "1." + 90 * "0" + "1", "sNaN"])
def test_an_amount_that_would_be_rounded_or_overflow_is_refused(amount: str) -> None:
    """The first was an internal error, and of the others a hair above one dollar was taken as one."""
    with pytest.raises(ValueError, match="is not an amount in US dollars"):
        parse_usd(amount)
    assert parse_usd("1." + 90 * "0") == 10**9


@pytest.mark.parametrize("field", ["account_id", "owner_id", "digest", "scope", "version", "revoked_ns", "posted_nano"])
def test_cve_2026_47102_a_key_edit_names_its_fields(field: str) -> None:
    assert set(KeyPatch.__struct_fields__) == {"name", "group", "models", "expires_at_ns", "policy"}
    with pytest.raises(InvalidInput):
        read_input(KeyPatch, {field: 1})


@pytest.mark.parametrize(
    ("kind", "values", "field"),
    [
        (KeyInput, {"name": 5}, "name"),
        (KeyInput, {"name": "k", "models": "all"}, "models"),
        (KeyInput, {"name": "k", "scope": "root"}, "scope"),
        (ChannelFields, {"weight": "heavy"}, "weight"),
        (ChannelFields, {"status_map": {"x": 1}}, "status_map"),
        (ChannelFields, {"limits": {"conect_s": 1}}, "limits"),
    ],
)
def test_wrong_types_are_refused_by_field(kind: type[Any], values: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_input(kind, values)
    assert refused.value.field.startswith(field)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example.com",
        "ftp://api.example.com",
        "file:///etc/passwd",
        "unix:///run/x.sock",
        "https://",
        "https://user@api.example.com",
        "https://user:hunter2@api.example.com/v1",
        "https://api.example.com/v1#/evil",
        "https://api.example.com/v1?key=hunter2",
        "https://api.example.com\\@evil.example",
        "https://api.example.com:0",
        "https://api.example.com:99999",
        "https://api.exa mple.com",
        "https://api.example.com\r\nhost: evil",
        "https://\x00",
        "https://" + "a" * 3000,
    ],
)
def test_a_base_url_that_could_mean_something_else_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        addresses.check_base_url(url, allow_private=True)
    assert refused.value.field == "base_url"
    assert "hunter2" not in str(refused.value)


def test_a_base_url_is_kept_without_its_last_slash() -> None:
    assert addresses.check_base_url("https://127.0.0.1:8443/v1/", allow_private=True) == "https://127.0.0.1:8443/v1"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "0.0.0.0", "10.0.0.1", "192.168.1.1", "169.254.169.254", "[::1]", "[fd00::1]", "2130706433", "0"],
)
def test_go_2026_5652_private_hosts_are_refused_however_they_are_spelled(host: str) -> None:
    with pytest.raises(InvalidInput, match="--allow-private"):
        addresses.check_base_url(f"http://{host}/v1", allow_private=False)


def test_a_name_is_judged_by_every_address_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: answers)
    with pytest.raises(InvalidInput, match=r"10\.0\.0\.1"):
        addresses.check_base_url("https://half.example", allow_private=False)
    answers.pop()
    assert addresses.check_base_url("https://public.example", allow_private=False) == "https://public.example"


def test_a_name_that_does_not_resolve_now_is_left_to_the_dialer(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_args: Any, **_kwargs: Any) -> None:
        raise socket.gaierror("not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert addresses.check_base_url("https://later.example", allow_private=False) == "https://later.example"


@pytest.mark.parametrize(
    "url", ["127.0.0.1:1080", "ftp://127.0.0.1", "socks5://u:hunter2@", "http://u:hunter2@h:99999"]
)
def test_a_bad_proxy_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        addresses.check_proxy(url, allow_private=True)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "é", "x" * 200, "Host", "Content-Length", "Connection"])
def test_header_names_that_break_framing_are_refused(name: str) -> None:
    for check in (overrides.check_headers_removed, overrides.check_headers_forwarded):
        with pytest.raises(InvalidInput):
            check([name])
    with pytest.raises(InvalidInput):
        overrides.check_headers_set({name: "v"})


@given(st.text(max_size=20))
def test_a_header_value_is_one_line_of_ascii_or_refused(value: str) -> None:
    try:
        kept = overrides.check_headers_set({"X-A": value})
    except InvalidInput:
        assert any(not " " <= sign <= "~" and sign != "\t" for sign in value)
    else:
        assert kept == {"x-a": value.strip()}
        assert kept["x-a"].isascii()
        assert "\n" not in kept["x-a"]
        assert "\r" not in kept["x-a"]


@pytest.mark.parametrize("name", ["Authorization", "cookie", "X-Api-Key", "x-goog-api-key", "Sec-WebSocket-Protocol"])
def test_a_callers_credential_is_never_forwarded(name: str) -> None:
    with pytest.raises(InvalidInput, match="caller's key"):
        overrides.check_headers_forwarded([name])


def test_headers_given_twice_in_other_letters_are_refused() -> None:
    with pytest.raises(InvalidInput, match="twice"):
        overrides.check_headers_set({"X-A": "1", "x-a": "2"})


@pytest.mark.parametrize("name", ["model", "stream", "input", "", "a\nb"])
def test_parameters_that_the_gateway_reads_are_not_overridden(name: str) -> None:
    given = {name: msgspec.Raw(b"1")}
    for set_, default, remove in ((given, {}, ()), ({}, given, ()), ({}, {}, (name,))):
        with pytest.raises(InvalidInput):
            overrides.check_parameters(set_, default, remove)


def test_no_channel_overrides_what_a_hold_was_counted_from() -> None:
    counted = {name for operation in CATALOG.operations for name in operation.priced_by}
    assert "input" in counted
    for name in counted:
        with pytest.raises(InvalidInput, match="overridden"):
            overrides.check_parameters({name: msgspec.Raw(b'"x"')}, {}, ())


def test_a_parameter_is_json_and_not_both_given_and_removed() -> None:
    with pytest.raises(InvalidInput, match="JSON"):
        overrides.check_parameters({"user": msgspec.Raw(b"bare words")}, {}, ())
    with pytest.raises(InvalidInput, match="both"):
        overrides.check_parameters({"user": msgspec.Raw(b"1")}, {}, ("user",))
    assert overrides.check_parameters({"user": msgspec.Raw(b'"x"')}, {"a": msgspec.Raw(b"{}")}, ("b", "b")) == ("b",)


@pytest.mark.parametrize("statuses", [{200: 503}, {404: 200}, {404: 999}, {0: 500}])
def test_only_errors_are_mapped_to_errors(statuses: dict[int, int]) -> None:
    with pytest.raises(InvalidInput):
        overrides.check_statuses(statuses)


@pytest.mark.parametrize("secret", ["", "   ", "two words", "line\nbreak", "nul\x00", "ünïcode", "x" * 5000])
def test_a_secret_is_one_printable_word_and_is_not_repeated(secret: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        overrides.check_secret(secret)
    if secret.strip():
        assert secret.strip() not in str(refused.value)
