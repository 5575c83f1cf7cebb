"""All endpoints by their ids, and by the paths that requests in the job store have."""

from __future__ import annotations

from collections.abc import Mapping

from sonolora.server.endpoints.endpoint import Endpoint
from sonolora.server.endpoints.inference import INFERENCE
from sonolora.server.endpoints.sweeps import SWEEPS
from sonolora.server.endpoints.training import APP, TRAINING

ENDPOINTS: Mapping[str, Endpoint] = {endpoint.id: endpoint for endpoint in (*TRAINING, *INFERENCE, *SWEEPS)}
APPS = tuple(dict.fromkeys(endpoint.app for endpoint in ENDPOINTS.values()))
ENDPOINT_PATHS = ", ".join(f"/{id}" for id in ENDPOINTS)  # for messages
_BY_PATH = {endpoint.path: endpoint for endpoint in ENDPOINTS.values()}


def endpoint_of(path: str) -> Endpoint | None:
    """The endpoint of a request in the job store; None if it was not made on the wire."""
    return _BY_PATH.get(path)


def app_of(path: str) -> str:
    """The app below which the status and the result of such a request are."""
    endpoint = endpoint_of(path)
    return APP if endpoint is None else endpoint.app
