// Makes every call of test_videos_openai_node.py with the official openai package and prints what came of each as JSON.
import OpenAI, { toFile } from "openai";

const [origin, apiKey] = process.argv.slice(2);
const client = new OpenAI({ apiKey, baseURL: `${origin}/v1`, maxRetries: 0 });
const model = "sora-2";
const results = {};

// The package for Node has no waiting of its own.
const ended = async (video) => {
  while (["queued", "in_progress"].includes(video.status)) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    video = await client.videos.retrieve(video.id);
  }
  return video;
};

const video = await ended(
  await client.videos.create({ model, prompt: "paper boats", seconds: "8", size: "1280x720" }),
);
results.made = [video.status, video.progress, video.seconds, video.size];

const content = Buffer.from(await (await client.videos.downloadContent(video.id)).arrayBuffer());
results.content = content.subarray(4, 8).toString();
const thumbnail = await client.videos.downloadContent(video.id, { variant: "thumbnail" });
results.thumbnail = thumbnail.headers.get("content-type");

results.retrieved = (await client.videos.retrieve(video.id)).id === video.id;
const remix = await client.videos.remix(video.id, { prompt: "at night" });
results.remix = [remix.remixed_from_video_id === video.id, (await ended(remix)).status];

const reference = await toFile(content, "boats.mp4", { type: "video/mp4" });
const edit = await client.videos.edit({ prompt: "in blue", video: reference });
results.edit = (await ended(edit)).status;
const longer = await client.videos.extend({ prompt: "and on", seconds: "4", video: { id: video.id } });
results.extended = [longer.seconds, (await ended(longer)).status];

const listed = [];
for await (const one of client.videos.list({ limit: 1 })) {
  listed.push(one.id);
  if (listed.length === 3) break;
}
results.listed = [listed[0] === longer.id, listed[1] === edit.id, listed[2] === remix.id];

const refused = await ended(await client.videos.create({ model, prompt: "[sandbox: task-moderated]" }));
results.refused = [refused.status, refused.error.code];

results.deleted = (await client.videos.delete(video.id)).deleted;
const gone = await client.videos.retrieve(video.id).catch((error) => error);
results.gone = [gone.constructor.name, gone.status];
const wrong = await client.videos.create({ model, prompt: "boats", seconds: "5" }).catch((error) => error);
results.wrong = [wrong.constructor.name, wrong.param];

console.log(JSON.stringify(results));
