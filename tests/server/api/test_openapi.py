"""The descriptions against the standard's own schema, the models, and what the server answers."""

from __future__ import annotations

import json

import jsonschema_rs
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_30

from sonolora.core.errors import InputError
from sonolora.modes import MODES
from sonolora.modes.request import parse
from sonolora.server.api.openapi import describe
from sonolora.server.jobs.records import Result
from sonolora.server.net.urls import APP, ENDPOINTS

BASE = "http://127.0.0.1:8000"
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


def input_schema(endpoint):
    document = describe([endpoint], BASE)
    reference = document["paths"][f"/{APP}/{endpoint}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return document, reference["$ref"].rpartition("/")[2]


@pytest.mark.parametrize("endpoints", [[one] for one in ENDPOINTS] + [list(ENDPOINTS)], ids=" ".join)
def test_documents_follow_the_standard(endpoints):
    document = json.loads(json.dumps(describe(endpoints, BASE)))
    STANDARD.validate(document)
    assert document["openapi"] == "3.0.4"
    for endpoint in endpoints:
        id = f"{APP}/{endpoint}"
        requests = f"/{id}/requests/{{request_id}}"
        assert {f"/{id}", f"{requests}/status", requests, f"{requests}/cancel"} <= set(document["paths"])
    text = json.dumps(document)
    for reference in {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert reference in document["components"]["schemas"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_the_fields_are_in_the_published_order_with_their_rules(endpoint):
    document, name = input_schema(endpoint)
    assert document["info"]["x-fal-metadata"]["endpointId"] == f"{APP}/{endpoint}"
    schema = document["components"]["schemas"][name]
    order = schema["x-fal-order-properties"]
    first = ["training_data_url", "rank", "number_of_steps", "learning_rate", "number_of_frames", "frame_rate"]
    assert order[:6] == first
    assert set(order) == set(schema["properties"]) == set(MODES[ENDPOINTS[endpoint]].request.model_fields)
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
    document, name = input_schema("t2a")
    body = {"training_data_url": "https://example.com/x.zip", **change}
    assert schema_of(document, name).is_valid(body) == (client.post(f"/{APP}/t2a", json=body).status_code == 200)


def test_defaults_are_valid():
    for endpoint, mode in ENDPOINTS.items():
        document, name = input_schema(endpoint)
        properties = document["components"]["schemas"][name]["properties"]
        body = {field: rules["default"] for field, rules in properties.items() if "default" in rules}
        assert len(body) == len(properties) - 1
        try:
            parse(MODES[mode].request, {"training_data_url": "https://x/y", **body})
        except InputError as error:
            raise AssertionError(f"{endpoint}: {error}") from error


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
