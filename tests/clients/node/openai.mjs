// The official openai package for Node, unmodified: reads {lanes, ...} as JSON from standard input, makes the same calls
// as test_openai_python.py and writes what came of them as JSON. It judges nothing; test_openai_node.py does.

import { readFileSync } from "node:fs";
import OpenAI from "openai";

const plan = JSON.parse(readFileSync(0, "utf8"));

// A client and the number of HTTP requests it has sent, retries included.
function connect(apiKey, options = {}) {
  const sent = [];
  const counted = (url, init) => {
    sent.push({ url: String(url), body: init.body });
    return fetch(url, init);
  };
  return { client: new OpenAI({ apiKey, baseURL: plan.base_url, maxRetries: 0, fetch: counted, ...options }), sent };
}

// What a call came to: its value, or the error as a caller of the SDK sees it.
async function outcome(call) {
  try {
    return { value: await call() };
  } catch (error) {
    if (!(error instanceof OpenAI.APIError)) throw error;
    return {
      error: {
        // The class's name may be minified; what matters is which class of the SDK it is.
        classes: Object.keys(OpenAI).filter((name) => name.endsWith("Error") && error instanceof OpenAI[name]),
        status: error.status,
        code: error.code,
        param: error.param,
        type: error.type,
        message: error.message,
        request_id: error.requestID,
        headers: Object.fromEntries(error.headers ?? []),
        body: JSON.stringify(error.error ?? null),
      },
    };
  }
}

async function inputs({ client }, lane) {
  const found = {};
  for (const [name, input] of Object.entries(plan.inputs)) {
    const ask = (more) => client.embeddings.create({ model: lane.model, input, ...more });
    found[name] = { decoded: await ask(), floats: await ask({ encoding_format: "float" }), encoded: await ask({ encoding_format: "base64" }) };
  }
  return found;
}

async function raw({ client }, lane) {
  const { data, response, request_id } = await client.embeddings
    .create({ model: lane.model, input: "one two three four", user: "customer-17" })
    .withResponse();
  return { size: data.data[0].embedding.length, request_id, headers: Object.fromEntries(response.headers) };
}

async function listed({ client }) {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  return ids;
}

async function laneResults(lane) {
  const connection = connect(lane.key);
  const { client } = connection;
  const embed = (more) => outcome(() => client.embeddings.create({ model: lane.model, input: "a", ...more }));
  const doubled = connect(lane.key, { baseURL: `${plan.base_url}/v1` }).client;
  const retried = connect(lane.key, { maxRetries: 2 });
  return {
    inputs: await inputs(connection, lane),
    raw: await raw(connection, lane),
    listed: await listed(connection),
    retrieved: await client.models.retrieve(lane.model),
    missing: await outcome(() => client.models.retrieve("none/such:model v1")),
    doubled: await outcome(() => doubled.embeddings.create({ model: lane.model, input: "a" })),
    fitting: await embed({ dimensions: lane.shortens ? 5 : lane.size }),
    too_many_dimensions: await embed({ dimensions: lane.size + 1 }),
    empty: await embed({ input: "" }),
    unknown: await outcome(() => retried.client.embeddings.create({ model: "no-such-model", input: "a" })),
    unknown_requests: retried.sent.length,
  };
}

async function faults() {
  const found = {};
  for (const [name, { key, model, input, retries }] of Object.entries(plan.calls)) {
    const { client, sent } = connect(key, { maxRetries: retries });
    found[name] = { ...(await outcome(() => client.embeddings.create({ model, input }))), requests: sent.length };
  }
  return found;
}

const lanes = {};
for (const lane of plan.lanes) lanes[lane.name] = await laneResults(lane);
process.stdout.write(JSON.stringify({ lanes, calls: await faults() }));
