"""Stored answers through the official SDK: read, streamed again, listed, relabelled, gone on from and deleted."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any, TypeVar

import openai
import pytest

from elkapi.sandbox.server import Running
from tests.gateway import Gateway
from tests.relay.test_text import MODEL, prepared

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
    gate: Gateway, sandbox: Running, upstream: str, stream: bool
) -> None:
    key = await prepared(gate, sandbox, upstream)
    with client(gate, key) as sdk:

        def work() -> None:
            params: dict[str, Any] = {"model": MODEL, "input": f"[[say: {SAID}]]", "instructions": "Be brief."}
            if stream:
                live = list(sdk.responses.create(**params, stream=True))
                assert live[0].type == "response.created"
                made = live[-1].response
                assert live[0].response.id == made.id
            else:
                made = sdk.responses.create(**params)
            assert made.output_text == SAID
            assert made.store is True
            found = sdk.responses.retrieve(made.id)
            assert found == made
            (item,) = sdk.responses.input_items.list(made.id).data
            assert (item.type, item.content[0].text) == ("message", f"[[say: {SAID}]]")
            again = list(sdk.responses.retrieve(made.id, stream=True))
            assert [event.sequence_number for event in again] == list(range(len(again)))
            assert again[-1].response == made
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
    assert stored(gate) == 0


@pytest.mark.parametrize("upstream", ["openai", "deepseek", "anthropic", "gemini"])
async def test_a_conversation_goes_on_by_id_over_upstreams_of_every_dialect(
    gate: Gateway, sandbox: Running, upstream: str
) -> None:
    key = await prepared(gate, sandbox, upstream)
    with client(gate, key) as sdk:

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
            assert len(sdk.responses.input_items.list(third.id).data) == 1
            assert third.usage.input_tokens > second.usage.input_tokens > first.usage.input_tokens

        await sync(work)
    body = json.dumps(asked(sandbox))
    places = [body.index(turn) for turn in ("my name is Ada", "and I live in Rome", "who am I?")]
    assert places == sorted(places)
    # Each was asked for once, and said once.
    assert (body.count("Your name is Ada."), body.count("Noted."), body.count("Ada, Rome.")) == (2, 2, 1)
    assert "A one-time instruction." not in body
    assert "previous_response_id" not in body
