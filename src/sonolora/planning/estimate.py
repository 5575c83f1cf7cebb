"""What a run will take, before it starts: clips, memory, time, disk, and what it costs there and here.

In: a mode, a request, settings, the folder it would write to. Out: an `Estimate`. The data is read and fitted as for
training, nothing is encoded, no weight is read, and the folder is not made.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sonolora.core.devices import compute_dtype
from sonolora.core.errors import SonoloraError
from sonolora.core.progress import Progress
from sonolora.data.clips import load_clips
from sonolora.data.dataset import open_dataset
from sonolora.data.report import Report
from sonolora.ltx.text.text_encoder import load_tokenizer
from sonolora.ltx.weights.base import Base, find_base
from sonolora.modes.mode import Mode
from sonolora.modes.request import TrainRequest
from sonolora.planning.base_shape import PUBLISHED_NAME, BaseShape
from sonolora.planning.bench.pace import Pace, measure_pace
from sonolora.planning.memory_fit import available_bytes, does_not_fit
from sonolora.planning.needs import (
    Needs,
    count_needs,
    preview_sampling,
    preview_tokens,
    training_step,
)
from sonolora.planning.prices import PUBLISHED_PRICES, billed_steps
from sonolora.planning.run_settings import RunSettings
from sonolora.planning.work_counts import preview_flops, step_flops
from sonolora.training.validation import MAX_CLIPS, SIGMAS

_WAV_BYTES = 48000 * 2 * 2  # a second: two channels of 16 bits


@dataclass(frozen=True)
class Power:
    """What electricity costs here."""

    watts: float  # of the whole machine under load
    price_per_kwh: float

    def cost(self, seconds: float) -> float:
        """Of so much time."""
        return seconds / 3600 * self.watts / 1000 * self.price_per_kwh


@dataclass(frozen=True)
class Estimate:
    """All figures; bytes and seconds. `error` is what the run would be refused with."""

    mode: str
    base: str
    device: str
    dtype: str  # that the network computes in there
    steps: int
    clips: int
    left_out: int
    needs: Needs
    available: int
    step_flops: int
    pace: Pace | None  # and the seconds: not known of a card that is not here
    training_seconds: float | None
    preview_seconds: float | None
    disk: Mapping[str, int]
    disk_free: int
    price_there: float  # dollars
    price_here: float | None
    error: SonoloraError | None

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        values = {**asdict(self), "fits": self.error is None, "error": None if self.error is None else str(self.error)}
        for stage, counted in zip(values["needs"]["stages"], self.needs.stages, strict=True):
            stage["peak"] = counted.peak
        return values


def estimate(
    mode: Mode,
    request: TrainRequest,
    settings: RunSettings,
    folder: Path,
    progress: Progress,
    power: Power | None = None,
    available: int | None = None,
    card: float | None = None,
) -> Estimate:
    """Read the data, count, and measure a few steps. Raises as a run would for data that cannot be used.

    The base `ltx-2.3` need not be here. `available` is the memory to hold the run to, by default the device's. `card`:
    for a CUDA card of so many GB (10^9 bytes) that need not be here, in place of the settings' device.
    """
    settings.check_mode(mode)
    device = settings.place() if card is None else torch.device("cuda")
    shape, base = _base(settings.base)
    captions, left_out = _read(mode, request, base, shape, progress)
    progress.phase("counting and measuring", None)
    needs = count_needs(shape, mode, request, settings, device, len(captions))
    if available is None:
        available = available_bytes(device) if card is None else round(card * 1e9)
    error = None
    if needs.peak > available and device.type == "cuda":
        error = does_not_fit(shape, mode, request, settings, device, needs, available, len(captions))
    step = training_step(mode, request, settings)
    looks = math.ceil(request.number_of_steps / settings.preview_every) + 1
    pace = measure_pace(shape, step, device) if card is None else None
    training = listening = price_here = None
    if pace is not None:
        training = request.number_of_steps * pace.step
        listening = looks * _look_seconds(shape, mode, request, settings, pace, len(captions), device.type)
        price_here = None if power is None else power.cost(training + listening)
    return Estimate(
        mode=mode.name,
        base=shape.name,
        device=str(device) if card is None else f"a card of {card:g} GB",
        dtype=str(compute_dtype(device)).removeprefix("torch."),
        steps=request.number_of_steps,
        clips=len(captions),
        left_out=left_out,
        needs=needs,
        available=available,
        step_flops=step_flops(shape, step, device.type).whole,
        pace=pace,
        training_seconds=training,
        preview_seconds=listening,
        disk=_disk(shape, mode, request, settings, needs, captions, looks, compute_dtype(device).itemsize),
        disk_free=shutil.disk_usage(_existing(folder)).free,
        price_there=billed_steps(request.number_of_steps) * PUBLISHED_PRICES[mode.name],
        price_here=price_here,
        error=error,
    )


def _base(name: str) -> tuple[BaseShape, Base]:
    """The shape, and a base whose tokenizer can be used to look at captions."""
    try:
        base = find_base(name)
    except SonoloraError:
        if name != PUBLISHED_NAME:
            raise
        return BaseShape.published(), find_base("tiny")
    return BaseShape.of(base), base


def _read(mode: Mode, request: TrainRequest, base: Base, shape: BaseShape, progress: Progress) -> tuple[list[str], int]:
    """The captions of the clips that would be trained on, and how many files would be left out."""
    report = Report()
    tokenizer = load_tokenizer(base.checkpoint, base.text_encoder)
    rate = shape.codec.sample_rate
    with tempfile.TemporaryDirectory() as scratch:
        progress.phase("fetching the data", None)
        files = open_dataset(request.training_data_url, Path(scratch))
        progress.phase("reading the clips", len(files.names))
        clips = load_clips(mode, request, files, rate, tokenizer, report, progress.advance)
        captions = [clip.caption for clip in clips]
    return captions, sum(entry["status"] == "skipped" for entry in report.as_json()["files"])


def _look_seconds(
    shape: BaseShape, mode: Mode, request: TrainRequest, settings: RunSettings, pace: Pace, clips: int, kind: str
) -> float:
    """Of the fixed grid and all previews, at the speed of the step's forward pass."""
    sampling, step = preview_sampling(shape.metadata, request, settings), training_step(mode, request, settings)
    flops = preview_flops(shape, step.tokens, kind, None) * len(SIGMAS) * min(clips, MAX_CLIPS)
    for spec in mode.previews(request):
        tokens = preview_tokens(spec, one_way=step.tokens.one_way)
        flops += preview_flops(shape, tokens, kind, sampling.guidance) * sampling.steps
    forward = step_flops(shape, step, kind).forward
    return flops / forward * pace.forward


def _disk(
    shape: BaseShape,
    mode: Mode,
    request: TrainRequest,
    settings: RunSettings,
    needs: Needs,
    captions: list[str],
    looks: int,
    itemsize: int,
) -> dict[str, int]:
    """Bytes by what takes them; pictures and the report are a few megabytes more."""
    config = shape.transformer_config
    spec = mode.previews(request)
    texts = {*captions, *(one.prompt for one in spec), *(one.negative_prompt for one in spec)}
    width = config.audio.context_dim + (config.video.context_dim if mode.video else 0)
    contexts = len(texts) * shape.text_places * width * itemsize
    # What is kept is encoded one_way, from the sound with silence in the rest.
    per_clip = (needs.tokens.audio * (2 if needs.tokens.kept else 1) + needs.tokens.reference) * config.audio.channels
    latents = 4 * len(captions) * (per_clip + needs.tokens.video * config.video.channels)
    return {
        "cache": contexts + latents,
        "prepared data": contexts + latents,
        "checkpoints": (settings.keep_checkpoints + 1) * 3 * needs.step.adapters,  # one more while it is written
        "previews": round(looks * sum(one.seconds for one in spec) * _WAV_BYTES),
        "LoRA": needs.step.adapters // 2,
    }


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
