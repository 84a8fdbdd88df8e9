"""Ids of entries: derived, distinct, side by side."""

from __future__ import annotations

import itertools

from elkapi.ids import new_id
from elkapi.ledger import transfers
from elkapi.ledger.accounts import SYSTEM_ACCOUNTS
from elkapi.storage import seeds

NOW = 1_800_000_000 * 10**9


def test_every_step_and_leg_of_a_request_has_its_own_id() -> None:
    request_id = new_id()
    ids = [
        *(transfers.hold_id(request_id, leg) for leg in range(transfers.LEGS_MAX)),
        *(transfers.resolution_id(request_id, leg) for leg in range(transfers.LEGS_MAX)),
        *(transfers.refund_id(request_id, name, leg) for name in ("a", "b") for leg in range(transfers.LEGS_MAX)),
        transfers.loss_id(request_id),
    ]
    assert len(set(ids)) == len(ids)
    low, high = transfers.entries_range(request_id)
    assert all(low <= entry <= high and entry[:16] == request_id for entry in ids)


def test_entries_of_two_requests_never_mix() -> None:
    first, second = new_id(NOW), new_id(NOW)
    assert transfers.entries_range(first)[1] < transfers.entries_range(second)[0]
    low, high = transfers.entries_range(first, transfers.HOLD_STEP)
    assert low <= transfers.hold_id(first, 15) <= high
    assert not low <= transfers.resolution_id(first, 0) <= high


def test_all_resolutions_of_a_hold_compete_for_one_id() -> None:
    request_id = new_id()
    made = [make(request_id, 2, 5, 1, 10, NOW).id for make in (transfers.post, transfers.void, transfers.expire)]
    assert set(made) == {transfers.resolution_id(request_id, 2)}
    assert transfers.leg_of(made[0]) == 2


def test_a_correction_moves_money_either_way_and_amounts_stay_positive() -> None:
    up = transfers.adjust(new_id(), 9, 1, 50, NOW, "")
    down = transfers.adjust(new_id(), 9, 1, -50, NOW, "")
    assert (up.debit_account, up.credit_account, up.nano) == (1, 9, 50)
    assert (down.debit_account, down.credit_account, down.nano) == (9, 1, 50)
    assert transfers.deposit(new_id(), 1, 9, 5, NOW, "").kind == "deposit"


def test_kinds_are_either_movements_or_reservations() -> None:
    assert {"deposit", "hold", "post", "void", "expire", "refund", "reverse", "loss", "adjust"} == transfers.KINDS
    assert {"post"} == transfers.MOVES & transfers.RESOLUTIONS


def test_the_seed_and_the_ledger_agree_on_the_houses_accounts() -> None:
    assert seeds.SYSTEM_ACCOUNTS.items() <= SYSTEM_ACCOUNTS.items()
    for one, other in itertools.combinations(SYSTEM_ACCOUNTS, 2):
        assert one != other
