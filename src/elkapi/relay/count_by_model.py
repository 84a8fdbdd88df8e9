"""The input tokens of a call to the bundled chat model, counted by its own tokenizer and template.

Its process counts chat bodies, so the call is translated to one; nothing is generated and no money moves.
"""

from __future__ import annotations

import msgspec

from elkapi.errors import NOT_JSON, BadRequest
from elkapi.relay.plane import DataPlane
from elkapi.snapshot import Tiers
from elkapi.translate.dialects import DIALECTS
from elkapi.translate.ir import ChatRequest
from elkapi.translate.profiles import profile_for
from elkapi.upstream import Deadlines, Origin, UpstreamFailure, UpstreamRequest, answer_to

# The first count may wait for the process to start.
DEADLINES = Deadlines(connect_s=1.0, header_s=15.0, first_byte_s=5.0, idle_s=5.0, total_s=20.0)
ANSWER_BYTES_MAX = 64 * 1024
FAMILY = "local-chat"


class _Count(msgspec.Struct):
    input_tokens: int


class _Problem(msgspec.Struct):
    message: str
    param: str | None = None
    code: str | None = None


class _Refusal(msgspec.Struct):
    error: _Problem


async def count_by_model(plane: DataPlane, tiers: Tiers, asked: ChatRequest) -> int | None:
    """The tokens; None if the model is not the bundled one or its process does not answer.

    Raises BadRequest for input that the model does not support: the call itself would be refused as well.
    """
    channel = next((one for tier in tiers for one in tier if one.family == FAMILY), None)
    if channel is None:
        return None
    model = channel.models[0]
    body = DIALECTS["chat"].write_request(msgspec.structs.replace(asked, model=model), profile_for(FAMILY, model))
    request = UpstreamRequest(
        origin=Origin.parse(channel.base_url),
        method=b"POST",
        target=b"/v1/chat/count",
        headers=[(b"content-type", b"application/json")],
        body=body,
        deadlines=DEADLINES,
    )
    try:
        answer = await answer_to(plane.client.send, request, ANSWER_BYTES_MAX)
        if answer.status == 400 and answer.complete:
            refused = msgspec.json.decode(answer.body, type=_Refusal).error
            raise BadRequest(refused.message, code=refused.code, param=refused.param)
        if answer.status != 200 or not answer.complete:
            return None
        return msgspec.json.decode(answer.body, type=_Count).input_tokens
    except (UpstreamFailure, *NOT_JSON):
        return None
