// Sounds through the published JavaScript client. Prints one JSON object: what each call gave.
//
// Not a test: `test_inference.py` runs it in a folder with lora.safetensors and take.wav. Arguments: the server's address
// and its key.

import { readFile } from "node:fs/promises";
import { ValidationError, fal } from "@fal-ai/client";

const [address, credentials] = process.argv.slice(2);
fal.config({ credentials, proxyUrl: { url: `${address}/proxy`, when: "always" } });
const APP = "fal-ai/ltx-2.3-quality";
const gave = {};

const lora = new Blob([await readFile("lora.safetensors")], { type: "application/octet-stream" });
const take = new Blob([await readFile("take.wav")], { type: "audio/wav" });
const input = { prompt: "soft rain", num_frames: 12, num_inference_steps: 8, seed: 7, loras: [{ path: lora, scale: 0.8 }] };
const updates = [];
gave.lora = await fal.subscribe(`${APP}/text-to-audio/lora`, {
  input,
  mode: "streaming",
  logs: true,
  onQueueUpdate: (update) => updates.push([update.status, (update.logs ?? []).map((line) => line.message)]),
});
gave.updates = updates;
gave.inpainted = await fal.run(`${APP}/audio-inpainting/lora`, {
  input: { prompt: "soft rain", audio_url: take, time_ranges: [[0.4, 0.8]], num_inference_steps: 2, seed: 7 },
});
try {
  await fal.run(`${APP}/audio-outpainting/lora`, { input: { prompt: "x", audio_url: take } });
} catch (error) {
  gave.refused = { status: error.status, fieldErrors: error instanceof ValidationError ? error.fieldErrors : null };
}
console.log(JSON.stringify(gave));
