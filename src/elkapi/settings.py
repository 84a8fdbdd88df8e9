"""One frozen `Settings` struct: defaults < file < environment < flags; every limit carries its unit in its name.

`elkapi doctor` prints the effective values with secrets masked. docs/settings.md lists them; a test compares the two.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import unquote, urlsplit

import msgspec

from elkapi.money import BATCH_RATIO_MAX_MICRO, parse_ratio

CHAT_CONTEXT_TOKENS_MIN = 256
MISSPELT_LIKENESS_MIN = 0.75
# The kernel's limit for the path of a unix socket.
SOCKET_PATH_BYTES_MAX = 107
# The unix sockets in the data directory: those of roles, the chat role's engine, and what workers tell of their calls.
SOCKETS = ("ledger", "models", "chat", "engine", "control", "telemetry", "sandbox")
LOG_LEVELS = ("debug", "info", "warning", "error")  # From most to least verbose.
SQLITE_SYNCHRONOUS = ("NORMAL", "FULL", "EXTRA")
# The limit of 64-bit columns and of a clock in nanoseconds.
NUMBER_MAX = 2**63 - 1
SECONDS_MAX = 1_000_000_000
MOST = {"port": 65_535, "workers": 256, "otlp_sample_ratio": 1, "model_threads": 1024, "chat_threads": 1024}
# With zero a gateway would start and answer nobody, do nothing, or spin.
ABOVE_ZERO = frozenset(
    {
        *("workers", "connections_max", "header_bytes_max", "attempts_max", "upstream_connections_max"),
        *("connect_s", "header_s", "first_byte_s", "idle_s", "total_s"),
        *("text_header_s", "first_token_s", "stream_idle_s", "text_total_s", "stream_ping_s"),
        *("body_bytes_max", "reply_buffer_bytes_max", "asset_bytes_max"),
        *("ledger_queue_max", "ledger_batch_max", "hold_wait_s", "heartbeat_s", "heartbeat_lost_s", "snapshot_poll_s"),
        *("batch_key_parallel_max", "batch_look_s", "task_polls_per_channel_max"),
        *("webhook_parallel_max", "webhook_host_parallel_max", "otlp_timeout_s"),
    }
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an operator can set. The field name in capitals with the prefix ELKAPI_ is its variable."""

    data_dir: str = "./elkapi-data"
    database_url: str = ""
    redis_url: str = ""
    storage_url: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    trusted_proxies: tuple[str, ...] = ()
    public_url: str = ""
    secret_key: str = ""
    metrics_token: str = ""
    log_file: str = ""
    log_level: str = "info"
    sqlite_synchronous: str = "NORMAL"
    cors_origins: tuple[str, ...] = ("*",)

    body_bytes_max: int = 32 * 1024 * 1024
    header_bytes_max: int = 64 * 1024
    header_read_s: float = 20.0
    body_read_s: float = 60.0
    keepalive_idle_s: float = 75.0
    connections_max: int = 10_000
    drain_s: float = 30.0
    reply_buffer_bytes_max: int = 4 * 1024 * 1024

    connect_s: float = 5.0
    header_s: float = 120.0
    first_byte_s: float = 120.0
    idle_s: float = 60.0
    total_s: float = 600.0
    text_header_s: float = 600.0
    first_token_s: float = 300.0
    stream_idle_s: float = 120.0
    text_total_s: float = 3600.0
    stream_ping_s: float = 15.0
    attempts_max: int = 4
    task_polls_per_channel_max: int = 32
    task_poll_every_s: float = 0.0
    cooldown_s: float = 10.0
    cooldown_max_s: float = 300.0
    upstream_connections_max: int = 1024

    key_cache_max: int = 50_000
    snapshot_poll_s: float = 0.2
    ledger_queue_max: int = 20_000
    ledger_batch_max: int = 256
    hold_wait_s: float = 5.0
    settle_wait_s: float = 2.0
    heartbeat_s: float = 1.0
    heartbeat_lost_s: float = 10.0
    idempotency_wait_s: float = 60.0
    idempotency_keep_s: float = 86_400.0
    idempotency_reply_bytes_max: int = 1024 * 1024

    cache_bytes_max: int = 256 * 1024 * 1024
    cache_entries_max: int = 100_000
    cache_entry_bytes_max: int = 1024 * 1024
    cache_age_max_s: float = 86_400.0
    cache_wait_s: float = 0.1
    batch_parallel_max: int = 32
    batch_key_parallel_max: int = 16
    batch_ratio: str = "1"
    batch_look_s: float = 60.0
    batch_retry_s: float = 5.0
    batch_keep_s: float = 2_505_600.0
    batch_open_lines_max: int = 500_000

    otlp_endpoint: str = ""
    otlp_headers: str = ""
    otlp_sample_ratio: float = 1.0
    otlp_content: bool = False
    otlp_metrics_s: float = 60.0
    otlp_timeout_s: float = 10.0

    stored_keep_s: float = 30 * 86_400.0
    stored_bytes_max: int = 8 * 1024 * 1024
    free_kept_bytes_max: int = 1024 * 1024 * 1024
    background_calls_max: int = 100
    background_calls_per_key_max: int = 20

    asset_bytes_max: int = 1024 * 1024 * 1024
    asset_bytes_per_key_max: int = 0
    asset_copy_tries_max: int = 12
    asset_keep_s: float = 30 * 86_400.0
    asset_url_s: float = 86_400.0
    task_keep_s: float = 30 * 86_400.0

    picture_allow_private: bool = False
    picture_bytes_max: int = 20 * 1024 * 1024
    picture_fetch_s: float = 20.0

    webhook_allow_private: bool = False
    webhook_parallel_max: int = 128
    webhook_host_parallel_max: int = 4
    webhook_retry_s: float = 86_400.0
    webhook_keep_s: float = 30 * 86_400.0

    models_dir: str = ""
    model_threads: int = 0
    chat_context_tokens: int = 4096
    chat_slots: int = 2
    chat_queue_max: int = 16
    chat_threads: int = 0
    chat_memory_bytes_max: int = 1024 * 1024 * 1024
    chat_idle_s: float = 600.0

    @property
    def data_path(self) -> Path:
        return Path(self.data_dir)

    @property
    def metrics_path(self) -> Path:
        """The folder in which all processes of one gateway record metrics."""
        return self.data_path / "metrics"

    @property
    def effective_database_url(self) -> str:
        """`database_url`, or the SQLite file of the data directory."""
        return self.database_url or sqlite_url(self.data_path.absolute() / "elkapi.sqlite3")

    @property
    def is_sqlite(self) -> bool:
        return self.effective_database_url.startswith("sqlite")

    def socket_path(self, name: str) -> str:
        """One of SOCKETS, as an absolute path."""
        return str(self.data_path.absolute() / f"{name}.sock")

    @property
    def socket_path_bytes(self) -> int:
        """The length of the longest socket path; the kernel's limit is SOCKET_PATH_BYTES_MAX."""
        return max(len(os.fsencode(self.socket_path(name))) for name in SOCKETS)


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file, with characters of another meaning percent-encoded."""
    return f"sqlite:///{path}".replace("%", "%25").replace("?", "%3F")


SECRET_FIELDS = frozenset(
    {"secret_key", "metrics_token", "database_url", "redis_url", "storage_url", "otlp_endpoint", "otlp_headers"}
)
# Names that other programs use for the same; ours take precedence.
STANDARD_NAMES = {
    "otlp_endpoint": "OTEL_EXPORTER_OTLP_ENDPOINT",
    "otlp_headers": "OTEL_EXPORTER_OTLP_HEADERS",
}
# What browsers send as `Origin`, and so what it is compared with. Pages of a file and of a sandboxed frame send null.
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]+)?")
# If a Service is named elkapi, Kubernetes gives every pod beside it ELKAPI_PORT=tcp://10.0.0.7:8000.
_KUBERNETES_LINK = re.compile(r"(tcp|udp|sctp)://")
# Characters that a prefix of addresses must not contain.
_UNFIT = re.compile(r"[^!-~]|[?#@\\\"']")
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)
_HEADER_VALUE = re.compile(r"[\t -~\x80-\xff]*")
# Python accepts more: `1_000`, `1e3`, `nan`, digits of every script.
_NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?")
_TRUTHS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def whole_number(text: str) -> int:
    """Parse a whole number written in digits. Raises ValueError."""
    if "." in text or _NUMBER.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a whole number: write it as digits, such as 600")
    return int(text)


def decimal_number(text: str) -> float:
    """As `whole_number`, with optional decimals."""
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a number: write it as digits, such as 600 or 0.5")
    return float(text)


class SettingsError(ValueError):
    """An invalid setting; the message names the setting and its origin."""


def load_settings(flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from an optional TOML file (ELKAPI_CONFIG), the environment and flags; raises SettingsError."""
    env = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    if config := env.get("ELKAPI_CONFIG"):
        values |= _from_file(Path(config))
    for name in Settings.__struct_fields__:
        text = env.get(f"ELKAPI_{name.upper()}")
        if text is None and name in STANDARD_NAMES and name not in values:
            text = env.get(STANDARD_NAMES[name])
        if text is not None and not (name == "port" and _KUBERNETES_LINK.match(text)):
            values[name] = _parse(name, text)
    values |= {name: value for name, value in (flags or {}).items() if value is not None}
    return _checked(values)


def misspelt_variables(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Unknown variables with the prefix ELKAPI_ that resemble a setting: {name: probable setting}.

    Others are not reported: clients keep their key in ELKAPI_KEY, and Kubernetes names services in such variables.
    """
    ours = [f"ELKAPI_{name.upper()}" for name in ("config", *Settings.__struct_fields__)]
    found: dict[str, str] = {}
    for name in sorted(os.environ if environ is None else environ):
        if name.startswith("ELKAPI_") and name not in ours:
            # Without the prefix, which would make all names similar.
            close = difflib.get_close_matches(name[7:], [known[7:] for known in ours], 1, MISSPELT_LIKENESS_MIN)
            found.update((name, f"ELKAPI_{meant}") for meant in close)
    return found


# How a setting is written in a TOML file.
_TOML_FORMS: dict[Any, str] = {
    str: "text in quotes",
    bool: "true or false",
    int: "a whole number, without quotes",
    float: "a number, without quotes",
}
_TOML_LIST = 'a list of texts, such as ["a", "b"]'


def _from_file(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"cannot read the settings file {path}: {error}") from None
    if unknown := sorted(table.keys() - set(Settings.__struct_fields__)):
        close = difflib.get_close_matches(unknown[0].lower().removeprefix("elkapi_"), Settings.__struct_fields__, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise SettingsError(f"{path} has unknown settings: {', '.join(unknown)}{hint}")
    hints = get_type_hints(Settings)
    for name, value in table.items():
        try:
            if name != "batch_ratio":
                msgspec.convert(value, hints[name])
        except msgspec.ValidationError:
            raise SettingsError(f"{path}: {name} must be {_TOML_FORMS.get(hints[name], _TOML_LIST)}") from None
    ratio = table.get("batch_ratio")  # Kept as a string, which is exact, and written like every other number.
    return table if ratio is None or isinstance(ratio, bool) else table | {"batch_ratio": str(ratio)}


def _parse(name: str, text: str) -> Any:
    kind = get_type_hints(Settings)[name]
    if kind is str:
        return text
    if kind is bool:
        if (truth := _TRUTHS.get(text.strip().lower())) is None:
            raise SettingsError(f"ELKAPI_{name.upper()}={text!r} must be true or false")
        return truth
    if kind in (int, float):
        try:
            return (whole_number if kind is int else decimal_number)(text.strip())
        except ValueError as error:
            raise SettingsError(f"ELKAPI_{name.upper()}: {error}") from None
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _checked(values: dict[str, Any]) -> Settings:
    try:
        settings = msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(str(error)) from None
    for name in Settings.__struct_fields__:
        value = getattr(settings, name)
        if isinstance(value, int | float):
            _check_number(name, value)
    _check_words(settings)
    _check_addresses(settings)
    if settings.heartbeat_lost_s < 2 * settings.heartbeat_s:
        # Otherwise a live worker would count as dead between two heartbeats, and its holds be released.
        raise SettingsError(f"heartbeat_lost_s is {settings.heartbeat_lost_s}; it must be at least twice heartbeat_s")
    if settings.chat_slots < 1 or settings.chat_context_tokens < CHAT_CONTEXT_TOKENS_MIN:
        raise SettingsError(
            f"chat_slots must be at least 1, and chat_context_tokens at least {CHAT_CONTEXT_TOKENS_MIN}"
        )
    return settings


def _check_number(name: str, value: float) -> None:
    """Refuse a value that would end or starve a process here, where one line can say so."""
    most = MOST.get(name, SECONDS_MAX if name.endswith("_s") else NUMBER_MAX)
    if value < 0:
        raise SettingsError(f"{name} is {value}; it must not be negative")
    if not value <= most:  # Also rejects NaN.
        raise SettingsError(f"{name} is {value}; it must be at most {most}")
    if value == 0 and name in ABOVE_ZERO:
        raise SettingsError(f"{name} is 0; it must be above zero")


def _check_words(settings: Settings) -> None:
    for name in ("data_dir", "host"):
        if not getattr(settings, name).strip():
            raise SettingsError(f"{name} is empty; unset ELKAPI_{name.upper()} to use the default")
    if not {"?", "#"}.isdisjoint(place := str(settings.data_path.absolute())):
        raise SettingsError(f"data_dir is {place}; it must not contain ? or #")
    if settings.log_level.lower() not in LOG_LEVELS:
        raise SettingsError(f"log_level is {settings.log_level!r}; use {', '.join(LOG_LEVELS)}")
    if settings.sqlite_synchronous.upper() not in SQLITE_SYNCHRONOUS:
        raise SettingsError(
            f"sqlite_synchronous is {settings.sqlite_synchronous!r}; use {', '.join(SQLITE_SYNCHRONOUS)}"
        )
    try:
        batch_ratio_micro = parse_ratio(settings.batch_ratio)
    except ValueError as error:
        raise SettingsError(f"batch_ratio: {error}") from None
    if batch_ratio_micro > BATCH_RATIO_MAX_MICRO:
        raise SettingsError(f"batch_ratio is {settings.batch_ratio}; it must be at most 10 (ten times the price)")


def _check_addresses(settings: Settings) -> None:
    if settings.public_url and not settings.public_url.startswith(("http://", "https://")):
        raise SettingsError(f"public_url is {settings.public_url!r}; it must start with https:// or http://")
    if settings.public_url and not _is_prefix(settings.public_url):
        raise SettingsError("public_url must be https://HOST[:PORT][/PATH], without a user, a query or a fragment")
    for origin in settings.cors_origins:
        if _ORIGIN.fullmatch(origin) is None:
            hint = "write it as browsers send it: SCHEME://HOST[:PORT] in lower case, without a trailing slash"
            raise SettingsError(f"cors_origins: {origin!r} is no origin; {hint}, or *")
    if not _are_headers(settings.otlp_headers):
        names = f"ELKAPI_OTLP_HEADERS, or {STANDARD_NAMES['otlp_headers']}"
        raise SettingsError(f"otlp_headers ({names}) cannot be read; write name=value,name=value, with %20 for a space")
    if settings.redis_url and not _is_redis(settings.redis_url):
        raise SettingsError("redis_url cannot be read; use redis://, rediss:// or unix://, and a number as its port")
    for entry in settings.trusted_proxies:
        try:
            ipaddress.ip_network(entry, strict=False)
        except ValueError as error:
            raise SettingsError(f"trusted_proxies: {error}") from None


def _is_prefix(url: str) -> bool:
    """Whether paths can be appended to it."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return bool(parts.hostname) and _UNFIT.search(url) is None


def _are_headers(text: str) -> bool:
    """Whether each part is NAME=VALUE and valid as a header; empty parts are ignored."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    return all(
        equals and _HEADER_NAME.fullmatch(name.strip()) and _HEADER_VALUE.fullmatch(unquote(value.strip()))
        for name, equals, value in pairs
    )


def _is_redis(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("redis", "rediss", "unix")
