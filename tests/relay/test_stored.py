"""Stored answers through the official SDK: read, streamed again, listed, relabelled, gone on from and deleted."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import openai
import pytest
from openai.types.responses import ResponseInputMessageItem, ResponseInputText

from elkapi.sandbox.server import Running
from tests.canned import canned
from tests.gateway import Gateway, gateway
from tests.relay.test_text import MODEL, prepared, spent
from tests.text_calls import UPSTREAMS, text_of

T = TypeVar("T")
SAID = "The quick brown fox jumps over the lazy dog."


def client(gate: Gateway, key: str) -> openai.OpenAI:
    return openai.OpenAI(api_key=key, base_url=f"{gate.origin}/v1", max_retries=0, timeout=20)


async def sync(work: Callable[[], T]) -> T:
    """The official SDK's synchronous client, on a thread beside the gateway's loop."""
    return await asyncio.to_thread(work)


def asked(sandbox: Running, number: int = -1) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(base64.b64decode(sandbox.sandbox.recorder.shown()[number].body_base64))
    return body


def stored(gate: Gateway) -> int:
    return int(gate.sql("select count(*) from stored_objects")[0][0])


@pytest.mark.parametrize("upstream", ["openai", "anthropic", "gemini"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_is_found_again_as_it_was_answered(
    lite: Gateway, sandbox: Running, upstream: str, stream: bool
) -> None:
    key = await prepared(lite, sandbox, upstream)
    with client(lite, key) as sdk:

        def work() -> None:
            params: dict[str, Any] = {"model": MODEL, "input": f"[[say: {SAID}]]", "instructions": "Be brief."}
            if stream:
                live = list(sdk.responses.create(**params, stream=True))
                first, last = live[0], live[-1]
                assert first.type == "response.created"
                assert last.type == "response.completed"
                made = last.response
                assert first.response.id == made.id
            else:
                made = sdk.responses.create(**params)
            assert made.output_text == SAID
            assert made.store is True
            found = sdk.responses.retrieve(made.id)
            assert found == made
            (item,) = sdk.responses.input_items.list(made.id).data
            assert isinstance(item, ResponseInputMessageItem)
            assert isinstance(part := item.content[0], ResponseInputText)
            assert (item.type, part.text) == ("message", f"[[say: {SAID}]]")
            again = list(sdk.responses.retrieve(made.id, stream=True))
            assert [event.sequence_number for event in again] == list(range(len(again)))
            end = again[-1]
            assert end.type == "response.completed"
            assert end.response == made
            rest = list(sdk.responses.retrieve(made.id, stream=True, starting_after=3))
            assert [event.sequence_number for event in rest] == list(range(4, len(again)))
            with pytest.raises(openai.BadRequestError, match="background"):
                sdk.responses.cancel(made.id)
            sdk.responses.delete(made.id)
            for ask in (sdk.responses.retrieve, sdk.responses.delete, sdk.responses.input_items.list):
                with pytest.raises(openai.NotFoundError) as refused:
                    ask(made.id)
                assert refused.value.param == "id"

        await sync(work)
    assert asked(sandbox).get("store") in (None, False)
    assert stored(lite) == 0


@pytest.mark.parametrize("upstream", ["openai", "deepseek", "anthropic", "gemini"])
async def test_a_conversation_goes_on_by_id_over_upstreams_of_every_dialect(
    lite: Gateway, sandbox: Running, upstream: str
) -> None:
    key = await prepared(lite, sandbox, upstream)
    with client(lite, key) as sdk:

        def work() -> None:
            first = sdk.responses.create(
                model=MODEL, input="[[say: Your name is Ada.]] my name is Ada", instructions="A one-time instruction."
            )
            second = sdk.responses.create(
                model=MODEL, input="[[say: Noted.]] and I live in Rome", previous_response_id=first.id
            )
            third = sdk.responses.create(
                model=MODEL, input="[[say: Ada, Rome.]] who am I?", previous_response_id=second.id
            )
            assert third.previous_response_id == second.id
            assert third.output_text == "Ada, Rome."
            assert third.instructions is None
            heard = list(sdk.responses.input_items.list(third.id, order="asc", limit=2))
            texts = [str(item.to_dict()["content"]) for item in heard]
            said = ["my name is Ada", first.output_text, "and I live in Rome", second.output_text, "who am I?"]
            assert [wanted in text for wanted, text in zip(said, texts, strict=True)] == [True] * 5
            assert len(sdk.responses.input_items.list(first.id).data) == 1
            sdk.responses.delete(first.id)
            assert len(sdk.responses.input_items.list(third.id).data) == 1
            given = [made.usage.input_tokens for made in (first, second, third) if made.usage is not None]
            assert given[0] < given[1] < given[2]

        await sync(work)
    body = json.dumps(asked(sandbox))
    places = [body.index(turn) for turn in ("my name is Ada", "and I live in Rome", "who am I?")]
    assert places == sorted(places)
    # Each was asked for once, and said once.
    assert (body.count("Your name is Ada."), body.count("Noted."), body.count("Ada, Rome.")) == (2, 2, 1)
    assert "A one-time instruction." not in body
    assert "previous_response_id" not in body


@pytest.mark.parametrize("upstream", ["openai"])
async def test_stored_chats_are_listed_relabelled_and_deleted(gate: Gateway, sandbox: Running, upstream: str) -> None:
    key = await prepared(gate, sandbox, upstream)
    stranger = await gate.key("10")
    with client(gate, key) as sdk, client(gate, stranger) as other:

        def create(number: int, **more: Any) -> Any:
            return sdk.chat.completions.create(
                model=MODEL,
                messages=[
                    {"role": "system", "content": "Short."},
                    {"role": "user", "content": f"[[say: no. {number}]]"},
                ],
                store=True,
                metadata={"run": "a'b\"%", "number": str(number)},
                **more,
            )

        def work() -> None:
            sdk.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
            made = [create(number) for number in range(3)]
            chunks = list(create(3, stream=True))
            assert len({chunk.id for chunk in chunks}) == 1
            ids = [*(one.id for one in made), chunks[0].id]
            page = sdk.chat.completions.list(limit=2)
            assert [one.id for one in page.data] == ids[:2]
            assert page.has_more is True
            assert [one.id for one in sdk.chat.completions.list(limit=2)] == ids
            assert [one.id for one in sdk.chat.completions.list(order="desc")] == ids[::-1]
            assert [one.id for one in sdk.chat.completions.list(after=ids[1])] == ids[2:]
            assert [one.id for one in sdk.chat.completions.list(metadata={"number": "2"})] == [ids[2]]
            assert [one.id for one in sdk.chat.completions.list(metadata={"run": "a'b\"%"})] == ids
            assert list(sdk.chat.completions.list(model="another")) == []
            found = sdk.chat.completions.retrieve(ids[3])
            assert found.choices[0].message.content == "no. 3"
            assert found.choices[0].finish_reason == "stop"
            assert found.usage is not None
            assert found.usage.total_tokens > 0
            assert sdk.chat.completions.retrieve(ids[0]).choices == made[0].choices
            changed = sdk.chat.completions.update(ids[0], metadata={"kind": "b"})
            assert changed.metadata == {"kind": "b"}
            assert [one.id for one in sdk.chat.completions.list(metadata={"kind": "b"})] == [ids[0]]
            messages = sdk.chat.completions.messages.list(ids[0]).data
            assert [(one.id, one.role, one.content) for one in messages] == [
                (f"{ids[0]}-0", "system", "Short."),
                (f"{ids[0]}-1", "user", "[[say: no. 0]]"),
            ]
            for ask in (
                other.chat.completions.retrieve,
                other.chat.completions.delete,
                other.chat.completions.messages.list,
                lambda id_: other.chat.completions.update(id_, metadata={}),
            ):
                with pytest.raises(openai.NotFoundError):
                    ask(ids[0])
            assert list(other.chat.completions.list(after=ids[0])) == []
            gone = sdk.chat.completions.delete(ids[0])
            assert (gone.deleted, gone.object, gone.id) == (True, "chat.completion.deleted", ids[0])
            # A page goes on after one that was deleted meanwhile.
            assert [one.id for one in sdk.chat.completions.list(after=ids[0])] == ids[1:]

        await sync(work)
    sent = asked(sandbox)
    assert sent.get("store") in (None, False)
    if upstream == "openai":
        # The provider takes labels only of what it stores.
        assert "metadata" not in sent


async def test_a_tool_loop_goes_on_by_id_and_refers_to_its_items(lite: Gateway, sandbox: Running) -> None:
    key = await prepared(lite, sandbox, "openai")
    tools: Any = [{"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}]
    with client(lite, key) as sdk:

        def work() -> None:
            first = sdk.responses.create(model=MODEL, input="[[tools: look {}]] [[then: Seen.]]", tools=tools)
            call = next(item for item in first.output if item.type == "function_call")
            output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "a cat"}
            second = sdk.responses.create(model=MODEL, input=[output], tools=tools, previous_response_id=first.id)
            assert second.output_text == "Seen."
            # The same by references to what is kept, as some clients send it.
            (question,) = sdk.responses.input_items.list(first.id).data
            forms: list[dict[str, Any]] = [{"type": "item_reference"}, {}, {"type": None}]
            for form in forms:
                references: Any = [form | {"id": call.id}, {"id": question.id} | form][::-1]
                third = sdk.responses.create(model=MODEL, input=[*references, output], tools=tools, store=False)
                assert third.output_text == "Seen."
                assert third.to_dict()["store"] is False
                nobody: Any = [form | {"id": "msg_of_nobody"}]
                with pytest.raises(openai.NotFoundError) as refused:
                    sdk.responses.create(model=MODEL, input=nobody, store=False)
                assert (refused.value.code, refused.value.param) == ("item_not_found", "input")

        await sync(work)


async def test_calls_that_a_client_repeats_beside_the_id_are_made_once(lite: Gateway, sandbox: Running) -> None:
    """LiveKit sends each call again before its result, though the response it names holds them."""
    key = await prepared(lite, sandbox, "deepseek")
    tools: Any = [{"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}]
    question = "[[tools: look {}; look {}]] [[then: Seen {{result}}.]]"
    with client(lite, key) as sdk:

        def work() -> None:
            first = sdk.responses.create(model=MODEL, input=question, tools=tools)
            again: list[Any] = []
            for place, call in enumerate(first.output):
                assert call.type == "function_call"
                again.append(call.model_dump(include={"type", "name", "arguments", "call_id"}))
                again.append({"type": "function_call_output", "call_id": call.call_id, "output": f"cat {place}"})
            second = sdk.responses.create(model=MODEL, input=again, tools=tools, previous_response_id=first.id)
            assert second.output_text == "Seen cat 0\ncat 1."
            # What the second turn keeps is its own input, so the third has each item once too.
            kept = sdk.responses.input_items.list(second.id, order="asc").data
            assert [item.type for item in kept] == [
                *("message", "function_call", "function_call", "function_call_output", "function_call_output")
            ]
            sdk.responses.create(model=MODEL, input="[[say: Bye.]]", previous_response_id=second.id)

        await sync(work)
    rows = asked(sandbox)["messages"]
    assert [row["role"] for row in rows] == ["user", "assistant", "tool", "tool", "assistant", "user"]
    assert len(rows[1]["tool_calls"]) == 2


async def test_references_are_looked_up_at_once_and_come_to_no_more_than_a_body(
    tmp_path: Path, sandbox: Running
) -> None:
    async with gateway(tmp_path, body_bytes_max=1_000_000) as lite:
        key = await prepared(lite, sandbox, "openai")

        async def refer(*places: int) -> Any:
            items = [{"type": "item_reference", "id": f"item_{base}_{place}"} for place in places]
            return await lite.ask(key, {"model": MODEL, "input": items}, path="/v1/responses/input_tokens")

        given = [{"role": "user", "content": "x" * 300} for _ in range(1000)]
        made = await lite.ask(key, {"model": MODEL, "input": given}, path="/v1/responses")
        base = made.json()["id"].removeprefix("resp_")
        found = await refer(*range(1000))
        assert found.status_code == 200, found.text
        assert len(asked(sandbox)["input"]) == 1000
        # One item may be meant more often than there is room for, and more may be meant than a lookup takes.
        for places in ([7] * 4000, [*range(10_001)]):
            refused = await refer(*places)
            assert (refused.status_code, refused.json()["error"]["code"]) == (413, "read_request_body_failed")


async def test_foreign_and_odd_ids_are_unknown_in_the_same_words(lite: Gateway, sandbox: Running) -> None:
    key = await prepared(lite, sandbox, "openai")
    stranger = await lite.key("10")
    made = (await lite.ask(key, {"model": MODEL, "input": "hi"}, path="/v1/responses")).json()
    before = spent(lite)
    headers = {"authorization": f"Bearer {stranger}"}
    odd = [made["id"], "resp_" + "0" * 32, "resp_%25", "resp_%27%20or%201%3D1", "chatcmpl-" + made["id"][5:], "x" * 500]
    words = set()
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("GET", "/input_items"),
        ("GET", "?stream=true"),
    ):
        for name in odd:
            reply = await lite.http.request(method, f"/v1/responses/{name}{path}", headers=headers)
            assert reply.status_code == 404, (method, name, reply.text)
            error = reply.json()["error"]
            words.add((error["type"], error["param"], error["code"]))
    assert words == {("invalid_request_error", "id", "not_found")}
    assert spent(lite) == before
    for name in (made["id"], "resp_%27%25", "' or 1=1"):
        reply = await lite.ask(
            stranger, {"model": MODEL, "input": "x", "previous_response_id": name}, path="/v1/responses"
        )
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "previous_response_not_found"
        assert reply.json()["error"]["param"] == "previous_response_id"
    mine = {"authorization": f"Bearer {key}"}
    assert (await lite.http.get(f"/v1/responses/{made['id']}", headers=mine)).status_code == 200
    conversation = await lite.ask(key, {"model": MODEL, "input": "x", "conversation": "conv_1"}, path="/v1/responses")
    assert (conversation.status_code, conversation.json()["error"]["param"]) == (404, "conversation")
    for query, param in (
        ("limit=101", "limit"),
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=99999999999999999999999", "limit"),
        ("limit=%C2%B2", "limit"),
        ("order=up", "order"),
        ("after=item_of_nobody", "after"),
    ):
        reply = await lite.http.get(f"/v1/responses/{made['id']}/input_items?{query}", headers=mine)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), query
    for query, param in (("starting_after=1", "starting_after"), ("stream=true&starting_after=x", "starting_after")):
        reply = await lite.http.get(f"/v1/responses/{made['id']}?{query}", headers=mine)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), query
    for query in ("after=%25", "limit=1000", "metadata%5Ba%22b%5D=c", "metadata%5Ba%5D=%00", "order=%27"):
        reply = await lite.http.get(f"/v1/chat/completions?{query}", headers=mine)
        assert reply.status_code == 400, query
    labels = {f"n{number}": "x" for number in range(17)}
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "store": True, "metadata": labels}
    reply = await lite.ask(key, chat, path="/v1/chat/completions")
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "metadata")
    reply = await lite.ask(key, {"metadata": {"a": 1}}, path=f"/v1/chat/completions/chatcmpl-{made['id'][5:]}")
    assert reply.status_code == 400
    assert spent(lite) == before
    # Labels that could not be made cannot be put in the place of others either.
    chat["metadata"] = {"kind": "a"}
    at = f"/v1/chat/completions/{(await lite.ask(key, chat, path='/v1/chat/completions')).json()['id']}"
    reply = await lite.ask(key, {"metadata": labels}, path=at)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "metadata")
    assert (await lite.http.get(at, headers=mine)).json()["metadata"] == {"kind": "a"}
    reply = await lite.ask(key, {"metadata": None}, path=at)
    assert (reply.status_code, reply.json()["metadata"]) == (200, {})


async def test_counts_quotes_and_compactions_see_the_turns_before(lite: Gateway, sandbox: Running) -> None:
    key = await prepared(lite, sandbox, "openai")
    long = "word " * 3000
    made = (await lite.ask(key, {"model": MODEL, "input": long}, path="/v1/responses")).json()
    after = {"model": MODEL, "input": "and?", "previous_response_id": made["id"]}
    counted = (await lite.ask(key, after, path="/v1/responses/input_tokens")).json()
    assert counted["input_tokens"] > 3000
    assert "previous_response_id" not in asked(sandbox)
    quoted = (await lite.ask(key, {"path": "/v1/responses", "body": after}, path="/v1/quote")).json()
    # The bytes of the conversation and no more: before it was known, the model's whole context had to be held.
    assert len(long) < quoted["upper"]["input_tokens"] < 3 * len(long)
    compacted = (await lite.ask(key, after, path="/v1/responses/compact")).json()
    assert compacted["usage"]["input_tokens"] > 3000
    stranger = await lite.key("10")
    for path in ("/v1/responses/input_tokens", "/v1/responses/compact"):
        refused = await lite.ask(stranger, after, path=path)
        assert refused.json()["error"]["code"] == "previous_response_not_found"


@pytest.mark.parametrize("upstream", ["openai", "anthropic"])
async def test_a_compaction_is_named_like_a_response_whichever_upstream_made_it(
    lite: Gateway, sandbox: Running, upstream: str
) -> None:
    key = await prepared(lite, sandbox, upstream)
    made = await lite.ask(key, {"model": MODEL, "input": "my name is Ada"}, path="/v1/responses/compact")
    assert made.json()["object"] == "response.compaction"
    assert made.json()["id"].startswith("resp_")


@pytest.mark.parametrize("upstream", ["anthropic", "gemini"])
async def test_a_compaction_without_a_summary_is_no_answer_and_tools_are_not_called_in_its_place(
    lite: Gateway, sandbox: Running, upstream: str
) -> None:
    key = await prepared(lite, sandbox, upstream)
    tool = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
    body = {"model": MODEL, "input": "[[tools: f {}]] my name is Ada", "tools": [tool]}
    made = await lite.ask(key, body, path="/v1/responses/compact")
    assert made.status_code == 200, made.text
    # Without the call the sandbox repeats what it was asked.
    goes_on = {"model": MODEL, "input": [*made.json()["output"], {"role": "user", "content": "[[say: Ada]]"}]}
    await lite.ask(key, goes_on, path="/v1/responses")
    assert "my name is Ada" in json.dumps(asked(sandbox))
    before = spent(lite)
    nothing = await lite.ask(key, {"model": MODEL, "input": "[[say: ]]"}, path="/v1/responses/compact")
    assert (nothing.status_code, nothing.json()["error"]["code"]) == (502, "upstream_error")
    assert spent(lite) == before


async def test_with_storing_off_nothing_is_kept_here_or_there(tmp_path: Path, sandbox: Running) -> None:
    async with gateway(tmp_path, stored_keep_s=0) as off:
        key = await prepared(off, sandbox, "openai")
        made = (await off.ask(key, {"model": MODEL, "input": "hi", "store": True}, path="/v1/responses")).json()
        assert made["store"] is False
        assert asked(sandbox)["store"] is False
        chat = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "store": True}
        assert (await off.ask(key, chat, path="/v1/chat/completions")).status_code == 200
        assert "store" not in asked(sandbox)
        refused = await off.ask(key, {"model": MODEL, "input": "hi", "background": True}, path="/v1/responses")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "background")
        # Nothing that the caller could send would help.
        assert "requires `store`" not in refused.json()["error"]["message"]
        assert stored(off) == 0


async def test_an_answer_above_the_limit_is_given_and_not_kept(tmp_path: Path, sandbox: Running) -> None:
    async with gateway(tmp_path, stored_bytes_max=2000) as small:
        key = await prepared(small, sandbox, "openai")
        for stream in (False, True):
            reply = await small.ask(key, {"model": MODEL, "input": "x" * 2000, "stream": stream}, path="/v1/responses")
            assert reply.status_code == 200
            account = await small.account(reply.headers["x-request-id"], key)
            assert account["flags"] == ["not_stored"]
        assert stored(small) == 0


async def test_a_call_that_is_not_kept_goes_out_and_comes_back_as_it_was(lite: Gateway, sandbox: Running) -> None:
    key = await prepared(lite, sandbox, "openai")
    body = b'{"model":"%b","store":false,"odd":1.50,"input":"hi"}' % MODEL.encode()
    reply = await lite.ask(key, body, path="/v1/responses")
    sent = base64.b64decode(sandbox.sandbox.recorder.shown()[-1].body_base64)
    assert sent == body.replace(MODEL.encode(), b"gpt-4o")
    assert not reply.json()["id"].endswith(reply.headers["x-request-id"].removeprefix("req_"))
    assert stored(lite) == 0
    odd = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "store": True, "metadata": {"a": 1}}
    refused = await lite.ask(key, odd, path="/v1/chat/completions")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "metadata[...]")


@pytest.mark.parametrize("upstream", ["openai", "anthropic"])
async def test_the_sdk_polls_and_follows_what_is_made_in_the_background(
    lite: Gateway, sandbox: Running, upstream: str
) -> None:
    key = await prepared(lite, sandbox, upstream)
    with client(lite, key) as sdk:

        def work() -> None:
            made = sdk.responses.create(model=MODEL, input=f"[[say: {SAID}]] [sandbox: delay=100ms]", background=True)
            assert made.status == "queued"
            while made.status in ("queued", "in_progress"):
                made = sdk.responses.retrieve(made.id)
            assert (made.status, made.output_text, made.background) == ("completed", SAID, True)
            assert sdk.responses.cancel(made.id) == made
            live = list(sdk.responses.create(model=MODEL, input=f"[[say: {SAID}]]", background=True, stream=True))
            last = live[-1]
            assert last.type == "response.completed"
            final = last.response
            assert (final.output_text, final.background) == (SAID, True)
            rest = list(sdk.responses.retrieve(final.id, stream=True, starting_after=live[2].sequence_number))
            assert rest == live[3:]
            with sdk.responses.stream(response_id=final.id) as again:
                assert again.get_final_response().output_text == SAID
            went_on = sdk.responses.create(model=MODEL, input="[[say: Yes.]]", previous_response_id=final.id)
            assert went_on.output_text == "Yes."

        await sync(work)
    assert len(lite.plane.background) == 0


@pytest.mark.parametrize(
    ("upstream", "theirs", "mark"),
    [
        ("openai", "gpt-5", "encrypted_content"),
        ("anthropic", "claude-sonnet-4-5", "signature"),
        ("gemini", "gemini-2.5-pro", "thoughtSignature"),
    ],
)
async def test_thoughts_go_along_with_the_turns_of_a_tool_loop(
    lite: Gateway, sandbox: Running, upstream: str, theirs: str, mark: str
) -> None:
    secret = UPSTREAMS[upstream][0]
    await lite.channel(sandbox.base_url, (MODEL,), family=upstream, secrets=(secret,), model_map={MODEL: theirs})
    await lite.price(MODEL, per_1m_usd="1", output_per_1m_usd="2")
    key = await lite.key("10")
    tools = [{"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}]
    asks = {"model": MODEL, "tools": tools, "reasoning": {"effort": "low", "summary": "auto"}}
    script = "[[think: Looking.]] [[tools: look {}]] [[then: Seen.]]"
    first = (await lite.ask(key, {**asks, "input": script}, path="/v1/responses")).json()
    (call,) = [item for item in first["output"] if item["type"] == "function_call"]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "a cat"}
    more = {**asks, "input": [output], "previous_response_id": first["id"]}
    second = await lite.ask(key, more, path="/v1/responses")
    assert text_of("responses", second.json()) == "Seen."
    assert mark in json.dumps(asked(sandbox))


@pytest.mark.parametrize("upstream", ["anthropic", "gemini"])
async def test_a_streamed_chat_of_another_dialect_is_kept_whole(lite: Gateway, sandbox: Running, upstream: str) -> None:
    key = await prepared(lite, sandbox, upstream)
    tools: Any = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    with client(lite, key) as sdk:

        def work() -> None:
            asks: dict[str, Any] = {"model": MODEL, "store": True, "tools": tools, "stream": True}
            script = '[[say: Let me see.]] [[tools: look {"at": "cats"}]]'
            chunks = list(sdk.chat.completions.create(messages=[{"role": "user", "content": script}], **asks))
            found = sdk.chat.completions.retrieve(chunks[0].id)
            message = found.choices[0].message
            assert message.content == "Let me see."
            assert message.tool_calls is not None
            (call,) = message.tool_calls
            assert call.type == "function"
            assert (call.function.name, json.loads(call.function.arguments)) == ("look", {"at": "cats"})
            assert found.choices[0].finish_reason == "tool_calls"
            assert found.usage is not None
            assert found.usage.completion_tokens > 0

        await sync(work)


async def asked_to_store(lite: Gateway, url: str, stream: bool) -> tuple[str, httpx.Response]:
    """(a key, what a chat with `store` is answered through a channel to `url`)."""
    await lite.channel(url, (MODEL,))
    await lite.price(MODEL, per_1m_usd="1", output_per_1m_usd="1")
    key = await lite.key("1")
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "store": True, "stream": stream}
    return key, await lite.ask(key, asked, path="/v1/chat/completions")


async def kept_chats(lite: Gateway, key: str) -> Any:
    """The chats that a key stored."""
    listed = await lite.http.get("/v1/chat/completions", headers={"authorization": f"Bearer {key}"})
    assert listed.status_code == 200, listed.text
    return listed.json()["data"]


@pytest.mark.parametrize(
    ("stream", "wrong", "status"),
    [(False, b"\\ud83d", 502), (False, b"\xff", 502), (True, b"\\ud83d", 502), (True, b"\xff", 200)],
)
async def test_an_answer_that_nobody_could_read_again_is_not_kept_and_breaks_no_list(
    lite: Gateway, stream: bool, wrong: bytes, status: int
) -> None:
    """Half an emoji, and a byte of another encoding; a stream passes such a byte as it comes."""
    message = {"role": "assistant", "content": "WRONG"}
    choice = {"index": 0, "message": message, "delta": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    said = json.dumps({"id": "c", "object": "x", "created": 1, "model": "m", "choices": [choice], "usage": usage})
    body = said.encode().replace(b"WRONG", wrong)
    if stream:
        body = b"data: %b\n\ndata: [DONE]\n\n" % said.encode().replace(b'{"role"', b'{"odd":"%b","role"' % wrong)
    async with canned(200, frames=body) as upstream:
        upstream.body = body
        key, reply = await asked_to_store(lite, upstream.url, stream)
    assert reply.status_code == status, reply.text
    assert not stream or status != 200 or reply.text.endswith("[DONE]\n\n")
    assert await kept_chats(lite, key) == []


@pytest.mark.parametrize("stream", [False, True])
async def test_blank_lines_before_and_after_an_answer_are_none_of_it(lite: Gateway, stream: bool) -> None:
    """Some upstreams send them until they have an answer, which is read, charged and kept like any other."""
    choice = {"index": 0, "message": {"role": "assistant", "content": SAID}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    async with canned(200, whole) as upstream:
        upstream.body = b"         \n\n" * 300 + upstream.body + b"\n" * 300
        key, reply = await asked_to_store(lite, upstream.url, stream)
    assert reply.status_code == 200, reply.text
    assert (await lite.account(reply.headers["x-request-id"], key))["cost_usd"] == "0.000003"
    assert [row["choices"][0]["message"]["content"] for row in await kept_chats(lite, key)] == [SAID]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("own", ['"id":"a","id":"b",', '"id":null,', '"id":7,', ""])
async def test_a_kept_chat_has_our_id_whatever_its_upstream_calls_it(lite: Gateway, own: str, stream: bool) -> None:
    message = {"role": "assistant", "content": SAID}
    choice = {"index": 0, "message": message, "delta": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    said = json.dumps({"object": "x", "created": 1, "model": "m", "choices": [choice], "usage": usage})
    said = said.replace("{", "{" + own, 1)
    async with canned(200, frames=f"data: {said}\n\ndata: [DONE]\n\n".encode()) as upstream:
        upstream.body = said.encode()
        key, reply = await asked_to_store(lite, upstream.url, stream)
    assert reply.status_code == 200, reply.text
    (kept,) = await kept_chats(lite, key)
    assert kept["id"].startswith("chatcmpl-")
    assert reply.text.count('"id":') == 1
    assert f'"id":"{kept["id"]}"' in reply.text


@pytest.mark.parametrize("include", ["reasoning.encrypted_content", [1], {}])
async def test_a_wrong_include_is_the_callers_error(lite: Gateway, sandbox: Running, include: Any) -> None:
    await lite.channel(sandbox.base_url, ("gpt-5",))
    await lite.price("gpt-5", per_1m_usd="1", output_per_1m_usd="1")
    body = {"model": "gpt-5", "input": "hi", "include": include}
    reply = await lite.ask(await lite.key("1"), body, path="/v1/responses")
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "include" if include != [1] else "include[0]")


async def test_a_response_that_begins_unreadably_is_asked_for_elsewhere(lite: Gateway, sandbox: Running) -> None:
    frame = b'event: response.created\ndata: {"type":"response.created","response":{"id":"r","\xff":1}}\n\n'
    async with canned(200, frames=frame) as upstream:
        await lite.channel(upstream.url, (MODEL,), priority=5)
        key = await prepared(lite, sandbox, "openai")
        reply = await lite.ask(key, {"model": MODEL, "input": "hi", "stream": True}, path="/v1/responses")
    assert reply.status_code == 200, reply.text
    assert "response.completed" in reply.text
