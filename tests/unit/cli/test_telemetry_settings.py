"""Telemetry's settings: where they come from, what is refused, and that `doctor` shows no secret of them."""

from __future__ import annotations

import pytest

from elkapi.settings import SettingsError, load_settings
from tests.unit.cli.conftest import Elkapi

PLANTED = "cGstbGYtcGxhbnRlZA=="


def test_doctor_masks_headers_and_passwords_of_the_collector(elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELKAPI_OTLP_ENDPOINT", f"https://me:{PLANTED}@collector.example.com/otel?key={PLANTED}")
    monkeypatch.setenv("ELKAPI_OTLP_HEADERS", f"authorization=Basic%20{PLANTED}")
    done = elkapi("doctor")
    shown = elkapi("doctor", "--json")
    assert PLANTED not in done.out + done.err + shown.out + shown.err
    assert "calls are exported to https://me:***@collector.example.com/otel?***, without content" in done.out
    monkeypatch.setenv("ELKAPI_OTLP_ENDPOINT", "collector:4317")
    assert "it must start with http:// or https://" in elkapi("doctor").out


def test_the_standard_names_are_taken_where_ours_are_not_set() -> None:
    standard = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://theirs:4318", "OTEL_EXPORTER_OTLP_HEADERS": "a=b"}
    taken = load_settings(environ=standard)
    assert (taken.otlp_endpoint, taken.otlp_headers) == ("http://theirs:4318", "a=b")
    assert load_settings(environ={**standard, "ELKAPI_OTLP_ENDPOINT": "http://ours"}).otlp_endpoint == "http://ours"
    assert load_settings(environ={**standard, "ELKAPI_OTLP_ENDPOINT": ""}).otlp_endpoint == ""


@pytest.mark.parametrize("value", ["true", "1", "Yes", "on"])
def test_content_is_switched_on_by_a_word(value: str) -> None:
    assert load_settings(environ={"ELKAPI_OTLP_CONTENT": value}).otlp_content is True


@pytest.mark.parametrize("value", ["false", "0", "No", " off "])
def test_content_is_switched_off_by_a_word(value: str) -> None:
    assert load_settings(environ={"ELKAPI_OTLP_CONTENT": value}).otlp_content is False


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OTLP_CONTENT", "maybe", "ELKAPI_OTLP_CONTENT='maybe' must be true or false"),
        ("OTLP_SAMPLE_RATIO", "1.5", "otlp_sample_ratio is 1.5; it must be at most 1"),
        ("OTLP_SAMPLE_RATIO", "-1", "otlp_sample_ratio is -1.0; it must not be negative"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load_settings(environ={f"ELKAPI_{name}": value})
