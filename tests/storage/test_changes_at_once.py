"""Two changes of the configuration at the same moment: neither is lost, and none is judged by what the other ended."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import event

from elkapi.admin import channels, groups, guards, keys, webhooks
from elkapi.admin.channels import ChannelFields
from elkapi.admin.context import Admin
from elkapi.admin.errors import AdminError, Refused
from elkapi.admin.policies import PolicyFields
from elkapi.storage.repos import audit, webhook_secrets
from elkapi.storage.repos import channels as channel_rows
from elkapi.tasks.signing import new_secret

# Longer than the other change takes where nothing keeps it waiting; where something does, it waits for this one's end.
OTHER_S = 0.2


@contextlib.contextmanager
def meeting(admin: Admin, statement: str, other: Callable[[], object]) -> Iterator[list[Exception]]:
    """Once, just before a statement that begins so, `other` runs in a thread of its own, as far as it is let; what it
    was refused with."""
    with admin.database.write() as connection:
        engine = connection.engine
    threads: list[threading.Thread] = []
    refused: list[Exception] = []

    def run() -> None:
        try:
            other()
        except AdminError as error:
            refused.append(error)

    def before(*given: Any) -> None:
        if given[2].lstrip().startswith(statement) and not threads:
            threads.append(threading.Thread(target=run))
            threads[0].start()
            threads[0].join(OTHER_S)

    event.listen(engine, "before_cursor_execute", before)
    try:
        yield refused
    finally:
        event.remove(engine, "before_cursor_execute", before)
        for thread in threads:
            thread.join()
    assert threads, "the statement was not seen"


def test_two_edits_of_a_key_are_both_kept(admin: Admin) -> None:
    keys.create_key(admin, keys.KeyInput(name="k"))
    with meeting(admin, "UPDATE keys", lambda: keys.edit_key(admin, "k", keys.KeyPatch(models=("m",)))):
        keys.edit_key(admin, "k", keys.KeyPatch(policy=PolicyFields(fallbacks={"m": ("n",)})))
    row = keys.show_key(admin, "k").row
    assert (row.models, row.policy.fallbacks) == (("m",), {"m": ("n",)})


def test_two_edits_of_a_group_are_both_kept(admin: Admin) -> None:
    def other() -> None:
        groups.set_group(admin, "default", policy=PolicyFields(fallbacks={"m": ("n",)}))

    with meeting(admin, "INSERT INTO groups", other):
        groups.set_group(admin, "default", policy=PolicyFields(cache_age_max_s=60))
    (row,) = groups.list_groups(admin)
    assert (row.policy.cache_age_max_s, row.policy.fallbacks) == (60, {"m": ("n",)})


def test_two_edits_of_a_channel_are_both_kept_or_one_is_refused(admin: Admin) -> None:
    fields = ChannelFields(name="c", family="openai", base_url="https://example.com", models=("m",))
    channels.add_channel(admin, fields, ["sk-1"])

    def other() -> None:
        channels.edit_channel(admin, "c", ChannelFields(models=("m", "n")))

    with meeting(admin, "UPDATE channels", other) as refused:
        channels.edit_channel(admin, "c", ChannelFields(weight=7))
    (view,) = channels.list_channels(admin)
    assert view.weight == 7
    assert view.config.models == (("m",) if refused else ("m", "n"))


def test_no_deposit_reaches_a_key_that_is_revoked_meanwhile(admin: Admin) -> None:
    keys.create_key(admin, keys.KeyInput(name="k"))
    with meeting(admin, "INSERT INTO transfers", lambda: keys.revoke_key(admin, "k")):
        keys.deposit(admin, "k", "5", "")
    with admin.database.read() as connection:
        done = [row.action for row in audit.newest(connection, limit=2)]
    assert done == ["key.revoke", "ledger.deposit"]  # The newest first: it was revoked afterwards.


def test_a_guardrail_that_a_key_is_given_just_now_is_not_removed(admin: Admin) -> None:
    keys.create_key(admin, keys.KeyInput(name="k"))
    guards.set_guard(admin, guards.GuardInput(name="g", words=("w",)))

    def other() -> None:
        keys.edit_key(admin, "k", keys.KeyPatch(policy=PolicyFields(guards=("g",))))

    with meeting(admin, "DELETE FROM guards", other) as refused:
        guards.remove_guard(admin, "g")
    named = keys.show_key(admin, "k").row.policy.guards or ()
    assert set(named) <= {guard.name for guard in guards.list_guards(admin)}
    assert refused


def test_a_group_that_a_key_is_put_into_just_now_is_not_removed(admin: Admin) -> None:
    keys.create_key(admin, keys.KeyInput(name="k"))
    groups.set_group(admin, "g", "1")

    with meeting(admin, "DELETE FROM groups", lambda: keys.edit_key(admin, "k", keys.KeyPatch(group="g"))) as refused:
        groups.remove_group(admin, "g")
    assert keys.show_key(admin, "k").row.group in {group.name for group in groups.list_groups(admin)}
    assert refused


def disabled_channel_key(admin: Admin) -> int:
    fields = ChannelFields(name="c", family="openai", base_url="https://example.com", models=("m",))
    (key,) = channels.add_channel(admin, fields, ["sk-1"]).keys
    with admin.database.write() as connection:
        channel_rows.set_key_enabled(
            connection, key.id, False, reason="refused", now_ns=time.time_ns(), actor=channel_rows.AUTOMATIC
        )
    return key.id


def test_a_probe_does_not_enable_a_key_that_an_operator_disables_at_that_moment(admin: Admin) -> None:
    key_id = disabled_channel_key(admin)
    with admin.database.read() as connection:
        (found,) = channel_rows.disabled_keys(connection, admin.sealer)

    with meeting(
        admin, "UPDATE channel_keys", lambda: channels.set_channel_key_enabled(admin, key_id, False, "leaked")
    ):
        with admin.database.write() as connection:
            channel_rows.enable_key(connection, found, "answered", now_ns=time.time_ns(), actor="prober")
    (view,) = channels.list_channel_keys(admin, "c")
    assert (view.enabled, view.reason) == (False, "leaked")


def test_a_refusal_does_not_take_a_key_from_the_operator_who_disables_it_at_that_moment(admin: Admin) -> None:
    fields = ChannelFields(name="c", family="openai", base_url="https://example.com", models=("m",))
    (key,) = channels.add_channel(admin, fields, ["sk-1"]).keys

    with meeting(
        admin, "UPDATE channel_keys", lambda: channels.set_channel_key_enabled(admin, key.id, False, "leaked")
    ):
        with admin.database.write() as connection:
            channel_rows.set_key_enabled(
                connection, key.id, False, reason="refused", now_ns=time.time_ns(), actor=channel_rows.AUTOMATIC
            )
    # It is the operator's now: no probe brings it back.
    with admin.database.read() as connection:
        assert channel_rows.disabled_keys(connection, admin.sealer) == []


def test_the_secret_of_a_key_is_told_to_one_of_two_who_ask(admin: Admin) -> None:
    view, _ = keys.create_key(admin, keys.KeyInput(name="k"))
    with admin.database.write() as connection:
        webhook_secrets.ensure(connection, admin.sealer, view.row.id, new_secret, time.time_ns())
    with meeting(admin, "UPDATE webhook_secrets", lambda: webhooks.tell_secret(admin, "k")) as refused:
        webhooks.tell_secret(admin, "k")
    assert [type(error) for error in refused] == [Refused]


def test_two_channels_of_one_name_are_one_and_a_refusal(admin: Admin) -> None:
    fields = ChannelFields(name="c", family="openai", base_url="https://example.com", models=("m",))
    with meeting(admin, "INSERT INTO channels", lambda: channels.add_channel(admin, fields, ["sk-1"])) as refused:
        channels.add_channel(admin, fields, ["sk-2"])
    assert [type(error) for error in refused] == [Refused]
