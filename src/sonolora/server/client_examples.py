"""Examples to paste: how to point each published client at this server. Tests run them unchanged.

In: URLs of the server, a key, and the file with the authorities to trust. Out: text. Each example trains on
`clips.zip` in the current folder, for the fewest steps allowed.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from sonolora.server.endpoints.training import APP

ENDPOINT = f"{APP}/t2a"
# Every update has the whole log.
_SHOW_NEW_LINES = """\
shown = []


def show(update):
    for line in (getattr(update, "logs", None) or [])[len(shown) :]:
        shown.append(line)
        print(line["message"])

"""


def python(address: str, key: str) -> str:
    """The Python client over plain http. It only knows https, but reads its URLs at each call."""
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


def proxy_environment(proxy: str, bundle: Path, key: str) -> str:
    """Shell variables that lead everything the client sends to the published hosts here, uploads too."""
    return f"""\
export HTTPS_PROXY={proxy}
export SSL_CERT_FILE={shlex.quote(str(bundle))}
export FAL_KEY={key}
"""


def javascript(address: str, key: str) -> str:
    """The JavaScript client with its protocol for proxies; for node, as a module such as `train.mjs`."""
    return f"""\
import {{ readFile }} from "node:fs/promises";
import {{ fal }} from "@fal-ai/client";

fal.config({{
  credentials: "{key}",
  proxyUrl: {{ url: "{address}/proxy", when: "always" }},
}});

const clips = new Blob([await readFile("clips.zip")], {{ type: "application/zip" }});
let shown = 0; // every update has the whole log
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
    """Without a client: upload, submit, wait, show the result, download the LoRA. Stops at the first failure."""
    return f"""\
export FAL_KEY={key}
( set -e -o pipefail
data=$(curl -fsS {address}/files/upload -X POST -T clips.zip \\
  -H "Authorization: Key $FAL_KEY" -H "Content-Type: application/zip" -H "X-Fal-File-Name: clips.zip" |
  sed -E 's/.*"access_url":"([^"]*)".*/\\1/')
request=$(curl -fsS {address}/{ENDPOINT} \\
  -H "Authorization: Key $FAL_KEY" -H "Content-Type: application/json" \\
  -d '{{"training_data_url": "'$data'", "number_of_steps": 100}}' |
  sed -E 's/.*"response_url":"([^"]*)".*/\\1/')
echo "$request"
while curl -fsS "$request/status" -H "Authorization: Key $FAL_KEY" | grep -qE 'IN_(QUEUE|PROGRESS)'; do sleep 2; done
curl --fail-with-body -sS "$request" -H "Authorization: Key $FAL_KEY" -w '\\n' | tee result.json
curl -fsS -O "$(sed -E 's/.*"lora_file":[{{]"url":"([^"]*)".*/\\1/' result.json)"
)
"""
