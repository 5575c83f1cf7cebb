// What people do with the published JavaScript client, call after call. Prints one JSON object: what each call gave.
//
// Not a test: `test_javascript_client.py` runs it in a folder with clips.zip and broken.zip. Arguments: the server's
// address, its key, the way there, where webhooks go, the id of a finished request.

import { readFile } from "node:fs/promises";
import { ValidationError, fal } from "@fal-ai/client";

const [address, credentials, way, webhookUrl, finished] = process.argv.slice(2);
const ENDPOINT = "fal-ai/ltx23-trainer-v2/t2a";
const HOSTS = { "queue.fal.run": "/queue", "fal.run": "/run", "rest.fal.ai": "/rest" };

async function requestMiddleware(request) {
  const url = new URL(request.url);
  const face = HOSTS[url.host];
  return face ? { ...request, url: address + face + url.pathname + url.search } : request;
}

fal.config({
  credentials,
  ...(way === "proxyUrl" ? { proxyUrl: { url: `${address}/proxy`, when: "always" } } : { requestMiddleware }),
});

const gave = {};

async function errorOf(promise) {
  try {
    return { none: await promise };
  } catch (error) {
    const { name, status, body, requestId } = error;
    return { name, status, body, requestId, fieldErrors: error instanceof ValidationError ? error.fieldErrors : null };
  }
}

const blobOf = async (name) => new Blob([await readFile(name)], { type: "application/zip" });
const log = (update) => (update.logs ?? []).map((line) => line.message);

// A request that runs for long, one behind it, and both cancelled. Its data goes up by itself.
const endless = {
  training_data_url: await blobOf("clips.zip"), rank: 8, number_of_steps: 20000, audio_duration_seconds: 0.5,
};
const running = await fal.queue.submit(ENDPOINT, { input: endless, webhookUrl, hint: "one" });
gave.submitted = running;
const streamed = [];
let cancelled;
const over = fal.queue.subscribeToStatus(ENDPOINT, {
  requestId: running.request_id,
  mode: "streaming",
  logs: true,
  onQueueUpdate: (update) => {
    streamed.push([update.status, log(update)]);
    if (log(update).includes("training")) cancelled ??= cancelThem();
  },
});
async function cancelThem() {
  const behind = await fal.queue.submit(ENDPOINT, { input: endless, priority: "low" });
  gave.behind = await fal.queue.status(ENDPOINT, { requestId: behind.request_id });
  gave.early = await errorOf(fal.queue.result(ENDPOINT, { requestId: behind.request_id }));
  await fal.queue.cancel(ENDPOINT, { requestId: behind.request_id });
  await fal.queue.subscribeToStatus(ENDPOINT, { requestId: behind.request_id, pollInterval: 50 });
  gave.cancelledInTheQueue = await errorOf(fal.queue.result(ENDPOINT, { requestId: behind.request_id }));
  await fal.queue.cancel(ENDPOINT, { requestId: running.request_id });
}
gave.over = await over;
await cancelled;
gave.streamed = streamed;
gave.polled = await fal.queue.status(ENDPOINT, { requestId: running.request_id, logs: true });
gave.cancelledWhileItRan = await errorOf(fal.queue.result(ENDPOINT, { requestId: running.request_id }));
gave.cancelledAgain = await errorOf(fal.queue.cancel(ENDPOINT, { requestId: running.request_id }));

// What is refused, at once and at the result.
gave.refusedAtSubmit = await errorOf(fal.queue.submit(ENDPOINT, { input: { ...endless, rank: 9 } }));
const broken = { training_data_url: await blobOf("broken.zip") };
for (const mode of ["polling", "streaming"]) {
  const updates = [];
  const onQueueUpdate = (update) => updates.push([update.status, log(update)]);
  gave[mode] = await errorOf(fal.subscribe(ENDPOINT, { input: broken, mode, logs: true, onQueueUpdate }));
  gave[mode].updates = updates;
}
gave.refusedByRun = await errorOf(fal.run(ENDPOINT, { input: { training_data_url: "data:,x" } }));
gave.elsewhere = await errorOf(fal.queue.submit("fal-ai/flux/dev", { input: {} }));
gave.unknown = await errorOf(fal.queue.status(ENDPOINT, { requestId: "00000000-0000-4000-8000-000000000000" }));

// What is done.
gave.status = await fal.queue.status("fal-ai/ltx23-trainer-v2/ic-lora/a2a", { requestId: finished, logs: true });
gave.result = await fal.queue.result(ENDPOINT, { requestId: finished });

// Uploads: one of the client's parts after the other above 90 MiB.
const pieces = Array.from({ length: 91 }, (_, n) => new Uint8Array(1 << 20).fill(n));
gave.uploads = {
  file: await fal.storage.upload(new File(["a few bytes"], "few words.txt", { type: "text/plain" })),
  large: await fal.storage.upload(new Blob([...pieces, "end"], { type: "application/zip" }), {
    lifecycle: { expiresIn: "1d" },
  }),
};
console.log(JSON.stringify(gave));
