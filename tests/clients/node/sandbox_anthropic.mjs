// Makes every call of test_sandbox_anthropic_node.py with the official Anthropic package and prints what came of each.
import Anthropic, { toFile } from "@anthropic-ai/sdk";

const client = new Anthropic({ apiKey: "sk-ant-anything", baseURL: process.argv[2], maxRetries: 0 });
const base = { model: "claude-sonnet-5-5", max_tokens: 2000 };
const user = (content) => [{ role: "user", content }];
const thinking = { type: "enabled", budget_tokens: 1024 };
const tools = [
  { name: "weather", input_schema: { type: "object", properties: { city: { type: "string" } } } },
  { name: "clock", input_schema: { type: "object" } },
];
const results = {};

const whole = await client.messages.create({ ...base, messages: user("hi") });
results.message = [whole.content[0].text, whole.stop_reason, whole.usage.input_tokens, whole.usage.output_tokens];

const messages = user("[[tools: weather; clock]] [[tools: clock]] [[then: all done]]");
const seen = [];
for (;;) {
  const answer = await client.messages.stream({ ...base, messages, tools, thinking }).finalMessage();
  const uses = answer.content.filter((block) => block.type === "tool_use");
  messages.push({ role: "assistant", content: answer.content });
  if (!uses.length) {
    results.loop = [seen, answer.content.map((block) => block.type), answer.content.at(-1).text];
    break;
  }
  seen.push(uses.map((use) => use.name));
  messages.push({ role: "user", content: uses.map((use) => ({ type: "tool_result", tool_use_id: use.id, content: "5" })) });
}

results.count = (await client.messages.countTokens({ model: base.model, messages: user("one two") })).input_tokens;
const ids = [];
for await (const model of client.models.list({ limit: 2 })) ids.push(model.id);
results.models = ids.length === new Set(ids).size && ids.length > 2;

const request = { custom_id: "r", params: { ...base, messages: user("[[say: a]] [[takes: 1ms]]") } };
let batch = await client.messages.batches.create({ requests: [request] });
while (batch.processing_status !== "ended") batch = await client.messages.batches.retrieve(batch.id);
for await (const line of await client.messages.batches.results(batch.id)) results.batch = line.result.message.content[0].text;

const files = client.files ?? client.beta.files;
const file = await files.upload({ file: await toFile(Buffer.from("hello"), "a.txt", { type: "text/plain" }) });
results.file = [file.size_bytes, await (await files.download(file.id)).text()];

for (const fault of ["error-before", "error-after=1", "status=529", "status=429"]) {
  try {
    const options = { headers: { "x-sandbox-fault": fault } };
    await client.messages.stream({ ...base, messages: user("x") }, options).finalMessage();
    results[fault] = "no error";
  } catch (error) {
    results[fault] = [error.constructor.name, error.error?.error?.type ?? error.type];
  }
}
console.log(JSON.stringify(results));
