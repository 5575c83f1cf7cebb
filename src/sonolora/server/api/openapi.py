"""The description of each endpoint in OpenAPI 3.0.4, in the published form and with the order of the fields.

In: the ids of endpoints and the address of the server. Out: a document as a JSON object. The inputs come from the
models that check them; the answers are all that can occur.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sonolora import __version__
from sonolora.modes import MODES
from sonolora.server.net.urls import APP, ENDPOINTS, URL_PATTERN

Json = dict[str, Any]

_SCHEMAS = "#/components/schemas/"


def describe(endpoints: Sequence[str], base: str) -> Json:
    """One document for endpoints such as `t2a` or `ic-lora/a2a`; `base` is the address without a slash at the end."""
    ids = [f"{APP}/{endpoint}" for endpoint in endpoints]
    schemas: Json = dict(_COMMON_SCHEMAS)
    paths: Json = {}
    for endpoint, id in zip(endpoints, ids, strict=True):
        input_name = _schema_name(endpoint)
        schemas |= _input_schemas(endpoint, input_name)
        paths |= _paths(id, input_name)
    info: Json = {
        "title": f"Queue OpenAPI for {' and '.join(ids)}",
        "version": __version__,
        "description": " ".join(f"{MODES[ENDPOINTS[endpoint]].summary.capitalize()}." for endpoint in endpoints),
    }
    if len(ids) == 1:
        info["x-fal-metadata"] = {
            "endpointId": ids[0],
            "category": "training",
            "documentationUrl": f"{base}/{ids[0]}/openapi.json",
        }
    return {
        "openapi": "3.0.4",
        "info": info,
        "servers": [{"url": base}],
        "security": [{"apiKeyAuth": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "apiKeyAuth": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "Key <your key>",
                }
            },
            "schemas": schemas,
        },
    }


def _schema_name(endpoint: str) -> str:
    return "Ltx23TrainerV2" + "".join(part.capitalize() for part in endpoint.replace("/", "-").split("-")) + "Input"


def _input_schemas(endpoint: str, name: str) -> Json:
    """The input's schema and those that it refers to, by name."""
    schema = MODES[ENDPOINTS[endpoint]].request.model_json_schema(ref_template=_SCHEMAS + "{model}")
    found = {**schema.pop("$defs"), name: {**schema, "title": name}}
    # Pydantic leaves out a default that is made anew each time, and knows nothing of what is checked after it.
    found[name]["properties"]["validation"]["default"] = []
    for one in found.values():
        one["x-fal-order-properties"] = list(one["properties"])
        for field, rules in one["properties"].items():
            if field.endswith("_url"):
                rules.pop("minLength", None)
                what = "A zip archive" if field == "training_data_url" else "What the preview is given"
                rules |= {"pattern": URL_PATTERN, "description": f"{what}, by http, https or data: URL."}
            if field == "time_ranges":
                seconds = {"type": "number", "minimum": 0}
                rules |= {"minItems": 1, "items": {"type": "array", "items": seconds, "minItems": 2, "maxItems": 2}}
    return found


def _paths(id: str, input_name: str) -> Json:
    request = f"/{id}/requests/{{request_id}}"
    name = input_name.removesuffix("Input")
    return {
        f"/{id}": {
            "post": {
                "operationId": f"submit{name}",
                "summary": "Put a training into the queue.",
                "parameters": _SUBMIT_PARAMETERS,
                "requestBody": {"required": True, "content": _json_content(_ref(input_name))},
                "responses": {
                    "200": {
                        **_answer("It is in the queue.", _ref("QueueStatus")),
                        "links": {word: _link(f"{word}{name}") for word in ("status", "result", "cancel")},
                    },
                    "400": _answer("A header that cannot be read.", _ref("RequestError")),
                    "401": _UNAUTHORISED,
                    "408": _answer("The body came too slowly.", _ref("RequestError")),
                    "413": _answer("The body is too large.", _ref("RequestError")),
                    "422": _answer("A fault of the input; nothing was queued.", _ref("InputFaults")),
                    "429": _answer("The queue is full at the moment.", _ref("RequestError")),
                },
            }
        },
        f"{request}/status": {
            "get": {
                "operationId": f"status{name}",
                "summary": "How it stands.",
                "parameters": [_REQUEST_ID, _LOGS],
                "responses": {
                    "200": _answer("It is over; the result says how it went.", _ref("QueueStatus")),
                    "202": _answer("It waits or runs.", _ref("QueueStatus")),
                    "401": _UNAUTHORISED,
                    "404": _NOT_FOUND,
                    "422": _answer("`logs` is not a truth value.", _ref("InputFaults")),
                },
            }
        },
        request: {
            "get": {
                "operationId": f"result{name}",
                "summary": "The result: the code, headers and body that the training ended with.",
                "parameters": [_REQUEST_ID],
                "responses": {
                    "200": _answer("The LoRA and what belongs to it.", _ref("Ltx23TrainerV2Output")),
                    "400": _answer("It is not over yet.", _ref("RequestError")),
                    "401": _UNAUTHORISED,
                    "404": _NOT_FOUND,
                    "422": _answer("A fault of the training data.", _ref("InputFaults")),
                    "499": _answer("It was cancelled.", _ref("RequestError")),
                    "500": _answer("The training failed.", _ref("RequestError")),
                    "503": _answer("The training broke off, again and again.", _ref("RequestError")),
                    "504": _answer("It could not be started in the time that was given.", _ref("RequestError")),
                },
            }
        },
        f"{request}/cancel": {
            "put": {
                "operationId": f"cancel{name}",
                "summary": "Take it out of the queue, or stop it at the next step.",
                "parameters": [_REQUEST_ID],
                "responses": {
                    "202": _answer("It will be stopped.", _outcome("CANCELLATION_REQUESTED")),
                    "400": _answer("It is over already.", _outcome("ALREADY_COMPLETED")),
                    "401": _UNAUTHORISED,
                    "404": _NOT_FOUND,
                },
            }
        },
    }


def _ref(name: str) -> Json:
    return {"$ref": _SCHEMAS + name}


def _json_content(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _answer(description: str, schema: Json) -> Json:
    return {
        "description": description,
        "headers": {"x-fal-request-id": {"required": True, "schema": {"type": "string"}}},
        "content": _json_content(schema),
    }


def _link(operation_id: str) -> Json:
    """What the id in the answer is good for."""
    return {"operationId": operation_id, "parameters": {"request_id": "$response.body#/request_id"}}


def _outcome(word: str) -> Json:
    return _object({"status": {"type": "string", "enum": [word]}}, ["status"])


def _object(properties: Mapping[str, Json], required: Sequence[str]) -> Json:
    made: Json = {"type": "object", "properties": dict(properties), "x-fal-order-properties": list(properties)}
    return {**made, "required": list(required)} if required else made  # an empty list is not allowed


def _parameter(where: str, name: str, schema: Json, description: str) -> Json:
    return {"in": where, "name": name, "required": where == "path", "schema": schema, "description": description}


_UNAUTHORISED = _answer("No key, or one that is not valid here.", _ref("RequestError"))
_NOT_FOUND = _answer("There is no such request.", _outcome("NOT_FOUND"))
_REQUEST_ID = _parameter("path", "request_id", {"type": "string", "format": "uuid"}, "As the submission said.")
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
        "Refuse the request (429) when so many of the key's requests wait already.",
    ),
    _parameter("header", "X-Fal-Request-Start-Timeout", _SECONDS, "Seconds within which it must have started."),
    _parameter("header", "X-Fal-Request-Timeout", _SECONDS, "The older name of the same."),
    _parameter("header", "X-Fal-Queue-Priority", {"type": "string"}, "`low` lets others go first."),
    _parameter("header", "X-Fal-No-Retry", {"type": "string"}, "`1`: a crash ends the request."),
    {
        "in": "header",
        "name": "X-Fal-Object-Lifecycle-Preference",
        "content": _json_content(
            _object({"expiration_duration_seconds": {"type": "number", "minimum": 0, "exclusiveMinimum": True}}, [])
        ),
        "description": "How long the output files are kept; for ever without it.",
    },
]
_NULLABLE_TEXT: Json = {"type": "string", "nullable": True}
_COMMON_SCHEMAS: Json = {
    "QueueStatus": _object(
        {
            "status": {"type": "string", "enum": ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]},
            "request_id": {"type": "string"},
            "response_url": {"type": "string"},
            "status_url": {"type": "string"},
            "cancel_url": {"type": "string"},
            "queue_position": {"type": "integer", "minimum": 0, "description": "Requests in front; while it waits."},
            "logs": {"type": "array", "items": _ref("RequestLog"), "nullable": True},
            "metrics": {"type": "object", "properties": {"inference_time": {"type": "number"}}},
            "progress": {
                "type": "object",
                "description": "While it runs: phase, step, steps, steps_per_second, estimated_end.",
            },
            "error": {"type": "string", "description": "What went wrong, when it failed."},
            "error_type": {"type": "string"},
            "gateway_request_id": {"type": "string"},
        },
        ["status", "request_id", "response_url", "status_url", "cancel_url", "logs", "metrics"],
    ),
    "RequestLog": _object(
        {
            "message": {"type": "string"},
            "level": {"type": "string", "enum": ["STDERR", "STDOUT", "ERROR", "INFO", "WARN", "DEBUG"]},
            "source": {"type": "string", "enum": ["USER"]},
            "timestamp": {"type": "string", "format": "date-time"},
        },
        ["message", "level", "source", "timestamp"],
    ),
    "Ltx23TrainerV2Output": _object(
        {
            "lora_file": {**_ref("File")},
            "config_file": {**_ref("File")},
            "audio": {"allOf": [_ref("File")], "nullable": True, "description": "The previews, if there are any."},
            "video": {"allOf": [_ref("File")], "nullable": True, "description": "Always null."},
            "debug_dataset": {"allOf": [_ref("File")], "nullable": True, "description": "When it was asked for."},
        },
        ["lora_file", "config_file"],
    ),
    "File": _object(
        {
            "url": {"type": "string", "description": "Needs no key."},
            "content_type": _NULLABLE_TEXT,
            "file_name": _NULLABLE_TEXT,
            "file_size": {"type": "integer", "nullable": True},
        },
        ["url"],
    ),
    "InputFaults": _object({"detail": {"type": "array", "items": _ref("InputFault")}}, ["detail"]),
    "InputFault": _object(
        {
            "loc": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
            "msg": {"type": "string"},
            "type": {"type": "string"},
            "input": {"description": "What was found."},
            "ctx": {"type": "object"},
        },
        ["loc", "msg", "type"],
    ),
    "RequestError": _object({"detail": {"type": "string"}, "error_type": {"type": "string"}}, ["detail"]),
}
