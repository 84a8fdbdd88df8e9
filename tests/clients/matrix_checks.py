"""What every client must get from every upstream, as data: upstreams, checks, refusals, and what is right of each.

A check is neutral: `matrix_python.py` and `node/matrix.mjs` word it in each client's own dialect and report what came
of it in the neutral form of `Answer`; `judged` says what of that is wrong. A new upstream or check is one entry here.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec

# 70 bytes.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PDF = base64.b64encode(b"%PDF-1.4 a small one").decode()
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "steps": {"type": "array", "items": {"type": "string"}}},
    "required": ["title", "steps"],
    "additionalProperties": False,
}
PLAN = {"title": "title", "steps": ["steps"]}


def _takes(name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": "string"}},
        "required": [name],
        "additionalProperties": False,
    }


TOOLS = {
    "get_weather": {"description": "The weather of a city.", "schema": _takes("city"), "answer": "rain in Oslo"},
    "get_time": {"description": "The time in a zone.", "schema": _takes("zone"), "answer": "noon"},
    "ping": {
        "description": "Whether anybody is there.",
        "schema": {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
        "answer": '{"there":[true]}',
    },
}


class Upstream(msgspec.Struct, frozen=True):
    """One upstream: its channel, its model, and what of a thought arrives there.

    `shows`: its chat form shows thoughts. `thinks` False: the model never thinks. `names_stop`: it says that a stop
    sequence ended the answer, where others only say that it ended. `only` are the clients' languages that call it.
    """

    family: str
    model: str
    secret: str = "sk-upstream"
    options: dict[str, str] = {}
    shows: bool = True
    thinks: bool = True
    names_stop: bool = False
    only: tuple[str, ...] = ("python", "node")


AWS: dict[str, Any] = {
    "family": "bedrock",
    "secret": "AKIDSANDBOX:sandbox-secret",
    "options": {"region": "us-east-1"},
    "names_stop": True,
}
UPSTREAMS = {
    "openai": Upstream("openai", "gpt-5", shows=False),
    "azure": Upstream("azure", "gpt-5-mini", "azure-upstream", shows=False),
    "deepseek": Upstream("deepseek", "deepseek-chat"),
    "anthropic": Upstream("anthropic", "claude-haiku-5-5", "sk-ant-upstream", names_stop=True),
    # Google's models think by a budget, or by a level and sign their calls: each is asked by half of the clients.
    "gemini 2.5": Upstream("gemini", "gemini-2.5-pro", "AIzaUpstream", only=("node",)),
    "gemini 3": Upstream("gemini", "gemini-3-pro-preview", "AIzaUpstream", only=("python",)),
    "bedrock": Upstream(model="us.anthropic.claude-sonnet-4-5-20250929-v1:0", **AWS),
    "nova": Upstream(model="us.amazon.nova-pro-v1:0", **AWS, thinks=False),
}
# Which of a client's own forms an upstream speaks itself, so that thoughts need not pass through chat.
RESPONSES_UPSTREAMS = frozenset({"openai", "azure"})


def upstreams_for(language: str) -> list[str]:
    """The upstreams that the clients of a language call."""
    return [name for name, row in UPSTREAMS.items() if language in row.only]


def model_of(upstream: str) -> str:
    """The name customers know an upstream's model by."""
    return "matrix-" + upstream.replace(" ", "-")


class Turn(msgspec.Struct, frozen=True):
    """One message; `image`: with a small PNG, `document`: with a small PDF."""

    text: str
    role: str = "user"
    image: bool = False
    document: bool = False


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked, and what must come of it. `calls` are the rounds of tool calls, each answered before the next.

    `force` names the tool that must be called, `choice` is "none" or "required"; with a forced call the loop ends.
    `then` are further questions, each asked after the answer to the one before. `cut`: `text` is longer than what must
    come, which is its beginning; `begins`: it is the beginning of what must come. `thought` None: whether it is shown
    is each upstream's. `input_tokens` None: what the upstream counts is not the same everywhere.
    """

    turns: tuple[Turn, ...]
    text: str
    system: str = ""
    tools: tuple[str, ...] = ()
    force: str = ""
    choice: str = ""
    then: tuple[Turn, ...] = ()
    schema: bool = False
    thinks: bool = False
    stop: str = ""
    max_tokens: int = 4000
    calls: tuple[tuple[tuple[str, dict[str, str]], ...], ...] = ()
    thought: str | None = ""
    finish: str = "stop"
    cut: bool = False
    begins: bool = False
    input_tokens: int | None = None
    cached_tokens: int = 0

    @property
    def ends_with_call(self) -> bool:
        """Whether the first call is all that is asked for."""
        return bool(self.force) or self.choice == "required"


def _asks(question: str, **more: Any) -> Check:
    return Check(turns=(Turn(question),), **more)


BOTH = ("get_weather", "get_time")
WEATHER = ("get_weather", {"city": "Oslo"})
TIME = ("get_time", {"zone": "UTC"})
FAR = ("get_weather", {"city": 'Zürich "日本" \\ 🎉'})
CALL_WEATHER = 'get_weather {"city":"Oslo"}'
CALL_TIME = 'get_time {"zone":"UTC"}'
LONG = " ".join(f"w{n:03}" for n in range(50))
CHECKS = {
    "text": _asks("hello there", text="You said: hello there", input_tokens=2),
    "system prompt": _asks("hello there", system="be brief and kind", text="You said: hello there", input_tokens=6),
    "multi-turn": Check(
        turns=(Turn("one"), Turn("two", "assistant"), Turn("three four")), text="You said: three four", input_tokens=4
    ),
    "letters": _asks('[[say: 日本 🎉 ünïcödé \u2028 <&>"\\]]', text='日本 🎉 ünïcödé \u2028 <&>"\\'),
    "image": Check(turns=(Turn("look", image=True),), text="You said: look You showed: image image/png."),
    "single tool": _asks(
        f"[[tools: {CALL_WEATHER}]]", tools=BOTH, calls=((WEATHER,),), text="get_weather answered rain in Oslo"
    ),
    "document": Check(turns=(Turn("read", document=True),), text="You said: read You showed: file ", begins=True),
    "letters in arguments": _asks(
        f"[[tools: get_weather {json.dumps(FAR[1])}]]",
        tools=BOTH,
        calls=((FAR,),),
        text="get_weather answered rain in Oslo",
    ),
    "parallel tools": _asks(
        f"[[say: I look.]] [[tools: {CALL_WEATHER}; {CALL_TIME}]]",
        tools=BOTH,
        calls=((WEATHER, TIME),),
        text="get_weather answered rain in Oslo; get_time answered noon",
    ),
    "tools and thoughts": _asks(
        f"[[think: hm]] [[tools: {CALL_WEATHER}]] [[tools: {CALL_TIME}; {CALL_WEATHER}]] [[then: all done]]",
        tools=BOTH,
        thinks=True,
        thought="hm",
        calls=((WEATHER,), (TIME, WEATHER)),
        text="all done",
    ),
    "tools and hidden thoughts": _asks(
        f"[[redact: secret]] [[tools: {CALL_WEATHER}]] [[tools: {CALL_TIME}]] [[then: all done]]",
        tools=BOTH,
        thinks=True,
        thought=None,
        calls=((WEATHER,), (TIME,)),
        text="all done",
    ),
    "forced tool": _asks(
        "what now", tools=BOTH, force="get_time", calls=((("get_time", {"zone": "zone"}),),), text="", finish="tools"
    ),
    "required tool": _asks(
        "what now",
        tools=("get_time",),
        choice="required",
        calls=((("get_time", {"zone": "zone"}),),),
        text="",
        finish="tools",
    ),
    "no tool": _asks("get_time now", tools=BOTH, choice="none", text="You said: get_time now"),
    "tool without arguments": _asks(
        "[[tools: ping]]", tools=("ping",), calls=((("ping", {}),),), text='ping answered {"there":[true]}'
    ),
    "question after tools": _asks(
        f"[[tools: {CALL_WEATHER}; {CALL_TIME}]]",
        tools=BOTH,
        calls=((WEATHER, TIME),),
        then=(Turn("[[say: you are]] welcome"), Turn("bye")),
        text="You said: bye",
    ),
    "JSON schema": _asks("a plan", schema=True, text=json.dumps(PLAN)),
    "thinking": _asks("[[think: hm hm]] [[say: yes]]", thinks=True, thought="hm hm", text="yes"),
    "stop sequence": _asks("[[say: a b END c]]", stop="END", text="a b ", finish="stop sequence"),
    "cached tokens": _asks("[[cached: 50]] hi", text="You said: hi", input_tokens=50, cached_tokens=50),
    "max tokens": _asks(f"[[say: {LONG}]]", max_tokens=40, text=LONG, finish="length", cut=True),
}
# What the packages' own tool loops are asked, and must come to.
OWN_LOOP = (f"[[tools: {CALL_WEATHER}]]", "get_weather answered rain in Oslo")
# What a client's own dialect has no member for.
ABSENT = {"responses": frozenset({"stop sequence"})}


def checks_for(client: str) -> dict[str, Check]:
    """The checks of a client's dialect."""
    return {name: check for name, check in CHECKS.items() if name not in ABSENT.get(client, ())}


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A call that must be refused: with which key, of which model, what it says, and which error it must raise.

    `code` is OpenAI's code, "" where the upstream's own survives; `anthropic` and `google` are their words where the
    status does not give them. `model` "" is the upstream's. `once`: it comes out the same whichever upstream is asked,
    so one is enough. `streamed_only`: the failure comes inside a stream, so it has no status.
    """

    status: int
    code: str = ""
    anthropic: str = ""
    google: str = ""
    text: str = "hello"
    key: str = "good"
    model: str = ""
    max_tokens: int = 100
    once: bool = False
    streamed_only: bool = False

    @property
    def ways(self) -> tuple[str, ...]:
        """How it is called."""
        return ("streamed",) if self.streamed_only else ("whole", "streamed")


REFUSALS = {
    "wrong key": Refusal(status=401, code="invalid_api_key", key="wrong", once=True),
    "no money": Refusal(status=403, code="insufficient_user_quota", key="poor", once=True),
    "unknown model": Refusal(
        status=503,
        code="model_not_found",
        anthropic="not_found_error",
        google="NOT_FOUND",
        model="no-such-model",
        once=True,
    ),
    "bad member": Refusal(status=400, code="invalid_request", max_tokens=-1, once=True),
    "refused upstream": Refusal(status=400, text="[sandbox: status=400]"),
    "too large upstream": Refusal(status=413, text="[sandbox: status=413]", once=True),
    "rate limit": Refusal(status=429, code="upstream_rate_limited", text="[sandbox: status=429]"),
    "upstream down": Refusal(status=502, code="upstream_error", text="[sandbox: status=500]"),
    "upstream overloaded": Refusal(status=503, code="upstream_overloaded", text="[sandbox: status=529]", once=True),
    "broken stream": Refusal(status=0, text="[[say: a b c d]] [sandbox: error-after=2]", streamed_only=True),
    "cut stream": Refusal(status=0, text="[[say: a b c d]] [sandbox: cut-after=4]", streamed_only=True),
}


def refusals_of(upstream: str) -> dict[str, Refusal]:
    """The refusals to check on an upstream."""
    return {name: row for name, row in REFUSALS.items() if not row.once or upstream == "openai"}


class Answer(msgspec.Struct, frozen=True):
    """What a client made of an answer, or of the answers of a loop: thoughts, finish and counts of each.

    `usage` holds (input, cached, output) tokens: cached ones are part of the input, thoughts of the output.
    """

    text: str
    thoughts: list[str]
    calls: list[list[tuple[str, Any]]]
    finishes: list[str]
    usage: list[tuple[int, int, int]]
    model: str


class Raised(msgspec.Struct, frozen=True):
    """The SDK's own exception: the names of its classes, its HTTP status and the dialect's word for it."""

    kinds: list[str]
    status: int | None
    code: str | None
    message: str


FINISHES = {
    "chat": {"stop": "stop", "stop sequence": "stop", "length": "length", "tools": "tool_calls"},
    "responses": {"stop": "completed", "length": "incomplete: max_output_tokens", "tools": "completed"},
    "anthropic": {
        "stop": "end_turn",
        "stop sequence": "stop_sequence",
        "length": "max_tokens",
        "tools": "tool_use",
    },
    "gemini": {"stop": "STOP", "stop sequence": "STOP", "length": "MAX_TOKENS", "tools": "STOP"},
}
# The class of each status; any other from 500 on is an InternalServerError.
OPENAI_KINDS = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    413: "APIError",
    429: "RateLimitError",
}
ANTHROPIC_KINDS = OPENAI_KINDS | {413: "ContentTooLargeError", 503: "ServiceUnavailableError", 529: "OverloadedError"}
ANTHROPIC_WORDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    413: "request_too_large",
    429: "rate_limit_error",
    502: "api_error",
    503: "overloaded_error",
}
GOOGLE_WORDS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    502: "INTERNAL",
    503: "UNAVAILABLE",
}


def thought_of(check: Check, client: str, upstream: str) -> str | None:
    """The thought a client must see: none where the model has none, or where its form keeps it to itself."""
    row = UPSTREAMS[upstream]
    shown = row.thinks and (row.shows or (client == "responses" and upstream in RESPONSES_UPSTREAMS))
    return check.thought if shown else ""


def judged(check: Check, client: str, upstream: str, answer: Answer) -> list[str]:
    """What is wrong with an answer; [] when it is right."""
    wrong = []

    def expect(what: str, found: object, wanted: object) -> None:
        if found != wanted:
            wrong.append(f"{what}: {found!r}, not {wanted!r}")

    if check.schema:
        expect("text", json.loads(answer.text), json.loads(check.text))
    elif check.begins:
        expect("text", answer.text[: len(check.text)], check.text)
    elif check.cut:
        expect("text", answer.text, check.text[: len(answer.text)])
        expect("that it is cut", 0 < len(answer.text) < len(check.text), True)
    else:
        # OpenAI's sandbox tells a picture's size too.
        expect("text", answer.text.replace(" of 70 bytes", ""), check.text)
    if check.thought is not None:
        expect("thought", answer.thoughts[0], thought_of(check, client, upstream))
    expect("calls", answer.calls, [[(name, given) for name, given in round_] for round_ in check.calls])
    words = FINISHES[client]
    rounds = 0 if check.ends_with_call else len(check.calls)
    finish = "stop" if check.finish == "stop sequence" and not UPSTREAMS[upstream].names_stop else check.finish
    expect("finish", answer.finishes, [words["tools"]] * rounds + [words[finish]] * (1 + len(check.then)))
    if check.input_tokens is not None:
        expect("input tokens", answer.usage[0][0], check.input_tokens)
    expect("cached tokens", answer.usage[0][1], check.cached_tokens)
    expect("tokens counted", all(given > 0 and made > 0 for given, _, made in answer.usage), True)
    expect("model", answer.model, model_of(upstream))
    return wrong


def judged_error(refusal: Refusal, client: str, raised: Raised) -> list[str]:
    """What is wrong with an error; [] when it is right. `client` is one of `FINISHES`."""
    wrong = []
    if "[sandbox" in raised.message or "127.0.0.1" in raised.message:
        wrong.append(f"it tells of the upstream: {raised.message}")
    if refusal.streamed_only:
        return wrong
    status = refusal.status
    if client == "anthropic" and refusal.code == "upstream_overloaded":
        status = 529  # Its own, which its clients know.
    if raised.status != status:
        wrong.append(f"status {raised.status}, not {status}: {raised.message}")
    if client == "gemini":
        kind = "ClientError" if refusal.status < 500 else "ServerError"
        word: str | None = refusal.google or GOOGLE_WORDS[refusal.status]
    elif client == "anthropic":
        kind = ANTHROPIC_KINDS.get(status, "InternalServerError")
        word = refusal.anthropic or ANTHROPIC_WORDS[refusal.status]
    else:
        kind, word = OPENAI_KINDS.get(refusal.status, "InternalServerError"), refusal.code or raised.code
    if kind not in raised.kinds:
        wrong.append(f"{raised.kinds}, not {kind}: {raised.message}")
    if raised.code != word:
        wrong.append(f"code {raised.code}, not {word}: {raised.message}")
    return wrong
