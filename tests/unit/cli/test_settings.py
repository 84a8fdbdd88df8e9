"""Settings as the command takes them: what is refused, in which words, and what goes before what."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from elkapi.observe.bridge import json_log
from elkapi.settings import SettingsError, load_settings
from tests.unit.cli.conftest import Elkapi


@pytest.mark.parametrize(
    ("variable", "value", "status"),
    [
        ("ELKAPI_PORT", "many", 2),
        ("ELKAPI_DATABASE_URL", "mysql://u:hunter2@h/d", 2),
        ("ELKAPI_DATABASE_URL", "postgresql://u:hunter2@127.0.0.1:1/d", 1),
        *(
            ("ELKAPI_DATABASE_URL", f"postgresql://u:hunter2@/d?{asked}", 2)
            for asked in ("host=a&port=b", "host=a:1&host=b:c", "host=a&port=1,2", "connect_timeout=soon")
        ),
        ("ELKAPI_SECRET_KEY", "hunter2", 1),
    ],
)
def test_bad_settings_are_one_line_without_their_secret(
    elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, status: int
) -> None:
    monkeypatch.setenv(variable, value)
    outcome = elkapi("key", "list")
    assert outcome.status == status, outcome
    assert outcome.err.count("\n") == 1
    assert "hunter2" not in outcome.err
    assert "internal error" not in outcome.err


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("PORT", "99999", "port is 99999; it must be at most 65535"),
        ("WORKERS", "999999", "workers is 999999; it must be at most 256"),
        ("WORKERS", "0", "workers is 0; it must be above zero"),
        ("DRAIN_S", "nan", "ELKAPI_DRAIN_S: 'nan' is not a number"),
        ("HEARTBEAT_LOST_S", "9" * 12, "it must be at most 1000000000"),
        ("CONNECT_S", "1_0", "ELKAPI_CONNECT_S: '1_0' is not a number: write it as digits, such as 600 or 0.5"),
        ("CONNECT_S", "1e3", "ELKAPI_CONNECT_S: '1e3' is not a number"),
        ("WORKERS", "-2", "workers is -2; it must not be negative"),
        ("WORKERS", "２", "ELKAPI_WORKERS: '２' is not a whole number"),
        ("BODY_BYTES_MAX", "9" * 30, "it must be at most 9223372036854775807"),
        ("MODEL_THREADS", "9" * 12, "it must be at most 1024"),
        ("LEDGER_BATCH_MAX", "0", "ledger_batch_max is 0; it must be above zero"),
        ("SNAPSHOT_POLL_S", "0", "it must be above zero"),
        ("STREAM_PING_S", "0", "stream_ping_s is 0; it must be above zero"),
        ("BODY_BYTES_MAX", "0", "body_bytes_max is 0; it must be above zero"),
        ("REPLY_BUFFER_BYTES_MAX", "0", "reply_buffer_bytes_max is 0; it must be above zero"),
        ("ASSET_BYTES_MAX", "0", "asset_bytes_max is 0; it must be above zero"),
        ("ATTEMPTS_MAX", "0", "it must be above zero"),
        ("ATTEMPTS_MAX", "2.5", "ELKAPI_ATTEMPTS_MAX: '2.5' is not a whole number"),
        ("BATCH_RATIO", "50", "batch_ratio is 50; it must be at most 10 (ten times the price)"),
        ("HOST", "", "host is empty; unset ELKAPI_HOST to use the default"),
        ("DATA_DIR", "/what?", "data_dir is /what?; it must not contain ? or #"),
        ("DATA_DIR", "", "data_dir is empty"),
        ("LOG_LEVEL", "loud", "log_level is 'loud'; use debug, info, warning, error"),
        ("PUBLIC_URL", "ai.example.com", "it must start with https:// or http://"),
        *(
            ("PUBLIC_URL", f"https://{rest}", "public_url must be https://HOST[:PORT][/PATH]")
            for rest in ("", "/files", "ai.example.com?x=1", "me:hunter2@ai.example.com", "ai.example.com:port", "a b")
        ),
        *(
            ("CORS_ORIGINS", f"https://a.example.com,{origin}", f"cors_origins: '{origin}' is no origin")
            for origin in ("app.example.com", "https://app.example.com/", "https://App.example.com", "https://*.a.com")
        ),
        *(
            ("OTLP_HEADERS", headers, "cannot be read; write name=value,name=value, with %20 for a space")
            for headers in ("hunter2", "a=b,hunter2", "authorization: hunter2", "a b=c", "a=%0a", "a=ключ")
        ),
        ("HEARTBEAT_S", "30", "heartbeat_lost_s is 10.0; it must be at least twice heartbeat_s"),
        ("REDIS_URL", "localhost:6379", "redis_url cannot be read; use redis://"),
        ("REDIS_URL", "redis://me:hunter2@host:port/0", "redis_url cannot be read; use redis://"),
        ("TRUSTED_PROXIES", "10.0.0.0/8,proxy", "trusted_proxies: 'proxy' does not appear to be"),
    ],
)
def test_a_setting_that_no_gateway_could_run_with_is_refused_by_every_command(
    elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(f"ELKAPI_{variable}", value)
    for command in ("serve", "doctor"):
        outcome = elkapi(command)
        assert (outcome.status, outcome.out) == (2, "")
        assert outcome.err.count("\n") == 1
        assert said in outcome.err
        assert "hunter2" not in outcome.err
    assert not (tmp_path / "data").exists()


def test_origins_of_every_kind_of_page_and_headers_of_every_collector_are_taken() -> None:
    origins = "https://a.com,http://localhost:3000,http://[::1]:8080,null,chrome-extension://abcdefgh,tauri://localhost"
    given = {"ELKAPI_CORS_ORIGINS": origins, "ELKAPI_OTLP_HEADERS": "Authorization=Basic%20cGs6c2s=,x-version=4,"}
    taken = load_settings(environ=given | {"ELKAPI_PUBLIC_URL": "https://ai.example.com:8443/elkapi/"})
    assert taken.cors_origins == tuple(origins.split(","))
    assert load_settings(environ={"ELKAPI_CORS_ORIGINS": ""}).cors_origins == ()


def test_zero_is_taken_wherever_the_page_of_settings_says_what_it_means() -> None:
    page = (Path(__file__).parents[3] / "docs/settings.md").read_text("utf-8")
    named = re.findall(r"^\| `(\w+)` \|.*[;.] 0:? \w", page, re.MULTILINE)
    assert {"port", "task_poll_every_s", "batch_parallel_max", "otlp_metrics_s", "chat_idle_s"} <= set(named)
    for name in named:
        load_settings(environ={f"ELKAPI_{name.upper()}": "0"})


@pytest.mark.parametrize(
    "name",
    [
        *("connections_max", "header_bytes_max", "upstream_connections_max", "ledger_queue_max", "hold_wait_s"),
        *("connect_s", "header_s", "first_byte_s", "idle_s", "total_s"),
        *("text_header_s", "first_token_s", "stream_idle_s", "text_total_s"),
        *("heartbeat_s", "heartbeat_lost_s", "batch_key_parallel_max", "batch_look_s", "task_polls_per_channel_max"),
        *("webhook_parallel_max", "webhook_host_parallel_max", "otlp_timeout_s"),
    ],
)
def test_zero_is_refused_where_nobody_would_be_answered_or_nothing_done(name: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name} is 0"):
        load_settings(environ={f"ELKAPI_{name.upper()}": "0"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("port = ", "cannot read the settings file"),
        ("prot = 1\nzebra = 2\n", "has unknown settings: prot, zebra"),
        ("prot = 1\n", "has unknown settings: prot (did you mean port?)"),
        ("ELKAPI_PORT = 1\n", "has unknown settings: ELKAPI_PORT (did you mean port?)"),
        ("[server]\nport = 1\n", "has unknown settings: server\n"),
        ("port = 'x'\n", "settings.toml: port must be a whole number, without quotes\n"),
        ("drain_s = '3'\n", "settings.toml: drain_s must be a number, without quotes\n"),
        ("log_level = 3\n", "settings.toml: log_level must be text in quotes\n"),
        ("otlp_content = 'yes'\n", "settings.toml: otlp_content must be true or false\n"),
        ("trusted_proxies = '10.0.0.0/8'\n", 'trusted_proxies must be a list of texts, such as ["a", "b"]\n'),
    ],
)
def test_a_settings_file_that_says_nothing_clear_is_one_line(
    elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "settings.toml"
    monkeypatch.setenv("ELKAPI_CONFIG", str(file))
    file.write_text(text)
    outcome = elkapi("doctor")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert said in outcome.err


def test_flags_win_over_variables_and_these_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("port = 1001\nworkers = 2\ndrain_s = 3\nchat_slots = 1\nchat_context_tokens = 256\n")
    environ = {"ELKAPI_CONFIG": str(file), "ELKAPI_PORT": "1002", "ELKAPI_WORKERS": "4"}
    taken = load_settings({"port": 1003, "workers": None}, environ)
    assert (taken.port, taken.workers, taken.drain_s) == (1003, 4, 3.0)
    assert (taken.chat_slots, taken.chat_context_tokens) == (1, 256)


@pytest.mark.parametrize("value", ["normal", "FULL", "EXTRA"])
def test_sqlite_may_be_told_to_outlive_a_power_loss(value: str) -> None:
    assert load_settings(environ={"ELKAPI_SQLITE_SYNCHRONOUS": value}).sqlite_synchronous == value
    with pytest.raises(SettingsError, match="sqlite_synchronous is 'OFF'; use NORMAL, FULL, EXTRA"):
        load_settings(environ={"ELKAPI_SQLITE_SYNCHRONOUS": "OFF"})


def test_a_settings_file_that_is_no_text_is_one_line_and_a_ratio_in_it_is_a_number(
    elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    monkeypatch.setenv("ELKAPI_CONFIG", str(file))
    file.write_bytes(b"\xff\xfe")
    outcome = elkapi("doctor")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert f"cannot read the settings file {file}" in outcome.err
    file.write_text("batch_ratio = 0.5\n")
    assert load_settings().batch_ratio == "0.5"
    file.write_text("batch_ratio = true\n")
    assert elkapi("doctor").status == 2


def test_the_level_of_the_log_may_stand_in_capitals(tmp_path: Path) -> None:
    settings = load_settings(environ={"ELKAPI_LOG_LEVEL": "WARNING", "ELKAPI_LOG_FILE": str(tmp_path / "log")})
    with json_log("test", settings) as log:
        log.write("quiet")
        log.write("loud", "warning")
    assert [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()] == ["loud"]


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("STORAGE_URL", "ftp://x", "ELKAPI_STORAGE_URL is s3://BUCKET/PREFIX, file:///FOLDER or empty"),
        ("LOG_FILE", "/nowhere/x.log", "ELKAPI_LOG_FILE /nowhere/x.log: No such file or directory"),
        ("MODELS_DIR", "/nowhere", "the models folder /nowhere does not exist"),
    ],
)
def test_what_a_process_would_trip_over_at_each_restart_stops_the_start(
    elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(f"ELKAPI_{variable}", value)
    assert elkapi("doctor").status == 1
    for role in ((), ("--role", "control")):
        outcome = elkapi("serve", "--port", "0", *role)
        assert (outcome.status, outcome.err) == (1, f"elkapi: {said}\n")
    assert not (tmp_path / "data" / "elkapi.sqlite3").exists()
