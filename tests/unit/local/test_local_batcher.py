"""The queue's rules on a clock of our own: bounds, sharing, padding, fairness, leaving, and a random run of all."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from elkapi.local.batcher import Batch, Batcher, Limits, QueueFull, Ticket

LIMITS = Limits()


def ticket(*lengths: int) -> Ticket:
    return Ticket([[7] * length for length in lengths])


def drain(batcher: Batcher, now_s: float = 0.0) -> list[Batch]:
    """Runs everything, one batch at a time."""
    batches = []
    while batch := batcher.take(now_s):
        batches.append(batch)
        batcher.done(batch, 0.01)
    return batches


def test_one_text_on_an_idle_model_does_not_wait() -> None:
    batcher = Batcher(LIMITS, 2)
    batcher.add(ticket(12), 5.0)
    assert batcher.wait_s(5.0) == 0
    batch = batcher.take(5.0)
    assert batch is not None
    assert batch.tokens == 12
    assert batcher.take(5.0) is None
    assert batcher.wait_s(5.0) is None


def test_beside_a_running_batch_a_small_queue_waits_for_company_but_not_long() -> None:
    batcher = Batcher(LIMITS, 2)
    batcher.add(ticket(12), 1.0)
    assert batcher.take(1.0)
    batcher.add(ticket(12), 1.0)
    assert batcher.take(1.001) is None
    assert batcher.wait_s(1.001) == pytest.approx(0.001)
    batcher.add(ticket(12), 1.001)
    shared = batcher.take(1.0021)
    assert shared is not None
    assert len({id(item.ticket) for item in shared.items}) == 2


def test_a_batch_keeps_to_its_tokens_and_its_padding() -> None:
    batcher = Batcher(LIMITS, 2)
    batcher.add(ticket(*[length for length in range(3, 120) for _ in range(5)]), 0.0)
    for batch in drain(batcher):
        lengths = [len(item.ids) for item in batch.items]
        assert lengths == sorted(lengths, reverse=True)
        assert batch.tokens == len(lengths) * lengths[0] <= max(LIMITS.batch_tokens_max, lengths[0])
        assert batch.tokens - sum(lengths) <= LIMITS.padding_tokens_max


def test_padding_of_a_realistic_array_stays_below_five_percent() -> None:
    draw = random.Random(3)
    batcher = Batcher(LIMITS, 2)
    lengths = [draw.randint(11, 24) for _ in range(63)] + [draw.randint(35, 75) for _ in range(32)] + [256] * 5
    batcher.add(ticket(*lengths), 0.0)
    assert sum(batch.tokens for batch in drain(batcher)) <= 1.05 * sum(lengths)


def test_a_short_text_goes_next_when_a_bulk_request_is_under_way() -> None:
    batcher = Batcher(LIMITS, 1)
    bulk, single = ticket(*[200] * 2048), ticket(9)
    batcher.add(bulk, 0.0)
    for _ in range(10):
        batch = batcher.take(0.0)
        assert batch is not None
        batcher.done(batch, 0.07)
    batcher.add(single, 0.7)
    batch = batcher.take(0.7)
    assert batch is not None
    assert batcher.done(batch, 0.07) == [single]


def test_two_bulk_requests_share_the_model_evenly() -> None:
    batcher = Batcher(LIMITS, 1)
    first, second = ticket(*[200] * 500), ticket(*[100] * 1000)
    batcher.add(first, 0.0)
    batcher.add(second, 0.0)
    served: Counter[int] = Counter()
    for _ in range(100):
        batch = batcher.take(0.0)
        assert batch is not None
        for item in batch.items:
            served[id(item.ticket)] += len(item.ids)
        batcher.done(batch, 0.07)
    assert 0.4 < served[id(first)] / served.total() < 0.7


def test_a_stream_of_newcomers_does_not_hold_back_who_was_there_first() -> None:
    batcher = Batcher(LIMITS, 1)
    bulk = ticket(*[250] * 50)
    batcher.add(bulk, 0.0)
    for turn in range(2_000):
        batcher.add(ticket(30), float(turn))
        batcher.add(ticket(60), float(turn))
        batch = batcher.take(float(turn))
        assert batch is not None
        batcher.done(batch, 0.07)
        if not bulk.pending:
            return
    pytest.fail(f"{bulk.pending} texts of the first request still wait")


def test_the_queue_is_bounded_in_texts_and_in_tokens() -> None:
    batcher = Batcher(Limits(queue_items_max=10, queue_tokens_max=100), 1)
    batcher.add(ticket(*[5] * 9), 0.0)
    with pytest.raises(QueueFull) as full:
        batcher.add(ticket(1, 1), 0.0)
    assert full.value.retry_after_s >= 1
    with pytest.raises(QueueFull):
        batcher.add(ticket(56), 0.0)
    batcher.add(ticket(55), 0.0)
    assert (batcher.items_queued, batcher.tokens_queued) == (10, 100)


def test_an_empty_queue_takes_one_request_of_any_size() -> None:
    batcher = Batcher(Limits(queue_items_max=10, queue_tokens_max=100), 1)
    batcher.add(ticket(*[5] * 50), 0.0)
    assert batcher.items_queued == 50


def test_retry_after_grows_with_the_queue_and_is_capped() -> None:
    batcher = Batcher(LIMITS, 1)
    assert batcher.retry_after_s() == 1
    batcher.add(ticket(*[250] * 240), 0.0)
    assert batcher.retry_after_s() == 10
    batcher.add(ticket(*[250] * 2400), 0.0)
    assert batcher.retry_after_s() == LIMITS.retry_after_s_max


def test_a_cancelled_request_leaves_the_queue_and_is_not_answered() -> None:
    batcher = Batcher(LIMITS, 1)
    gone, stays = ticket(*[100] * 20), ticket(100)
    batcher.add(gone, 0.0)
    running = batcher.take(0.0)
    assert running is not None
    batcher.add(stays, 0.0)
    batcher.cancel(gone)
    assert (batcher.items_queued, batcher.tokens_queued) == (1, 100)
    assert batcher.done(running, 0.07) == []
    assert [item.ticket for batch in drain(batcher) for item in batch.items] == [stays]
    assert not batcher._by_length
    assert not batcher._oldest


def test_a_failed_batch_fails_its_requests_once_and_no_other() -> None:
    batcher = Batcher(LIMITS, 2)
    broken, other = ticket(*[250] * 6), ticket(40)
    batcher.add(broken, 0.0)
    first, second = batcher.take(0.0), batcher.take(0.0)
    assert first is not None
    assert second is not None
    batcher.add(other, 0.0)
    assert batcher.failed(first) == [broken]
    assert batcher.failed(second) == []
    assert [item.ticket for batch in drain(batcher, 1.0) for item in batch.items] == [other]


@pytest.mark.parametrize("seed", range(12))
def test_random_arrivals_lose_nothing_and_answer_everything_once(seed: int) -> None:
    draw = random.Random(seed)
    lanes = draw.choice([1, 2, 4])
    batcher = Batcher(Limits(queue_items_max=300, queue_tokens_max=20_000), lanes)
    now_s, refused = 0.0, 0
    running: list[Batch] = []
    open_tickets: list[Ticket] = []
    answered: list[Ticket] = []
    for _ in range(1_500):
        now_s += draw.expovariate(1000)
        action = draw.random()
        if action < 0.3:
            new = ticket(*[draw.randint(1, 256) for _ in range(draw.choice([1, 1, 1, 5, 80]))])
            try:
                batcher.add(new, now_s)
                open_tickets.append(new)
            except QueueFull:
                refused += 1
        elif action < 0.35 and open_tickets:
            batcher.cancel(open_tickets.pop(draw.randrange(len(open_tickets))))
        elif action < 0.7 and len(running) < lanes:
            if batch := batcher.take(now_s):
                assert not any(item.ticket.cancelled for item in batch.items)
                running.append(batch)
        elif running:
            batch = running.pop(draw.randrange(len(running)))
            ended = batcher.failed(batch) if draw.random() < 0.05 else batcher.done(batch, 0.01)
            answered += ended
            for one in ended:
                open_tickets.remove(one)
        waiting = [item for one in open_tickets for item in one.by_length if not item.taken]
        assert batcher.items_queued == len(waiting)
        assert batcher.tokens_queued == sum(len(item.ids) for item in waiting)
    for batch in running:
        answered += batcher.done(batch, 0.01)
    for batch in drain_and_collect(batcher, answered):
        assert batch.items
    assert batcher.items_queued == batcher.tokens_queued == 0
    assert all(one in answered for one in open_tickets)
    assert len({id(one) for one in answered}) == len(answered)
    assert batcher.wait_s(now_s) is None


def drain_and_collect(batcher: Batcher, answered: list[Ticket]) -> list[Batch]:
    batches = []
    while batch := batcher.take(1e9):
        batches.append(batch)
        answered += batcher.done(batch, 0.01)
    return batches
