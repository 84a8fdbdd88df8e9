"""Callers that never stop: a seeded mix of models, sizes, upstream faults, idempotency keys and early departures.

What each caller saw is kept and held against the books afterwards: an acknowledged charge must be in the ledger, an
idempotency key must have been answered afresh at most once, and nobody may have waited for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, defaultdict

import aiohttp

from tests.cluster import BUNDLED, PER_CALL, PER_CALL_WORDS, PER_TOKEN, PER_TOKEN_DEAR, Answer, Client, words

THINK_S = 0.03
REPEATS_MAX = 3
LEAVE_SHARE = 0.03
IDEMPOTENT_SHARE = 0.15

# What an upstream does wrong, and how often in relation to each other. With times=1 only the first attempt meets it.
FAULTS: tuple[tuple[int, str], ...] = (
    (90, ""),
    (5, "delay=60ms"),
    (4, "delay=400ms"),
    (4, "status=500, times=1"),
    (3, "status=503, times=1"),
    (3, "status=429, retry-after=100ms, times=1"),
    (4, "cut-after=1, times=1"),
    (3, "cut-after=90b"),
    (2, "reset-after=1, times=1"),
    (2, "cut-mid-chunk=100, times=1"),
    (3, "invalid-json, times=1"),
    (2, "html"),
    (2, "garbage, times=1"),
    (2, "close-keepalive"),
    (1, "stall-after=1, times=1"),
)


class Load:
    """`callers` loops of calls until `stop`; the counters tell what became of them."""

    def __init__(
        self,
        client: Client,
        keys: list[str],
        seed: int,
        callers: int,
        *,
        faults: tuple[tuple[int, str], ...] = FAULTS,
        leave_share: float = LEAVE_SHARE,
        local_share: float = 0,
    ) -> None:
        self._client = client
        self._keys = keys
        self._random = random.Random(seed)
        self._callers = callers
        self._faults = faults
        self._leave_share = leave_share
        self._local_share = local_share
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._made = 0
        self.statuses: Counter[int] = Counter()
        self.codes: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()
        self.left = 0
        self.refused_while_up = 0
        self.supervisor_is_up = True
        # request id -> nano-dollars, as the answer's header said
        self.acknowledged: dict[bytes, int] = {}
        # every call that was answered with an error
        self.failed: set[bytes] = set()
        # idempotency key -> the calls that were answered afresh
        self.fresh: defaultdict[str, set[bytes]] = defaultdict(set)
        self.replayed = 0

    @property
    def successes(self) -> int:
        return self.statuses[200]

    def summary(self) -> str:
        """What became of the calls, in figures."""
        told = f"replayed {self.replayed}, left early {self.left}, acknowledged charges {len(self.acknowledged)}"
        return f"answers {dict(self.statuses)}, errors {dict(self.codes)}, broken {dict(self.broken)}, {told}"

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._caller()) for _ in range(self._callers)]

    async def stop(self) -> None:
        """No new calls; wait for those under way. Raises what a caller failed with."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    def raise_failures(self) -> None:
        """A caller that ended early found something wrong."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def _caller(self) -> None:
        while not self._stopping.is_set():
            await self._one_call()
            await asyncio.sleep(self._random.random() * 2 * THINK_S)

    async def _one_call(self) -> None:
        draw = self._random
        self._made += 1
        mark = str(self._made)
        key = draw.choice(self._keys)
        model, content = self._question(mark)
        if draw.random() < self._leave_share:
            await self._leave_early(key, model, content, draw.random() * 0.1)
            return
        if draw.random() < IDEMPOTENT_SHARE:
            await self._repeat_until_answered(key, model, content, f"idem-{draw.getrandbits(64):x}")
            return
        await self._ask(key, model, content)

    def _question(self, mark: str) -> tuple[str, list[str]]:
        draw = self._random
        fault = draw.choices([text for _, text in self._faults], [weight for weight, _ in self._faults])[0]
        directive = f"[sandbox:{fault.replace(' ', '')}]" if fault else "plain"
        model = draw.choice((PER_TOKEN, PER_TOKEN_DEAR, PER_CALL))
        if draw.random() < self._local_share:
            model = BUNDLED
        count = PER_CALL_WORDS - 1 if model == PER_CALL else draw.randint(1, 60)
        return model, [words(count, mark), directive]

    async def _ask(self, key: str, model: str, content: list[str], **headers: str) -> Answer | None:
        """One call; None when the connection broke."""
        try:
            answer = await self._client.embed(key, model, content, **headers)
        except aiohttp.ClientError as error:
            self.broken[f"{type(error).__name__}: {error}"] += 1
            if isinstance(error, aiohttp.ClientConnectorError):
                # Nobody listens: that may only be while the supervisor itself is away.
                self.refused_while_up += self.supervisor_is_up
                await asyncio.sleep(0.05)
            return None
        self.statuses[answer.status] += 1
        if answer.status != 200:
            self.codes[answer.code] += 1
            self.failed.add(answer.request_id)
        elif "idempotent-replayed" in answer.headers:
            self.replayed += 1
        elif answer.cost_nano:
            # A free call's record is not waited for, so a kill may take it along.
            self.acknowledged[answer.request_id] = answer.cost_nano
        return answer

    async def _repeat_until_answered(self, key: str, model: str, content: list[str], name: str) -> None:
        """As a careful client does: the same call with the same key after a broken connection or a 5xx."""
        for _ in range(REPEATS_MAX):
            answer = await self._ask(key, model, content, **{"idempotency-key": name})
            if answer is not None and answer.status == 200:
                if "idempotent-replayed" not in answer.headers:
                    self.fresh[name].add(answer.request_id)
                if self._random.random() < 0.5:
                    return
            elif answer is not None and answer.status < 500:
                return

    async def _leave_early(self, key: str, model: str, content: list[str], after_s: float) -> None:
        self.left += 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(after_s):
                await self._ask(key, model, content)
