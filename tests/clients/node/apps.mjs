// What applications are built on, unmodified: LangChain's client (n8n's OpenAI nodes) and OpenAI's package with the
// options that Cline gives it. Reads {base_url, key, model} from standard input and writes what came as JSON; it judges
// nothing, test_apps.py does.

import { readFileSync } from "node:fs";
import { HumanMessage, ToolMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { ChatOpenAI, OpenAIEmbeddings } from "@langchain/openai";
import OpenAI from "openai";

const { base_url: baseURL, key, model, embedding } = JSON.parse(readFileSync(0, "utf8"));
const seen = {};

const weather = tool(async ({ city }) => `sunny in ${city}`, {
  name: "get_weather",
  description: "Tells the weather",
  schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
});
const question = '[[tools: get_weather {"city": "Oslo"}]] [[then: It is {{result}}.]]';

for (const useResponsesApi of [false, true]) {
  const options = { model, apiKey: key, configuration: { baseURL }, maxRetries: 0, streamUsage: true, useResponsesApi };
  const chat = new ChatOpenAI(options);
  const pieces = [];
  for await (const piece of await chat.stream("[[say: one two three four]]")) pieces.push(piece.text);
  const asked = [new HumanMessage(question)];
  const called = await chat.bindTools([weather]).invoke(asked);
  const answers = [];
  for (const call of called.tool_calls) {
    answers.push(new ToolMessage({ content: await weather.invoke(call.args), tool_call_id: call.id }));
  }
  const told = await chat.bindTools([weather]).invoke([...asked, called, ...answers]);
  seen[useResponsesApi ? "responses" : "chat"] = {
    pieces: pieces.filter((piece) => piece !== ""),
    calls: called.tool_calls.map(({ name, args }) => ({ name, args })),
    told: told.text,
    usage: told.usage_metadata,
  };
}

const vectors = new OpenAIEmbeddings({ model: embedding, apiKey: key, configuration: { baseURL }, maxRetries: 0 });
seen.embeddings = (await vectors.embedDocuments(["one", "two"])).map((vector) => vector.length);

const cline = new OpenAI({
  baseURL,
  apiKey: key,
  maxRetries: 0,
  defaultHeaders: { "HTTP-Referer": "https://cline.bot", "X-Title": "Cline" },
});
const stream = await cline.chat.completions.create({
  model,
  messages: [
    { role: "system", content: "You are Cline." },
    { role: "user", content: [{ type: "text", text: "[[think: hm]] [[say: five six]]" }] },
  ],
  temperature: 0,
  stream: true,
  stream_options: { include_usage: true },
});
seen.cline = { pieces: [], usage: null };
for await (const chunk of stream) {
  if (chunk.choices[0]?.delta?.content) seen.cline.pieces.push(chunk.choices[0].delta.content);
  if (chunk.usage) seen.cline.usage = chunk.usage;
}

process.stdout.write(JSON.stringify(seen));
