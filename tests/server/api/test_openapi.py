"""The descriptions against the standard's own schema, the models, and what the server answers."""

from __future__ import annotations

import json

import jsonschema_rs
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_30

from sonolora.core.errors import InputError
from sonolora.modes.request import parse
from sonolora.server.api.openapi import describe
from sonolora.server.endpoints.inference import INFERENCE
from sonolora.server.endpoints.registry import ENDPOINTS
from sonolora.server.endpoints.training import APP, TRAINING
from sonolora.server.jobs.records import Result

BASE = "http://127.0.0.1:8000"
SOUNDS = INFERENCE[0].app
PUBLISHED = (
    "num_frames", "frames_per_second", "num_inference_steps", "guidance_scale", "negative_prompt",
    "enable_prompt_expansion", "enable_safety_checker", "sync_mode",
)  # fmt: skip
STANDARD = jsonschema_rs.validator_for(OPENAPI_30)
FILE = {"url": "/files/abc/x", "content_type": None, "file_name": "x", "file_size": 3}


def schema_of(document, name):
    """A schema of the document that a validator can use by itself, `nullable` put in its terms."""

    def translated(value):
        if isinstance(value, list):
            return [translated(item) for item in value]
        if not isinstance(value, dict):
            return value
        made = {key: translated(item) for key, item in value.items() if key != "nullable"}
        return {"anyOf": [made, {"type": "null"}]} if value.get("nullable") is True else made

    components = {name: translated(one) for name, one in document["components"]["schemas"].items()}
    return jsonschema_rs.validator_for({"$ref": f"#/components/schemas/{name}", "components": {"schemas": components}})


def input_schema(id):
    document = describe([ENDPOINTS[id]], BASE)
    reference = document["paths"][f"/{id}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return document, reference["$ref"].rpartition("/")[2]


@pytest.mark.parametrize("ids", [[one] for one in ENDPOINTS] + [list(ENDPOINTS)], ids=" ".join)
def test_documents_follow_the_standard(ids):
    endpoints = [ENDPOINTS[id] for id in ids]
    document = json.loads(json.dumps(describe(endpoints, BASE)))
    STANDARD.validate(document)
    assert document["openapi"] == "3.0.4"
    for id in ids:
        requests = f"/{id}/requests/{{request_id}}"
        assert {f"/{id}", f"{requests}/status", requests, f"{requests}/cancel"} <= set(document["paths"])
    text = json.dumps(document)
    for reference in {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert reference in document["components"]["schemas"]


@pytest.mark.parametrize("endpoint", TRAINING, ids=lambda endpoint: endpoint.path)
def test_the_fields_are_in_the_published_order_with_their_rules(endpoint):
    document, name = input_schema(endpoint.id)
    assert document["info"]["x-fal-metadata"]["endpointId"] == endpoint.id
    schema = document["components"]["schemas"][name]
    order = schema["x-fal-order-properties"]
    first = ["training_data_url", "rank", "number_of_steps", "learning_rate", "number_of_frames", "frame_rate"]
    assert order[:6] == first
    assert set(order) == set(schema["properties"]) == set(endpoint.request.model_fields)
    assert schema["required"] == ["training_data_url"]
    rank, steps = schema["properties"]["rank"], schema["properties"]["number_of_steps"]
    assert (rank["type"], rank["enum"], rank["default"]) == ("integer", [8, 16, 32, 64, 128], 32)
    assert (steps["minimum"], steps["maximum"], steps["default"]) == (100, 20000, 2000)
    assert schema["properties"]["validation"]["maxItems"] == 2
    assert schema["properties"]["validation"]["default"] == []


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"training_data_url": "HTTP://x/y.zip"},
        {"training_data_url": "data:application/zip;base64,UEs="},
        {"training_data_url": "clips.zip"},
        {"training_data_url": "https://"},
        {"training_data_url": 7},
        {"rank": 9},
        {"number_of_steps": 99},
        {"number_of_steps": 20000},
        {"learning_rate": 2},
        {"resolution": "huge"},
        {"stg_scale": -0.1},
        {"validation": [{"prompt": "a"}]},
        {"validation": [{"prompt": "a"}] * 3},
        {"validation": [{}]},
        {"something": "else"},
    ],
)
def test_the_description_and_the_check_agree(client, change):
    document, name = input_schema(f"{APP}/t2a")
    body = {"training_data_url": "https://example.com/x.zip", **change}
    assert schema_of(document, name).is_valid(body) == (client.post(f"/{APP}/t2a", json=body).status_code == 200)


@pytest.mark.parametrize(
    ("field", "kind", "default", "least", "most"),
    [
        ("num_frames", "integer", 121, 9, 481),
        ("frames_per_second", "number", 24, 1, 60),
        ("num_inference_steps", "integer", 15, 8, 30),
        ("guidance_scale", "number", 1, 1, 20),
        ("negative_prompt", "string", "pc game, console game, video game, cartoon, childish, ugly", None, None),
        ("enable_prompt_expansion", "boolean", False, None, None),
        ("enable_safety_checker", "boolean", True, None, None),
        ("sync_mode", "boolean", False, None, None),
    ],
)
def test_text_to_audio_is_as_published(field, kind, default, least, most):
    for path in ("text-to-audio", "text-to-audio/lora"):
        document, name = input_schema(f"{SOUNDS}/{path}")
        schema = document["components"]["schemas"][name]
        rules = schema["properties"][field]
        assert (rules["type"], rules["default"]) == (kind, default)
        assert (rules.get("minimum"), rules.get("maximum")) == (least, most)
        assert schema["properties"]["seed"] == {**schema["properties"]["seed"], "type": "integer", "nullable": True}
        assert schema["required"] == ["prompt", *(["loras"] if "lora" in path else [])]
        assert set(schema["properties"]) == {"prompt", "seed", *PUBLISHED, *(["loras"] if "lora" in path else [])}
    loras = schema["properties"]["loras"]
    assert loras["maxItems"] == 3
    item = document["components"]["schemas"]["LoraWeights"]
    assert list(item["properties"]) == ["path", "scale", "transformer", "weight_name"] and item["required"] == ["path"]
    assert item["properties"]["transformer"]["enum"] == ["both", "high", "low"]
    assert item["properties"]["scale"]["default"] == 1
    output = document["components"]["schemas"]["TextToAudioOutput"]
    assert list(output["properties"]) == output["required"] == ["audio", "prompt", "seed"]


def test_defaults_are_valid():
    for endpoint in TRAINING:
        document, name = input_schema(endpoint.id)
        properties = document["components"]["schemas"][name]["properties"]
        body = {field: rules["default"] for field, rules in properties.items() if "default" in rules}
        assert len(body) == len(properties) - 1
        try:
            parse(endpoint.request, {"training_data_url": "https://x/y", **body})
        except InputError as error:
            raise AssertionError(f"{endpoint.id}: {error}") from error


def test_answers_are_as_described(live, client):
    document = client.get("/openapi.json", params={"endpoint_id": f"{APP}/t2a"}).json()
    assert document["servers"] == [{"url": live.address}]

    def check(answer, path, method):
        responses = document["paths"][path][method]["responses"]
        content = responses[str(answer.status_code)]["content"]["application/json"]["schema"]
        if "$ref" in content:
            schema_of(document, content["$ref"].rpartition("/")[2]).validate(answer.json())
        else:
            jsonschema_rs.validator_for(content).validate(answer.json())
        return answer

    submit, status = f"/{APP}/t2a", f"/{APP}/t2a/requests/{{request_id}}/status"
    result, cancel = f"/{APP}/t2a/requests/{{request_id}}", f"/{APP}/t2a/requests/{{request_id}}/cancel"
    body = {"training_data_url": "https://example.com/x.zip"}
    id = check(client.post(submit, json=body), submit, "post").json()["request_id"]
    check(client.post(submit, json={}), submit, "post")
    check(client.post(submit, json=body, headers={"X-Fal-Request-Timeout": "x"}), submit, "post")
    check(client.post(submit, json=body, headers={"Authorization": "Key x"}), submit, "post")
    for path, method, template in [("/status", "GET", status), ("", "GET", result), ("/cancel", "PUT", cancel)]:
        check(client.request(method, f"/{APP}/t2a/requests/nothing{path}"), template, method.lower())
        check(client.request(method, f"/{APP}/t2a/requests/{id}{path}"), template, method.lower())
    live.store.add_logs(id, [(0.0, "INFO", "hello")])
    output = {"lora_file": FILE, "config_file": FILE, "audio": None, "video": None, "debug_dataset": FILE}
    live.store.finish(id, Result(status=200, body=output, billable_units=100, inference_time=1.5))
    check(client.get(f"/{APP}/t2a/requests/{id}/status?logs=1"), status, "get")
    check(client.get(f"/{APP}/t2a/requests/{id}/status?logs=x"), status, "get")
    check(client.get(f"/{APP}/t2a/requests/{id}"), result, "get")
    check(client.put(f"/{APP}/t2a/requests/{id}/cancel"), cancel, "put")


def test_where_they_are(client):
    one = client.get(f"/{APP}/ic-lora/a2a/openapi.json").json()
    assert one == client.get("/openapi.json", params={"endpoint_id": f"{APP}/ic-lora/a2a"}).json()
    assert client.get(one["info"]["x-fal-metadata"]["documentationUrl"]).json() == one
    assert len(client.get("/openapi.json").json()["paths"]) == 4 * len(ENDPOINTS)
    assert client.get(f"/{APP}/t2v/openapi.json").status_code == 404
    assert client.get("/openapi.json?endpoint_id=fal-ai/flux").status_code == 422
