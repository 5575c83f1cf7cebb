"""Every endpoint that generates, through the published Python client. Prints one JSON object: what each call returned.

Not a test: `test_inference` prepends lines that point the client at the server, and runs it in a folder with
lora.safetensors, take.wav and film.mp4. Arguments: the prompt, and `all` for the endpoints that take longer.
"""

from __future__ import annotations

import json
import sys

import fal_client

if "fal" not in globals():
    fal = fal_client.SyncClient()
APP = "fal-ai/ltx-2.3-quality"
prompt, which = sys.argv[1:]
loras = [{"path": fal.upload_file("lora.safetensors"), "scale": 0.8}]
take, film = fal.upload_file("take.wav"), fal.upload_file("film.mp4")
few, short = {"num_inference_steps": 2, "seed": 7}, {"num_frames": 12, "num_inference_steps": 8, "seed": 7}
results, logs = {}, {}


def make(name, path, **fields):
    lines = []

    def keep(update):
        if getattr(update, "logs", None):
            lines[:] = [line["message"] for line in update.logs]

    arguments = {"prompt": prompt, **fields}
    results[name] = fal.subscribe(f"{APP}/{path}", arguments, with_logs=True, on_queue_update=keep)
    logs[name] = lines


make("words", "text-to-audio", **short)
make("again", "text-to-audio", **short)
make("lora", "text-to-audio/lora", loras=loras, **short)
make("sync", "text-to-audio", sync_mode=True, **short)
make("inpainted", "audio-inpainting/lora", audio_url=take, mask_start_seconds=0.4, mask_end_seconds=0.8, **few)
if which == "all":
    make("transformed", "audio-to-audio/lora", audio_url=take, num_samples=2, output_format="flac", loras=loras, **few)
    make("extended", "audio-outpainting/lora", audio_url=take, extend_seconds_before=0.2, extend_seconds_after=0.3,
         output_format="mp3", **few)  # fmt: skip
    make("scored", "video-to-audio/lora", video_url=film, with_video=True, **few)
try:
    fal.subscribe(f"{APP}/text-to-audio/lora", {"prompt": prompt, "loras": [{"path": take}], **short})
except fal_client.FalClientHTTPError as error:
    results["no lora"] = {"code": error.status_code, "message": error.message}
print(json.dumps({"results": results, "logs": logs}))
