"""What a finished task comes to: the provider's word where it can be true, else a count of our own."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from elkapi.catalog import CATALOG
from elkapi.pricing.media import bound
from elkapi.storage.repos.tasks import TaskRow
from elkapi.tasks import ending
from elkapi.tasks.record import Asked, Task, Told
from elkapi.types import AttemptRecord, Price, State, TaskAsset, Variant

SUBMIT = next(one for one in CATALOG.operations if one.id == "seedance.submit")
NANO_PER_TOKEN = 1000


def film(**more: Any) -> TaskAsset:
    return TaskAsset(id=b"a" * 16, kind="video", content_type="video/mp4", size_bytes=1, **more)


FILM = film(duration_ms=5000, width=864, height=480)


def task() -> Task:
    """One of five seconds in 480p, priced by the token, its hold as it would be made."""
    body = {"duration": 5, "resolution": "480p"}
    assert SUBMIT.meter is not None
    upper, features = bound(SUBMIT.meter, body)
    price = Price(id=1, model="m", version=1, output_nano_per_1m=NANO_PER_TOKEN * 10**6)
    held = upper.output_tokens * NANO_PER_TOKEN
    asked = Asked(
        body=body,
        group="default",
        price=price,
        ratio_micro=10**6,
        held_nano=held,
        accounts=(1,),
        upper=upper,
        features=features,
    )
    return Task(cast(Any, None), asked, Told())


def cost(reply: object, *assets: TaskAsset) -> ending.Cost:
    return ending.cost_of(task(), SUBMIT, CATALOG.families["seedance"], reply, assets)


def test_what_the_provider_says_it_used_is_charged() -> None:
    said = cost({"usage": {"completion_tokens": 40_000}}, FILM)
    assert (said.charge_nano, said.loss_nano, said.flags) == (40_000 * NANO_PER_TOKEN, 0, ())


@pytest.mark.parametrize("tokens", [None, -1, True, 1.5, "40000", 10**12, 10**30, {}])
def test_g21_g48_tokens_that_cannot_be_are_counted_from_the_file_and_flagged(tokens: object) -> None:
    counted = cost({"usage": {"completion_tokens": tokens}}, FILM)
    assert counted == cost({}, FILM) == cost({"usage": 7}, FILM) == cost({"usage": None}, FILM)
    # A count of our own goes by the widest picture of that resolution; a file half as long costs half as much.
    assert 40_000 * NANO_PER_TOKEN < counted.charge_nano <= task().asked.held_nano
    half = cost({}, film(duration_ms=2500, width=864, height=480))
    assert half.charge_nano < 0.6 * counted.charge_nano
    assert (counted.loss_nano, counted.flags) == (0, ("usage_missing",))


def test_g38_without_a_file_to_measure_no_more_is_charged_than_was_held() -> None:
    counted = cost({}, film())
    assert (counted.charge_nano, counted.loss_nano) == (task().asked.held_nano, 0)


def test_g36_tokens_above_the_hold_are_the_operators_loss_and_flagged() -> None:
    held = task().asked.held_nano
    above = cost({"usage": {"completion_tokens": held // NANO_PER_TOKEN + 500}}, FILM)
    assert (above.charge_nano, above.loss_nano, above.flags) == (held, 500 * NANO_PER_TOKEN, ("above_hold",))


def test_a_file_of_a_lower_resolution_than_asked_is_paid_by_the_rates_of_what_it_is() -> None:
    asked = task().asked
    small = Variant(when={"resolution": ("480p",)}, output_nano_per_1m=10**6)
    asked = msgspec.structs.replace(
        asked,
        price=msgspec.structs.replace(asked.price, variants=(small,)),
        features={**asked.features, "resolution": "720p"},
    )
    large = Task(cast(Any, None), asked, Told())
    said = {"usage": {"completion_tokens": 40_000}}
    assert ending.cost_of(large, SUBMIT, CATALOG.families["seedance"], said, (FILM,)).charge_nano == 40_000
    # Where the answer is all there is, what was asked for is paid, by its own rates.
    at_once = ending.cost_at_once(large)
    assert (at_once.charge_nano, at_once.loss_nano, at_once.features) == (asked.held_nano, 0, asked.features)
    as_small = msgspec.structs.replace(large, asked=msgspec.structs.replace(asked, features={"resolution": "480p"}))
    assert ending.cost_at_once(as_small).charge_nano == asked.upper.output_tokens


@pytest.mark.parametrize(("told", "charged"), [("480p", 2), ("720P", 1), ("4k", 1), (None, 1), (7, 1), ("adaptive", 1)])
def test_a_square_file_is_paid_by_the_resolution_that_its_provider_says_it_has(told: object, charged: int) -> None:
    """960 x 960 is 720p with a ratio of 1:1, and by its sides 1080p."""
    asked = task().asked
    small = Variant(when={"resolution": ("480p",)}, output_nano_per_1m=2 * 10**6)
    plain = Variant(when={"resolution": ("720p", "1080p")}, output_nano_per_1m=10**6)
    asked = msgspec.structs.replace(
        asked,
        price=msgspec.structs.replace(asked.price, variants=(small, plain)),
        features={**asked.features, "resolution": "720p"},
    )
    square = film(duration_ms=5000, width=960, height=960)
    said = {"usage": {"completion_tokens": 40_000}, "resolution": told}
    made = Task(cast(Any, None), asked, Told())
    assert ending.cost_of(made, SUBMIT, CATALOG.families["seedance"], said, (square,)).charge_nano == charged * 40_000


def test_tokens_of_a_video_that_a_task_refers_to_are_charged_at_their_own_price() -> None:
    body: dict[str, Any] = {"model": "doubao-seedance-2-0-260128", "duration": 5, "resolution": "720p"}
    body["content"] = [{"type": "video_url", "video_url": {"url": "https://a.test/b.mp4"}, "role": "reference_video"}]
    assert SUBMIT.meter is not None
    upper, features = bound(SUBMIT.meter, body)
    rate = Variant(when={"video_input": ("true",)}, output_nano_per_1m=600)
    price = msgspec.structs.replace(task().asked.price, variants=(rate,))
    held = upper.output_tokens * 600 // 10**6
    asked = msgspec.structs.replace(
        task().asked, body=body, price=price, upper=upper, features=features, held_nano=held
    )
    # Twelve seconds of the caller's, five of the result: 1280 x 720 x 17 x 24 / 1024.
    said = {"usage": {"completion_tokens": 367_200}, "resolution": "720p"}
    made = ending.cost_of(Task(cast(Any, None), asked, Told()), SUBMIT, CATALOG.families["seedance"], said, (FILM,))
    assert (made.usage.output_tokens, made.loss_nano, made.flags) == (367_200, 0, ())
    assert made.charge_nano == 367_200 * 600 // 10**6


def test_g30_only_what_has_a_price_comes_to_nothing_unexpectedly() -> None:
    none, some = cost({"usage": {"completion_tokens": 0}}, FILM), cost({"usage": {"completion_tokens": 9}}, FILM)
    free = msgspec.structs.replace(none, price=msgspec.structs.replace(none.price, output_nano_per_1m=0))
    assert [ending.came_to_nothing(task(), one) for one in (none, some, free)] == [True, False, False]
    unheld = msgspec.structs.replace(task(), asked=msgspec.structs.replace(task().asked, held_nano=0))
    assert not ending.came_to_nothing(unheld, none)


def running(**more: Any) -> Task:
    """That task as it stands in its row."""
    fields: dict[str, Any] = dict.fromkeys(TaskRow.__struct_fields__)
    fields |= {"id": b"i" * 16, "key_id": 1, "owner_id": 1, "model": "m", "state": "running", "version": 3}
    row = TaskRow(**fields | {"created_ns": 5, "progress": 40} | more)
    return msgspec.structs.replace(task(), row=row)


def test_an_end_says_who_made_it_for_how_long_and_what_was_told_of_it() -> None:
    tries = tuple(
        AttemptRecord(number, f"c{number}", 11, "plan", "ok", "complete", upstream_request_id=f"r{number}")
        for number in (1, 2, 3)
    )
    asked = msgspec.structs.replace(task().asked, asked_model="alias")
    told = Told(attempts=tries, cancel_asked=True)
    made = msgspec.structs.replace(running(channel_id=3), asked=asked, told=told)
    paid = cost({"usage": {"completion_tokens": 9}}, FILM)
    done = ending.succeeded(made, b'{"a":1}', (FILM,), ("v",), paid, 2_000_005)
    assert (done.version, done.state, done.progress, done.error_code) == (3, State.SUCCEEDED, 100, None)
    assert (done.finished_ns, done.refs) == (2_000_005, ("v",))
    assert done.told is not None
    assert msgspec.json.decode(done.told, type=Told) == msgspec.structs.replace(
        told, reply=msgspec.Raw(b'{"a":1}'), polled=True, assets=(FILM,), charged_nano=paid.charge_nano
    )
    assert done.settlement is not None
    record = done.settlement.record
    assert (record.status, record.outcome, record.error_code, record.duration_ms) == (200, "ok", None, 2.0)
    assert (record.channel_id, record.channel_name, record.upstream_request_id) == (3, "c3", "r3")
    assert (record.attempts, record.asked, record.features) == (tries, "alias", paid.features)
    # Of a clock that was set back, and of a failure nobody was asked about.
    failed = ending.ended(running(created_ns=9), State.FAILED, "not_begun", "no", b"", 5, said="theirs")
    assert (failed.progress, failed.error_code) == (40, "not_begun")
    assert failed.told is not None
    assert msgspec.json.decode(failed.told, type=Told) == Told(error="no", said="theirs")
    assert failed.settlement is not None
    record = failed.settlement.record
    assert (record.error_code, record.duration_ms, record.channel_name, record.asked) == ("not_begun", 0.0, None, None)
    answered = ending.ended(running(), State.FAILED, "failed", "no", b"{}", 5)
    assert answered.told is not None
    assert msgspec.json.decode(answered.told, type=Told) == Told(reply=msgspec.Raw(b"{}"), error="no", polled=True)


def test_what_a_provider_billed_for_a_result_that_is_lost_is_a_loss_above_its_hold_too() -> None:
    open_one = running()
    billed = cost({"usage": {"completion_tokens": task().asked.held_nano // NANO_PER_TOKEN + 500}}, FILM)
    done = ending.ended(open_one, State.FAILED, "result_lost", "It is gone.", b"", 9, loss=billed)
    assert done.settlement is not None
    record = done.settlement.record
    assert (record.charge_nano, record.loss_nano) == (0, billed.charge_nano + 500 * NANO_PER_TOKEN)
    assert (record.usage, record.hold_nano) == (billed.usage, task().asked.held_nano)
    free = ending.ended(open_one, State.FAILED, "failed", "no", b"", 9).settlement
    assert free is not None
    assert (free.record.charge_nano, free.record.loss_nano) == (0, 0)
