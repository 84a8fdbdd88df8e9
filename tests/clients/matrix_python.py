"""The checks of the matrix in the words of the official Python packages, unmodified; what came of them in neutral form.

A client has five methods: `open` (the conversation), `say` (one call, streamed or whole), `answered` (the conversation
with an answer and its tools' results in it), `raised` (its exceptions), and `own_loop`: what the package's own tool
loop with `get_weather` comes to, None where it has none.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Protocol

import anthropic
import msgspec
import openai
from google import genai
from google.genai import errors as google_errors
from google.genai import types as google

from tests.clients.matrix_checks import PDF, PNG, SCHEMA, TOOLS, Answer, Check, Raised, Refusal, Turn

THINKING_TOKENS = 1024


class Said(msgspec.Struct):
    """One answer in neutral form; `raw` is what the client's own history takes back."""

    text: str
    thought: str
    calls: list[tuple[str, str, Any]]
    finish: str
    usage: tuple[int, int, int]
    model: str
    raw: Any


class Client(Protocol):
    """One client of one package. `dialect` is its row in `matrix_checks.FINISHES`."""

    dialect: str
    errors: type[Exception]

    def open(self, turns: tuple[Turn, ...]) -> list[Any]: ...
    def say(self, model: str, history: list[Any], check: Check, streamed: bool) -> Said: ...
    def answered(self, history: list[Any], said: Said) -> list[Any]: ...
    def raised(self, error: Any) -> Raised: ...
    def own_loop(self, model: str, question: str, streamed: bool) -> str | None: ...
    def close(self) -> None: ...


def run(client: Client, model: str, check: Check, streamed: bool) -> Answer:
    """A check from its question to the answer that calls no tool any more."""
    history, questions, rounds = client.open(check.turns), list(check.then), list[Said]()
    while True:
        said = client.say(model, history, check, streamed)
        rounds.append(said)
        if check.ends_with_call or not (said.calls or questions):
            break
        history = client.answered(history, said)
        if not said.calls:
            history += client.open((questions.pop(0),))
    return _added_up(rounds)


def _added_up(rounds: list[Said]) -> Answer:
    return Answer(
        text=rounds[-1].text,
        thoughts=[said.thought for said in rounds],
        calls=[[(name, given) for _, name, given in said.calls] for said in rounds if said.calls],
        finishes=[said.finish for said in rounds],
        usage=[said.usage for said in rounds],
        model=rounds[-1].model,
    )


def run_on_both(client: Client, models: tuple[str, str], check: Check, streamed: bool) -> Answer:
    """A check with one more question after it, every other call of which is another model's."""
    history, rounds = client.open(check.turns), list[Said]()
    for number in range(len(check.calls) + 2):
        said = client.say(models[number % 2], history, check, streamed)
        rounds.append(said)
        history = client.answered(history, said)
        if number == len(check.calls):
            history += client.open((Turn("bye"),))
    return _added_up(rounds)


def refused(client: Client, model: str, refusal: Refusal, streamed: bool) -> Raised | None:
    """What a call raises that must be refused; None when it answers."""
    check = Check(turns=(Turn(refusal.text),), text="", max_tokens=refusal.max_tokens)
    try:
        client.say(model, client.open(check.turns), check, streamed)
    except client.errors as error:
        return client.raised(error)
    return None


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


class _OfMessages:
    """What the clients share whose conversations are roles and contents."""

    client: Any

    def close(self) -> None:
        self.client.close()

    def open(self, turns: tuple[Turn, ...]) -> list[Any]:
        return [{"role": turn.role, "content": self._content(turn)} for turn in turns]

    def _content(self, turn: Turn) -> Any:
        return turn.text if not (turn.image or turn.document) else [self._text(turn.text), *self._shown(turn)]

    def _text(self, text: str) -> Any:
        return {"type": "text", "text": text}

    def _shown(self, turn: Turn) -> list[Any]:
        raise NotImplementedError


class Chat(_OfMessages):
    """openai: chat completions."""

    dialect = "chat"
    errors = openai.APIError

    def __init__(self, origin: str, key: str) -> None:
        self.client = openai.OpenAI(api_key=key, base_url=f"{origin}/v1", max_retries=0)

    def _shown(self, turn: Turn) -> list[Any]:
        if turn.document:
            return [{"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}}]
        return [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}]

    def say(self, model: str, history: list[Any], check: Check, streamed: bool) -> Said:
        system = [{"role": "system", "content": check.system}] if check.system else []
        asked: dict[str, Any] = {"model": model, "messages": [*system, *history]}
        asked["max_completion_tokens"] = check.max_tokens
        if check.tools:
            asked["tools"] = [
                {"type": "function", "function": {"name": name, "strict": True, **_described(name, "parameters")}}
                for name in check.tools
            ]
        if check.choice:
            asked["tool_choice"] = check.choice
        if check.force:
            asked["tool_choice"] = {"type": "function", "function": {"name": check.force}}
        if check.schema:
            schema = {"name": "plan", "strict": True, "schema": SCHEMA}
            asked["response_format"] = {"type": "json_schema", "json_schema": schema}
        if check.thinks:
            asked["reasoning_effort"] = "low"
        if check.stop:
            asked["stop"] = [check.stop]
        completions = self.client.chat.completions
        if streamed:
            with completions.stream(**asked, stream_options={"include_usage": True}) as stream:
                try:
                    made: Any = stream.until_done().get_final_completion()
                except openai.LengthFinishReasonError as error:
                    # The helper's way to say that it ended at the limit.
                    made = error.completion
        else:
            made = completions.create(**asked)
        message, details = made.choices[0].message, made.usage.prompt_tokens_details
        cached = (details.cached_tokens if details else 0) or 0
        return Said(
            text=message.content or "",
            thought=getattr(message, "reasoning_content", None) or "",
            calls=[(c.id, c.function.name, json.loads(c.function.arguments)) for c in message.tool_calls or []],
            finish=made.choices[0].finish_reason,
            usage=(made.usage.prompt_tokens, cached, made.usage.completion_tokens),
            model=made.model,
            raw=message,
        )

    def answered(self, history: list[Any], said: Said) -> list[Any]:
        results = [
            {"role": "tool", "tool_call_id": id_, "content": TOOLS[name]["answer"]} for id_, name, _ in said.calls
        ]
        return [*history, said.raw, *results]

    def raised(self, error: Any) -> Raised:
        return Raised(_kinds(error), getattr(error, "status_code", None), error.code, str(error))

    def own_loop(self, model: str, question: str, streamed: bool) -> str | None:
        return None


class Responses(Chat):
    """openai: responses, without anything stored."""

    dialect = "responses"

    def _text(self, text: str) -> Any:
        return {"type": "input_text", "text": text}

    def _shown(self, turn: Turn) -> list[Any]:
        if turn.document:
            data = f"data:application/pdf;base64,{PDF}"
            return [{"type": "input_file", "filename": "a.pdf", "file_data": data}]
        return [{"type": "input_image", "detail": "auto", "image_url": f"data:image/png;base64,{PNG}"}]

    def say(self, model: str, history: list[Any], check: Check, streamed: bool) -> Said:
        asked: dict[str, Any] = {"model": model, "input": history, "max_output_tokens": check.max_tokens}
        asked |= {"store": False, "include": ["reasoning.encrypted_content"]}
        if check.system:
            asked["instructions"] = check.system
        if check.tools:
            asked["tools"] = [
                {"type": "function", "name": name, "strict": True, **_described(name, "parameters")}
                for name in check.tools
            ]
        if check.choice:
            asked["tool_choice"] = check.choice
        if check.force:
            asked["tool_choice"] = {"type": "function", "name": check.force}
        if check.schema:
            asked["text"] = {"format": {"type": "json_schema", "name": "plan", "strict": True, "schema": SCHEMA}}
        if check.thinks:
            asked["reasoning"] = {"effort": "low", "summary": "auto"}
        if streamed:
            with self.client.responses.stream(**asked) as stream:
                # The helper's get_final_response() knows completed ones only.
                ended = ("response.completed", "response.incomplete")
                (made,) = [event.response for event in stream if event.type in ended]
        else:
            made = self.client.responses.create(**asked)
        reason = f": {made.incomplete_details.reason}" if made.incomplete_details else ""
        return Said(
            text=made.output_text,
            thought="".join(
                row.text
                for item in made.output
                if item.type == "reasoning"
                for row in item.summary or item.content or []
            ),
            calls=[
                (item.call_id, item.name, json.loads(item.arguments))
                for item in made.output
                if item.type == "function_call"
            ],
            finish=made.status + reason,
            usage=(
                made.usage.input_tokens,
                made.usage.input_tokens_details.cached_tokens,
                made.usage.output_tokens,
            ),
            model=made.model,
            raw=made.output,
        )

    def answered(self, history: list[Any], said: Said) -> list[Any]:
        results = [
            {"type": "function_call_output", "call_id": id_, "output": TOOLS[name]["answer"]}
            for id_, name, _ in said.calls
        ]
        return [*history, *said.raw, *results]


class Anthropic(_OfMessages):
    """anthropic: messages."""

    dialect = "anthropic"
    errors = anthropic.APIError

    def __init__(self, origin: str, key: str) -> None:
        self.client = anthropic.Anthropic(api_key=key, base_url=origin, max_retries=0)

    def _shown(self, turn: Turn) -> list[Any]:
        kind, media, data = ("document", "application/pdf", PDF) if turn.document else ("image", "image/png", PNG)
        return [{"type": kind, "source": {"type": "base64", "media_type": media, "data": data}}]

    def say(self, model: str, history: list[Any], check: Check, streamed: bool) -> Said:
        asked: dict[str, Any] = {"model": model, "messages": history, "max_tokens": check.max_tokens}
        if check.system:
            asked["system"] = check.system
        if check.tools:
            asked["tools"] = [{"name": name, **_described(name, "input_schema")} for name in check.tools]
        if check.choice:
            asked["tool_choice"] = {"type": "any" if check.choice == "required" else check.choice}
        if check.force:
            asked["tool_choice"] = {"type": "tool", "name": check.force}
        if check.schema:
            asked["output_config"] = {"format": {"type": "json_schema", "schema": SCHEMA}}
        if check.thinks:
            asked["thinking"] = {"type": "enabled", "budget_tokens": THINKING_TOKENS}
        if check.stop:
            asked["stop_sequences"] = [check.stop]
        if streamed:
            with self.client.messages.stream(**asked) as stream:
                made: Any = stream.get_final_message()
        else:
            made = self.client.messages.create(**asked)
        cached = made.usage.cache_read_input_tokens or 0
        written = made.usage.cache_creation_input_tokens or 0
        return Said(
            text="".join(block.text for block in made.content if block.type == "text"),
            thought="".join(block.thinking for block in made.content if block.type == "thinking"),
            calls=[(block.id, block.name, block.input) for block in made.content if block.type == "tool_use"],
            finish=made.stop_reason,
            usage=(made.usage.input_tokens + cached + written, cached, made.usage.output_tokens),
            model=made.model,
            raw=made.content,
        )

    def answered(self, history: list[Any], said: Said) -> list[Any]:
        results = [
            {"type": "tool_result", "tool_use_id": id_, "content": TOOLS[name]["answer"]} for id_, name, _ in said.calls
        ]
        told = [{"role": "user", "content": results}] if results else []
        return [*history, {"role": "assistant", "content": said.raw}, *told]

    def raised(self, error: Any) -> Raised:
        body = error.body if isinstance(error.body, dict) else {}
        status = getattr(error, "status_code", None)
        return Raised(_kinds(error), status, body.get("error", {}).get("type"), str(error))

    def own_loop(self, model: str, question: str, streamed: bool) -> str | None:
        tools = [anthropic.beta_tool(get_weather)]
        asked: list[Any] = [{"role": "user", "content": question}]
        runner: Any = self.client.beta.messages.tool_runner(
            model=model, max_tokens=500, messages=asked, tools=tools, stream=streamed
        )
        return "".join(block.text for block in runner.until_done().content if block.type == "text")


class Gemini:
    """google-genai: generate_content."""

    dialect = "gemini"
    errors = google_errors.APIError

    def __init__(self, origin: str, key: str) -> None:
        options: Any = {"base_url": origin, "api_version": "v1beta"}
        self.client = genai.Client(api_key=key, http_options=options)

    def close(self) -> None:
        self.client.close()

    def open(self, turns: tuple[Turn, ...]) -> list[Any]:
        return [
            google.Content(role="model" if turn.role == "assistant" else "user", parts=self._parts(turn))
            for turn in turns
        ]

    def _parts(self, turn: Turn) -> list[google.Part]:
        shown = [(PDF, "application/pdf")] if turn.document else [(PNG, "image/png")] if turn.image else []
        parts = [google.Part.from_bytes(data=base64.b64decode(data), mime_type=media) for data, media in shown]
        return [google.Part(text=turn.text), *parts]

    def say(self, model: str, history: list[Any], check: Check, streamed: bool) -> Said:
        config: dict[str, Any] = {"max_output_tokens": check.max_tokens}
        if check.system:
            config["system_instruction"] = check.system
        if check.tools:
            rows = [{"name": name, **_described(name, "parameters_json_schema")} for name in check.tools]
            config |= {"tools": [{"function_declarations": rows}], "automatic_function_calling": {"disable": True}}
        if check.choice or check.force:
            calling: dict[str, Any] = {"mode": "NONE" if check.choice == "none" else "ANY"}
            calling |= {"allowed_function_names": [check.force]} if check.force else {}
            config["tool_config"] = {"function_calling_config": calling}
        if check.schema:
            config |= {"response_mime_type": "application/json", "response_json_schema": SCHEMA}
        if check.thinks:
            config["thinking_config"] = {"include_thoughts": True, "thinking_budget": THINKING_TOKENS}
        if check.stop:
            config["stop_sequences"] = [check.stop]
        asked: dict[str, Any] = {"model": model, "contents": history, "config": config}
        models = self.client.models
        made = list(models.generate_content_stream(**asked)) if streamed else [models.generate_content(**asked)]
        parts = [
            part
            for chunk in made
            for row in chunk.candidates or []
            for part in (row.content and row.content.parts) or []
        ]
        usage = made[-1].usage_metadata
        assert usage is not None
        finish = (made[-1].candidates or [google.Candidate()])[0].finish_reason
        return Said(
            text="".join(part.text or "" for part in parts if not part.thought),
            thought="".join(part.text or "" for part in parts if part.thought),
            calls=[(call.id or "", call.name or "", call.args) for part in parts if (call := part.function_call)],
            finish=finish.value if finish else "",
            usage=(
                usage.prompt_token_count or 0,
                usage.cached_content_token_count or 0,
                (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0),
            ),
            model=made[-1].model_version or "",
            raw=google.Content(role="model", parts=parts),
        )

    def answered(self, history: list[Any], said: Said) -> list[Any]:
        results = [
            google.Part(
                function_response=google.FunctionResponse(
                    id=id_ or None, name=name, response={"result": TOOLS[name]["answer"]}
                )
            )
            for id_, name, _ in said.calls
        ]
        told = [google.Content(role="user", parts=results)] if results else []
        return [*history, said.raw, *told]

    def raised(self, error: Any) -> Raised:
        return Raised(_kinds(error), error.code, error.status, str(error))

    def own_loop(self, model: str, question: str, streamed: bool) -> str | None:
        asked: dict[str, Any] = {"model": model, "contents": question, "config": {"tools": [get_weather]}}
        models = self.client.models
        made = list(models.generate_content_stream(**asked)) if streamed else [models.generate_content(**asked)]
        return "".join(chunk.text or "" for chunk in made)


def _kinds(error: Exception) -> list[str]:
    return [kind.__name__ for kind in type(error).__mro__]


def _described(tool: str, schema: str) -> dict[str, Any]:
    return {"description": TOOLS[tool]["description"], schema: TOOLS[tool]["schema"]}


CLIENTS: dict[str, Any] = {
    "openai-python chat": Chat,
    "openai-python responses": Responses,
    "anthropic-python": Anthropic,
    "google-genai": Gemini,
}
