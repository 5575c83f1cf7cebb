"""Lines to paste: how each published client is pointed at this server. Tests run them as they stand.

In: addresses of the server, a key, and the file with the authorities to trust. Out: text. Each example trains on
`clips.zip` in the current folder, as shortly as can be.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from sonolora.server.net.urls import APP

ENDPOINT = f"{APP}/t2a"
# The client gives the whole log at every look.
_SHOW_NEW_LINES = """\
shown = []


def show(update):
    for line in (getattr(update, "logs", None) or [])[len(shown) :]:
        shown.append(line)
        print(line["message"])

"""


def python(address: str, key: str) -> str:
    """The Python client over plain http. It knows https alone, but looks its addresses up at each call."""
    return f"""\
import fal_client
from fal_client import client

client.QUEUE_URL_FORMAT, client.RUN_URL_FORMAT = "{address}/queue/", "{address}/run/"
client.REST_URL, client.CDN_URL = "{address}/rest", "{address}/cdn"
fal = fal_client.SyncClient(key="{key}")
{_SHOW_NEW_LINES}
result = fal.subscribe(
    "{ENDPOINT}",
    {{"training_data_url": fal.upload_file("clips.zip"), "number_of_steps": 100}},
    with_logs=True,
    on_queue_update=show,
)
print(result["lora_file"]["url"])
"""


def unchanged_python(*, upload: str = "upload_file") -> str:
    """A program as it is written for the hosted endpoints; the environment leads it here.

    `upload` is `encode_file` where uploads have no way in: see `tls_environment`.
    """
    return f"""\
import fal_client

{_SHOW_NEW_LINES}
result = fal_client.subscribe(
    "{ENDPOINT}",
    {{"training_data_url": fal_client.{upload}("clips.zip"), "number_of_steps": 100}},
    with_logs=True,
    on_queue_update=show,
)
print(result["lora_file"]["url"])
"""


def proxy_environment(proxy: str, bundle: Path, key: str) -> str:
    """For the shell: everything that the client sends to the published hosts comes here, uploads too."""
    return f"""\
export HTTPS_PROXY={proxy}
export SSL_CERT_FILE={shlex.quote(str(bundle))}
export FAL_KEY={key}
"""


def tls_environment(host: str, bundle: Path | None, key: str) -> str:
    """For the shell: the queue by https at `host` with its port; the client has no variable for uploads.

    `bundle` is None when the certificate is one that everybody trusts.
    """
    trust = "" if bundle is None else f"export SSL_CERT_FILE={shlex.quote(str(bundle))}\n"
    return f"""\
export FAL_QUEUE_RUN_HOST={host}/queue FAL_RUN_HOST={host}/run
{trust}export FAL_KEY={key}
"""


def javascript(address: str, key: str) -> str:
    """The JavaScript client, with its own protocol for proxies; for node as a module, for instance `train.mjs`."""
    return f"""\
import {{ readFile }} from "node:fs/promises";
import {{ fal }} from "@fal-ai/client";

fal.config({{
  credentials: "{key}",
  proxyUrl: {{ url: "{address}/proxy", when: "always" }},
}});

const clips = new Blob([await readFile("clips.zip")], {{ type: "application/zip" }});
let shown = 0; // the client gives the whole log at every look
const result = await fal.subscribe("{ENDPOINT}", {{
  input: {{ training_data_url: await fal.storage.upload(clips), number_of_steps: 100 }},
  logs: true,
  onQueueUpdate: ({{ logs }}) => {{
    for (const line of (logs ?? []).slice(shown)) console.log(line.message);
    shown = logs?.length ?? shown;
  }},
}});
console.log(result.data.lora_file.url);
"""


def curl(address: str, key: str) -> str:
    """Without a client: upload, submit, wait, show the result, fetch the LoRA."""
    return f"""\
export FAL_KEY={key}
data=$(curl -sS {address}/files/upload -X POST -T clips.zip \\
  -H "Authorization: Key $FAL_KEY" -H "Content-Type: application/zip" -H "X-Fal-File-Name: clips.zip" |
  sed -E 's/.*"access_url":"([^"]*)".*/\\1/')
request=$(curl -sS {address}/{ENDPOINT} \\
  -H "Authorization: Key $FAL_KEY" -H "Content-Type: application/json" \\
  -d '{{"training_data_url": "'$data'", "number_of_steps": 100}}' |
  sed -E 's/.*"response_url":"([^"]*)".*/\\1/')
echo "$request"
while curl -sS "$request/status" -H "Authorization: Key $FAL_KEY" | grep -qE 'IN_(QUEUE|PROGRESS)'; do sleep 2; done
curl -sS "$request" -H "Authorization: Key $FAL_KEY" -w '\\n' | tee result.json
curl -sS -O "$(sed -E 's/.*"lora_file":[{{]"url":"([^"]*)".*/\\1/' result.json)"
"""
