"""Frames between workers and the ledger process, cut anywhere."""

from __future__ import annotations

import pytest

from elkapi.ledger.orders import Beat, ClaimResult, Hold, Refusal, Settle, UsageRow
from elkapi.ledger.wire import (
    ANSWERS_DECODER,
    FRAME_BYTES_MAX,
    ORDERS_DECODER,
    Answers,
    FrameError,
    Frames,
    Orders,
    encode,
)
from elkapi.types import IdempotencyClaim

ORDERS = Orders(
    7,
    [
        Beat(b"o" * 16, "worker", 1, ended=True),
        Hold(b"r" * 16, 1, (2, 3), 10**15, "mödel", 4, b"o" * 16, IdempotencyClaim(1, "op", "key", b"f" * 32)),
        Settle(b"r" * 16, True, 5, 6, UsageRow(1, 2, "m", 200, 3, b"{}"), ClaimResult(1, "op", "key", "done", b"s")),
        Settle(b"r" * 16, True, 0, 0, None, None, True),
    ],
)
ANSWERS = Answers([7, 8, 9], {8: Refusal("quota", "no"), 9: Refusal("replay", sealed=b"s")})


def test_frames_survive_being_cut_at_every_byte() -> None:
    data = encode(ORDERS) + encode(ORDERS)
    for cut in range(len(data) + 1):
        frames = Frames(ORDERS_DECODER)
        assert frames.feed(data[:cut]) + frames.feed(data[cut:]) == [ORDERS, ORDERS]
    single = Frames(ANSWERS_DECODER)
    found = [frame for byte in encode(ANSWERS) for frame in single.feed(bytes((byte,)))]
    assert found == [ANSWERS]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xff\xff\xff",
        (FRAME_BYTES_MAX + 1).to_bytes(4, "big"),
        b"\x00\x00\x00\x01\xc1",
        encode(ANSWERS),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_not_an_order_is_refused(garbage: bytes) -> None:
    with pytest.raises(FrameError):
        Frames(ORDERS_DECODER).feed(garbage)
