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
        *(
            request_id + suffix
            for suffix in transfers.HOLD_SUFFIX + transfers.RESOLVE_SUFFIX + transfers.REVERSE_SUFFIX
        ),
        *(transfers.refund_id(request_id, name, leg) for name in ("a", "b") for leg in range(transfers.LEGS_MAX)),
        request_id + transfers.LOSS_SUFFIX,
        request_id + transfers.REVERSED_LOSS_SUFFIX,
    ]
    assert len(set(ids)) == len(ids)
    low, high = transfers.entries_range(request_id)
    assert all(low <= entry <= high and entry[:16] == request_id for entry in ids)


def test_entries_of_two_requests_never_mix() -> None:
    first, second = new_id(NOW), new_id(NOW)
    assert transfers.entries_range(first)[1] < transfers.entries_range(second)[0]
    low, high = transfers.entries_range(first, transfers.HOLD_STEP)
    assert low <= first + transfers.HOLD_SUFFIX[15] <= high
    assert not low <= first + transfers.RESOLVE_SUFFIX[0] <= high


def test_an_expiry_competes_for_the_id_of_every_resolution_of_its_hold() -> None:
    request_id = new_id()
    made = transfers.expire(request_id, 2, 5, 1, 10, NOW).id
    assert made == request_id + transfers.RESOLVE_SUFFIX[2]
    assert transfers.leg_of(made) == 2


def test_a_correction_moves_money_either_way_and_amounts_stay_positive() -> None:
    up = transfers.adjust(new_id(), 9, 1, 50, NOW, "")
    down = transfers.adjust(new_id(), 9, 1, -50, NOW, "")
    assert (up.debit_account, up.credit_account, up.nano) == (1, 9, 50)
    assert (down.debit_account, down.credit_account, down.nano) == (9, 1, 50)
    assert transfers.deposit(new_id(), 1, 9, 5, NOW, "").kind == "deposit"


def test_of_the_resolutions_only_a_post_moves_money() -> None:
    assert {"post"} == transfers.MOVES & transfers.RESOLUTIONS


def test_the_seed_and_the_ledger_agree_on_the_houses_accounts() -> None:
    assert seeds.SYSTEM_ACCOUNTS.items() <= SYSTEM_ACCOUNTS.items()
    for one, other in itertools.combinations(SYSTEM_ACCOUNTS, 2):
        assert one != other
