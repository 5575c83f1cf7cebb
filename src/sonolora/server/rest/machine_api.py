"""Who is asking, the keys, the queue, and the machine.

In: requests at /api/session, /api/keys, /api/queue. Out: JSON.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import anyio.to_thread
import psutil
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from sonolora import __version__
from sonolora.core.errors import InputError
from sonolora.modes.request import Body
from sonolora.server.api.responses import JsonResponse, RejectedError, error_response
from sonolora.server.jobs.keys import Access, KeyOwnerError, Keys
from sonolora.server.jobs.records import Key, Kind, Role, State
from sonolora.server.jobs.records import Request as Record
from sonolora.server.jobs.retrying import Retrying
from sonolora.server.jobs.store import Store
from sonolora.server.placing.placer import Slot
from sonolora.server.rest import run_view
from sonolora.server.rest.operations import Operation, access_of
from sonolora.server.rest.sessions import Sessions
from sonolora.server.settings import INTERRUPT, LOCAL, ServerSettings

_GPU = (
    "nvidia-smi",
    "--query-gpu=index,name,utilization.gpu,memory.used,memory.total",
    "--format=csv,noheader,nounits",
)
_GPU_SECONDS = 2.0
_NO_KEY = "there is no such key, or it is revoked already"

T = TypeVar("T")


class Login(Body):
    """A key to begin a session with."""

    key: str


class NewKey(Body):
    """A key to make."""

    name: str = Field(min_length=1, max_length=120)
    owner: str | None = Field(
        None, max_length=120, description="The person or team that it is of; by default the name."
    )
    role: Role = Field(Role.MEMBER, description="A member sees what its owner has; an operator everything.")


class KeyChanges(Body):
    """What to change of a key."""

    owner: str | None = Field(None, max_length=120)
    role: Role | None = None


class Move(Body):
    """Where to put a queued request."""

    before: str | None = Field(None, description="The id of the request to put it ahead of; null: the end.")


@dataclass(frozen=True)
class MachineApi:
    settings: ServerSettings
    store: Store
    keys: Keys
    retrying: Retrying
    sessions: Sessions
    authorise: Callable[[Request], Access]
    active: Callable[[], dict[str, str]]  # requests that run, with their slots
    slots: Callable[[], Sequence[Slot]]
    wake: Callable[[], None]

    def operations(self) -> list[Operation]:
        return [
            Operation("GET", "/api/session", "Whose key this is; null without one.", self.whoami, key=False),
            Operation("POST", "/api/session", "Log a browser in: a cookie is set.", self.login, Login, key=False),
            Operation("DELETE", "/api/session", "Log out.", self.logout),
            Operation("GET", "/api/keys", "The owner's keys, to operators all, without secrets.", self.list_keys),
            Operation(
                "POST",
                "/api/keys",
                "Make a key; its secret is shown once.",
                self.add_key,
                NewKey,
                status=201,
                operator=True,
            ),
            Operation(
                "PATCH", "/api/keys/{id}", "Change a key's owner or role.", self.change_key, KeyChanges, operator=True
            ),
            Operation("DELETE", "/api/keys/{id}", "Revoke a key.", self.revoke),
            Operation("GET", "/api/queue", "What runs and what waits, why, and the machine's load.", self.queue),
            Operation("PATCH", "/api/queue/{id}", "Move a queued request.", self.move, Move, operator=True),
        ]

    async def whoami(self, request: Request, _: None) -> Any:
        try:
            key = (await self.keys.reading(self.authorise, request)).key
        except RejectedError:  # a page asks before it knows whether anyone is logged in
            return {"key": None}
        return {"key": _shown(key), "version": __version__, "base": self.settings.base}

    async def login(self, request: Request, body: Login) -> Response:
        if not self.sessions.is_same_origin(request) and "origin" in request.headers:
            raise RejectedError(error_response(403, "This request comes from another site than the page."))
        key = await self.keys.reading(self.keys.check, body.key.strip())
        if key is None:
            await asyncio.sleep(0.5)
            raise RejectedError(error_response(401, "This is not a valid key."))
        response = JsonResponse({"key": _shown(key)}, headers={"cache-control": "no-store"})
        self.sessions.begin(response, request, key)
        return response

    async def logout(self, _request: Request, _: None) -> Response:
        response = JsonResponse({"logged_out": True})
        self.sessions.end(response)
        return response

    async def list_keys(self, request: Request, _: None) -> Any:
        access = access_of(request)
        keys = await self.keys.reading(self.keys.all)
        return {"keys": [asdict(key) for key in keys if access.covers_key(key)]}

    async def add_key(self, _request: Request, body: NewKey) -> Any:
        id, secret = await asyncio.to_thread(_checked, self.keys.add, body.name, owner=body.owner, role=body.role)
        key = await self.keys.reading(self.keys.find, id)
        assert key is not None
        return {**_shown(key), "secret": secret}

    async def change_key(self, request: Request, body: KeyChanges) -> Any:
        id = request.path_params["id"]
        if not await asyncio.to_thread(_checked, self.keys.change, id, owner=body.owner, role=body.role):
            raise RejectedError(error_response(404, _NO_KEY))
        key = await self.keys.reading(self.keys.find, id)
        assert key is not None
        return _shown(key)

    async def revoke(self, request: Request, _: None) -> Any:
        access, id = access_of(request), request.path_params["id"]
        if not (await self.keys.reading(access.covers, id) and await asyncio.to_thread(self.keys.revoke, id)):
            raise RejectedError(error_response(404, _NO_KEY))
        return {"revoked": True}

    async def queue(self, request: Request, _: None) -> Any:
        """To a member only what is its owner's, with how many go before it."""
        access = access_of(request)

        def read() -> dict[str, Any]:
            names = {key.id: {"key": key.name, "owner": key.owner} for key in self.keys.all() if access.covers_key(key)}

            def shown(one: Record) -> dict[str, Any]:
                return {**run_view.summary(one), **names.get(one.key_id, {"key": "", "owner": None})}

            def within_reach(one: Record) -> bool:
                return access.is_operator or one.key_id in names

            running = [one for one in self.store.requests(state=State.RUNNING, limit=1000) if within_reach(one)]
            active, slots = self.active(), self.slots()
            reason = self.retrying.health.waiting_for
            entries, position = [], 0
            for one in self.store.queue():
                why = reason or self._why(one, position, slots, active)
                if one.paused:
                    why = "paused: it keeps its place, and continues when you resume it"
                else:
                    position += 1
                if within_reach(one):
                    entries.append({**shown(one), "reason": why})
            return {
                "running": [{**shown(one), "device": active.get(one.id)} for one in running],
                "waiting": entries,
                "waiting_for": reason,
                "devices": self._devices(slots, active, None if access.is_operator else {one.id for one in running}),
                "machine": self._machine(),
            }

        return await anyio.to_thread.run_sync(read)

    def _why(self, waiting: Record, position: int, slots: Sequence[Slot], active: dict[str, str]) -> str:
        if not slots and self.settings.placer != LOCAL:
            return "the cluster has no device at the moment, or cannot be reached: the server's log may say why"
        if not any(slot.ready for slot in slots) and not active:
            return "no worker is ready yet: the base is being loaded"
        if slots and all(slot.drained for slot in slots):
            return "every device is drained: it takes no more runs"
        if any(slot.gb < math.inf for slot in slots):
            if waiting.gb is None:
                return "the memory that it needs is being counted"
            fitting = [slot for slot in slots if slot.gb >= waiting.gb and not slot.drained]
            if not fitting:
                return f"waits for a device with {waiting.gb:.1f} GB: there is none at the moment"
            if all(slot.name in active.values() for slot in fitting):
                return f"waits for one of the {len(fitting)} devices with {waiting.gb:.1f} GB or more: all are busy"
        if position:
            return f"{position} {'other goes' if position == 1 else 'others go'} first"
        if waiting.kind == Kind.GENERATE and self.settings.generate_while_training == INTERRUPT:
            return "the training that runs saves its state and makes room"
        return "next, as soon as a device is free"

    async def move(self, request: Request, body: Move) -> Any:
        id = request.path_params["id"]
        if body.before is not None and await self.store.reading(self._share_decides, id, body.before):
            raise RejectedError(
                error_response(
                    409,
                    "the two are of different owners, of whom the one that used less time of late goes first "
                    "(fair_share_hours): requests of one owner can be moved, or those of different priority",
                )
            )
        if not await asyncio.to_thread(self.store.move, id, body.before):
            raise RejectedError(error_response(409, "one of the two is not in the queue any more"))
        self.wake()
        return await self.queue(request, None)

    def _share_decides(self, *ids: str) -> bool:
        """Whether it is not the order of their places that says which of two requests goes first."""
        one, other = map(self.store.request, ids)
        if not self.store.rules.hours or one is None or other is None or one.priority != other.priority:
            return False
        owners = {key.id: key.owner for key in self.keys.all()}
        return owners.get(one.key_id, one.key_id) != owners.get(other.key_id, other.key_id)

    def _devices(
        self, slots: Sequence[Slot], active: dict[str, str], shown_runs: set[str] | None
    ) -> list[dict[str, Any]]:
        """`shown_runs`: the ids that may be told; None: all."""
        running = {device: id for id, device in active.items()}
        gpus = _gpus()
        devices = []
        starting = self.settings.devices if self.settings.placer == LOCAL else ()
        for slot in slots or [Slot(device, free=False, ready=False) for device in starting]:
            device = slot.name
            entry: dict[str, Any] = {
                "device": device,
                "ready": slot.ready,
                "drained": slot.drained,
                "busy": device in running,
                "run": running.get(device) if shown_runs is None or running.get(device) in shown_runs else None,
            }
            index = device.partition(":")[2] or "0"
            if slot.gb == math.inf and device != "cpu" and index in gpus:  # one of this machine
                entry |= gpus[index]
            devices.append(entry)
        return devices

    def _machine(self) -> dict[str, Any]:
        memory, disk = psutil.virtual_memory(), shutil.disk_usage(self.settings.folder)
        return {
            "load": psutil.cpu_percent(interval=None),
            "cores": psutil.cpu_count(),
            "memory_used": memory.total - memory.available,
            "memory": memory.total,
            "disk_free": disk.free,
            "disk": disk.total,
        }


def _shown(key: Key) -> dict[str, Any]:
    return {"id": key.id, "name": key.name, "owner": key.owner, "role": key.role}


def _checked(change: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """An owner without a name is the client's mistake."""
    try:
        return change(*args, **kwargs)
    except KeyOwnerError as error:
        raise InputError.of("owner", str(error)) from error


def _gpus() -> dict[str, dict[str, Any]]:
    """Name, load and memory of each GPU, by index; none where the driver's tool is not there."""
    if shutil.which(_GPU[0]) is None:
        return {}
    try:
        answer = subprocess.run(_GPU, capture_output=True, text=True, timeout=_GPU_SECONDS, check=True).stdout
        rows = [[cell.strip() for cell in line.split(",")] for line in answer.splitlines() if line.strip()]
        return {
            index: {
                "name": name,
                "load": float(load),
                "memory_used": float(used) * 2**20,
                "memory": float(total) * 2**20,
            }
            for index, name, load, used, total in rows
        }
    except (subprocess.SubprocessError, OSError, ValueError):
        return {}
