"""schemathesis against the descriptions: every response is one of those described, and none is a 5xx.

Meanwhile requests are run, so that they are found queued, running and completed.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time

import pytest

from sonolora.server.endpoints.registry import ENDPOINTS
from sonolora.server.endpoints.training import APP
from sonolora.server.jobs.records import Kind, Result
from sonolora.server.jobs.results import CANCELLED, OVERDUE

FILE = {"url": "/files/abc/x", "content_type": None, "file_name": "x", "file_size": 3}
LORA = {"lora_file": FILE, "config_file": FILE, "audio": None, "video": None, "debug_dataset": FILE}
SOUND = {"audio": FILE, "video": None, "prompt": "x", "seed": 1, "samples": [{"audio": FILE, "seed": 1}]}
FAULT = {"detail": [{"loc": ["body", "training_data_url"], "msg": "no clip", "type": "value_error"}]}
ENDS = (
    Result(status=422, body=FAULT, error="no clip", inference_time=0.5),
    CANCELLED,
    OVERDUE,
)
# The result of a training does not depend on the request for it; and there are rules between fields, such as that a
# range must not be empty, that a schema cannot express.
CONFIGURATION = """
seed = 1
generation.max-examples = {examples}
generation.no-shrink = true
continue-on-failure = true
warnings = false

[[operations]]
include-operation-id-regex = "^(result|cancel)"
checks.positive_data_acceptance.enabled = false
checks.not_a_server_error.expected-statuses = ["2xx", "4xx", "504"]

[[operations]]
include-operation-id-regex = "^submit.*(Audio(Inpaint|Extend)|TextToAudio|Inpainting|Outpainting)"
checks.positive_data_acceptance.expected-statuses = ["2xx", "422", "429"]
"""
# Values that are converted, as by the hosted endpoints: "32" for 32, 0 for false.
HOOKS = """
import schemathesis

GENEROUS = {"boolean": (int, float, str), "integer": (bool, float, str), "number": (bool, str)}

def converted(fields, body, schemas):
    for name, value in body.items():
        rules = fields.get(name, {})
        if type(value) in GENEROUS.get(rules.get("type"), ()):
            return True
        entry = schemas.get(rules.get("items", {}).get("$ref", "").rpartition("/")[2])
        if entry and isinstance(value, list):
            if any(isinstance(one, dict) and converted(entry["properties"], one, schemas) for one in value):
                return True
    return False

@schemathesis.hook
def filter_case(context, case):
    schemas = case.operation.schema.raw_schema["components"]["schemas"]
    (fields,) = (schema["properties"] for name, schema in schemas.items() if name.endswith("Input"))
    return not isinstance(case.body, dict) or not converted(fields, case.body, schemas)
"""
NESTED = f"{APP}/audio-inpaint"  # the endpoint whose input is nested most deeply


@pytest.fixture
def _worker(live):
    """Requests end in different ways; every fifth keeps running."""
    over = threading.Event()

    def work():
        ends = itertools.cycle(["done", *ENDS, None])
        while not over.wait(0.005):
            if not (taken := live.store.claim()):
                live.woken.wait(0.2)
                live.woken.clear()
                continue
            live.store.add_logs(taken.id, [(time.time(), "INFO", "step 1")])
            if (end := next(ends)) == "done":
                body = LORA if taken.kind == Kind.TRAIN else SOUND
                end = Result(status=200, body=body, billable_units=100, inference_time=1.5)
            if end:
                live.store.finish(taken.id, end)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    over.set()
    live.woken.set()
    thread.join(20)


@pytest.mark.parametrize(
    ("endpoint", "examples"),
    [(NESTED, 2), *(pytest.param(endpoint, 10, marks=pytest.mark.slow) for endpoint in ENDPOINTS)],
)
@pytest.mark.usefixtures("_worker")
def test_responses_are_as_described(endpoint, examples, live, tmp_path):
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION.format(examples=examples))
    (tmp_path / "hooks.py").write_text(HOOKS)
    url = f"{live.address}/{endpoint}/openapi.json"
    command = [sys.executable, "-m", "schemathesis.cli", "run", url, "--header", f"Authorization: Key {live.key}"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
