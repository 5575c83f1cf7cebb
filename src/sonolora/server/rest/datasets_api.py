"""Datasets over HTTP: made, filled, looked at, edited, checked, and taken away as a zip.

In: requests at /api/datasets/... Out: a dataset with its clips as JSON, its files, pictures of its sounds.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio.to_thread
from pydantic import Field
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from sonolora.core.atomic_files import write_json
from sonolora.core.errors import InputError, MediaError
from sonolora.media.audio import decode_audio
from sonolora.modes import MODES
from sonolora.modes.request import Body
from sonolora.server.api.request_body import chunks
from sonolora.server.api.responses import RejectedError, error_response
from sonolora.server.api.storage_api import IDLE_SECONDS
from sonolora.server.datasets.clips import clips_of
from sonolora.server.datasets.dataset import Dataset, Datasets, as_json
from sonolora.server.datasets.pictures import Pictures
from sonolora.server.datasets.slicing import by_length, by_silence, cut
from sonolora.server.files.incoming import Incoming
from sonolora.server.files.names import safe_name
from sonolora.server.jobs.assistant_process import Assistant
from sonolora.server.rest.operations import Operation, access_of
from sonolora.server.settings import ServerSettings

FRAME_SECONDS = 0.04
_CHECK = "check.json"


class NewDataset(Body):
    """A dataset to make."""

    name: str = Field("", description="As people read it.")
    mode: str = Field("t2a", description="The mode that it is for; it can be changed.")


class DatasetChanges(Body):
    """What to change of a dataset."""

    name: str | None = None
    mode: str | None = None
    trigger_phrase: str | None = Field(None, description="Prepended to every caption in training.")


class Captions(Body):
    """Captions by the name of the clip; an empty one removes it."""

    captions: dict[str, str]


class Mask(Body):
    """What is regenerated of a clip."""

    time_ranges: list[tuple[float, float]] = Field(description="[start, end] in seconds; none removes the mask.")


class CheckRequest(Body):
    """What a run would be started with, as far as it matters for the data."""

    fields: dict[str, Any] = Field(default_factory=dict, description="Fields of the mode's request.")
    base: str | None = Field(None, description="The base whose codec and tokenizer are asked.")


class Slicing(Body):
    """How to cut a recording into clips."""

    file: str
    by: Literal["silence", "length"] = "silence"
    length: float = Field(5.0, gt=0.1, le=300, description="Seconds of a clip, or at most so many.")
    minimum: float = Field(1.0, ge=0, le=300, description="Shorter ones are skipped.")
    pause: float = Field(0.3, ge=0.02, le=10, description="Seconds of silence that end a clip.")
    below_dbfs: float = Field(-45.0, ge=-100, le=0, description="What counts as silence.")


class Slices(Body):
    """The clips to make of a recording."""

    file: str
    spans: list[tuple[float, float]] = Field(min_length=1, max_length=2000)
    remove: bool = Field(True, description="Remove the recording, which has become clips.")


@dataclass(frozen=True)
class DatasetsApi:
    settings: ServerSettings
    datasets: Datasets
    pictures: Pictures
    assistant: Assistant
    checking: dict[str, dict[str, Any]] = field(default_factory=dict)  # progress by dataset

    def operations(self) -> list[Operation]:
        one = "/api/datasets/{id}"
        file = f"{one}/files/{{name}}"
        return [
            Operation("GET", "/api/datasets", "All datasets.", self.list, returns="`datasets`, the latest first."),
            Operation("POST", "/api/datasets", "Make an empty one.", self.create, NewDataset, status=201),
            Operation("GET", one, "A dataset with its clips.", self.show, returns=_SHOWN),
            Operation("PATCH", one, "Rename it, change its mode or trigger phrase.", self.edit, DatasetChanges),
            Operation("DELETE", one, "Delete it with its files.", self.remove),
            Operation("GET", f"{one}/zip", "The zip that training takes.", self.zip, media_type="application/zip"),
            Operation("PUT", f"{one}/captions", "Write captions.", self.captions, Captions),
            Operation("PUT", f"{one}/masks/{{clip}}", "Mark what is regenerated of a clip.", self.mask, Mask),
            Operation(
                "POST",
                f"{one}/check",
                "Read every clip as training would: what happens to each, and what is odd.",
                self.check,
                CheckRequest,
                returns="`files` with status, detail, warnings and facts; `warnings` of the whole; `error`.",
            ),
            Operation(
                "POST",
                f"{one}/slicing",
                "Where a recording would be cut.",
                self.plan_slices,
                Slicing,
            ),
            Operation("POST", f"{one}/slices", "Cut a recording into clips.", self.slice, Slices),
            Operation("GET", f"{file}/shape", "Length, level and waveform of a sound.", self.shape),
            Operation("GET", f"{file}/spectrogram", "Its spectrogram.", self.spectrogram, media_type="image/png"),
            Operation(
                "PUT",
                file,
                "Add a file, in place of one of that name, or the files of a zip.",
                self.put,
                upload=True,
            ),
            Operation(
                "GET",
                file,
                "A file.",
                self.get,
                media_type="application/octet-stream",
                query=(("play", "`1`: in a form that browsers play."),),
            ),
            Operation("DELETE", file, "Remove a file.", self.delete_file),
            Operation("DELETE", f"{one}/clips/{{clip}}", "Remove a clip with its caption and mask.", self.delete_clip),
        ]

    async def find(self, request: Request) -> Dataset:
        access = access_of(request)
        found = await access.keys.reading(lambda: access.own(self.datasets.find(request.path_params["id"])))
        if found is None:
            raise RejectedError(error_response(404, "there is no such dataset"))
        return found

    async def list(self, request: Request, _: None) -> Any:
        access = access_of(request)

        def listed() -> list[dict[str, Any]]:
            owners = access.owners()
            own = [one for one in self.datasets.all() if access.own(one)]
            return [{**as_json(one), "owner": owners.get(one.key_id), "clips": len(clips_of(one)[0])} for one in own]

        return {"datasets": await anyio.to_thread.run_sync(listed)}

    async def create(self, request: Request, body: NewDataset) -> Any:
        return await self._shown(self.datasets.create(body.name, body.mode, access_of(request).key.id))

    async def show(self, request: Request, _: None) -> Any:
        return await self._shown(await self.find(request))

    async def edit(self, request: Request, body: DatasetChanges) -> Any:
        changes = {name: value for name in body.model_fields_set if (value := getattr(body, name)) is not None}
        return await self._shown(self.datasets.edit(await self.find(request), **changes))

    async def remove(self, request: Request, _: None) -> Any:
        await anyio.to_thread.run_sync(self.datasets.remove, await self.find(request))
        return {"removed": True}

    async def put(self, request: Request, _: None) -> Any:
        dataset, name = await self.find(request), request.path_params["name"]
        incoming = Incoming(dataset.folder / "incoming", self.settings.max_upload_bytes)
        content = chunks(request, self.settings.max_upload_bytes, IDLE_SECONDS)
        async with incoming.receive(dataset.id, content) as written:
            changed = await anyio.to_thread.run_sync(self.datasets.put, dataset, name, written.path)
        return as_json(changed)

    async def get(self, request: Request, _: None) -> Response:
        path = (await self.find(request)).path(request.path_params["name"])
        if request.query_params.get("play"):
            path = await _media(self.pictures.playable, path)
        return _file(path)

    async def shape(self, request: Request, _: None) -> Any:
        path = (await self.find(request)).path(request.path_params["name"])
        return asdict(await _media(self.pictures.shape, path))

    async def spectrogram(self, request: Request, _: None) -> Response:
        path = (await self.find(request)).path(request.path_params["name"])
        return _file(await _media(self.pictures.spectrogram, path))

    async def delete_file(self, request: Request, _: None) -> Any:
        changed = await anyio.to_thread.run_sync(
            self.datasets.remove_files, await self.find(request), [request.path_params["name"]]
        )
        return await self._shown(changed)

    async def delete_clip(self, request: Request, _: None) -> Any:
        dataset, name = await self.find(request), request.path_params["clip"]
        clip = next((one for one in clips_of(dataset)[0] if one.name == name), None)
        if clip is None:
            raise RejectedError(error_response(404, "there is no such clip"))
        return await self._shown(await anyio.to_thread.run_sync(self.datasets.remove_files, dataset, clip.all_files))

    async def captions(self, request: Request, body: Captions) -> Any:
        changed = await anyio.to_thread.run_sync(self.datasets.set_captions, await self.find(request), body.captions)
        return as_json(changed)

    async def mask(self, request: Request, body: Mask) -> Any:
        dataset, clip = await self.find(request), request.path_params["clip"]
        for index, (start, end) in enumerate(body.time_ranges):
            if not 0 <= start < end:
                raise InputError.of(f"time_ranges.{index}", f"[{start:g}, {end:g}] must begin at 0 or later")
        changed = await anyio.to_thread.run_sync(self.datasets.set_mask, dataset, clip, body.time_ranges)
        return as_json(changed)

    async def zip(self, request: Request, _: None) -> Response:
        dataset = await self.find(request)
        path = dataset.folder / "incoming" / f"{dataset.info.revision}.zip"
        await anyio.to_thread.run_sync(self.datasets.write_zip, dataset, path)
        name = f"{safe_name(dataset.info.name)}.zip"
        remove = BackgroundTask(path.unlink, missing_ok=True)
        return FileResponse(path, media_type="application/zip", filename=name, background=remove)

    async def check(self, request: Request, body: CheckRequest) -> Any:
        dataset = await self.find(request)
        fields = {**body.fields, "training_data_url": "dataset", "trigger_phrase": dataset.info.trigger_phrase}
        fields.pop("validation", None)  # whose files are not needed for this
        task = {
            "task": "check",
            "mode": dataset.info.mode,
            "body": fields,
            "data": str(dataset.files),
            "base": body.base or self.settings.base,
        }
        self.checking[dataset.id] = {"phase": "waiting", "step": 0, "steps": None}
        try:
            result = await self.assistant(task, lambda state: self.checking.__setitem__(dataset.id, state))
        finally:
            self.checking.pop(dataset.id, None)
        info = dataset.info
        checked = {**result, "revision": info.revision, "mode": info.mode, "fields": body.fields}
        if dataset.folder.is_dir():
            write_json(dataset.folder / _CHECK, checked)
        return checked

    async def plan_slices(self, request: Request, body: Slicing) -> Any:
        path = (await self.find(request)).path(body.file)

        def planned() -> dict[str, Any]:
            sound = decode_audio(path).waveform
            if body.by == "length":
                spans = by_length(sound.seconds, body.length, body.minimum)
            else:
                spans = by_silence(sound, body.below_dbfs, body.pause, body.minimum, body.length)
            return {"seconds": round(sound.seconds, 3), "spans": [[*span] for span in spans]}

        return await _media(planned)

    async def slice(self, request: Request, body: Slices) -> Any:
        dataset = await self.find(request)
        path = dataset.path(body.file)
        work = dataset.folder / "incoming"

        def sliced() -> Dataset:
            now = dataset
            for file in cut(path, [*body.spans], work, Path(body.file).stem):
                now = self.datasets.put(now, file.name, file)
            return self.datasets.remove_files(now, [body.file]) if body.remove else now

        return await self._shown(await _media(sliced))

    async def _shown(self, dataset: Dataset) -> dict[str, Any]:
        return await anyio.to_thread.run_sync(self._with_clips, dataset)

    def _with_clips(self, dataset: Dataset) -> dict[str, Any]:
        """All that a page shows of it. Statuses come from the last check, if the files are still the same."""
        clips, others = clips_of(dataset)
        check = self._last_check(dataset)
        entries = {one["file"]: one for one in check["files"]} if check else {}
        shown = []
        for clip in clips:
            sounds = [
                {"role": role, "file": name, "seconds": self.pictures.known_seconds(dataset.files / name)}
                for role, name in (("reference", clip.reference), ("target", clip.target))
                if name
            ]
            own = [entries[name] for name in clip.all_files if name in entries]
            main = entries.get(clip.target or "") or next(iter(own), None)
            shown.append(
                {
                    "name": clip.name,
                    "sounds": sounds,
                    "caption": clip.caption,
                    "mask": clip.mask,
                    "missing": clip.missing,
                    "status": main and main["status"],
                    "detail": main["detail"] if main else "",
                    "warnings": [text for one in own for text in one["warnings"]],
                    "facts": main["facts"] if main else {},
                }
            )
        return {
            **as_json(dataset),
            "video": MODES[dataset.info.mode].video,
            "clips": shown,
            "others": [{"file": name, "detail": entries[name]["detail"] if name in entries else ""} for name in others],
            "check": None
            if check is None
            else {
                "revision": check["revision"],
                "current": check["revision"] == dataset.info.revision and check["mode"] == dataset.info.mode,
                "summary": check["summary"],
                "warnings": check["warnings"],
                "error": check["error"],
                "clips": check["clips"],
                "fields": check["fields"],
            },
            "checking": self.checking.get(dataset.id),
        }

    def _last_check(self, dataset: Dataset) -> dict[str, Any] | None:
        try:
            check: dict[str, Any] = json.loads((dataset.folder / _CHECK).read_bytes())
        except (OSError, ValueError):
            return None
        return check if check["mode"] == dataset.info.mode else None


async def _media(call: Any, *arguments: Any) -> Any:
    """In a thread; what cannot be decoded is 422."""
    try:
        return await anyio.to_thread.run_sync(call, *arguments)
    except MediaError as error:
        raise InputError.of("name", error.reason, "unreadable_media") from error


def _file(path: Path) -> FileResponse:
    headers = {"cache-control": "private, no-cache", "x-content-type-options": "nosniff"}
    return FileResponse(path, headers=headers, content_disposition_type="inline", filename=path.name)


_SHOWN = (
    "`clips` with their `sounds` (role, file, seconds), `caption`, `mask`, `status`, `detail`, `warnings`, `facts`; "
    "`others`; the last `check`."
)
