"""What people do with the published Python client, call after call. Prints one JSON object: what each call gave.

Not a test: `test_python_client` puts lines in front that say where the client is led, and runs it in a folder with
clips.zip and broken.zip. Arguments: where webhooks go, the id of a finished request, what makes an address of a file
(`upload_file`, or `encode_file` where uploads have no way in).
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
webhook, finished, address_of = sys.argv[1:]
gave = {}


def error_of(call, *arguments, **more):
    try:
        return {"none": call(*arguments, **more)}
    except fal_client.FalClientHTTPError as error:
        return {"code": error.status_code, "message": error.message, "type": error.error_type}


def shown(status):
    return [type(status).__name__, vars(status)]


def address(name):
    return fal.upload_file(name) if address_of == "upload_file" else fal_client.encode_file(name)


# A request that runs for long, others behind it, and all of them cancelled.
endless = {
    "training_data_url": address("clips.zip"), "rank": 8, "number_of_steps": 20000, "audio_duration_seconds": 0.5,
}  # fmt: skip
running = fal.submit(ENDPOINT, endless, webhook_url=webhook, hint="one", headers={"X-Fal-Store-IO": "0"})
events = []
for event in running.iter_events(with_logs=True):
    if not events or shown(event) != events[-1]:
        events.append(shown(event))
    if isinstance(event, fal_client.InProgress) and any(line["message"] == "training" for line in event.logs):
        break
gave["events"] = events
gave["without logs"] = shown(running.status())
low = fal.submit(ENDPOINT, endless, priority="low")
normal = fal.submit(ENDPOINT, endless, start_timeout=500)
gave["places"] = [shown(fal.status(ENDPOINT, one.request_id)) for one in (normal, low)]
late = fal.submit(ENDPOINT, endless, start_timeout=1.5)
try:
    fal.subscribe(ENDPOINT, endless, client_timeout=2, on_enqueue=lambda id: gave.update(impatient=id))
except fal_client.FalClientTimeoutError as error:
    gave["out of patience"] = [error.timeout, error.request_id == gave["impatient"]]
gave["started too late"] = error_of(late.get)
gave["given up"] = error_of(fal.result, ENDPOINT, gave["impatient"])
fal.cancel(ENDPOINT, normal.request_id)
low.cancel()
gave["cancelled in the queue"] = [error_of(one.get) for one in (normal, low)]
began = time.monotonic()
running.cancel()
gave["cancelled while it ran"] = error_of(running.get)
gave["seconds to stop"] = time.monotonic() - began
gave["after it"] = shown(running.status(with_logs=True))
gave["cancelled again"] = error_of(running.cancel)
gave["running"] = running.request_id

# What is refused, at once and at the result.
gave["refused at submit"] = error_of(fal.submit, ENDPOINT, {**endless, "rank": 9})
updates = []
gave["refused at result"] = error_of(
    fal.subscribe,
    ENDPOINT,
    {"training_data_url": address("broken.zip")},
    with_logs=True,
    on_enqueue=lambda id: gave.update(broken=id),
    on_queue_update=lambda status: updates.append(shown(status)),
)
gave["updates"] = updates
gave["refused while it is waited for"] = error_of(fal.run, ENDPOINT, arguments={"training_data_url": "data:,x"})
gave["streamed"] = list(fal.stream(ENDPOINT, {"training_data_url": "data:,x"}))
gave["unknown"] = error_of(fal.status, ENDPOINT, "00000000-0000-4000-8000-000000000000")
gave["elsewhere"] = error_of(fal.submit, "fal-ai/flux/dev", {})

# What is done.
gave["status"] = shown(fal.status("fal-ai/ltx23-trainer-v2/ic-lora/a2a", finished, with_logs=True))
gave["result"] = fal.result(ENDPOINT, finished)


async def ask_asynchronously():
    client = fal_client.AsyncClient(key=fal.key)
    result, status = await asyncio.gather(client.result(ENDPOINT, finished), client.status(ENDPOINT, finished))
    return [result, shown(status)]


gave["asynchronous"] = asyncio.run(ask_asynchronously())


async def upload_asynchronously():
    return await fal_client.AsyncClient(key=fal.key).upload_file("clips.zip")


if address_of == "upload_file":
    day = fal_client.StorageSettings(expires_in="1d")
    gave["uploads"] = {
        "file": fal.upload_file("clips.zip"),
        "bytes": fal.upload(b"a few bytes", "text/plain", "few.txt", lifecycle=day),
        "asynchronous": asyncio.run(upload_asynchronously()),
        "older": fal.upload(b"a few bytes", "text/plain", "older.txt", repository="fal"),
    }
    if Path("large.bin").exists():
        gave["uploads"]["large"] = fal.upload_file("large.bin")
print(json.dumps(gave))
