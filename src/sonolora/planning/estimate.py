"""What a run will take, before it starts: clips, memory, time, disk, and its price.

In: a mode, a request, settings, the folder it would write to. Out: an `Estimate`. The data is read and fitted as for
training; nothing is encoded, no weight is read, and the folder is not created.
"""

from __future__ import annotations

import math
import os
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
from sonolora.ltx.codec.codec_rates import codec_rates
from sonolora.ltx.text.text_encoder import load_tokenizer
from sonolora.ltx.weights.base import Base, find_base
from sonolora.modes.mode import Mode
from sonolora.modes.request import TrainRequest
from sonolora.planning.available_memory import available_bytes
from sonolora.planning.base_shape import PUBLISHED_NAME, BaseShape
from sonolora.planning.bench.pace import Pace, measure_pace
from sonolora.planning.memory_fit import does_not_fit, sweep_does_not_fit
from sonolora.planning.needs import Needs, count_needs, preview_sampling, preview_tokens, training_step
from sonolora.planning.prices import PUBLISHED_PRICES, billed_steps
from sonolora.planning.run_settings import RunSettings
from sonolora.planning.sweep_plan import SweepPlan
from sonolora.planning.work_counts import (
    Step,
    decoding,
    encoding,
    preview_flops,
    step_flops,
    text_encoding,
    video_caching,
)
from sonolora.sampling.guidance import OFF
from sonolora.sampling.noise_schedule import DISTILLED_STEPS
from sonolora.training.validation import MAX_CLIPS, SIGMAS

_WAV_BYTES_PER_SECOND = 48000 * 2 * 2  # two channels of 16 bits
_READ_BYTES_PER_SECOND = 1e9  # of a disk, an assumption


@dataclass(frozen=True)
class Power:
    """The price of electricity."""

    watts: float  # of the whole machine under load
    price_per_kwh: float

    def cost(self, seconds: float) -> float:
        """Of a run that takes this long."""
        return seconds / 3600 * self.watts / 1000 * self.price_per_kwh


@dataclass(frozen=True)
class Estimate:
    """All figures; bytes and seconds. `error` is the one that the run would end with before it starts."""

    mode: str
    base: str
    base_precision: str  # of the stored weights
    device: str
    dtype: str  # of the computation on that device
    steps: int
    clips: int
    skipped: int  # files
    needs: Needs
    available: int
    step_flops: int
    pace: Pace | None  # None, as the seconds are, for a GPU that is not in this machine
    training_seconds: float | None
    preview_seconds: float | None  # of all evaluations
    preparation_seconds: float | None  # of reading the base and encoding the data
    disk: Mapping[str, int]
    disk_free: int
    hosted_price: float  # dollars
    electricity_price: float | None
    error: SonoloraError | None

    @property
    def seconds(self) -> float | None:
        """Of the whole run, downloads aside."""
        parts = self.preparation_seconds, self.training_seconds, self.preview_seconds
        return None if None in parts else sum(part for part in parts if part is not None)

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
    plan: SweepPlan | None = None,
) -> Estimate:
    """Read the data, count, and measure a few steps. Raises as a run would for data that cannot be used.

    The base `ltx-2.3` need not be on this machine. `available`: memory to compare with, by default the device's.
    `card`: the memory in GB (10^9 bytes) of a CUDA GPU that is taken in place of the settings' device and need not be
    in this machine. With a `plan` it is a sweep: memory while all members train, and the time of all its steps.
    """
    settings.check_mode(mode)
    members = 1 if plan is None else len(plan.members)
    device = settings.place() if card is None else torch.device("cuda")
    base = _base(settings.base)
    captions, skipped = _read(mode, request, base, progress)
    shape = BaseShape.find(settings.base)
    progress.phase("counting and measuring", None)
    needs = count_needs(shape, mode, request, settings, device, len(captions), len(set(captions)), members)
    if available is None:
        available = available_bytes(device) if card is None else round(card * 1e9)
    error = None
    if needs.peak > available and device.type == "cuda":
        error = (
            does_not_fit(shape, mode, request, settings, device, needs, available)
            if plan is None
            else sweep_does_not_fit(device, members, needs, available)
        )
    step = training_step(mode, request, settings, members)
    evaluations = math.ceil(request.number_of_steps / settings.preview_steps) + 1
    pace = measure_pace(shape, step, device) if card is None else None
    training = validation = preparation = price = None
    if pace is not None:
        steps = request.number_of_steps if plan is None else plan.member_steps(request.number_of_steps) / members
        training = steps * (pace.step + 2 * settings.preserve * pace.forward)  # of the base
        each = _evaluation_seconds(shape, mode, request, settings, pace, len(captions), device.type)
        validation = (evaluations + len(settings.other_strengths)) * each
        speed = step_flops(shape, step, device.type).whole / pace.step
        work = _preparation_flops(shape, mode, request, step, device.type, len(captions), len(set(captions)))
        preparation = work / speed + _read_bytes(shape, settings, mode, device) / _READ_BYTES_PER_SECOND
        price = None if power is None else power.cost(preparation + training + validation)
    return Estimate(
        mode=mode.name,
        base=shape.name,
        base_precision=shape.precision,
        device=str(device) if card is None else f"a card of {card:g} GB",
        dtype=str(compute_dtype(device)).removeprefix("torch."),
        steps=request.number_of_steps,
        clips=len(captions),
        skipped=skipped,
        needs=needs,
        available=available,
        step_flops=step_flops(shape, step, device.type).whole,
        pace=pace,
        training_seconds=training,
        preview_seconds=validation,
        preparation_seconds=preparation,
        disk=_disk(shape, mode, request, settings, needs, captions, evaluations, compute_dtype(device)),
        disk_free=shutil.disk_usage(_existing(folder)).free,
        hosted_price=members * billed_steps(request.number_of_steps) * PUBLISHED_PRICES[mode.name],
        electricity_price=price,
        error=error,
    )


def _base(name: str) -> Base:
    """A base whose tokenizer checks the captions and whose codec gives the sample rate."""
    try:
        return find_base(name)
    except SonoloraError:
        if name != PUBLISHED_NAME:
            raise
        return find_base("tiny")


def _read(mode: Mode, request: TrainRequest, base: Base, progress: Progress) -> tuple[list[str], int]:
    """The captions of the clips that would be trained on, and how many files would be skipped."""
    report = Report()
    tokenizer = load_tokenizer(base.checkpoint, base.text_encoder)
    sample_rate, _ = codec_rates(base.checkpoint)
    with tempfile.TemporaryDirectory() as scratch:
        progress.phase("fetching the data", None)
        files = open_dataset(request.training_data_url, Path(scratch))
        progress.phase("reading the clips", len(files.names))
        clips = load_clips(mode, request, files, sample_rate, tokenizer, report, progress.advance, judged=False)
        captions = [clip.caption for clip in clips]
    return captions, sum(entry["status"] == "skipped" for entry in report.as_json()["files"])


def _evaluation_seconds(
    shape: BaseShape, mode: Mode, request: TrainRequest, settings: RunSettings, pace: Pace, clips: int, kind: str
) -> float:
    """Seconds of one evaluation, its losses and all previews, at the speed of the step's forward pass."""
    sampling, step = preview_sampling(shape, request), training_step(mode, request, settings)
    flops = preview_flops(shape, step.tokens, kind, None) * len(SIGMAS) * min(clips, MAX_CLIPS)
    for spec in mode.previews(request):
        tokens = preview_tokens(spec, one_way=step.tokens.one_way)
        flops += preview_flops(shape, tokens, kind, sampling.guidance) * sampling.steps
        flops += decoding(shape, tokens.audio).flops
        if settings.distill_lora is not None:
            flops += preview_flops(shape, tokens, kind, OFF) * DISTILLED_STEPS
    if not mode.previews(request):  # the run listens to clips of its own
        own = preview_flops(shape, step.tokens, kind, sampling.guidance) * sampling.steps
        own += decoding(shape, step.tokens.audio).flops
        flops += own * min(settings.own_previews, clips)
    forward = step_flops(shape, step, kind).forward
    return flops / forward * pace.forward


def _preparation_flops(
    shape: BaseShape, mode: Mode, request: TrainRequest, step: Step, kind: str, clips: int, texts: int
) -> int:
    """Of encoding clips, what previews are given, and texts, and of caching videos."""
    previews = [preview_tokens(spec, one_way=step.tokens.one_way) for spec in mode.previews(request)]
    flops = (texts + 2 * len(previews)) * text_encoding(shape, kind, video=mode.video).flops  # and negative prompts
    for tokens, count in ((step.tokens, clips), *((one, 1) for one in previews)):
        sounds = 1 + (tokens.kept or tokens.reference > 0)  # kept frames and references are encoded by themselves
        flops += count * sounds * encoding(shape, tokens, kind).flops
        if tokens.one_way:
            flops += count * video_caching(shape, tokens, kind)[1].flops
    return flops


def _read_bytes(shape: BaseShape, settings: RunSettings, mode: Mode, device: torch.device) -> int:
    """Of the files of the base."""
    dtype, one_way = compute_dtype(device), settings.one_way_video
    transformer = shape.transformer_bytes(dtype, video=mode.video and not one_way, one_way=one_way)
    video = shape.video_encoder_bytes(dtype) if mode.video else 0
    return transformer + shape.codec_bytes() + video + shape.language_model_bytes


def _disk(
    shape: BaseShape,
    mode: Mode,
    request: TrainRequest,
    settings: RunSettings,
    needs: Needs,
    captions: list[str],
    evaluations: int,
    dtype: torch.dtype,
) -> dict[str, int]:
    """Bytes by what they are for; pictures and the report take a few megabytes more."""
    config = shape.transformer_config
    spec = mode.previews(request)
    texts = {*captions, *(one.prompt for one in spec), *(one.negative_prompt for one in spec)}
    contexts = len(texts) * shape.context_bytes(dtype, video=mode.video)
    # Kept frames are encoded separately, from the audio with silence in the regenerated spans.
    per_clip = (needs.tokens.audio * (2 if needs.tokens.kept else 1) + needs.tokens.reference) * config.audio.channels
    latents = 4 * len(captions) * (per_clip + needs.tokens.video * config.video.channels)
    columns = 1 if settings.distill_lora is None else 2
    states = settings.keep_checkpoints + 1  # a new one is written before an old one is removed
    return {
        "cache": contexts + latents,
        "prepared data": contexts + latents,
        "checkpoints": states * 3 * needs.step.adapters,
        "previews": columns * round(evaluations * sum(one.seconds for one in spec) * _WAV_BYTES_PER_SECOND),
        "LoRA": needs.step.adapters // 2,
    }


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))  # noqa: PTH110
