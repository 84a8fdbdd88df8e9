// The checks of tests/clients/matrix_checks.py in the words of the official Node packages, unmodified: reads the plan as
// JSON from standard input and writes what came of each call in neutral form. It judges nothing; test_matrix.py does.

import { readFileSync } from "node:fs";
import Anthropic from "@anthropic-ai/sdk";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";
import OpenAI from "openai";
import { LengthFinishReasonError } from "openai/error";

const plan = JSON.parse(readFileSync(0, "utf8"));
const THINKING_TOKENS = 1024;
const DOCUMENT = `data:application/pdf;base64,${plan.pdf}`;
const weather = ({ city }) => `rain in ${city}`;
const PIXEL = `data:image/png;base64,${plan.png}`;

const described = (name, schema) => ({ description: plan.tools[name].description, [schema]: plan.tools[name].schema });
const openai = (key) => new OpenAI({ apiKey: plan.keys[key], baseURL: `${plan.origin}/v1`, maxRetries: 0 });
const given = (condition, members) => (condition ? members : Array.isArray(members) ? [] : {});

// A client says one thing, streamed or whole, and puts an answer and its tools' results into the conversation.
const clients = {
  chat: {
    make: openai,
    text: (text) => ({ type: "text", text }),
    image: { type: "image_url", image_url: { url: PIXEL } },
    document: { type: "file", file: { filename: "a.pdf", file_data: DOCUMENT } },
    async say(client, model, history, check, streamed) {
      const system = check.system ? [{ role: "system", content: check.system }] : [];
      const asked = {
        model,
        messages: [...system, ...history],
        max_completion_tokens: check.max_tokens,
        ...given(check.tools.length, {
          tools: check.tools.map((name) => ({ type: "function", function: { name, strict: true, ...described(name, "parameters") } })),
        }),
        ...given(check.choice, { tool_choice: check.choice }),
        ...given(check.force, { tool_choice: { type: "function", function: { name: check.force } } }),
        ...given(check.schema, {
          response_format: { type: "json_schema", json_schema: { name: "plan", strict: true, schema: plan.schema } },
        }),
        ...given(check.thinks, { reasoning_effort: "low" }),
        ...given(check.stop, { stop: [check.stop] }),
      };
      let made;
      let thought = "";
      if (streamed) {
        const stream = client.chat.completions.stream({ ...asked, stream_options: { include_usage: true } });
        const chunks = [];
        stream.on("chunk", (chunk) => chunks.push(chunk));
        try {
          made = await stream.finalChatCompletion();
        } catch (error) {
          // The helper's way to say that it ended at the limit; it keeps the text to itself then.
          if (!(error instanceof LengthFinishReasonError)) throw error;
          const content = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
          made = { ...chunks[0], choices: [{ message: { role: "assistant", content }, finish_reason: "length" }] };
        }
        // The helper joins texts of members it knows; of others it keeps the last piece.
        thought = chunks.map((chunk) => chunk.choices[0]?.delta.reasoning_content ?? "").join("");
        made.usage = chunks.at(-1).usage;
      } else {
        made = await client.chat.completions.create(asked);
        thought = made.choices[0].message.reasoning_content ?? "";
      }
      const { message, finish_reason } = made.choices[0];
      const calls = (message.tool_calls ?? []).map((call) => [call.id, call.function.name, JSON.parse(call.function.arguments)]);
      const cached = made.usage.prompt_tokens_details?.cached_tokens ?? 0;
      const usage = [made.usage.prompt_tokens, cached, made.usage.completion_tokens];
      return { text: message.content ?? "", thought, calls, finish: finish_reason, usage, model: made.model, raw: message };
    },
    answered: (history, said) => [
      ...history,
      said.raw,
      ...said.calls.map(([id, name]) => ({ role: "tool", tool_call_id: id, content: plan.tools[name].answer })),
    ],
    code: (error) => error.code,
    ownLoop: (client, model, streamed) =>
      client.chat.completions
        .runTools({
          model,
          stream: streamed,
          messages: [{ role: "user", content: plan.own_loop }],
          tools: [
            {
              type: "function",
              function: { name: "get_weather", parse: JSON.parse, parameters: { type: "object" }, function: weather },
            },
          ],
        })
        .finalContent(),
  },

  responses: {
    make: openai,
    text: (text) => ({ type: "input_text", text }),
    image: { type: "input_image", detail: "auto", image_url: PIXEL },
    document: { type: "input_file", filename: "a.pdf", file_data: DOCUMENT },
    async say(client, model, history, check, streamed) {
      const asked = {
        model,
        input: history,
        max_output_tokens: check.max_tokens,
        store: false,
        include: ["reasoning.encrypted_content"],
        ...given(check.system, { instructions: check.system }),
        ...given(check.tools.length, {
          tools: check.tools.map((name) => ({ type: "function", name, strict: true, ...described(name, "parameters") })),
        }),
        ...given(check.choice, { tool_choice: check.choice }),
        ...given(check.force, { tool_choice: { type: "function", name: check.force } }),
        ...given(check.schema, { text: { format: { type: "json_schema", name: "plan", strict: true, schema: plan.schema } } }),
        ...given(check.thinks, { reasoning: { effort: "low", summary: "auto" } }),
      };
      const made = streamed
        ? await client.responses.stream(asked).finalResponse()
        : await client.responses.create(asked);
      const rows = (type) => made.output.filter((item) => item.type === type);
      const thought = rows("reasoning").flatMap((item) => (item.summary.length ? item.summary : item.content ?? []));
      return {
        text: made.output_text,
        thought: thought.map((row) => row.text).join(""),
        calls: rows("function_call").map((item) => [item.call_id, item.name, JSON.parse(item.arguments)]),
        finish: made.status + (made.incomplete_details ? `: ${made.incomplete_details.reason}` : ""),
        usage: [made.usage.input_tokens, made.usage.input_tokens_details.cached_tokens, made.usage.output_tokens],
        model: made.model,
        raw: made.output,
      };
    },
    answered: (history, said) => [
      ...history,
      ...said.raw,
      ...said.calls.map(([id, name]) => ({ type: "function_call_output", call_id: id, output: plan.tools[name].answer })),
    ],
    code: (error) => error.code,
    ownLoop: async () => null,
  },

  anthropic: {
    make: (key) => new Anthropic({ apiKey: plan.keys[key], baseURL: plan.origin, maxRetries: 0 }),
    text: (text) => ({ type: "text", text }),
    image: { type: "image", source: { type: "base64", media_type: "image/png", data: plan.png } },
    document: { type: "document", source: { type: "base64", media_type: "application/pdf", data: plan.pdf } },
    async say(client, model, history, check, streamed) {
      const asked = {
        model,
        messages: history,
        max_tokens: check.max_tokens,
        ...given(check.system, { system: check.system }),
        ...given(check.tools.length, { tools: check.tools.map((name) => ({ name, ...described(name, "input_schema") })) }),
        ...given(check.choice, { tool_choice: { type: check.choice === "required" ? "any" : check.choice } }),
        ...given(check.force, { tool_choice: { type: "tool", name: check.force } }),
        ...given(check.schema, { output_config: { format: { type: "json_schema", schema: plan.schema } } }),
        ...given(check.thinks, { thinking: { type: "enabled", budget_tokens: THINKING_TOKENS } }),
        ...given(check.stop, { stop_sequences: [check.stop] }),
      };
      const made = streamed ? await client.messages.stream(asked).finalMessage() : await client.messages.create(asked);
      const rows = (type) => made.content.filter((block) => block.type === type);
      const { input_tokens, cache_read_input_tokens, cache_creation_input_tokens, output_tokens } = made.usage;
      const cached = cache_read_input_tokens ?? 0;
      return {
        text: rows("text").map((block) => block.text).join(""),
        thought: rows("thinking").map((block) => block.thinking).join(""),
        calls: rows("tool_use").map((block) => [block.id, block.name, block.input]),
        finish: made.stop_reason,
        usage: [input_tokens + cached + (cache_creation_input_tokens ?? 0), cached, output_tokens],
        model: made.model,
        raw: made.content,
      };
    },
    answered: (history, said) => [
      ...history,
      { role: "assistant", content: said.raw },
      ...given(said.calls.length, [
        {
          role: "user",
          content: said.calls.map(([id, name]) => ({ type: "tool_result", tool_use_id: id, content: plan.tools[name].answer })),
        },
      ]),
    ],
    code: (error) => error.error?.error?.type ?? null,
    async ownLoop(client, model, streamed) {
      const inputSchema = { type: "object", properties: { city: { type: "string" } } };
      const tools = [betaTool({ name: "get_weather", description: "The weather.", inputSchema, run: weather })];
      const messages = [{ role: "user", content: plan.own_loop }];
      const runner = client.beta.messages.toolRunner({ model, max_tokens: 500, messages, tools, stream: streamed });
      return (await runner.runUntilDone()).content.at(-1).text;
    },
  },
};

function content(kind, turn) {
  const shown = [...given(turn.image, [kind.image]), ...given(turn.document, [kind.document])];
  return shown.length ? [kind.text(turn.text), ...shown] : turn.text;
}

const opened = (kind, turns) => turns.map((turn) => ({ role: turn.role, content: content(kind, turn) }));

// A check from its question to the answer that calls no tool any more, and on to its next question.
async function run(kind, client, model, check, streamed) {
  let history = opened(kind, check.turns);
  const rounds = [];
  const questions = [...check.then];
  for (;;) {
    const said = await kind.say(client, model, history, check, streamed);
    rounds.push(said);
    if (check.force || check.choice === "required" || !(said.calls.length || questions.length)) break;
    history = kind.answered(history, said);
    if (!said.calls.length) history = [...history, ...opened(kind, questions.splice(0, 1))];
  }
  const last = rounds.at(-1);
  return {
    text: last.text,
    thoughts: rounds.map((said) => said.thought),
    calls: rounds.filter((said) => said.calls.length).map((said) => said.calls.map(([, name, input]) => [name, input])),
    finishes: rounds.map((said) => said.finish),
    usage: rounds.map((said) => said.usage),
    model: last.model,
  };
}

function kindsOf(error) {
  const kinds = [];
  for (let at = Object.getPrototypeOf(error); at; at = Object.getPrototypeOf(at)) kinds.push(at.constructor.name);
  return kinds;
}

async function outcome(kind, call) {
  try {
    return { answer: await call() };
  } catch (error) {
    const raised = { kinds: kindsOf(error), status: error.status ?? null, code: kind.code(error) ?? null, message: String(error) };
    return { raised };
  }
}

async function pair(name, upstream) {
  const kind = clients[name];
  const made = Object.fromEntries(Object.keys(plan.keys).map((key) => [key, kind.make(key)]));
  const found = {};
  for (const [label, check] of Object.entries(plan.checks[upstream.name])) {
    for (const way of check.ways ?? ["whole", "streamed"]) {
      const streamed = way === "streamed";
      found[`${label}, ${way}`] = await outcome(kind, () =>
        check.key
          ? kind.say(made[check.key], check.model || upstream.model, opened(kind, check.turns), check, streamed)
          : run(kind, made.good, upstream.model, check, streamed),
      );
    }
  }
  for (const way of ["whole", "streamed"]) {
    found[`own tool loop, ${way}`] = await outcome(kind, () => kind.ownLoop(made.good, upstream.model, way === "streamed"));
  }
  return [`${name} ${upstream.name}`, found];
}

const pairs = Object.keys(clients).flatMap((name) => plan.upstreams.map((upstream) => pair(name, upstream)));
process.stdout.write(JSON.stringify(Object.fromEntries(await Promise.all(pairs))));
