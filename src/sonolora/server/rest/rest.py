"""The whole REST face and its page: the routes that the application adds to those of the wire.

In: the parts of the server. Out: routes below /api and /studio, and the handler of `/`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sonolora.server.api.authorise import HINT, access_with, key_in_header
from sonolora.server.api.request_body import BodyMemory
from sonolora.server.datasets.dataset import Datasets
from sonolora.server.datasets.pictures import Pictures
from sonolora.server.files.secret import load_secret
from sonolora.server.files.storage import Storage
from sonolora.server.jobs.assistant_process import Assistant
from sonolora.server.jobs.keys import Access, Keys
from sonolora.server.jobs.notifier import Notifier
from sonolora.server.jobs.retrying import Retrying
from sonolora.server.jobs.store import Store
from sonolora.server.placing.placer import Slot
from sonolora.server.rest import generate_api, hub_api, modes_api, page
from sonolora.server.rest.datasets_api import DatasetsApi
from sonolora.server.rest.machine_api import MachineApi
from sonolora.server.rest.operations import Operation, describe, routes
from sonolora.server.rest.runs_api import RunsApi
from sonolora.server.rest.sessions import Sessions
from sonolora.server.settings import ServerSettings


class Rest:
    """Made once for each server. `active` and `slots` say what the workers do."""

    def __init__(
        self,
        settings: ServerSettings,
        store: Store,
        keys: Keys,
        storage: Storage,
        notifier: Notifier,
        retrying: Retrying,
        wake: Callable[[], None],
        active: Callable[[], dict[str, str]],
        slots: Callable[[], Sequence[Slot]],
    ) -> None:
        self.sessions = Sessions(keys, settings, load_secret(storage.folder / "secret"))
        self.assistant = Assistant()
        datasets = Datasets(settings.folder / "datasets")
        pictures = Pictures(settings.folder / "pictures")
        self._keys = keys
        runs = RunsApi(
            settings, store, storage, datasets, pictures, self.assistant, notifier, self.sessions, wake, self.authorise
        )
        machine = MachineApi(settings, store, keys, retrying, self.sessions, self.authorise, active, slots, wake)
        self.operations: list[Operation] = [
            *modes_api.operations(settings),
            *DatasetsApi(settings, datasets, pictures, self.assistant).operations(),
            *runs.operations(),
            *generate_api.operations(runs),
            *hub_api.operations(runs),
            *machine.operations(),
        ]

    def authorise(self, request: Request) -> Access:
        """By the key in the header, or that of the session. Raises `RejectedError` (401, 403)."""
        in_header = request.headers.get("authorization") is not None
        key = key_in_header(self._keys, request) if in_header else self.sessions.key_of(request)
        return access_with(self._keys, key, f"No valid key: log in, or {HINT}")

    def routes(self, memory: BodyMemory, base_url: Callable[[Request], str]) -> list[Route]:
        """Those below /api and /studio."""

        async def openapi(request: Request, _: None) -> Any:
            return describe(self.operations, base_url(request))

        description = Operation(
            "GET", "/api/openapi.json", "This description.", openapi, returns="OpenAPI 3.1.", key=False
        )
        return [
            *routes(
                [*self.operations, description],
                lambda request: self._keys.reading(self.authorise, request),
                memory,
            ),
            Route("/studio/{path:path}", page.asset),
        ]

    async def page(self, request: Request) -> Response:
        """The page at `/`."""
        return await page.page(request, self.sessions)
