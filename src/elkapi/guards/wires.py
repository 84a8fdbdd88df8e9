"""The text fields of each wire's requests and answers. Data only.

The rows follow the views of `translate`. Not checked: images, audio and files, token ids, signed reasoning (a changed
one is refused), URLs of sources, and objects that a provider stores. Log probabilities contain the tokens, so checked
answers omit them.
"""

from __future__ import annotations

from elkapi.catalog.operation import Wire
from elkapi.guards.shapes import Shape

TEXT = Shape(text=True)
JSON = Shape(json=True)
DEEP = Shape(deep=True)
GONE = Shape(gone=True)
_TEXTS = Shape(text=True, items=Shape(text=True, only_text=True))


def _small(members: dict[str, Shape]) -> dict[str, Shape]:
    return {name.lower(): shape for name, shape in members.items()}


def _object(**members: Shape) -> Shape:
    return Shape(members=_small(members))


def _each(**members: Shape) -> Shape:
    return Shape(items=_object(**members))


def _one_or_each(**members: Shape) -> Shape:
    """An array of objects, or a single object."""
    small = _small(members)
    return Shape(items=Shape(members=small), members=small)


def _text_or_parts(**members: Shape) -> Shape:
    """A string, an array of strings or objects, or a single object."""
    small = _small(members)
    return Shape(text=True, items=Shape(text=True, members=small), members=small)


# Chat
_CHAT_CONTENT = _text_or_parts(text=TEXT, refusal=TEXT, thinking=Shape(text=True, items=_object(text=TEXT)))
_CHAT_CALLS = _each(function=_object(arguments=JSON), custom=_object(input=TEXT))
_CHAT_MESSAGE = {
    "content": _CHAT_CONTENT,
    "refusal": TEXT,
    "reasoning_content": TEXT,
    "reasoning": TEXT,
    "reasoning_details": _each(text=TEXT, summary=TEXT),
    "annotations": _each(url_citation=_object(title=TEXT)),
    "tool_calls": _CHAT_CALLS,
    "function_call": _object(arguments=JSON),
}
_CHAT_ASKED = _object(
    messages=_each(**_CHAT_MESSAGE),
    tools=_each(function=_object(description=TEXT), custom=_object(description=TEXT)),
    prediction=_object(content=_CHAT_CONTENT),
)
_CHAT_SAID = _object(**_CHAT_MESSAGE, thinking_blocks=_each(thinking=TEXT), audio=_object(transcript=TEXT))
_CHAT_ANSWER = _object(choices=_each(message=_CHAT_SAID, logprobs=GONE), search_results=_each(title=TEXT, snippet=TEXT))
_COMPLETION_ASKED = _object(prompt=_TEXTS, suffix=TEXT)
_COMPLETION_ANSWER = _object(choices=_each(text=TEXT, logprobs=GONE))

# Responses
_RESPONSES_TOOLS = _each(description=TEXT, tools=_each(description=TEXT))
_RESPONSES_PART = {"text": TEXT, "refusal": TEXT, "annotations": _each(title=TEXT)}
_RESPONSES_ITEM = {
    "content": _text_or_parts(**_RESPONSES_PART),
    "arguments": JSON,
    "input": TEXT,
    "output": _text_or_parts(text=TEXT, stdout=TEXT, stderr=TEXT),
    "summary": _each(text=TEXT),
    "code": TEXT,
    "outputs": _each(logs=TEXT),
    "action": DEEP,
    "operation": DEEP,
    "queries": DEEP,
    "results": DEEP,
    "revised_prompt": TEXT,
    "tools": _RESPONSES_TOOLS,
}
# A program's result is text; other items have base64 there.
_RESPONSES_TYPED = {"program_output": {"result": TEXT}}
_RESPONSES_ITEMS = Shape(text=True, items=Shape(members=_small(_RESPONSES_ITEM), typed=_RESPONSES_TYPED))
_RESPONSES_ASKED = _object(
    input=_RESPONSES_ITEMS,
    instructions=_RESPONSES_ITEMS,
    prompt=_object(variables=DEEP),
    tools=_RESPONSES_TOOLS,
)
_RESPONSES_SAID = _RESPONSES_ITEM | {"content": _text_or_parts(**_RESPONSES_PART, logprobs=GONE)}
_RESPONSES_ANSWER = _object(
    output=Shape(items=Shape(members=_small(_RESPONSES_SAID), typed=_RESPONSES_TYPED)), output_text=TEXT
)

# Anthropic
_CITATIONS = _each(cited_text=TEXT, title=TEXT, document_title=TEXT)
# The data of a text document; other kinds have base64 there.
_SOURCE = Shape(members={"content": _text_or_parts(text=TEXT)}, typed={"text": {"data": TEXT}})
# Text of blocks and of results of the provider's tools.
_RESULT = {"text": TEXT, "title": TEXT, "stdout": TEXT, "stderr": TEXT, "source": _SOURCE}
_BLOCK_TEXTS = {**_RESULT, "context": TEXT, "input": DEEP}
# The description of a tool that the conversation adds.
_ADDED_TOOL = _object(definition=_object(description=TEXT))
_ANTHROPIC_BLOCK = {
    **_BLOCK_TEXTS,
    "tool": _ADDED_TOOL,
    "tool_changes": _each(tool=_ADDED_TOOL),
    "tools": _each(description=TEXT),
    "citations": _CITATIONS,
    "content": _text_or_parts(**_BLOCK_TEXTS, content=_text_or_parts(**_BLOCK_TEXTS)),
}
_ANTHROPIC_ASKED = _object(
    system=_text_or_parts(text=TEXT),
    messages=_each(content=Shape(text=True, items=_object(**_ANTHROPIC_BLOCK))),
    tools=_each(description=TEXT),
    compaction=_object(instructions=TEXT),
)
_ANTHROPIC_ANSWER = _object(
    content=_each(
        text=TEXT,
        citations=_CITATIONS,
        thinking=TEXT,
        input=DEEP,
        content=_text_or_parts(**_RESULT, content=_text_or_parts(**_RESULT)),
    )
)

# Gemini, in both spellings
_GEMINI_PART = {
    "text": TEXT,
    "functionCall": _object(args=DEEP),
    "function_call": _object(args=DEEP),
    "functionResponse": _object(response=DEEP),
    "function_response": _object(response=DEEP),
    "toolCall": _object(args=DEEP),
    "tool_call": _object(args=DEEP),
    "toolResponse": _object(response=DEEP),
    "tool_response": _object(response=DEEP),
    "executableCode": _object(code=TEXT),
    "executable_code": _object(code=TEXT),
    "codeExecutionResult": _object(output=TEXT),
    "code_execution_result": _object(output=TEXT),
}
_GEMINI_CONTENT = _object(parts=_one_or_each(**_GEMINI_PART))
_GEMINI_DECLARED = _one_or_each(description=TEXT)
_GEMINI_TOOLS = _one_or_each(functionDeclarations=_GEMINI_DECLARED, function_declarations=_GEMINI_DECLARED)
_GEMINI_ASKED = _object(
    contents=_one_or_each(parts=_one_or_each(**_GEMINI_PART)),
    systemInstruction=_GEMINI_CONTENT,
    system_instruction=_GEMINI_CONTENT,
    tools=_GEMINI_TOOLS,
)
_GEMINI_SOURCE = _object(title=TEXT, text=TEXT)
_GEMINI_SOURCES = _object(
    webSearchQueries=DEEP,
    searchEntryPoint=_object(renderedContent=TEXT),
    groundingChunks=_each(web=_GEMINI_SOURCE, retrievedContext=_GEMINI_SOURCE, maps=_GEMINI_SOURCE),
    groundingSupports=_each(segment=_object(text=TEXT)),
)
_GEMINI_ANSWER = _object(
    candidates=_each(
        content=_GEMINI_CONTENT,
        groundingMetadata=_GEMINI_SOURCES,
        citationMetadata=_object(citations=_each(title=TEXT)),
        logprobsResult=GONE,
    )
)

ASKED: dict[Wire, Shape] = {
    "chat": _CHAT_ASKED,
    "completions": _COMPLETION_ASKED,
    "responses": _RESPONSES_ASKED,
    "responses-compact": _RESPONSES_ASKED,
    "responses-count": _RESPONSES_ASKED,
    "anthropic": _ANTHROPIC_ASKED,
    "anthropic-count": _ANTHROPIC_ASKED,
    "gemini": _GEMINI_ASKED,
    "gemini-count": _object(**_GEMINI_ASKED.members, generateContentRequest=_GEMINI_ASKED),
    "embeddings": _object(input=_TEXTS),
    "gemini-embed": _object(content=_GEMINI_CONTENT),
    "gemini-batch-embed": _object(requests=_each(content=_GEMINI_CONTENT)),
    "moderations": _object(input=_text_or_parts(text=TEXT)),
    "rerank": _object(query=TEXT, documents=Shape(items=Shape(text=True, deep=True))),
}
ANSWERED: dict[Wire, Shape] = {
    "chat": _CHAT_ANSWER,
    "completions": _COMPLETION_ANSWER,
    "responses": _RESPONSES_ANSWER,
    "responses-compact": _RESPONSES_ANSWER,
    "anthropic": _ANTHROPIC_ANSWER,
    "gemini": _GEMINI_ANSWER,
}
