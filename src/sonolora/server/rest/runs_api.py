"""Runs over HTTP: estimated, started, followed, paused, continued, cancelled, and their outputs.

In: requests at /api/runs/... and /api/estimate. Out: JSON, files, and the events of a run as they happen.
"""

from __future__ import annotations

import asyncio
import mimetypes
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread
from pydantic import Field
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from sonolora.core.errors import InputError, MediaError
from sonolora.modes import find_mode
from sonolora.modes.request import Body, parse
from sonolora.planning.run_settings import RunSettings
from sonolora.planning.sweep_plan import WITHOUT, check_settings, is_sweep
from sonolora.server.api.event_stream import PING, event_stream
from sonolora.server.api.responses import RejectedError, error_response
from sonolora.server.datasets.dataset import Dataset, Datasets
from sonolora.server.datasets.pictures import Pictures
from sonolora.server.endpoints.endpoint import Endpoint
from sonolora.server.endpoints.registry import endpoint_of
from sonolora.server.files.storage import Storage
from sonolora.server.jobs import records
from sonolora.server.jobs.assistant_process import Assistant
from sonolora.server.jobs.keys import Access
from sonolora.server.jobs.notifier import Notifier
from sonolora.server.jobs.records import Kind, NewRequest, State
from sonolora.server.jobs.store import QueueFullError, Store
from sonolora.server.net.urls import data_url_fault
from sonolora.server.rest import run_events, run_view
from sonolora.server.rest.modes_api import RUN_SETTINGS, bases
from sonolora.server.rest.operations import Operation, access_of
from sonolora.server.rest.sessions import Sessions
from sonolora.server.settings import ServerSettings

CLIP = "clip:"  # in place of an address: a file of the dataset, as in "clip:rain_03.wav"


class NewRun(Body):
    """A training of a dataset; with several learning rates or ranks in its fields a sweep."""

    mode: str
    dataset: str = Field(description="The id of a dataset on this server.")
    name: str = ""
    fields: dict[str, Any] = Field(
        default_factory=dict,
        description=(
            "Fields of the mode's request. A file of the dataset can stand for an address: clip:rain_03.wav. A list of "
            "learning rates or ranks makes a sweep, which also takes keep_all and held_out."
        ),
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="Settings of the run.")
    base: str | None = Field(None, description="By default the server's own, or that of `from_run`.")
    from_run: str | None = Field(
        None, description="The id of a finished run: training begins with its LoRA. Of the same rank or less."
    )


class RunChanges(Body):
    """What to change of a run."""

    name: str


class Retry(Body):
    """How to repeat a run."""

    name: str | None = None


@dataclass(frozen=True)
class RunsApi:
    settings: ServerSettings
    store: Store
    storage: Storage
    datasets: Datasets
    pictures: Pictures
    assistant: Assistant
    notifier: Notifier
    sessions: Sessions
    wake: Callable[[], None]
    authorise: Callable[[Request], Access]

    def operations(self) -> list[Operation]:
        one = "/api/runs/{id}"
        artifact = f"{one}/artifacts/{{name:path}}"
        signed = "They need no key with the signature of the address that a run shows."
        return [
            Operation("POST", "/api/estimate", "Time, memory, disk space and price of it.", self.estimate, NewRun),
            Operation(
                "GET",
                "/api/runs",
                "Runs, the newest first.",
                self.list,
                query=(
                    ("state", "queued, running or done."),
                    ("mode", "Of this mode only."),
                    ("kind", "train, by default, or sweep, which are some of these, or generate, or all."),
                    ("before", "Created before this time, in unix seconds."),
                    ("limit", "At most so many; 100."),
                ),
            ),
            Operation("POST", "/api/runs", "Start a run or a sweep: it is queued.", self.start, NewRun, status=201),
            Operation("GET", one, "A run with its outputs and previews.", self.show),
            Operation("PATCH", one, "Rename a run.", self.rename, RunChanges),
            Operation(
                "GET",
                f"{one}/events",
                "What happens, as server-sent events: `run`, `log`, `metrics`, `previews`. `Last-Event-ID` continues.",
                self.events,
                media_type="text/event-stream",
            ),
            Operation("GET", f"{one}/metrics", "The metrics by step.", self.metrics, query=(("since", "A step."),)),
            Operation("GET", f"{one}/log", "The log.", self.log, query=(("after", "The number of a line."),)),
            Operation("POST", f"{one}/pause", "Save the state and stop; it keeps its place in the queue.", self.pause),
            Operation("POST", f"{one}/resume", "Let a paused run continue.", self.resume),
            Operation("POST", f"{one}/cancel", "End it; its last saved state and its previews stay.", self.cancel),
            Operation("POST", f"{one}/retry", "Start a new run with the same data and fields.", self.retry, Retry),
            Operation("GET", f"{one}/artifacts", "The names of its files.", self.artifacts),
            Operation("GET", "/api/files/{file}/{name}/shape", "Of a stored sound.", self.file_shape, key=False),
            Operation(
                "GET",
                "/api/files/{file}/{name}/spectrogram",
                "Of a stored sound.",
                self.file_spectrogram,
                media_type="image/png",
                key=False,
            ),
            Operation("GET", f"{artifact}/shape", "Length, level and waveform of a sound.", self.shape, key=False),
            Operation(
                "GET",
                f"{artifact}/spectrogram",
                "The spectrogram of a sound.",
                self.spectrogram,
                media_type="image/png",
                key=False,
            ),
            Operation(
                "GET", artifact, f"A file. {signed}", self.artifact, media_type="application/octet-stream", key=False
            ),
        ]

    def find(self, request: Request) -> records.Request:
        found = access_of(request).own(self.store.request(request.path_params["id"]))
        if found is None:
            raise RejectedError(error_response(404, "there is no such run"))
        return found

    def _shown(self, id: str) -> dict[str, Any]:
        found = self.store.request(id)
        assert found is not None
        return self._details(found)

    def _details(self, found: records.Request) -> dict[str, Any]:
        folder = self.settings.run_folder(found.id)
        shown = run_view.details(found, self.store.body(found.id), folder, self.sessions)
        if found.state == State.QUEUED:
            shown["position"] = self.store.queue_position(found.id)
        return shown

    async def list(self, request: Request, _: None) -> Any:
        query = request.query_params
        kind = query.get("kind", Kind.TRAIN)
        sweeps = kind == "sweep"
        try:
            before, limit = float(query.get("before", "inf")), int(query.get("limit", "100"))
            state = State(query["state"]) if query.get("state") else None
            key_ids = await self.store.reading(access_of(request).key_ids)
            found = await self.store.reading(
                self.store.requests,
                state=state,
                kind=None if kind == "all" else Kind.TRAIN if sweeps else Kind(kind),
                sweeps=sweeps,
                mode=query.get("mode") or None,
                key_ids=key_ids,
                limit=max(1, min(limit, 1000)),
                before=before if before < float("inf") else None,
            )
        except ValueError as error:
            raise RejectedError(error_response(400, f"a query parameter is invalid: {error}")) from error
        owners = await self.store.reading(access_of(request).owners)
        return {"runs": [{**run_view.summary(one), "owner": owners.get(one.key_id)} for one in found]}

    async def show(self, request: Request, _: None) -> Any:
        found = await self.store.reading(self.find, request)
        return await anyio.to_thread.run_sync(self._details, found)

    async def rename(self, request: Request, body: RunChanges) -> Any:
        found = await self.store.reading(self.find, request)
        await anyio.to_thread.run_sync(lambda: self.store.set_options(found.id, name=body.name.strip()[:120]))
        return await anyio.to_thread.run_sync(self._shown, found.id)

    async def estimate(self, request: Request, body: NewRun) -> Any:
        dataset = await self.store.reading(self._dataset, request, body)
        fields = self._fields(body, dataset, "dataset")
        endpoint = _endpoint(body)
        # Prompts cost time, their files do not: an estimate need not fetch them.
        job = endpoint.job(parse(endpoint.request, fields))
        settings = self._run_settings(body) | job.options.get("settings", {})
        task = {
            "task": "estimate",
            "mode": body.mode,
            "body": fields,
            "data": str(dataset.files),
            "base": self._base(body),
            "settings": settings | {"device": self.settings.devices[0]},
        }
        if "sweep" in job.options:
            task["sweep"] = job.options["sweep"]
        return await self.assistant(task)

    async def start(self, request: Request, body: NewRun) -> Any:
        """The dataset as it is now is stored as a zip, so that later edits do not reach the run."""
        key_id = access_of(request).key.id
        dataset = await self.store.reading(self._dataset, request, body)
        fields = self._fields(body, dataset, "dataset")
        endpoint, base = _endpoint(body), self._base(body)
        job = endpoint.job(parse(endpoint.request, fields))
        begin = {}
        if body.from_run is not None:
            lora, lora_base = await self.store.reading(self.lora_of, request, body.from_run, "from_run")
            if "sweep" in job.options:
                raise InputError.of("from_run", "a sweep begins with the base: send one learning rate and one rank")
            if base != lora_base:
                if body.base is not None:
                    raise InputError.of("from_run", f"its LoRA is of the base {lora_base}, not of {base}")
                base = lora_base
            begin = {"from_run": body.from_run, "from_lora": {"path": lora}}
        settings = self._run_settings(body) | job.options.get("settings", {})
        chosen = RunSettings(base, **settings)
        chosen.check_mode(find_mode(body.mode))
        if "sweep" in job.options:
            check_settings(chosen)
        id = secrets.token_hex(8)
        fields = await anyio.to_thread.run_sync(self._with_files, fields, dataset, key_id)
        address = await anyio.to_thread.run_sync(self._snapshot, dataset, id, key_id)
        fields["training_data_url"] = address
        new = NewRequest(
            endpoint=endpoint.path,
            mode=body.mode,
            body=fields,
            key_id=key_id,
            options={
                **job.options,
                "name": body.name.strip()[:120] or dataset.info.name,
                "dataset": {"id": dataset.id, "name": dataset.info.name, "revision": dataset.info.revision},
                "base": base,
                "settings": settings,
                **begin,
            },
        )
        return await self.enqueue(new, job.notes)

    async def retry(self, request: Request, body: Retry) -> Any:
        found = await self.store.reading(self.find, request)
        fields = await self.store.reading(self.store.body, found.id)
        if fields is None:
            raise RejectedError(error_response(410, "the run is too old: its fields are not kept any more"))
        new = NewRequest(
            endpoint=found.endpoint,
            mode=found.mode,
            body=fields,
            key_id=access_of(request).key.id,
            kind=found.kind,
            priority=found.priority,
            options={**found.options, "name": body.name or found.options.get("name", "")},
        )
        return await self.enqueue(new)

    async def enqueue(self, new: NewRequest, notes: Sequence[str] = ()) -> dict[str, Any]:
        """Queue it; how it is shown. `notes` are lines for its log."""
        limit = self.settings.queue_limit
        try:
            queued = await asyncio.to_thread(self.store.add_request, new, queue_limit=limit, warnings=notes)
        except QueueFullError as error:
            raise RejectedError(error_response(429, f"{error}.", "concurrent_requests_limit")) from error
        self.wake()
        return await anyio.to_thread.run_sync(self._shown, queued.id)

    async def pause(self, request: Request, _: None) -> Any:
        return await self._set_paused(request, paused=True)

    async def resume(self, request: Request, _: None) -> Any:
        return await self._set_paused(request, paused=False)

    async def _set_paused(self, request: Request, *, paused: bool) -> Any:
        found = await self.store.reading(self.find, request)
        if not await asyncio.to_thread(self.store.pause, found.id, paused):
            raise RejectedError(error_response(409, "the run is done; retry starts it again"))
        self.wake()
        self.notifier.notify(found.id)
        return await anyio.to_thread.run_sync(self._shown, found.id)

    async def cancel(self, request: Request, _: None) -> Any:
        found = await self.store.reading(self.find, request)
        if await asyncio.to_thread(self.store.request_cancel, found.id) == State.DONE:
            raise RejectedError(error_response(409, "the run is done already"))
        self.wake()
        self.notifier.notify(found.id)
        return await anyio.to_thread.run_sync(self._shown, found.id)

    async def metrics(self, request: Request, _: None) -> Any:
        since = request.query_params.get("since", "0")
        found = await self.store.reading(self.find, request)
        rows = await self.store.reading(self.store.metrics, found.id, int(since) if since.isdecimal() else 0)
        return {"metrics": [{"step": step, **values} for step, values in rows]}

    async def log(self, request: Request, _: None) -> Any:
        after = request.query_params.get("after", "0")
        found = await self.store.reading(self.find, request)
        lines = await self.store.reading(self.store.logs, found.id, int(after) if after.isdecimal() else 0)
        return {"log": [run_view.log_json(line) for line in lines]}

    async def events(self, request: Request, _: None) -> Response:
        found = await self.store.reading(self.find, request)
        folder = self.settings.run_folder(found.id)
        position = run_events.Position.parse(request.headers.get("last-event-id"))

        async def frames() -> AsyncIterator[str]:
            following = run_events.follow(
                self.store, self.notifier, found.id, position, lambda one: run_view.previews(one, folder, self.sessions)
            )
            async for event in following:
                yield PING if event is None else event

        return event_stream(frames(), found.id)

    async def artifacts(self, request: Request, _: None) -> Any:
        folder = self.settings.run_folder((await self.store.reading(self.find, request)).id)

        def listed() -> list[dict[str, Any]]:
            found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            names = [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in found]
            return [
                {"name": name, "size": size, "url": self.sessions.sign(run_view.artifact_path(folder.name, name))}
                for name, size in names
                if not any(part.startswith(".") for part in name.split("/"))
            ]

        return {"artifacts": await anyio.to_thread.run_sync(listed) if folder.is_dir() else []}

    async def artifact(self, request: Request, _: None) -> Response:
        path = await self.store.reading(self._artifact, request)
        content_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        headers = {"cache-control": "private, no-cache", "x-content-type-options": "nosniff"}
        if content_type == "text/html":  # a report is a page of ours, but it shows names that others wrote
            headers["content-security-policy"] = (
                "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; media-src 'self'; sandbox"
            )
        return FileResponse(
            path, headers=headers, media_type=content_type, content_disposition_type="inline", filename=path.name
        )

    async def shape(self, request: Request, _: None) -> Any:
        return asdict(await self._drawn(self.pictures.shape, await self.store.reading(self._artifact, request)))

    async def spectrogram(self, request: Request, _: None) -> Response:
        return _picture(await self._drawn(self.pictures.spectrogram, await self.store.reading(self._artifact, request)))

    async def file_shape(self, request: Request, _: None) -> Any:
        return asdict(await self._drawn(self.pictures.shape, await self._stored(request)))

    async def file_spectrogram(self, request: Request, _: None) -> Response:
        return _picture(await self._drawn(self.pictures.spectrogram, await self._stored(request)))

    async def _stored(self, request: Request) -> Path:
        """A stored file, whose address cannot be guessed, as for a download."""
        file = await anyio.to_thread.run_sync(self.storage.find, request.path_params["file"])
        if file is None:
            raise RejectedError(error_response(404, "there is no such file (any more)"))
        return await anyio.to_thread.run_sync(self.storage.content, file)

    async def _drawn(self, draw: Any, path: Path) -> Any:
        try:
            return await anyio.to_thread.run_sync(draw, path)
        except MediaError as error:
            raise InputError.of("name", error.reason, "unreadable_media") from error

    def _artifact(self, request: Request) -> Path:
        id, name = request.path_params["id"], request.path_params["name"]
        run = self.store.request(id)
        if not self.sessions.is_signed(request):
            run = self.authorise(request).own(run)
        folder = self.settings.run_folder(id).resolve()
        path: Path = (folder / name).resolve()
        known = run is not None and path.is_relative_to(folder) and path.is_file()
        if not known or path.name.startswith("."):
            raise RejectedError(error_response(404, "the run has no such file"))
        return path

    def find_dataset(self, request: Request, id: str) -> Dataset:
        """Raises `InputError`."""
        dataset = access_of(request).own(self.datasets.find(id))
        if dataset is None:
            raise InputError.of("dataset", "there is no such dataset")
        return dataset

    def _dataset(self, request: Request, body: NewRun) -> Dataset:
        dataset = self.find_dataset(request, body.dataset)
        find_mode(body.mode)
        return dataset

    def _base(self, body: NewRun) -> str:
        known = bases(self.settings)
        if body.base is not None and body.base not in known:
            raise InputError.of("base", f"{body.base!r} is not one of {', '.join(known)}")
        return body.base or self.settings.base

    def _run_settings(self, body: NewRun) -> dict[str, Any]:
        if unknown := sorted(set(body.settings) - set(RUN_SETTINGS)):
            raise InputError.of("settings", f"unknown: {', '.join(unknown)}; there are {', '.join(RUN_SETTINGS)}")
        own = self.settings.run_settings(body.mode)
        if is_sweep(body.fields):
            own = {name: value for name, value in own.items() if name not in WITHOUT}
        return own | body.settings

    def _fields(self, body: NewRun, dataset: Dataset, address: str) -> dict[str, Any]:
        return {"trigger_phrase": dataset.info.trigger_phrase, **body.fields, "training_data_url": address}

    def _with_files(self, fields: dict[str, Any], dataset: Dataset, key_id: str) -> dict[str, Any]:
        """The fields with addresses of stored files where they name files of the dataset."""
        entries = []
        for index, entry in enumerate(fields.get("validation", [])):
            changed = dict(entry)
            for name, value in entry.items():
                if not name.endswith("_url"):
                    continue
                field = f"validation.{index}.{name}"
                if str(value).startswith(CLIP):
                    changed[name] = self.adopt_clip(dataset, str(value), key_id)
                elif fault := data_url_fault(str(value)):
                    raise InputError.of(field, fault)
            entries.append(changed)
        return {**fields, "validation": entries} if entries else fields

    def adopt_clip(self, dataset: Dataset, value: str, key_id: str) -> str:
        """The address of a copy of the dataset's file that `value`, such as clip:rain_03.wav, names, for that key."""
        path = dataset.path(value.removeprefix(CLIP))
        content_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        owner = {"request_id": f"clip-{secrets.token_hex(8)}", "key_id": key_id}
        return self.own_address(self.storage.adopt(path, path.name, content_type, **owner, expires=None).address)

    def lora_of(self, request: Request, run: str, field: str) -> tuple[str, str]:
        """The address of a run's LoRA and the base that it belongs to. Raises `InputError` for `field`."""
        found = access_of(request).own(self.store.request(run))
        if found is None or found.kind != Kind.TRAIN:
            raise InputError.of(field, "there is no such run")
        if found.result is None or found.result.status >= 400:
            raise InputError.of(field, "this run has no LoRA: it is not finished")
        return self.own_address(found.result.body["lora_file"]["url"]), found.options.get("base", self.settings.base)

    def own_address(self, path: str) -> str:
        """The whole address of a stored file, for the body of a request."""
        return f"http://127.0.0.1:{self.settings.port}{path}"

    def _snapshot(self, dataset: Dataset, id: str, key_id: str) -> str:
        """The address of the dataset's zip; revisions that are equal share one."""
        with tempfile.TemporaryDirectory(dir=dataset.folder / "incoming") as scratch:
            path = Path(scratch) / "dataset.zip"
            self.datasets.write_zip(dataset, path)
            owner = {"request_id": f"dataset-{dataset.id}-{id}", "key_id": key_id}
            file = self.storage.adopt(path, "dataset.zip", "application/zip", **owner, expires=None)
        return self.own_address(file.address)


def _endpoint(body: NewRun) -> Endpoint:
    """That of the wire which takes the same request."""
    found = endpoint_of(f"{body.mode}/sweep" if is_sweep(body.fields) else body.mode)
    assert found is not None
    return found


def _picture(path: Path) -> FileResponse:
    return FileResponse(path, headers={"cache-control": "private, max-age=86400"})
