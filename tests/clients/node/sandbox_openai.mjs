// Makes every call of test_sandbox_openai_node.py with the official openai package and prints what came of each as JSON.
import OpenAI, { AzureOpenAI } from "openai";

const origin = process.argv[2];
const client = new OpenAI({ apiKey: "sk-anything", baseURL: `${origin}/v1`, maxRetries: 0 });
const azure = new AzureOpenAI({ apiKey: "anything", endpoint: origin, apiVersion: "2024-10-21", maxRetries: 0 });
const model = "gpt-4o";
const user = (content) => [{ role: "user", content }];
const results = {};

const whole = await client.chat.completions.create({ model, messages: user("hi") });
results.chat = [whole.choices[0].message.content, whole.usage.total_tokens];

const asked = { model, messages: user('[[say: so]][[tools: f {"a":1}; g {"b":2}]]') };
const chat = client.chat.completions.stream({ ...asked, stream_options: { include_usage: true } });
const streamed = await chat.finalChatCompletion();
results.stream = [
  streamed.choices[0].message.content,
  streamed.choices[0].message.tool_calls.map((call) => [call.function.name, call.function.arguments]),
  (await chat.totalUsage()).total_tokens,
];

const sum = { name: "sum", parse: JSON.parse, parameters: { type: "object" }, function: ({ a, b }) => String(a + b) };
for (const stream of [false, true]) {
  const runner = client.chat.completions.runTools({
    model,
    stream,
    messages: user('[[tools: sum {"a":1,"b":2}; sum {"a":3,"b":4}]]'),
    tools: [{ type: "function", function: sum }],
  });
  results[`loop ${stream}`] = await runner.finalContent();
}

const response = await client.responses
  .stream({ model, input: '[[think: a b]][[say: x y]][[tools: f {"a":1}]]', reasoning: { summary: "auto" } })
  .finalResponse();
results.responses = [response.output.map((item) => item.type), response.output_text, response.usage.output_tokens];

const background = await client.responses.create({ model, input: "[[takes: 60s]]", background: true });
results.background = [background.status, (await client.responses.cancel(background.id)).status];

const file = await client.files.create({ file: new File(["{}\n"], "in.jsonl"), purpose: "batch" });
const endpoint = "/v1/responses";
const batch = await client.batches.create({ input_file_id: file.id, endpoint, completion_window: "24h" });
results.batch = [file.bytes, await (await client.files.content(file.id)).text(), batch.status];

results.moderation = (await client.moderations.create({ input: "hate" })).results[0].flagged;
let text = "";
for await (const chunk of await client.completions.create({ model, prompt: "p", stream: true })) text += chunk.choices[0].text;
results.completion = text;
results.azure = (await azure.chat.completions.create({ model, messages: user("hi") })).choices[0].message.content;

for (const fault of ["error-before", "error-after=1", "invalid-json", "cut-after=2", "status=529"]) {
  try {
    const options = { headers: { "x-sandbox-fault": fault } };
    for await (const _ of await client.chat.completions.create({ model, messages: user("x"), stream: true }, options));
    results[fault] = "no error";
  } catch (error) {
    results[fault] = error.constructor.name;
  }
}
console.log(JSON.stringify(results));
