"""One run, from a request to its outputs. The only room that knows the whole order.

In: a mode, a request, settings and an output folder; or the folder of a run to continue.
Out, in the folder: `lora.safetensors`, `config.json`, `preview.wav`, `previews/`, `metrics.jsonl`, `report.json`,
`checkpoints/`, and what resuming needs (`run.json`, `prepared.safetensors`).
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sonolora import __version__
from sonolora.data.cache import Cache, default_cache_folder
from sonolora.data.clips import Clip, load_clips
from sonolora.data.dataset import open_dataset
from sonolora.data.encode import Encoder
from sonolora.data.examples import Prepared
from sonolora.data.given import Given, load_given
from sonolora.data.report import Report
from sonolora.errors import CheckpointError, SonoloraError
from sonolora.files import OutputError, write_json
from sonolora.ltx.audio_codec import AudioCodec, load_audio_codec
from sonolora.ltx.base import find_base
from sonolora.ltx.text import load_tokenizer
from sonolora.modes import find_mode
from sonolora.modes.mode import Mode
from sonolora.modes.request import TrainRequest, parse
from sonolora.runs.check import shown_on, write_report
from sonolora.runs.debug import write_debug_dataset
from sonolora.runs.page import ShownClip
from sonolora.runs.progress import Progress
from sonolora.runs.settings import RunSettings, compute_dtype, resolve_device
from sonolora.runs.train import Run, train

RUN_FILE = "run.json"
PREPARED_FILE = "prepared.safetensors"


class InterruptedRunError(SonoloraError):
    """The run was asked to stop and has saved its state."""

    def __init__(self, folder: Path, step: int, steps: int) -> None:
        super().__init__(
            f"stopped at step {step} of {steps}; nothing is lost. Go on with: sonolora train --resume {folder}"
        )


def start(
    mode: Mode,
    request: TrainRequest,
    settings: RunSettings,
    folder: Path,
    progress: Progress,
    stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Carry out a whole run; returns the LoRA file's path.

    Raises `InputError` for a dataset that cannot be used (nothing but `report.json` is left in the folder then),
    `InterruptedRunError` when `stop` said so, other `SonoloraError`s with the reason.
    """
    _make_folder(folder)
    device = resolve_device(settings.device)
    base = find_base(settings.base)
    codec = load_audio_codec(base.checkpoint, device=device)
    run = Run(mode, request, settings, folder, base)
    encoder = Encoder(base, codec, Cache(default_cache_folder()), device, compute_dtype(device), mode.video)
    with tempfile.TemporaryDirectory(prefix=".data-", dir=folder) as scratch:
        given = _given(run, codec, Path(scratch))
        prepared, clips = _prepare(run, encoder, given, Path(scratch), progress)
    if request.debug_dataset:
        write_debug_dataset(folder / "debug_dataset.zip", clips, prepared, codec, folder / "report.json")
    prepared.save(folder / PREPARED_FILE)
    _save(run)
    return _finish(run, prepared, codec, progress, stop)


def resume(folder: Path, progress: Progress, stop: Callable[[], bool] = lambda: False) -> Path:
    """Continue a run from its newest state, to the result that it would have had; raises as `start` does."""
    run = _load(folder)
    if run.base.fingerprint != _read(folder)["base_fingerprint"]:
        raise CheckpointError(f"the base {run.base.name} is not the one that {folder} was started with")
    codec = load_audio_codec(run.base.checkpoint, device=resolve_device(run.settings.device))
    return _finish(run, Prepared.load(folder / PREPARED_FILE), codec, progress, stop)


def _finish(run: Run, prepared: Prepared, codec: AudioCodec, progress: Progress, stop: Callable[[], bool]) -> Path:
    began = time.monotonic()
    done = train(run, prepared, codec, progress, stop)
    steps = run.request.number_of_steps
    if done < steps:
        raise InterruptedRunError(run.folder, done, steps)
    progress.message(f"trained and written in {time.monotonic() - began:.0f} s")
    return run.lora_path


def _given(run: Run, codec: AudioCodec, scratch: Path) -> list[tuple[Given, str]]:
    """What the previews are given, with their negative prompts; before the data, since it fails sooner."""
    rates = codec.sample_rate, codec.output_sample_rate
    return [(load_given(wanted, *rates, scratch), wanted.negative_prompt) for wanted in run.mode.previews(run.request)]


def _prepare(
    run: Run, encoder: Encoder, given: list[tuple[Given, str]], scratch: Path, progress: Progress
) -> tuple[Prepared, list[Clip]]:
    """Fetch, unpack, pair, fit and encode; the report is written whatever comes of it."""
    report, shown = Report(), list[ShownClip]()
    progress.phase("fetching the data", None)
    files = open_dataset(run.request.training_data_url, scratch)
    progress.phase("reading and encoding the clips", len(files.names))
    try:
        tokenizer = load_tokenizer(run.base.checkpoint, run.base.text_encoder)
        rate = encoder.codec.sample_rate
        clips = load_clips(run.mode, run.request, files, rate, tokenizer, report, progress.advance)
        return encoder.prepare(shown_on(run.folder, clips, shown), given, progress.advance)
    finally:
        write_report(run.folder, report, shown, run.mode)
        progress.message(report.summary_line())


def _make_folder(folder: Path) -> None:
    if (folder / RUN_FILE).exists():
        raise SonoloraError(
            f"{folder} already holds a run. Continue it with: sonolora train --resume {folder}, or give another --out"
        )
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
            "request": run.request.model_dump(),
            "settings": asdict(run.settings),
            "base_fingerprint": run.base.fingerprint,
        },
    )


def _read(folder: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads((folder / RUN_FILE).read_text())
    except FileNotFoundError as error:
        raise SonoloraError(
            f"{folder} holds no run that can be continued (there is no {RUN_FILE}): it stopped before training "
            "began, or is another folder. Start it with: sonolora train MODE DATA --out DIR"
        ) from error
    return data


def _load(folder: Path) -> Run:
    data = _read(folder)
    mode = find_mode(data["mode"])
    request = parse(mode.request, data["request"])
    settings = RunSettings(**data["settings"])
    return Run(mode, request, settings, folder, find_base(settings.base))
