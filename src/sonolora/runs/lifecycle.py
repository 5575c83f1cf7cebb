"""One run, from a request to its outputs. The only room that knows the whole order.

In: a mode, a request, settings and an output folder; or the folder of a run to continue.
Out, in the folder: `lora.safetensors`, `config.json`, `preview.wav`, `previews/`, `metrics.jsonl`, `report.json`,
`checkpoints/`, and what resuming needs (`run.json`, `prepared.safetensors`).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from sonolora import __version__
from sonolora.core.atomic_files import OutputError, remove_half_written, write_json
from sonolora.core.download import Progress as DownloadProgress
from sonolora.core.errors import CheckpointError, SonoloraError
from sonolora.core.progress import InterruptedRunError, Progress, StopAskedError, StoppableProgress
from sonolora.data.clips import Clip, load_clips
from sonolora.data.conditioning_inputs import ConditioningInput, load_conditioning_input
from sonolora.data.dataset import fetch_preview_inputs, open_dataset
from sonolora.data.encode import Encoder
from sonolora.data.encoding_cache import Cache, default_cache_folder
from sonolora.data.fetch import ANYWHERE, Sources
from sonolora.data.prepared import Prepared
from sonolora.data.report import Report
from sonolora.ltx.text.text_encoder import load_tokenizer
from sonolora.ltx.weights.base import find_base
from sonolora.modes import find_mode
from sonolora.modes.mode import Mode
from sonolora.modes.request import TrainRequest, parse
from sonolora.planning.memory_fit import check_fit
from sonolora.planning.run_settings import RunSettings
from sonolora.runs.check_data import in_words, shown_on, write_report
from sonolora.runs.debug_archive import write_debug_dataset
from sonolora.runs.loaded_networks import Networks
from sonolora.runs.report_html import ShownClip
from sonolora.runs.run_folder import RUN_FILE, UNPACKED, alone_in, read_run, refuse_taken, remove_unpacked
from sonolora.runs.train import Run, train

PREPARED_FILE = "prepared.safetensors"
_TOLD = 20  # lines about single files


def start(
    mode: Mode,
    request: TrainRequest,
    settings: RunSettings,
    folder: Path,
    progress: Progress,
    stop: Callable[[], bool] = lambda: False,
    *,
    sources: Sources = ANYWHERE,
    networks: Networks | None = None,
) -> Path:
    """Carry out a whole run; returns the LoRA file's path.

    `networks`, which may have served other runs, count before the base and the device of the settings.
    Raises `InputError` for what the device's memory cannot hold, before anything is read or written, and for a dataset
    that cannot be used (nothing but `report.json`, `report.html` and its clips are left in the folder then),
    `InterruptedRunError` when `stop` said so, other `SonoloraError`s with the reason.
    """
    settings.check_mode(mode)
    networks = networks or _networks(settings)
    if warning := check_fit(mode, request, settings, networks.base, networks.device):
        progress.warning(warning)
    _make_folder(folder)
    with alone_in(folder):
        remove_unpacked(folder)
        run = Run(mode, request, settings, folder, networks.base)
        return _begin(run, networks, sources, StoppableProgress(progress, stop))


def _begin(run: Run, networks: Networks, sources: Sources, stoppable: StoppableProgress) -> Path:
    folder, request = run.folder, run.request
    try:
        with tempfile.TemporaryDirectory(prefix=UNPACKED, dir=folder) as scratch:
            prepared, clips = _prepare(run, networks, sources, Path(scratch), stoppable)
        if request.debug_dataset:
            stoppable.phase("writing the debug archive", len(clips))
            archive = folder / "debug_dataset.zip"
            write_debug_dataset(archive, clips, prepared, networks.codec, folder, stoppable.advance)
    except StopAskedError:
        raise InterruptedRunError(folder, None, request.number_of_steps) from None
    prepared.save(folder / PREPARED_FILE)
    _save(run)
    return _finish(run, prepared, networks, stoppable)


def resume(
    folder: Path,
    progress: Progress,
    stop: Callable[[], bool] = lambda: False,
    *,
    networks: Networks | None = None,
    **changed: Any,
) -> Path:
    """Continue a run from its newest state, to the result that it would have had; raises as `start` does.

    `changed`: settings other than before, which may be `base`, `device`, `gradient_checkpointing` and `stream_blocks`.
    The last two change no number; between a card and a CPU the result differs by their precision.
    """
    said = read_run(folder)
    mode = find_mode(said["mode"])
    # A captured step is bound to its device and to what it holds there; uncaptured it is the same step.
    uncaptured = {"cuda_graph": False} if changed else {}
    try:
        settings = RunSettings(**said["settings"] | uncaptured | changed)
    except TypeError as error:
        raise SonoloraError(
            f"{folder} was started by Sonolora {said['sonolora_version']} with settings that {__version__} does not "
            f"have ({error}): go on with that version"
        ) from error
    networks = networks or _networks(settings)
    if networks.base.fingerprint != said["base_fingerprint"]:
        raise CheckpointError(f"the base {networks.base.name} is not the one that {folder} was started with")
    with alone_in(folder):
        remove_half_written(folder)
        run = Run(mode, parse(mode.request, said["request"]), settings, folder, networks.base)
        prepared = Prepared.load(folder / PREPARED_FILE)
        if warning := check_fit(mode, run.request, settings, networks.base, networks.device):
            progress.warning(warning)
        return _finish(run, prepared, networks, StoppableProgress(progress, stop))


def _networks(settings: RunSettings) -> Networks:
    return Networks(find_base(settings.base), settings.place())


def _finish(run: Run, prepared: Prepared, networks: Networks, progress: StoppableProgress) -> Path:
    began = time.monotonic()
    train(run, prepared, networks, progress)
    progress.message(f"trained and written in {time.monotonic() - began:.0f} s")
    return run.lora_path


def _given(
    run: Run, networks: Networks, sources: Sources, scratch: Path, fetched: DownloadProgress
) -> list[tuple[ConditioningInput, str]]:
    """What the previews are given, with their negative prompts; before the data, since it fails sooner."""
    rates = networks.codec.sample_rate, networks.codec.output_sample_rate
    return [
        (load_conditioning_input(spec, *rates, scratch, sources, fetched), spec.negative_prompt)
        for spec in run.mode.previews(run.request)
    ]


def _prepare(
    run: Run, networks: Networks, sources: Sources, scratch: Path, progress: StoppableProgress
) -> tuple[Prepared, list[Clip]]:
    """Fetch, unpack, pair, fit and encode; the report is written whatever comes of it."""
    report, shown = Report(), list[ShownClip]()

    def fetched(done: int, total: int | None) -> None:
        of = "" if total is None else f" of {total / 1e6:,.1f}"
        progress.advance(f"{done / 1e6:,.1f}{of} MB", to=0)

    progress.phase("fetching the data", None)
    given = _given(run, networks, sources, scratch, fetched)
    files = open_dataset(run.request.training_data_url, scratch, sources, fetched)
    progress.phase("reading and encoding the clips", len(files.names))
    encoder = Encoder(
        run.base,
        networks.codec,
        Cache(default_cache_folder(), warn=progress.warning),
        networks.device,
        networks.dtype,
        run.mode.video,
        partial(networks.text_encoder, video=run.mode.video),
    )
    try:
        tokenizer = load_tokenizer(run.base.checkpoint, run.base.text_encoder)
        rate = networks.codec.sample_rate
        inputs = fetch_preview_inputs(run.mode.previews(run.request), scratch, sources)
        loaded = load_clips(run.mode, run.request, files, rate, tokenizer, report, progress.advance, inputs)
        texts = partial(progress.advance, to=len(files.names))  # they come after the clips
        prepared, clips = encoder.prepare(shown_on(run.folder, loaded, shown), given, texts)
    finally:
        write_report(run.folder, report, shown, run.mode)
        _tell(report, progress)
    progress.message(f"training on {in_words(len(clips), run.request)}")
    return prepared, clips


def _tell(report: Report, progress: StoppableProgress) -> None:
    """What is not simply used; all the rest stands in the report."""
    lines = [(progress.warning, text) for text in report.as_json()["warnings"]]
    for entry in report.as_json()["files"]:
        if entry["status"] in ("skipped", "ignored"):
            tell = progress.warning if entry["status"] == "skipped" else progress.message
            lines.append((tell, f"{entry['status']}: {entry['file']}: {entry['detail']}"))
        lines += [(progress.warning, f"{entry['file']}: {text}") for text in entry["warnings"]]
    for tell, line in lines[:_TOLD]:
        tell(line)
    if len(lines) > _TOLD:
        progress.message(f"and {len(lines) - _TOLD} more, see report.json")


def _make_folder(folder: Path) -> None:
    refuse_taken(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(folder, error) from error


def _save(run: Run) -> None:
    write_json(
        run.folder / RUN_FILE,
        {
            "sonolora_version": __version__,
            "mode": run.mode.name,
            "request": run.request.saved(),
            "settings": {**asdict(run.settings), "sigma_density": run.sigma_density},
            "base_fingerprint": run.base.fingerprint,
        },
    )
