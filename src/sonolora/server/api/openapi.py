"""OpenAPI 3.0.4 documents of the endpoints, in the published format and with the order of the fields.

In: the ids of endpoints and the URL of the server. Out: a document as a JSON object. Inputs are described by the models
that validate them, responses by the models they are built from.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from sonolora import __version__
from sonolora.server.api import schemas
from sonolora.server.endpoints.endpoint import Endpoint
from sonolora.server.net.urls import URL_PATTERN

Json = dict[str, Any]

_SCHEMAS = "#/components/schemas/{model}"
_FILE = "The file for the preview"
_OUTPUTS: dict[type[BaseModel], str] = {
    schemas.TrainingOutput: "Ltx23TrainerV2Output"
}  # names of outputs, where published
_RESPONSES: tuple[type[BaseModel], ...] = (
    schemas.QueueStatus,
    schemas.InputFaults,
    schemas.RequestError,
    schemas.CancelRequested,
    schemas.AlreadyCompleted,
    schemas.NotFound,
)


def describe(endpoints: Sequence[Endpoint], base: str) -> Json:
    """One document for some endpoints; `base` is the server's URL without a final slash."""
    ids = [endpoint.id for endpoint in endpoints]
    components: Json = _schemas_of(_RESPONSES)
    paths: Json = {}
    for endpoint in endpoints:
        components |= _input_schemas(endpoint) | _schemas_of([endpoint.output])
        paths |= _paths(endpoint)
    info: Json = {
        "title": f"Queue OpenAPI for {' and '.join(ids)}",
        "version": __version__,
        "description": " ".join(f"{endpoint.summary.capitalize()}." for endpoint in endpoints),
    }
    if len(ids) == 1:
        info["x-fal-metadata"] = {
            "endpointId": ids[0],
            "category": endpoints[0].category,
            "documentationUrl": f"{base}/{ids[0]}/openapi.json",
        }
    key = {"type": "apiKey", "in": "header", "name": "Authorization", "description": "Key <your key>"}
    return {
        "openapi": "3.0.4",
        "info": info,
        "servers": [{"url": base}],
        "security": [{"apiKeyAuth": []}],
        "paths": paths,
        "components": {"securitySchemes": {"apiKeyAuth": key}, "schemas": components},
    }


def _input_name(endpoint: Endpoint) -> str:
    return f"{endpoint.schema_name}Input"


def _input_schemas(endpoint: Endpoint) -> Json:
    """The schema of the input and those it refers to, by name."""
    name = _input_name(endpoint)
    schema = endpoint.request.model_json_schema(ref_template=_SCHEMAS)
    found: Json = {**schema.pop("$defs", {}), name: {**schema, "title": name}}
    # Pydantic omits a default that a factory makes, and does not know what is checked after it.
    for field, info in endpoint.request.model_fields.items():
        if info.default_factory is not None:
            found[name]["properties"][field]["default"] = info.get_default(call_default_factory=True)
    for one in found.values():
        for field, rules in one["properties"].items():
            if field.endswith("_url"):
                rules.pop("minLength", None)
                description = "A zip archive" if field == "training_data_url" else rules.get("description", _FILE)
                description = f"{description.removesuffix('.')}: an http, https or data: URL."
                rules |= {"pattern": URL_PATTERN, "description": description}
            if field == "time_ranges":
                seconds = {"type": "number", "minimum": 0}
                ranges = next((one for one in rules.get("anyOf", ()) if one.get("type") == "array"), rules)
                ranges |= {"minItems": 1, "items": {"type": "array", "items": seconds, "minItems": 2, "maxItems": 2}}
    return {name: _in_openapi_3_0(one) for name, one in found.items()}


def _output_name(model: type[BaseModel]) -> str:
    return _OUTPUTS.get(model, model.__name__)


@cache
def _schema_of(model: type[BaseModel]) -> Json:
    """The schemas of a response and of what it refers to, by name."""
    _, definitions = models_json_schema([(model, "validation")], ref_template=_SCHEMAS)
    found: Json = {name: _in_openapi_3_0(one) for name, one in definitions["$defs"].items()}
    return {**found, _output_name(model): found.pop(model.__name__)}


def _schemas_of(models: Sequence[type[BaseModel]]) -> Json:
    return {name: schema for model in models for name, schema in _schema_of(model).items()}


def _in_openapi_3_0(schema: Any) -> Any:
    """A JSON Schema of pydantic in the dialect of OpenAPI 3.0, which has no type null and no constants."""
    if isinstance(schema, list):
        return [_in_openapi_3_0(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    translated = {key: _in_openapi_3_0(value) for key, value in schema.items()}
    if "const" in translated:
        translated["enum"] = [translated.pop("const")]
    match translated.get("anyOf"):
        case [{"$ref": _} as reference, {"type": "null"}]:
            translated |= {"allOf": [reference], "nullable": True}
            del translated["anyOf"]
        case [only, {"type": "null"}]:
            translated |= {**only, "nullable": True}
            del translated["anyOf"]
    if translated.get("nullable") and translated.get("default", ...) is None:
        del translated["default"]
    if isinstance(properties := translated.get("properties"), dict) and translated.get("type") == "object":
        translated["x-fal-order-properties"] = list(properties)
        for name, field in properties.items():
            # Without the titles that pydantic makes of the names.
            if isinstance(field, dict) and field.get("title", "").replace(" ", "_").lower() == name.lower():
                del field["title"]
    return translated


def _paths(endpoint: Endpoint) -> Json:
    request = f"/{endpoint.id}/requests/{{request_id}}"
    name, noun = endpoint.schema_name, endpoint.noun
    return {
        f"/{endpoint.id}": {
            "post": {
                "operationId": f"submit{name}",
                "summary": f"Queue a {noun}.",
                "parameters": _SUBMIT_PARAMETERS,
                "requestBody": {"required": True, "content": _json_content(_ref(_input_name(endpoint)))},
                "responses": {
                    "200": {
                        **_response("It is queued.", "QueueStatus"),
                        "links": {word: _link(f"{word}{name}") for word in ("status", "result", "cancel")},
                    },
                    "400": _response("An invalid header.", "RequestError"),
                    "401": _UNAUTHORISED,
                    "408": _response("The body came too slowly.", "RequestError"),
                    "413": _response("The body is too large.", "RequestError"),
                    "422": _response("Invalid input; nothing was queued.", "InputFaults"),
                    "429": _response("The queue is full at the moment.", "RequestError"),
                },
            }
        },
        f"{request}/status": {
            "get": {
                "operationId": f"status{name}",
                "summary": "The status.",
                "parameters": [_REQUEST_ID, _LOGS],
                "responses": {
                    "200": _response("It is completed; the result is there.", "QueueStatus"),
                    "202": _response("It is queued or running.", "QueueStatus"),
                    "401": _UNAUTHORISED,
                    "404": _NOT_FOUND,
                    "422": _response("`logs` is not a boolean.", "InputFaults"),
                },
            }
        },
        request: {
            "get": {
                "operationId": f"result{name}",
                "summary": f"The result: the status, headers and body with which the {noun} ended.",
                "parameters": [_REQUEST_ID],
                "responses": {
                    "200": _response(endpoint.outputs, _output_name(endpoint.output)),
                    "400": _response("It is not completed yet.", "RequestError"),
                    "401": _UNAUTHORISED,
                    "404": _NOT_FOUND,
                    "422": _response(endpoint.invalid, "InputFaults"),
                    "499": _response("It was cancelled.", "RequestError"),
                    "500": _response(f"The {noun} failed.", "RequestError"),
                    "503": _response("The worker crashed in every attempt.", "RequestError"),
                    "504": _response("It did not start within the time limit.", "RequestError"),
                },
            }
        },
        f"{request}/cancel": {
            "put": {
                "operationId": f"cancel{name}",
                "summary": "Remove it from the queue, or stop it at the next step.",
                "parameters": [_REQUEST_ID],
                "responses": {
                    "202": _response("It will be stopped.", "CancelRequested"),
                    "400": _response("It is completed already.", "AlreadyCompleted"),
                    "401": _UNAUTHORISED,
                    "404": _NOT_FOUND,
                },
            }
        },
    }


def _ref(model: str) -> Json:
    return {"$ref": _SCHEMAS.format(model=model)}


def _json_content(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _response(description: str, model: str) -> Json:
    return {
        "description": description,
        "headers": {"x-fal-request-id": {"required": True, "schema": {"type": "string"}}},
        "content": _json_content(_ref(model)),
    }


def _link(operation_id: str) -> Json:
    """An operation that takes the id in the response."""
    return {"operationId": operation_id, "parameters": {"request_id": "$response.body#/request_id"}}


def _parameter(where: str, name: str, schema: Json, description: str) -> Json:
    return {"in": where, "name": name, "required": where == "path", "schema": schema, "description": description}


_UNAUTHORISED = _response("No key, or an invalid one.", "RequestError")
_NOT_FOUND = _response("There is no such request.", "NotFound")
_REQUEST_ID = _parameter(
    "path", "request_id", {"type": "string", "format": "uuid"}, "As in the response to the submission."
)
_LOGS = _parameter(
    "query", "logs", {"anyOf": [{"type": "integer", "enum": [0, 1]}, {"type": "boolean"}]}, "Whether to send the log."
)
_SECONDS: Json = {"type": "number", "minimum": 0.1, "exclusiveMinimum": True}
_SUBMIT_PARAMETERS = [
    _parameter("query", "fal_webhook", {"type": "string", "format": "uri"}, "Where the result is sent; http or https."),
    _parameter(
        "query",
        "fal_max_queue_length",
        {"type": "integer", "minimum": 1},
        "Refuse the request (429) if that many requests of the key are queued already.",
    ),
    _parameter("header", "X-Fal-Request-Start-Timeout", _SECONDS, "Seconds within which it must start."),
    _parameter("header", "X-Fal-Request-Timeout", _SECONDS, "The older name of X-Fal-Request-Start-Timeout."),
    _parameter("header", "X-Fal-Queue-Priority", {"type": "string"}, "`low`: requests of normal priority go first."),
    _parameter("header", "X-Fal-No-Retry", {"type": "string"}, "`1`: do not retry after a crash."),
    {
        "in": "header",
        "name": "X-Fal-Object-Lifecycle-Preference",
        "content": _json_content(
            {
                "type": "object",
                "properties": {
                    "expiration_duration_seconds": {"type": "number", "minimum": 0, "exclusiveMinimum": True}
                },
            }
        ),
        "description": "How long the output files are kept; forever without it.",
    },
]
