"""Background responses: answered at once, polled, followed, left, cancelled and lost; each settled exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import text

from elkapi.relay import background_calls, hold, serve
from elkapi.relay.batches.runner import BatchRunner
from elkapi.relay.count import count_left
from elkapi.relay.keep import prepared
from elkapi.types import StoredObject
from elkapi.worker import drained, error_body
from tests.canned import canned
from tests.gateway import Gateway, gateway
from tests.scripted import MODEL, Played, Upstream, frames_of, scripted
from tests.text_calls import events
from tests.waiting import until

ANSWER = {
    "id": "resp_theirs",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "gpt-4o",
    "output": [
        {
            "type": "message",
            "id": "msg_theirs",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Done.", "annotations": []}],
        }
    ],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "store": False,
    "usage": {"input_tokens": 8, "output_tokens": 2, "total_tokens": 10},
}


class Stage:
    """A gateway before a scripted upstream of the responses dialect, and a key with ten dollars."""

    def __init__(self, gate: Gateway, upstream: Upstream, key: str) -> None:
        self.gate, self.upstream, self.key = gate, upstream, key
        self.headers = {"authorization": f"Bearer {key}"}

    async def create(self, **more: Any) -> Any:
        body = {"model": MODEL, "input": "Think long.", "background": True, "max_output_tokens": 100, **more}
        return await self.gate.ask(self.key, body, path="/v1/responses")

    async def get(self, response_id: str, query: str = "") -> Any:
        return await self.gate.http.get(f"/v1/responses/{response_id}{query}", headers=self.headers)

    async def until(self, response_id: str, *states: str) -> dict[str, Any]:
        while True:
            found: dict[str, Any] = (await self.get(response_id)).json()
            if found["status"] in states:
                return found
            await asyncio.sleep(0.01)

    async def call(self) -> Played:
        return await self.upstream.calls.get()

    async def spent(self) -> int:
        """What the key paid, once nothing is held any more and the ledger's check agrees."""
        while True:
            books = self.gate.books()
            if not books.open_holds and not len(self.gate.plane.background):
                break
            await asyncio.sleep(0.01)
        return 10 * 10**9 - books.customers_posted_nano


@contextlib.asynccontextmanager
async def staged(folder: Path, **settings: Any) -> AsyncIterator[Stage]:
    async with scripted() as upstream, gateway(folder, **settings) as gate:
        await gate.channel(upstream.url, (MODEL,))
        await gate.price(MODEL, per_1m_usd="1000", output_per_1m_usd="1000")
        yield Stage(gate, upstream, await gate.key("10"))


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as one:
        yield one


async def test_a_background_response_is_answered_at_once_and_polled_to_its_end(stage: Stage) -> None:
    made = (await stage.create(metadata={"job": "7"})).json()
    assert (made["status"], made["background"], made["output"], made["metadata"]) == ("queued", True, [], {"job": "7"})
    played = await stage.call()
    asked = msgspec.json.decode(played.body)
    assert asked["store"] is False
    assert "background" not in asked
    assert (await stage.get(made["id"])).json()["status"] == "in_progress"
    # The hold was there before the answer was.
    assert stage.gate.sql("select sum(held_nano) from accounts where kind = 'customer'")[0][0] > 0
    refused = await stage.gate.ask(
        stage.key, {"model": MODEL, "input": "and?", "previous_response_id": made["id"]}, path="/v1/responses"
    )
    assert refused.json()["error"]["code"] == "previous_response_not_completed"
    played.answer(ANSWER)
    found = await stage.until(made["id"], "completed")
    assert found["id"] == made["id"] != ANSWER["id"]
    assert (found["store"], found["background"], found["output"]) == (True, True, ANSWER["output"])
    assert await stage.spent() == 10 * 10**6
    account = await stage.gate.account("req_" + made["id"].removeprefix("resp_"), stage.key)
    assert account["outcome"] == "ok"


async def test_a_followed_stream_goes_on_when_its_caller_left_and_is_resumed_after_any_event(stage: Stage) -> None:
    frames = frames_of("responses-text")
    seen = b""
    headers = {**stage.headers, "content-type": "application/json"}
    body = msgspec.json.encode(
        {"model": MODEL, "input": "Think long.", "background": True, "stream": True, "max_output_tokens": 100}
    )
    async with stage.gate.http.stream("POST", "/v1/responses", content=body, headers=headers) as live:
        played = await stage.call()
        played.begin()
        for frame in frames[:6]:
            played.play(frame)
        chunks = live.aiter_bytes()
        while seen.count(b"\n\n") < 6:
            seen += await anext(chunks)
    first = events(seen.decode())
    response_id = first[0]["response"]["id"]
    # The caller is gone; the rest comes.
    rest = asyncio.ensure_future(stage.get(response_id, f"?stream=true&starting_after={first[-1]['sequence_number']}"))
    for frame in frames[6:]:
        played.play(frame)
    played.end()
    later = events((await rest).text)
    numbers = [event["sequence_number"] for event in (*first, *later)]
    assert numbers == list(range(len(frames)))
    assert later[-1]["type"] == "response.completed"
    assert later[-1]["response"] == (await stage.get(response_id)).json()
    charged = await stage.spent()
    assert charged > 0
    # From the tables the same events come again, after any of them.
    again = events((await stage.get(response_id, "?stream=true")).text)
    assert again == [*first, *later]
    assert events((await stage.get(response_id, "?stream=true&starting_after=2")).text) == again[3:]
    assert await stage.spent() == charged


async def test_a_cancelled_response_costs_what_had_come_and_stays_cancelled(stage: Stage) -> None:
    made = (await stage.create()).json()
    played = await stage.call()
    cancelled = await stage.gate.http.post(f"/v1/responses/{made['id']}/cancel", headers=stage.headers)
    assert cancelled.json()["status"] == "cancelled"
    await played.given_up()
    assert await stage.spent() == 0
    again = await stage.gate.http.post(f"/v1/responses/{made['id']}/cancel", headers=stage.headers)
    assert (again.status_code, again.json()["status"]) == (200, "cancelled")
    told = events((await stage.get(made["id"], "?stream=true")).text)
    assert (told[-1]["type"], told[-1]["code"]) == ("error", "response_cancelled")


async def test_one_cancelled_through_another_worker_is_ended_here(stage: Stage) -> None:
    made = (await stage.create()).json()
    played = await stage.call()
    # What another worker writes.
    with stage.gate.database.write() as connection:
        connection.execute(text("update stored_objects set status = 'cancelled'"))
    await played.given_up()
    assert await stage.spent() == 0
    assert (await stage.get(made["id"])).json()["status"] == "cancelled"


async def test_a_cancelled_stream_is_settled_although_it_is_seen_unwanted_while_it_is_counted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting, go_on, looks = asyncio.Event(), asyncio.Event(), list[object]()
    still_wanted = stage.gate.plane.stored.still_wanted

    async def counted(*what: Any) -> Any:
        counting.set()
        await go_on.wait()
        return await count_left(*what)

    async def looked(ids: list[bytes]) -> Any:
        looks.append(wanted := await still_wanted(ids))
        return wanted

    monkeypatch.setattr(hold, "count_left", counted)
    monkeypatch.setattr(background_calls, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(stage.gate.plane.stored, "still_wanted", looked)
    creating = asyncio.ensure_future(stage.create(stream=True))
    played = await stage.call()
    played.begin()
    for frame in frames_of("responses-text")[:6]:
        played.play(frame)
    ((object_id,),) = await until(lambda: stage.gate.sql("select id from stored_objects"))
    running = stage.gate.plane.background.find(object_id)
    assert running is not None
    await until(lambda: len(running.log.frames) == 6)
    await stage.gate.http.post(f"/v1/responses/resp_{object_id.hex()}/cancel", headers=stage.headers)
    await counting.wait()
    seen = len(looks)
    await until(lambda: len(looks) > seen + 2 or not len(stage.gate.plane.background))
    go_on.set()
    await creating
    await until(lambda: not len(stage.gate.plane.background))
    assert stage.gate.closed_books().customers_posted_nano < 10 * 10**9


async def test_a_response_whose_caller_left_as_it_was_admitted_is_made_for_nobody(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = stage.gate.plane.ledger.keep

    async def leaves(row: StoredObject, **how: Any) -> None:
        await keep(row, **how)
        for connection in stage.gate.server.connections:
            connection.transport.abort()  # Heard of before who waits for the admission wakes up to it.

    monkeypatch.setattr(stage.gate.plane.ledger, "keep", leaves)
    with pytest.raises(httpx.HTTPError):
        await stage.create()
    await until(lambda: not len(stage.gate.plane.background))
    assert stage.gate.sql("select status from stored_objects") == [("failed",)]
    assert await stage.spent() == 0


async def test_an_answer_larger_than_is_kept_tells_who_follows_it_that_it_failed(tmp_path: Path) -> None:
    faults = list[Any]()
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    frames = frames_of("responses-text")
    async with staged(tmp_path, stored_bytes_max=4000) as stage:
        creating = asyncio.ensure_future(stage.create(stream=True))
        played = await stage.call()
        played.begin()
        for frame in frames[:6]:
            played.play(frame)
        ((object_id,),) = await until(lambda: stage.gate.sql("select id from stored_objects"))
        running = stage.gate.plane.background.find(object_id)
        assert running is not None
        await until(lambda: len(running.log.frames) == 6)
        for _ in range(50):
            played.play(frames[4])
        told = events((await creating).text)
        assert told[-1]["type"] == "response.failed"
        assert "too large for a background response" in told[-1]["response"]["error"]["message"]
        assert await stage.spent() == 0
        assert events((await stage.get(told[-1]["response"]["id"], "?stream=true")).text) == told
    gc.collect()
    assert not faults


@pytest.mark.parametrize("stream", [False, True])
async def test_g49_a_response_that_is_too_large_to_be_kept_failed_and_is_free(tmp_path: Path, stream: bool) -> None:
    """Who polls it has nothing of it; what it had cost is our own loss."""
    async with staged(tmp_path, stored_bytes_max=8000) as stage:
        asking = asyncio.ensure_future(stage.create(input="x" * 5000, stream=stream))
        played, long = await stage.call(), b"y" * 6000
        if stream:
            *frames, last = frames_of("responses-text")
            played.begin()
            for frame in [*frames, last.replace(b"Hello", long)]:
                played.play(frame)
            played.end()
        else:
            played.answer(msgspec.Raw(msgspec.json.encode(ANSWER).replace(b"Done.", long)))
        made = await asking
        told = events(made.text)[-1]["response"] if stream else made.json()
        found = await stage.until(told["id"], "failed", "completed")
        assert (found["status"], found["error"]["code"]) == ("failed", "server_error")
        assert "too large" in found["error"]["message"]
        assert not stream or told == found
        assert await stage.spent() == 0
        account = await stage.gate.account(told["id"].replace("resp_", "req_"), stage.key)
        assert (account["cost_usd"], account["outcome"]) == ("0.00", "upstream_error")
        ((loss_nano,),) = stage.gate.sql("select loss_nano from requests")
        assert loss_nano > 0


async def test_the_last_event_of_an_answer_that_is_kept_is_told_however_much_came_before_it(stage: Stage) -> None:
    """It repeats the whole answer, and is settled and kept by the time that it is told."""
    *frames, last = frames_of("responses-text")
    creating = asyncio.ensure_future(stage.create(stream=True))
    played = await stage.call()
    played.begin()
    for frame in frames:
        played.play(frame)
    ((object_id,),) = await until(lambda: stage.gate.sql("select id from stored_objects"))
    running = stage.gate.plane.background.find(object_id)
    assert running is not None
    await until(lambda: len(running.log.frames) == len(frames))
    running.log._left_bytes = 0
    played.play(last)
    played.end()
    assert events((await creating).text)[-1]["type"] == "response.completed"
    assert await stage.spent() > 0
    assert stage.gate.sql("select status from stored_objects") == [("completed",)]


async def test_a_response_ends_in_the_tables_after_the_frames_before_its_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large piece is sealed on a thread; who follows through another worker would be told the rest without it."""
    sealer = stage.gate.installation.sealer
    ledger, sealing, go_on = stage.gate.plane.ledger, asyncio.Event(), asyncio.Event()

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(sealer, name)

        async def seal_beside(self, plain: bytes, context: bytes) -> bytes:
            if context.startswith(b"stored_events") and not sealing.is_set():
                sealing.set()
                await go_on.wait()
            return await sealer.seal_beside(plain, context)

    monkeypatch.setattr(ledger, "_sealer", Slow())
    monkeypatch.setattr(background_calls, "LOOK_EVERY_S", 0.01)
    frames = frames_of("responses-text")
    creating = asyncio.ensure_future(stage.create(stream=True))
    played = await stage.call()
    played.begin()
    for frame in frames[:6]:
        played.play(frame)
    await sealing.wait()
    for frame in frames[6:]:
        played.play(frame)
    played.end()
    await asyncio.sleep(0.1)
    before = stage.gate.sql("select status from stored_objects"), stage.gate.sql("select first from stored_events")
    assert before == ([("in_progress",)], [])
    go_on.set()
    told = events((await creating).text)
    assert told[-1]["type"] == "response.completed"
    again = await stage.get(told[-1]["response"]["id"], "?stream=true")
    assert events(again.text) == told
    assert await stage.spent() > 0


async def test_a_deleted_response_is_ended_and_gone(stage: Stage) -> None:
    made = (await stage.create()).json()
    played = await stage.call()
    deleted = await stage.gate.http.delete(f"/v1/responses/{made['id']}", headers=stage.headers)
    assert deleted.json() == {"id": made["id"], "object": "response", "deleted": True}
    await played.given_up()
    assert await stage.spent() == 0
    assert (await stage.get(made["id"])).status_code == 404


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failed_response_says_so_and_is_free(stage: Stage, stream: bool) -> None:
    asking = asyncio.ensure_future(stage.create(stream=stream))
    (await stage.call()).break_off()
    made = await asking
    told = events(made.text)[-1]["response"] if stream else made.json()
    found = await stage.until(told["id"], "failed")
    assert (found["error"]["code"], found["output"]) == ("server_error", [])
    again = events((await stage.get(told["id"], "?stream=true")).text)
    # The SDK's helper takes no stream that does not begin with `response.created`.
    whole = [("response.created", 0), ("response.in_progress", 1), ("response.failed", 2)]
    assert [(event["type"], event["sequence_number"]) for event in again] == whole
    assert not stream or events(made.text) == again
    assert await stage.spent() == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "code"), [(400, "invalid_prompt"), (429, "rate_limit_exceeded"), (500, "server_error")]
)
async def test_why_a_response_failed_is_told_in_the_codes_that_clients_know(
    tmp_path: Path, status: int, code: str, stream: bool
) -> None:
    """Who polls must know whether to try again."""
    async with canned(status, {"error": {"message": "no", "type": "x"}}) as upstream, gateway(tmp_path) as gate:
        await gate.channel(upstream.url, (MODEL,))
        await gate.price(MODEL)
        stage = Stage(gate, Upstream(), await gate.key())
        made = await stage.create(stream=stream)
        told = events(made.text)[-1]["response"] if stream else made.json()
        found = await stage.until(told["id"], "failed")
        assert found["error"]["code"] == code
        assert not stream or told == found
        again = events((await stage.get(told["id"], "?stream=true")).text)
        assert again[-1]["response"] == found


async def test_how_a_background_is_to_be_run_is_the_gateways_own_affair(stage: Stage) -> None:
    """Upstream the work is done in the foreground, which knows no such options, and costs its full price."""
    made = (await stage.create(background_options={"completion_window": "soonest", "continuation_id": "a"})).json()
    played = await stage.call()
    assert b"background" not in played.body
    played.answer(ANSWER)
    await stage.until(made["id"], "completed")
    refused = await stage.create(background_options={"completion_window": "8h"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "background_options")


async def test_what_cannot_be_paid_or_kept_is_refused_before_it_begins(stage: Stage) -> None:
    poor = await stage.gate.key("0")
    body = {"model": MODEL, "input": "hi", "background": True}
    refused = await stage.gate.ask(poor, body, path="/v1/responses")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_user_quota")
    refused = await stage.create(store=False)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "background")
    assert stage.gate.sql("select count(*) from stored_objects")[0][0] == 0
    assert not len(stage.gate.plane.background)


async def test_a_worker_makes_so_many_of_a_key_at_a_time(tmp_path: Path) -> None:
    async with staged(tmp_path, background_calls_per_key_max=1) as stage:
        made = (await stage.create()).json()
        refused = await stage.create()
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        other = await stage.gate.key("10")
        taken = await stage.gate.ask(other, {"model": MODEL, "input": "x", "background": True}, path="/v1/responses")
        assert taken.status_code == 200
        (await stage.call()).answer(ANSWER)
        (await stage.call()).answer(ANSWER)
        await stage.until(made["id"], "completed")


async def test_a_stopping_worker_ends_what_runs_as_failed(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        made = (await stage.create()).json()
        await stage.call()
        await stage.gate.plane.background.aclose()
        found = (await stage.get(made["id"])).json()
        assert (found["status"], found["error"]["code"]) == ("failed", "server_error")
        assert await stage.spent() == 0


async def test_g49_a_stream_that_a_stop_cuts_off_in_the_background_is_free(stage: Stage) -> None:
    plane = stage.gate.plane
    creating = asyncio.ensure_future(stage.create(stream=True))
    played = await stage.call()
    played.begin()
    for frame in frames_of("responses-text")[:6]:
        played.play(frame)
    await until(lambda: stage.gate.sql("select 1 from stored_events"))
    # Nobody follows it.
    creating.cancel()
    await until(lambda: not stage.gate.server.under_way)
    assert await drained(plane, stage.gate.server, BatchRunner(plane, error_body), 0) == 0
    await plane.background.aclose()
    assert stage.gate.sql("select status from stored_objects") == [("failed",)]
    assert await stage.spent() == 0
    ((charge_nano, loss_nano),) = stage.gate.sql("select charge_nano, loss_nano from requests")
    assert charge_nano == 0 < loss_nano


async def test_a_stopping_worker_waits_for_what_its_last_calls_began(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane, asked, go_on = stage.gate.plane, asyncio.Event(), asyncio.Event()

    async def slowly(*what: Any) -> Any:
        asked.set()
        await go_on.wait()
        return await prepared(*what)

    async def told(*what: Any) -> int:
        cut = await drain(*what)
        no_connections.set()
        return cut

    no_connections, drain = asyncio.Event(), stage.gate.server.drain
    monkeypatch.setattr(serve, "prepared", slowly)
    monkeypatch.setattr(stage.gate.server, "drain", told)
    creating = asyncio.ensure_future(stage.create())
    await asked.wait()
    draining = asyncio.ensure_future(drained(plane, stage.gate.server, BatchRunner(plane, error_body), 60))
    await until(lambda: stage.gate.server.draining)
    go_on.set()
    made = (await creating).json()
    played = await stage.call()
    await no_connections.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not draining.done()
    monkeypatch.undo()
    played.answer(ANSWER)
    assert await draining == 0
    assert stage.gate.sql("select status from stored_objects") == [("completed",)]
    assert made["status"] == "queued"
    stage.gate.closed_books()


async def test_a_stream_is_followed_through_another_worker_while_it_is_made(tmp_path: Path) -> None:
    frames = frames_of("responses-text")
    async with staged(tmp_path) as stage, gateway(tmp_path) as other:
        body = {"model": MODEL, "input": "Think long.", "background": True, "stream": True}
        creating = asyncio.ensure_future(stage.gate.ask(stage.key, body, path="/v1/responses"))
        played = await stage.call()
        played.begin()
        for frame in frames[:6]:
            played.play(frame)
        rows = await until(lambda: stage.gate.sql("select id from stored_objects"))
        address = f"/v1/responses/resp_{rows[0][0].hex()}"
        later = (await stage.create()).json()
        await stage.call()
        seen = b""
        async with other.http.stream("GET", f"{address}?stream=true", headers=stage.headers) as live:
            chunks = live.aiter_bytes()
            while seen.count(b"\n\n") < 6:
                seen += await anext(chunks)
            for frame in frames[6:]:
                played.play(frame)
            played.end()
            async for chunk in chunks:
                seen += chunk
        made = events((await creating).text)
        assert events(seen.decode()) == made
        assert [event["sequence_number"] for event in made] == list(range(len(frames)))
        assert (await other.http.get(address, headers=stage.headers)).json() == made[-1]["response"]
        cancelled = await other.http.post(f"/v1/responses/{later['id']}/cancel", headers=stage.headers)
        assert cancelled.json()["status"] == "cancelled"
        assert await stage.spent() > 0
