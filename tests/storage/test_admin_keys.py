"""Keys as an operator handles them, with their money, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
import pytest
from sqlalchemy import event

from elkapi import ledger
from elkapi.admin import keys
from elkapi.admin.context import Admin
from elkapi.admin.errors import Missing, Refused
from elkapi.settings import Settings
from elkapi.storage import apikey
from elkapi.storage.db import Database
from elkapi.storage.repos import audit
from elkapi.storage.repos import keys as key_rows


def test_the_first_key_is_made_once_without_funds(admin: Admin) -> None:
    with admin.database.write() as connection:
        plaintext = keys.ensure_first_key(connection)
    assert plaintext is not None
    assert apikey.normalize(plaintext) == plaintext
    with admin.database.write() as connection:
        assert keys.ensure_first_key(connection) is None
    (view,) = keys.list_keys(admin)
    assert view.available_nano == 0


def test_a_list_of_keys_asks_for_their_balances_together(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elkapi.ledger.accounts.IDS_AT_ONCE", 3)
    for number in range(7):
        keys.create_key(admin, keys.KeyInput(name=f"k{number}", balance=str(number)))
    with admin.database.read() as connection:
        reader = connection.engine
    asked: list[str] = []
    event.listen(reader, "before_cursor_execute", lambda *given: asked.append(given[2]))
    views = keys.list_keys(admin)
    assert [view.available_nano for view in views] == [number * 10**9 for number in range(7)]
    assert len([text for text in asked if text.startswith("SELECT")]) == 1 + 3


def test_supervisors_that_start_together_make_one_first_key(admin: Admin, settings: Settings) -> None:
    made: list[str | None] = []

    def start() -> None:
        database = Database.open(settings.effective_database_url)
        try:
            with database.write() as connection:
                made.append(keys.ensure_first_key(connection))
        finally:
            database.close()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([key for key in made if key is not None]) == 1
    assert len(made) == 4
    assert len(keys.list_keys(admin)) == 1


def test_a_key_and_its_opening_balance_are_one_transaction(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise ledger.AccountError("the books are closed")

    monkeypatch.setattr(ledger, "deposit", fail)
    with pytest.raises(Refused, match="the books are closed"):
        keys.create_key(admin, keys.KeyInput(name="k", balance="5"))
    assert keys.list_keys(admin) == []
    with admin.database.read() as connection:
        assert [row.code for row in ledger.balances(connection) if row.kind == "customer"] == []


def test_deposits_add_up_and_the_books_hold(admin: Admin) -> None:
    keys.create_key(admin, keys.KeyInput(name="k", balance="0.1"))
    for _ in range(3):
        view = keys.deposit(admin, "k", "0.000000001", "drip")
    assert view.available_nano == 100_000_003
    with admin.database.read() as connection:
        assert ledger.check(connection).ok


def test_no_deposit_takes_the_books_beyond_what_they_can_count(admin: Admin) -> None:
    keys.create_key(admin, keys.KeyInput(name="k", balance="1000000000"))
    for _ in range(3):
        keys.deposit(admin, "k", "1000000000", "typed too often")
    with pytest.raises(Refused, match="largest possible balance"):
        keys.deposit(admin, "k", "1000000000", "once more")
    with pytest.raises(Refused, match="largest possible balance"):
        keys.create_key(admin, keys.KeyInput(name="other", balance="1000000000"))
    with pytest.raises(Refused, match="not possible"):
        keys.create_key(admin, keys.KeyInput(name="other", balance="2000000000"))
    assert [(view.row.name, view.posted_nano) for view in keys.list_keys(admin, limit=9)] == [("k", 4 * 10**18)]
    with admin.database.read() as connection:
        assert ledger.check(connection).problems == []


def test_pages_of_keys_go_on_behind_the_last_id(admin: Admin) -> None:
    for number in range(5):
        keys.create_key(admin, keys.KeyInput(name=f"k{number}"))
    first = keys.list_keys(admin, limit=2)
    second = keys.list_keys(admin, limit=2, after_id=first[-1].row.id)
    assert [view.row.name for view in (*first, *second)] == ["k0", "k1", "k2", "k3"]


def test_a_name_made_of_digits_is_found_where_no_id_is(admin: Admin) -> None:
    view, _ = keys.create_key(admin, keys.KeyInput(name="77"))
    assert keys.show_key(admin, "77") == view
    assert keys.show_key(admin, str(view.row.id)) == view
    with pytest.raises(Missing):
        keys.show_key(admin, "78")


def test_a_key_with_another_secret_keeps_all_else(admin: Admin) -> None:
    view, plaintext = keys.create_key(admin, keys.KeyInput(name="k", balance="5", scope="test"))
    rotated, new = keys.rotate_key(admin, "k")
    assert new.startswith("sk-test-")
    assert new != plaintext
    assert rotated == msgspec.structs.replace(
        view, row=msgspec.structs.replace(view.row, hint=apikey.hint(new), version=rotated.row.version)
    )
    with admin.database.read() as connection:
        assert key_rows.find_grant(connection, apikey.digest(plaintext)) is None
        grant = key_rows.find_grant(connection, apikey.digest(new))
        assert grant is not None
        assert grant.key_id == view.row.id
        last = audit.newest(connection, limit=1)[0]
    assert (last.action, new in str(last)) == ("key.rotate", False)


def test_a_revoked_key_takes_no_change(admin: Admin) -> None:
    view, plaintext = keys.create_key(admin, keys.KeyInput(name="k"))
    keys.revoke_key(admin, "k")
    changes: tuple[Callable[[], object], ...] = (
        lambda: keys.revoke_key(admin, "k"),
        lambda: keys.set_key_enabled(admin, "k", True),
        lambda: keys.edit_key(admin, "k", keys.KeyPatch(name="j")),
        lambda: keys.rotate_key(admin, "k"),
        lambda: keys.deposit(admin, "k", "5", "never to be spent"),
    )
    for change in changes:
        with pytest.raises(Refused, match="which is final"):
            change()
    with admin.database.read() as connection:
        grant = key_rows.find_grant(connection, apikey.digest(plaintext))
    assert grant is not None
    assert (grant.key_id, grant.enabled) == (view.row.id, False)
