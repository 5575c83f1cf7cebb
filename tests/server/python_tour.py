"""All calls of the published Python client, one after the other. Prints one JSON object: what each returned.

Not a test: `test_python_client` prepends lines that point the client at the server, and runs it in a folder with
clips.zip and broken.zip. Arguments: the URL for webhooks, the id of a finished request, the function that makes a URL
of a file (`upload_file`, or `encode_file` where uploads do not reach the server).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import fal_client

if "fal" not in globals():
    fal = fal_client.SyncClient()
ENDPOINT = "fal-ai/ltx23-trainer-v2/t2a"
webhook, finished, url_function = sys.argv[1:]
results = {}


def error_of(call, *arguments, **more):
    try:
        return {"none": call(*arguments, **more)}
    except fal_client.FalClientHTTPError as error:
        return {"code": error.status_code, "message": error.message, "type": error.error_type}


def shown(status):
    return [type(status).__name__, vars(status)]


def url_of(name):
    return fal.upload_file(name) if url_function == "upload_file" else fal_client.encode_file(name)


# A long request, others behind it, and all of them cancelled.
endless = {
    "training_data_url": url_of("clips.zip"), "rank": 8, "number_of_steps": 20000, "audio_duration_seconds": 0.5,
}  # fmt: skip
running = fal.submit(ENDPOINT, endless, webhook_url=webhook, hint="one", headers={"X-Fal-Store-IO": "0"})
events = []
for event in running.iter_events(with_logs=True):
    if not events or shown(event) != events[-1]:
        events.append(shown(event))
    if isinstance(event, fal_client.InProgress) and any(line["message"] == "training" for line in event.logs):
        break
results["events"] = events
results["without logs"] = shown(running.status())
low = fal.submit(ENDPOINT, endless, priority="low")
normal = fal.submit(ENDPOINT, endless, start_timeout=500)
results["places"] = [shown(fal.status(ENDPOINT, one.request_id)) for one in (normal, low)]
late = fal.submit(ENDPOINT, endless, start_timeout=1.5)
try:
    fal.subscribe(ENDPOINT, endless, client_timeout=2, on_enqueue=lambda id: results.update(impatient=id))
except fal_client.FalClientTimeoutError as error:
    results["out of patience"] = [error.timeout, error.request_id == results["impatient"]]
results["started too late"] = error_of(late.get)
results["given up"] = error_of(fal.result, ENDPOINT, results["impatient"])
fal.cancel(ENDPOINT, normal.request_id)
low.cancel()
results["cancelled in the queue"] = [error_of(one.get) for one in (normal, low)]
began = time.monotonic()
running.cancel()
results["cancelled while it ran"] = error_of(running.get)
results["seconds to stop"] = time.monotonic() - began
results["after it"] = shown(running.status(with_logs=True))
results["cancelled again"] = error_of(running.cancel)
results["running"] = running.request_id

# Errors, at once and in the result.
results["refused at submit"] = error_of(fal.submit, ENDPOINT, {**endless, "rank": 9})
updates = []
results["refused at result"] = error_of(
    fal.subscribe,
    ENDPOINT,
    {"training_data_url": url_of("broken.zip")},
    with_logs=True,
    on_enqueue=lambda id: results.update(broken=id),
    on_queue_update=lambda status: updates.append(shown(status)),
)
results["updates"] = updates
results["refused while it is waited for"] = error_of(fal.run, ENDPOINT, arguments={"training_data_url": "data:,x"})
results["streamed"] = list(fal.stream(ENDPOINT, {"training_data_url": "data:,x"}))
results["unknown"] = error_of(fal.status, ENDPOINT, "00000000-0000-4000-8000-000000000000")
results["elsewhere"] = error_of(fal.submit, "fal-ai/flux/dev", {})

# A finished request.
results["status"] = shown(fal.status("fal-ai/ltx23-trainer-v2/ic-lora/a2a", finished, with_logs=True))
results["result"] = fal.result(ENDPOINT, finished)


async def call_asynchronously():
    client = fal_client.AsyncClient(key=fal.key)
    result, status = await asyncio.gather(client.result(ENDPOINT, finished), client.status(ENDPOINT, finished))
    return [result, shown(status)]


results["asynchronous"] = asyncio.run(call_asynchronously())


async def upload_asynchronously():
    return await fal_client.AsyncClient(key=fal.key).upload_file("clips.zip")


if url_function == "upload_file":
    day = fal_client.StorageSettings(expires_in="1d")
    results["uploads"] = {
        "file": fal.upload_file("clips.zip"),
        "bytes": fal.upload(b"a few bytes", "text/plain", "few.txt", lifecycle=day),
        "asynchronous": asyncio.run(upload_asynchronously()),
        "older": fal.upload(b"a few bytes", "text/plain", "older.txt", repository="fal"),
    }
    if Path("large.bin").exists():
        results["uploads"]["large"] = fal.upload_file("large.bin")
print(json.dumps(results))
