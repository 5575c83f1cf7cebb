"""What the REST face can do, as data: from one list come its routes and its OpenAPI.

In: `Operation`s. Out: Starlette routes that authorise, validate and answer in JSON; and the description at
`/api/openapi.json`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sonolora import __version__
from sonolora.modes.request import Body, parse
from sonolora.server.api.authorise import for_operators
from sonolora.server.api.request_body import BodyMemory, in_parser_thread, read_object
from sonolora.server.api.responses import JsonResponse
from sonolora.server.jobs.keys import Access

Json = dict[str, Any]
Handler = Callable[[Request, Any], Awaitable[Any]]

MAX_BODY_BYTES = 4 << 20
_SCHEMAS = "#/components/schemas/{model}"


@dataclass(frozen=True)
class Operation:
    """`handle` gets the request and its validated body, None without one; what it returns is sent as JSON.

    `key`: whether a key or a session is needed; `operator`: an operator's. `returns`: the answer in words. `query`:
    parameters by name, with help.
    """

    method: str
    path: str
    summary: str
    handle: Handler
    body: type[Body] | None = None
    returns: str = "The object."
    media_type: str = "application/json"
    upload: bool = False  # the body is a file
    query: tuple[tuple[str, str], ...] = ()
    status: int = 200
    key: bool = True
    operator: bool = False


def access_of(request: Request) -> Access:
    """What the key of a request gives access to; of an operation that needs one."""
    access: Access = request.state.access
    return access


def routes(
    operations: Sequence[Operation], authorise: Callable[[Request], Awaitable[Access]], memory: BodyMemory
) -> list[Route]:
    """One route an operation. The most specific paths must come first in the list."""
    return [
        Route(operation.path, _endpoint(operation, authorise, memory), methods=[operation.method])
        for operation in operations
    ]


def _endpoint(
    operation: Operation, authorise: Callable[[Request], Awaitable[Access]], memory: BodyMemory
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        if operation.key:
            request.state.access = await authorise(request)
        if operation.operator:
            for_operators(access_of(request))
        body = None
        if operation.body is not None:
            sent = await read_object(request, MAX_BODY_BYTES, memory)
            body = await in_parser_thread(parse, operation.body, sent)
        answer = await operation.handle(request, body)
        if isinstance(answer, Response):
            return answer
        return JsonResponse(answer, operation.status, {"cache-control": "no-store"})

    return endpoint


def describe(operations: Sequence[Operation], server: str) -> Json:
    """The OpenAPI 3.1 document."""
    bodies = [operation.body for operation in operations if operation.body is not None]
    _, definitions = models_json_schema([(body, "validation") for body in dict.fromkeys(bodies)], ref_template=_SCHEMAS)
    paths: dict[str, Json] = {}
    for operation in operations:
        path = re.sub(r":path}", "}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _described(operation)
    key = {"type": "apiKey", "in": "header", "name": "Authorization", "description": "Key <your key>"}
    cookie = {"type": "apiKey", "in": "cookie", "name": "sonolora_session"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sonolora", "version": __version__, "description": "Datasets, runs, generated sounds, keys."},
        "servers": [{"url": server}],
        "security": [{"key": []}, {"session": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": key, "session": cookie},
            "schemas": {**definitions.get("$defs", {}), "Error": _ERROR},
        },
    }


def _described(operation: Operation) -> Json:
    parameters: list[Json] = [
        {"in": "path", "name": name, "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)(?::path)?}", operation.path)
    ]
    parameters += [
        {"in": "query", "name": name, "schema": {"type": "string"}, "description": help}
        for name, help in operation.query
    ]
    summary = f"{operation.summary} Operators only." if operation.operator else operation.summary
    described: Json = {"summary": summary, "parameters": parameters}
    if operation.upload:
        binary = {"schema": {"type": "string", "format": "binary"}}
        described["requestBody"] = {"required": True, "content": {"application/octet-stream": binary}}
    if operation.body is not None:
        schema = {"$ref": _SCHEMAS.format(model=operation.body.__name__)}
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    schema = {} if operation.media_type == "application/json" else {"type": "string", "format": "binary"}
    described["responses"] = {
        str(operation.status): {
            "description": operation.returns,
            "content": {operation.media_type: {"schema": schema}},
        },
        "default": {
            "description": "An error: 401 without a key, 403 from another site or for operators alone, 404, 422 for "
            "invalid input.",
            "content": {"application/json": {"schema": {"$ref": _SCHEMAS.format(model="Error")}}},
        },
    }
    if not operation.key:
        described["security"] = []
    return described


_ERROR: Json = {
    "type": "object",
    "required": ["detail"],
    "properties": {
        "detail": {
            "description": "The reason; for invalid input a list of {loc, msg, type}.",
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}],
        },
        "error_type": {"type": "string"},
    },
}
