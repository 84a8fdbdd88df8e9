"""Decides which lines of which batches this worker runs, and when; `line` runs one.

One loop per worker: store results, poll for open batches, tidy up, take over the lines of dead workers, lease as many
lines as there are slots. It sleeps until something arrives; while nothing is open it polls once in `batch_look_s`.
Lines have their own slots, a few per worker and fewer per key, so that interactive calls never queue behind them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from traceback import format_exc

from sqlalchemy import Connection

from elkapi.clock import SetAhead, SetBack
from elkapi.errors import GatewayError, Unavailable
from elkapi.relay.batches import shape
from elkapi.relay.batches.line import Ended, Fate, Later, Render, carry_out, fate_of, resume
from elkapi.relay.batches.store import BatchStore
from elkapi.relay.plane import DataPlane
from elkapi.relay.relay import OWN_FAULT
from elkapi.storage.db import cancel_all
from elkapi.storage.repos import alerts, batch_lines, batches
from elkapi.storage.repos.batch_lines import EndedLine, LeasedLine, OpenBatch, PutBackLine, Uncharged
from elkapi.storage.repos.batches import BatchRow
from elkapi.storage.secrets import SealError
from elkapi.testing.crash import point

ACTIVE_S = 0.5
GOES_ON_S = 0.05
FAILED_S = 2.0
OPEN_MAX = 1000
# Rows changed per transaction while tidying up.
ROWS_AT_ONCE = 1000
# The time between two deletions of old results, in which whoever waits for SQLite's single writer gets its turn.
ARCHIVE_PAUSE_S = 0.1
STAGING_MAX_NS = 600 * 1_000_000_000
UNSURE_S = 1.0
WITHOUT_CHARGE = "batch_without_charge"

_Place = tuple[bytes, int]


class BatchRunner:
    """`start` it when the plane is open; `drain` before it closes."""

    def __init__(self, plane: DataPlane, render: Render) -> None:
        self._plane = plane
        self._store: BatchStore = plane.batches
        self._render = render
        self._running: dict[_Place, asyncio.Task[None]] = {}
        self._of_key: Counter[int] = Counter()
        self._paused_until_s: dict[int, float] = {}
        self._ended: list[tuple[LeasedLine, EndedLine | PutBackLine]] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._archive_at_s = 0.0
        # Where the next poll continues, if there are more open batches than one poll reads.
        self._after = b""
        self._set_back = SetBack(plane.clock)
        self._set_ahead = SetAhead(plane.clock)
        # Whether all lines that the table assigns to this worker are running here.
        self._all_begun = True
        self._draining = self._stopped = False
        self._loop_task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start; the first poll is immediate, since a predecessor may have left lines."""
        self._loop_task = asyncio.get_running_loop().create_task(self._run(), name="batches")

    async def drain(self, wait_s: float) -> None:
        """Start no further lines, and let running ones finish for this long; a successor resumes the others."""
        self._draining = True
        if self._loop_task is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._idle.wait()
        self._stopped = True
        if self._running:
            self._plane.cut_off()
        await cancel_all(task for task in (self._loop_task, *self._running.values()) if task is not None)
        self._loop_task = None

    async def _run(self) -> None:
        store, failures = self._store, 0
        while not self._stopped:
            store.arrived.clear()
            wait_s = FAILED_S
            try:
                busy = await self._round()
                failures = 0
                wait_s = ACTIVE_S if busy or self._running else self._plane.settings.batch_look_s
                if self._after and len(self._running) < self._plane.settings.batch_parallel_max:
                    wait_s = GOES_ON_S
            except Unavailable:
                failures += 1
            except Exception:
                failures += 1
                self._plane.log.write("batches_failed", "error", failures=failures, trace=format_exc())
            if failures:
                await asyncio.sleep(min(FAILED_S * failures, 30.0))
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await store.arrived.wait()

    async def _round(self) -> bool:
        """One poll; returns whether anything is open. Raises Unavailable, in which case nothing is lost."""
        await self._keep_ended()
        now_ns = self._plane.clock.now_ns()
        set_ahead = self._set_ahead.seen(now_ns)
        if self._set_back.seen():
            await self._store.write(lambda c: batch_lines.wait_no_longer(c, now_ns))
            self._set_back.taken()
        after = self._after
        found, self._after = await self._plane.reader.run(
            lambda c: batch_lines.open_batches(c, OPEN_MAX, now_ns, after)
        )
        for one in found:
            await self._tidy(one.batch, now_ns, may_expire=not set_ahead)
        if not set_ahead:
            await self._archive(now_ns)
        if found and not self._draining:
            if not self._all_begun:
                await self._begin_unanswered()
            await self._take_over()
            await self._lease(found, now_ns)
        return bool(found or after)

    # Running lines

    async def _lease(self, found: list[OpenBatch], now_ns: int) -> None:
        """Fill the free slots: keys with the fewest lines first, a key's oldest batch first."""
        now_s, places = self._plane.clock.monotonic_s(), self._plane.settings.batch_parallel_max
        self._paused_until_s = {key: until_s for key, until_s in self._paused_until_s.items() if until_s > now_s}
        ready = [one for one in found if one.ready and one.batch.status == "in_progress"]
        for one in sorted(ready, key=lambda one: (self._of_key[one.batch.key_id], one.batch.id)):
            key_id = one.batch.key_id
            free = min(places - len(self._running), self._places_of(one.key_digest) - self._of_key[key_id])
            if free <= 0 or key_id in self._paused_until_s:
                continue
            id_, worker = one.batch.id, self._store.worker
            await self._begin_of(lambda c: batch_lines.lease(c, id_, worker, free, now_ns))  # noqa: B023

    def _places_of(self, key_digest: bytes) -> int:
        """How many lines of a key may run here: at most half of the key's limit of concurrent calls."""
        places = self._plane.settings.batch_key_parallel_max
        grant = self._plane.key_cache.get(key_digest)
        if grant is None:
            return min(places, 1)  # Its first line loads the policy.
        limit = self._plane.snapshots.current.policy_for(grant).parallel_max
        return min(places, max(1, limit // 2)) if limit else places

    async def _take_over(self) -> None:
        """Take over lines of workers that are gone, without slots: they are looked up, not sent."""
        worker = self._store.worker
        if await self._plane.reader.run(lambda c: batch_lines.is_any_left(c, worker)):
            await self._begin_of(lambda c: batch_lines.take_over(c, worker, ROWS_AT_ONCE))

    async def _begin_of(self, take: Callable[[Connection], list[LeasedLine]]) -> None:
        # If the answer to the commit is lost they may be this worker's nevertheless, and then nobody else can lease
        # them.
        self._all_begun = False
        taken = await self._store.write(take)
        self._all_begun = True
        self._begin(taken)

    async def _begin_unanswered(self) -> None:
        """Start lines that this worker leased without getting the confirmation."""
        worker = self._store.worker
        mine = await self._plane.reader.run(lambda c: batch_lines.own(c, worker))
        self._all_begun = True
        self._begin([line for line in mine if (line.batch_id, line.number) not in self._running])

    def _begin(self, lines: list[LeasedLine]) -> None:
        for line in lines:
            place = (line.batch_id, line.number)
            self._of_key[line.key_id] += 1
            self._running[place] = asyncio.create_task(self._work(line))
        if lines:
            self._idle.clear()
            point("batches.lease.after")

    async def _work(self, line: LeasedLine) -> None:
        fate, tries, faulty = None, 0, False
        resumed = line.resumed
        while fate is None:
            tries += 1
            try:
                fate = await (resume(self._plane, line, self._render) if resumed else self._carried_out(line))
            except Unavailable:
                pass  # Looked up again below.
            except Exception:
                self._plane.log.write("unexpected", "error", line=line.number, trace=format_exc())
                faulty = True
                if resumed and tries > 1:
                    fate = self._own_fault()
            if fate is None:
                # The ledger knows the result better than this task.
                resumed = True
                await asyncio.sleep(UNSURE_S)
        if faulty and isinstance(fate, Later):
            # Never held, or released: a retry may well fail the same way, for as long as its batch may run.
            retry_s = self._plane.settings.batch_retry_s
            fate = fate_of(GatewayError(OWN_FAULT), line, retry_s, self._render, None, may_repeat=True)
        self._ended.append((line, self._written(line, fate)))
        self._store.look()

    async def _carried_out(self, line: LeasedLine) -> Fate:
        try:
            context = batches.request_context(line.batch_id, line.number)
            params = self._store.sealer.open(line.request_sealed, context)
        except SealError:
            self._plane.log.write("batch_line_sealed_shut", "error", batch=shape.batch_id_text(line.batch_id))
            return self._own_fault()
        return await carry_out(self._plane, line, params, self._render)

    def _own_fault(self) -> Ended:
        return Ended("errored", shape.errored(self._render(GatewayError(OWN_FAULT), bytes(16))), None)

    def _written(self, line: LeasedLine, fate: Ended | Later) -> EndedLine | PutBackLine:
        if isinstance(fate, Ended):
            context = batches.result_context(line.batch_id, line.number)
            sealed = self._store.sealer.seal(fate.result, context)
            return EndedLine(line.batch_id, line.number, fate.state, sealed, fate.call_id)
        clock = self._plane.clock
        if fate.pauses_key:
            self._paused_until_s[line.key_id] = clock.monotonic_s() + fate.after_s
        asyncio.get_running_loop().call_later(fate.after_s, self._store.look)
        tries = line.tries + fate.counts
        return PutBackLine(line.batch_id, line.number, tries, clock.now_ns() + round(fate.after_s * 1e9))

    async def _keep_ended(self) -> None:
        """Store the results of lines; their slots are free once that is on disk."""
        ended = list(self._ended)
        if not ended:
            return
        worker, now_ns = self._store.worker, self._plane.clock.now_ns()
        results = [result for _, result in ended if isinstance(result, EndedLine)]
        waiting = [result for _, result in ended if isinstance(result, PutBackLine)]
        point("batches.end.before")
        await self._store.write(lambda c: batch_lines.end_lines(c, results, worker, now_ns))
        if waiting:
            await self._store.write(lambda c: batch_lines.put_back(c, waiting, worker))
        del self._ended[: len(ended)]
        for line, _ in ended:
            self._running.pop((line.batch_id, line.number), None)
            self._of_key[line.key_id] -= 1
            if not self._of_key[line.key_id]:
                del self._of_key[line.key_id]
        if not self._running:
            self._idle.set()

    # Batches as a whole

    async def _tidy(self, batch: BatchRow, now_ns: int, *, may_expire: bool) -> None:
        """Batch maintenance besides running lines, a piece at a time."""
        id_, write = batch.id, self._store.write
        if batch.status == "ended":
            await self._check(batch)
        elif batch.status == "deleted" or (batch.status == "staging" and batch.created_ns + STAGING_MAX_NS < now_ns):
            await write(lambda c: batches.give_up(c, id_))
            while await write(lambda c: batch_lines.remove(c, id_, ROWS_AT_ONCE)):
                pass
        elif batch.status == "canceling" or (
            batch.status == "in_progress" and batch.expires_ns <= now_ns and may_expire
        ):
            state = "canceled" if batch.status == "canceling" else "expired"
            while await write(lambda c: batch_lines.end_unbegun(c, id_, state, ROWS_AT_ONCE, now_ns)):
                self._store.look()

    async def _check(self, batch: BatchRow) -> None:
        """Guarantee 30: a line that was answered and held for has a charge, or the operator is alerted."""
        missing, last = Uncharged(), -1
        while True:
            start = last
            piece, end = await self._plane.reader.run(
                lambda c: batch_lines.find_uncharged(c, batch.id, start, ROWS_AT_ONCE)  # noqa: B023
            )
            missing.lines += piece.lines
            missing.first_request_id = missing.first_request_id or piece.first_request_id
            if end is None:
                break
            last = end
        if missing.lines:
            await self._alert(batch, missing)
        await self._store.write(lambda c: batch_lines.close_batch(c, batch.id))

    async def _alert(self, batch: BatchRow, missing: Uncharged) -> None:
        name, now_ns = shape.batch_id_text(batch.id), self._plane.clock.now_ns()
        request = missing.first_request_id.hex() if missing.first_request_id else None
        detail: dict[str, object] = {"uncharged": missing.lines, "succeeded": batch.succeeded, "first_request": request}
        is_new = await self._store.write(
            lambda c: alerts.raise_alert(c, kind=WITHOUT_CHARGE, subject=f"batch:{name}", detail=detail, now_ns=now_ns)
        )
        if is_new:
            self._plane.metrics.alerts[WITHOUT_CHARGE] += 1
            self._plane.log.write(WITHOUT_CHARGE, "error", batch=name, **detail)

    async def _archive(self, now_ns: int) -> None:
        """Delete expired results, a piece in each round while there are any; otherwise look once in a while."""
        now_s = self._plane.clock.monotonic_s()
        if now_s < self._archive_at_s:
            return
        before_ns = now_ns - round(self._plane.settings.batch_keep_s * 1e9)
        if not await self._plane.reader.run(lambda c: batch_lines.is_any_kept_since(c, before_ns)):
            self._archive_at_s = now_s + self._plane.settings.batch_look_s
            return
        await self._store.write(lambda c: batch_lines.archive(c, before_ns, ROWS_AT_ONCE, now_ns))
        asyncio.get_running_loop().call_later(ARCHIVE_PAUSE_S, self._store.look)
