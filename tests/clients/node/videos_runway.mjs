// Makes every call of test_videos_runway_node.py with the official @runwayml/sdk package and prints what came of each as JSON.
import RunwayML, { TaskFailedError } from "@runwayml/sdk";

const [origin, apiKey] = process.argv.slice(2);
const client = new RunwayML({ apiKey, baseURL: `${origin}/runwayml`, maxRetries: 0 });
const frame = {
  model: "gen4_turbo",
  promptImage: "https://pictures.example/a.png",
  ratio: "1280:720",
  duration: 5,
};
const results = {};

const begun = await client.imageToVideo.create({ ...frame, promptText: "waves roll in" });

// The package sleeps for seconds before it asks: what it waits for is begun together.
const failing = (fault) =>
  client.imageToVideo
    .create({ ...frame, promptText: `[sandbox: ${fault}]` })
    .waitForTaskOutput()
    .catch((error) => error);
const [done, picture, failed, moderated] = await Promise.all([
  client.tasks.retrieve(begun.id).waitForTaskOutput(),
  client.textToImage
    .create({ model: "gen4_image", promptText: "a boat", ratio: "1280:720" })
    .waitForTaskOutput(),
  failing("task-fails"),
  failing("task-moderated"),
]);
const content = Buffer.from(await (await fetch(done.output[0])).arrayBuffer());
results.made = [done.status, content.subarray(4, 8).toString()];
results.picture = (await fetch(picture.output[0])).headers.get("content-type");
results.failed = [failed, moderated].map((error) => [
  error instanceof TaskFailedError,
  error.taskDetails.status,
  error.taskDetails.failureCode,
]);

const long = await client.imageToVideo.create({ ...frame, promptText: "[sandbox: task-queued=60s]" });
results.begun = (await client.tasks.retrieve(long.id)).status;
await client.tasks.delete(long.id);
const gone = await client.tasks.retrieve(long.id).catch((error) => error);
results.gone = [gone.constructor.name, gone.status];
const wrong = await client.imageToVideo.create({ ...frame, duration: 99 }).catch((error) => error);
results.wrong = [wrong.constructor.name, wrong.status];

console.log(JSON.stringify(results));
