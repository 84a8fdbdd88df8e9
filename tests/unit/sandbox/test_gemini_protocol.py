"""Google's protocols as the sandbox speaks them: Gemini's body, chunks, signatures and embeddings; Vertex's tokens."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from elkapi.sandbox.app import Options
from elkapi.sandbox.server import Running, running

from .speaking import ANTHROPIC_HEADERS, GEMINI_KEY, PROJECT, TOKEN, sse, text_of

FLASH, PRO3 = "/v1beta/models/gemini-2.5-flash", "/v1beta/models/gemini-3-pro-preview"
TOOLS = [
    {
        "functionDeclarations": [
            {"name": "weather", "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}}},
            {"name": "clock", "parametersJsonSchema": {"type": "object", "properties": {}}},
        ]
    }
]


@pytest.fixture
def api(sandbox: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=sandbox.base_url, headers={"x-goog-api-key": GEMINI_KEY}) as client:
        yield client


def body(text: str = "hi", **fields: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [{"text": text}]}], **fields}


def said(api: httpx.Client, model: str = FLASH, **fields: Any) -> dict[str, Any]:
    answer = api.post(f"{model}:generateContent", json=body(**fields))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refused(api: httpx.Client, wanted: dict[str, Any], model: str = FLASH) -> str:
    answer = api.post(f"{model}:generateContent", json=wanted)
    assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT"), answer.text
    return str(answer.json()["error"]["message"])


def declared(**fields: Any) -> dict[str, Any]:
    return {"tools": [{"functionDeclarations": [{"name": "f", **fields}]}]}


def with_property(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "OBJECT", "properties": {"p": schema}}


def test_words_may_come_by_their_numbers(api: httpx.Client) -> None:
    """As LangChain's older package for Google writes them."""
    tools = declared(parameters={"type": 6, "properties": {"p": {"type": 1}}})
    answer = said(api, text="hello", **tools, toolConfig={"functionCallingConfig": {"mode": 2}})
    assert answer["candidates"][0]["content"]["parts"][0]["functionCall"] == {"name": "f", "args": {"p": "p"}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"contents": []}, "contents is not specified"),
        ({"contents": [{"role": "assistant", "parts": [{"text": "a"}]}]}, "valid role"),
        ({"contents": [{"role": "user", "parts": []}]}, "must not be empty"),
        ({"contents": [{"role": "user", "parts": [{"image": "a"}]}]}, "required oneof field 'data'"),
        ({"messages": []}, 'Unknown name "messages"'),
        ({"generationConfig": {"max_tokens": 5}}, "Unknown name \"max_tokens\" at 'generation_config'"),
        ({"generationConfig": {"stopSequences": ["a"] * 6}}, "maximum number of stop sequences"),
        ({"generationConfig": {"maxOutputTokens": 0}}, "supported range"),
        ({"generationConfig": {"temperature": 3}}, "temperature"),
        ({"generationConfig": {"candidateCount": 2}}, "Only one candidate"),
        ({"generationConfig": {"responseModalities": ["TEXT", "IMAGE"]}}, "Multi-modal output is not supported"),
        ({"generationConfig": {"responseSchema": {"type": "OBJECT"}}}, "response_mime_type is application/json"),
        ({"generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW"}}}, "not supported for this model"),
        ({"tools": [{"function": {}}]}, 'Unknown name "function"'),
        (
            {"tools": [{"functionDeclarations": [{"name": "f", "parameters": {"additionalProperties": False}}]}]},
            'Unknown name "additionalProperties"',
        ),
        (declared(parameters={"type": "OBJECT", "properties": {}}), "properties: should be non-empty for OBJECT type"),
        (declared(parameters={"type": "STRING"}), "schema should be of type OBJECT"),
        (declared(parameters=with_property({"type": "ARRAY"})), "parameters.properties[p].items: missing field"),
        (declared(parameters=with_property({"type": "INTEGER", "enum": ["1"]})), "enum: only allowed for STRING type"),
        (declared(parameters=with_property({"type": "STRING", "enum": [1]})), "enum' (TYPE_STRING)"),
        (declared(parameters=with_property({}), parametersJsonSchema={}), "cannot both be set"),
        (declared(parametersJsonSchema=["object"]), "must be an object"),
        (
            {"generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": "x"}},
            "must be an object",
        ),
        (
            {"generationConfig": {"responseMimeType": "application/json", "responseSchema": {"type": "ARRAY"}}},
            "generation_config.response_schema.items: missing field",
        ),
        ({"tools": TOOLS, "toolConfig": {"functionCallingConfig": {"allowedFunctionNames": ["f"]}}}, "only be set"),
        ({"toolConfig": {"functionCallingConfig": {"mode": "SOME"}}}, "mode"),
    ],
)
def test_a_wrong_body_is_a_400_in_googles_words(api: httpx.Client, fields: dict[str, Any], message: str) -> None:
    assert message in refused(api, {**body(), **fields})


def test_a_body_may_be_written_in_snake_case(api: httpx.Client) -> None:
    config = {"max_output_tokens": 1, "thinking_config": {"thinking_budget": 0}}
    answer = said(api, text="hi", system_instruction={"parts": [{"text": "be brief"}]}, generation_config=config)
    assert text_of(answer) == "You"
    assert answer["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert answer["usageMetadata"]["promptTokenCount"] == 3


def test_every_chunk_has_the_usage_so_far_and_the_last_the_whole(api: httpx.Client) -> None:
    thinks = {"thinkingConfig": {"includeThoughts": True}}
    whole = said(api, text="[[say: one two three]]", generationConfig=thinks)
    answer = api.post(
        f"{FLASH}:streamGenerateContent?alt=sse", json=body("[[say: one two three]]", generationConfig=thinks)
    )
    assert answer.headers["content-type"] == "text/event-stream"
    chunks = [chunk for _, chunk in sse(answer.content)]
    totals = [chunk["usageMetadata"]["totalTokenCount"] for chunk in chunks]
    assert totals == sorted(totals)
    assert chunks[-1]["usageMetadata"] == whole["usageMetadata"]
    assert whole["usageMetadata"]["thoughtsTokenCount"] == 6
    assert whole["usageMetadata"]["candidatesTokenCount"] == 3
    assert whole["usageMetadata"]["totalTokenCount"] == whole["usageMetadata"]["promptTokenCount"] + 9
    assert [chunk["candidates"][0].get("finishReason") for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["candidates"][0]["finishReason"] == "STOP"
    parts = [part for chunk in chunks for part in chunk["candidates"][0]["content"]["parts"]]
    thought = "".join(part["text"] for part in parts if part.get("thought"))
    assert thought == whole["candidates"][0]["content"]["parts"][0]["text"] != ""
    assert len({chunk["responseId"] for chunk in chunks}) == 1


def test_hidden_thoughts_are_counted_and_not_shown(api: httpx.Client) -> None:
    answer = said(api, text="[[say: one]]")
    assert [part.get("thought") for part in answer["candidates"][0]["content"]["parts"]] == [None]
    assert answer["usageMetadata"]["thoughtsTokenCount"] == 6
    off = said(api, text="[[say: one]]", generationConfig={"thinkingConfig": {"thinkingBudget": 0}})
    assert "thoughtsTokenCount" not in off["usageMetadata"]
    off_pro: dict[str, Any] = {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}}
    assert "only works in thinking mode" in refused(api, body(**off_pro), "/v1beta/models/gemini-2.5-pro")


@pytest.mark.parametrize("fault", ["", "[sandbox: error-after=1]", "[sandbox: error-before]"])
def test_without_alt_sse_the_stream_is_one_json_array(api: httpx.Client, fault: str) -> None:
    answer = api.post(f"{FLASH}:streamGenerateContent", json=body(f"[[say: one two]] {fault}"))
    assert answer.headers["content-type"] == "application/json"
    chunks = answer.json()
    assert isinstance(chunks, list)
    assert ("error" in chunks[-1]) == bool(fault)
    if not fault:
        assert "".join(text_of(chunk) for chunk in chunks) == "one two"


def called(api: httpx.Client, model: str = PRO3, **fields: Any) -> dict[str, Any]:
    answer = said(api, model, text="use weather and clock", tools=TOOLS, **fields)
    content: dict[str, Any] = answer["candidates"][0]["content"]
    assert answer["candidates"][0]["finishReason"] == "STOP"
    return content


def after(content: dict[str, Any], names: tuple[str, ...] = ("weather", "clock")) -> dict[str, Any]:
    answers = [{"functionResponse": {"name": name, "response": {"result": "5"}}} for name in names]
    contents = [body("use weather and clock")["contents"][0], content, {"role": "user", "parts": answers}]
    return {"contents": contents, "tools": TOOLS}


def test_a_tool_loop_carries_the_signature_of_its_first_call(api: httpx.Client) -> None:
    content = called(api)
    assert [bool(part.get("thoughtSignature")) for part in content["parts"]] == [True, False]
    done = api.post(f"{PRO3}:generateContent", json=after(content)).json()
    assert text_of(done) == "weather answered 5; clock answered 5"


def test_no_two_calls_of_a_conversation_have_one_id(api: httpx.Client) -> None:
    """ADK and others drop calls whose id they have seen before."""
    ids = [part["functionCall"]["id"] for _ in range(2) for part in called(api)["parts"] if "functionCall" in part]
    assert len(ids) == len(set(ids)) == 4


def test_a_missing_or_changed_signature_is_a_400_for_gemini_3_only(api: httpx.Client) -> None:
    for model in (PRO3, FLASH):
        content = called(api, model)
        without = {**content, "parts": [{**part, "thoughtSignature": ""} for part in content["parts"]]}
        strange = {**content, "parts": [{**part, "thoughtSignature": "Zm9v"} for part in content["parts"]]}
        changed = json.loads(json.dumps(content))
        changed["parts"][0]["functionCall"]["args"] = {"city": "else"}
        for wrong, message in (
            (without, "missing a thought_signature"),
            (strange, "Corrupted"),
            (changed, "Corrupted"),
        ):
            if model == PRO3:
                assert message in refused(api, after(wrong), model)
            else:
                assert api.post(f"{model}:generateContent", json=after(wrong)).status_code == 200
    skipped = [{**part, "thoughtSignature": "skip_thought_signature_validator"} for part in content["parts"]]
    assert api.post(f"{PRO3}:generateContent", json=after({**content, "parts": skipped})).status_code == 200


def test_every_call_needs_its_response(api: httpx.Client) -> None:
    message = "number of function response parts is equal to the number of function call parts"
    assert message in refused(api, after(called(api), names=("weather",)), PRO3)


def test_a_tool_can_be_demanded_allowed_or_forbidden(api: httpx.Client) -> None:
    def calls(mode: str, *names: str) -> list[str]:
        config = {"functionCallingConfig": {"mode": mode, **({"allowedFunctionNames": names} if names else {})}}
        parts = said(api, text="hello", tools=TOOLS, toolConfig=config)["candidates"][0]["content"]["parts"]
        return [part["functionCall"]["name"] for part in parts if "functionCall" in part]

    assert calls("AUTO") == []
    assert calls("ANY") == ["weather"]
    assert calls("ANY", "clock") == ["clock"]
    assert calls("NONE") == []


@pytest.mark.parametrize("name", ["responseSchema", "responseJsonSchema"])
def test_a_schema_gets_an_instance(api: httpx.Client, name: str) -> None:
    kinds = ("OBJECT", "INTEGER") if name == "responseSchema" else ("object", "integer")
    schema = {"type": kinds[0], "properties": {"n": {"type": kinds[1]}}, "required": ["n"]}
    config = {"responseMimeType": "application/json", name: schema}
    assert isinstance(json.loads(text_of(said(api, generationConfig=config)))["n"], int)


def test_a_blocked_prompt_has_no_candidate_and_costs_its_input(api: httpx.Client, sandbox: Running) -> None:
    answer = said(api, text="[[refuse: no]]")
    assert "candidates" not in answer
    assert answer["promptFeedback"]["blockReason"] == "SAFETY"
    assert said(api, text="[[say: a]] [[finish: filter]]")["candidates"][0]["finishReason"] == "SAFETY"
    streamed = sse(api.post(f"{FLASH}:streamGenerateContent?alt=sse", json=body("[[refuse: no]]")).content)
    assert ["promptFeedback" in chunk for _, chunk in streamed] == [True]
    assert "output_tokens" not in json.loads(bytes(sandbox.sandbox.bill.statement().lines[0]))


def test_pictures_go_in_and_come_out(api: httpx.Client) -> None:
    data = base64.b64encode(b"\x89PNG").decode()
    blobs = [{"inlineData": {"mimeType": kind, "data": data}} for kind in ("image/png", "audio/wav", "application/pdf")]
    asked = {"contents": [{"role": "user", "parts": [{"text": "look"}, *blobs]}]}
    answer = api.post(f"{FLASH}:generateContent", json=asked).json()
    assert text_of(answer) == "You said: look You showed: image image/png, file application/pdf, a sound."
    kinds = {entry["modality"]: entry["tokenCount"] for entry in answer["usageMetadata"]["promptTokensDetails"]}
    assert kinds == {"TEXT": 1, "IMAGE": 85, "AUDIO": 10}
    drawing = "/v1beta/models/gemini-2.5-flash-image"
    drawn = said(api, drawing, text="draw", generationConfig={"responseModalities": ["IMAGE"]})
    (part,) = drawn["candidates"][0]["content"]["parts"]
    assert base64.b64decode(part["inlineData"]["data"]).startswith(b"\x89PNG\r\n\x1a\n")
    assert drawn["usageMetadata"]["candidatesTokenCount"] == 1290


def test_embeddings_are_made_alone_and_together(api: httpx.Client, sandbox: Running) -> None:
    path = "/v1beta/models/gemini-embedding-001"
    one = {"content": {"parts": [{"text": "a b"}]}, "taskType": "RETRIEVAL_QUERY", "outputDimensionality": 8}
    alone = api.post(f"{path}:embedContent", json=one).json()["embedding"]["values"]
    many = {"requests": [{"model": "models/gemini-embedding-001", **one}] * 2}
    together = api.post(f"{path}:batchEmbedContents", json=many).json()["embeddings"]
    assert [entry["values"] for entry in together] == [alone, alone]
    assert len(alone) == 8
    assert [json.loads(bytes(line))["prompt_tokens"] for line in sandbox.sandbox.bill.statement().lines] == [2, 4]
    wrong: dict[str, Any]
    for wrong in ({**one, "taskType": "SOME"}, {**one, "outputDimensionality": 9999}, {"content": {"parts": []}}):
        assert api.post(f"{path}:embedContent", json=wrong).status_code == 400
    assert api.post(f"{path}:batchEmbedContents", json={"requests": [one]}).status_code == 400
    assert api.post("/v1beta/models/none:embedContent", json=one).status_code == 404


def test_tokens_are_counted_for_nothing(api: httpx.Client, sandbox: Running) -> None:
    inner = {"model": "models/gemini-2.5-flash", **body("a b c")}
    for wanted in (body("a b c"), {"generateContentRequest": inner}):
        assert api.post(f"{FLASH}:countTokens", json=wanted).json()["totalTokens"] == 3
    assert sandbox.sandbox.bill.statement().lines_total == 0


def test_models_are_listed_in_pages(api: httpx.Client) -> None:
    first = api.get("/v1beta/models?pageSize=2").json()
    rest = api.get(f"/v1beta/models?pageSize=100&pageToken={first['nextPageToken']}").json()
    assert "nextPageToken" not in rest
    names = [entry["name"] for entry in [*first["models"], *rest["models"]]]
    assert len(set(names)) == len(names)
    assert api.get(f"/v1beta/{names[0]}").json()["name"] == names[0]
    assert api.get("/v1beta/models/none").json()["error"]["status"] == "NOT_FOUND"


def test_the_key_may_stand_in_the_query_and_a_wrong_one_is_googles_400(api: httpx.Client) -> None:
    base_url = str(api.base_url)
    assert httpx.get(f"{base_url}/v1beta/models?key={GEMINI_KEY}").status_code == 200
    wrong = httpx.get(f"{base_url}/v1beta/models", headers={"x-goog-api-key": "sk-other"})
    assert (wrong.status_code, wrong.json()["error"]["details"][0]["reason"]) == (400, "API_KEY_INVALID")
    assert httpx.get(f"{base_url}/v1beta/models").status_code == 403


def assertion(now_s: float, **changes: Any) -> str:
    header = {"alg": "RS256", "typ": "JWT"}
    claims = {"iss": "a@b", "scope": "s", "aud": "u", "iat": now_s, "exp": now_s + 3600, **changes}
    header["alg"] = claims.pop("alg", "RS256")
    parts = [json.dumps(part).encode() for part in (header, claims)]
    parts.append(claims.get("signature", "x" * 256).encode())
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


def test_the_token_endpoint_gives_a_token_that_works_for_an_hour() -> None:
    moment = [1_800_000_000.0]
    with running(Options(now=lambda: moment[0])) as served, httpx.Client(base_url=served.base_url) as client:
        given = client.post("/token", data={"grant_type": GRANT, "assertion": assertion(moment[0])}).json()
        assert (given["token_type"], given["expires_in"]) == ("Bearer", 3599)

        def status(token: str) -> int:
            path = f"{PROJECT}/google/models/gemini-2.5-flash:generateContent"
            return client.post(path, json=body(), headers={"authorization": f"Bearer {token}"}).status_code

        assert status(given["access_token"]) == 200
        assert status(given["access_token"][:-8] + "AAAAAAA=") == 401
        assert status("sk-other") == 401
        moment[0] += 3600
        assert status(given["access_token"]) == 401


@pytest.mark.parametrize(
    "changes",
    [{"alg": "HS256"}, {"exp": 1_800_009_999.0}, {"iat": 1_700_000_000.0, "exp": 1_700_003_600.0}, {"scope": ""},
     {"signature": "short"}, {"iat": "now"}],
)  # fmt: skip
def test_a_wrong_assertion_gets_no_token(changes: dict[str, Any]) -> None:
    with running(Options(now=lambda: 1_800_000_000.0)) as served:
        form = {"grant_type": GRANT, "assertion": assertion(1_800_000_000.0, **changes)}
        answer = httpx.post(f"{served.base_url}/token", data=form)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
        form = {"grant_type": "password", "assertion": "a.b.c"}
        assert httpx.post(f"{served.base_url}/token", data=form).json()["error"] == "unsupported_grant_type"


@pytest.mark.parametrize("header", [b"no", b'"\xff"', b"[" * 5_000], ids=["words", "no UTF-8", "nested"])
def test_an_assertion_that_is_no_json_gets_no_token(sandbox: Running, header: bytes) -> None:
    claims, signature = assertion(1_800_000_000.0).split(".")[1:]
    form = {"grant_type": GRANT, "assertion": ".".join((base64.urlsafe_b64encode(header).decode(), claims, signature))}
    answer = httpx.post(f"{sandbox.base_url}/token", data=form)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"anthropic_version": None}, "anthropic_version: Field required"),
        ({"model": "claude-sonnet-5-5"}, "model: Extra inputs"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"stream": True}, "does not fit the method"),
    ],
)
def test_claude_at_vertex_refuses_in_anthropics_words(sandbox: Running, change: dict[str, Any], message: str) -> None:
    wanted = {"anthropic_version": "vertex-2023-10-16", "max_tokens": 9, "messages": [{"role": "user", "content": "a"}]}
    url = f"{sandbox.base_url}{PROJECT}/anthropic/models/claude-sonnet-5-5:rawPredict"
    answer = httpx.post(url, json={**wanted, **change}, headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_paths_that_three_providers_know_belong_to_whose_header_is_sent(sandbox: Running) -> None:
    keys = {
        "openai": {"authorization": "Bearer sk-a"},
        "anthropic": ANTHROPIC_HEADERS,
        "gemini": {"x-goog-api-key": GEMINI_KEY},
    }
    found = {name: httpx.get(f"{sandbox.base_url}/v1/models", headers=headers).json() for name, headers in keys.items()}
    assert found["openai"]["object"] == "list"
    assert "first_id" in found["anthropic"]
    assert "models" in found["gemini"]
