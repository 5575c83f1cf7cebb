"""The training part of a run: from prepared data to the LoRA, its previews and its metrics.

In: a `Run`, its `Prepared` data and the networks. Out: files in the run's folder; or `InterruptedRunError` and a state
to go on from, when the run was told to stop.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonolora.core.errors import SonoloraError
from sonolora.core.progress import InterruptedRunError, StopAskedError, StoppableProgress
from sonolora.data.prepared import Prepared
from sonolora.ltx.codec.audio_codec import AudioCodec
from sonolora.ltx.lora.adapters import Adapters, add_adapters, rounded_to_bf16, save_lora
from sonolora.ltx.model.transformer import Transformer
from sonolora.ltx.weights.base import Base
from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_wav
from sonolora.modes.mode import Mode
from sonolora.modes.request import TrainRequest
from sonolora.planning.needs import preview_guidance
from sonolora.planning.run_settings import RunSettings
from sonolora.runs.cached_video import cache_videos
from sonolora.runs.loaded_networks import Networks
from sonolora.runs.lora_metadata import lora_metadata, write_config
from sonolora.runs.run_folder import LORA_FILE
from sonolora.sampling.preview import joined, render, write_preview
from sonolora.sampling.sampler import SamplingSettings
from sonolora.training.metrics import Metrics, read_metrics
from sonolora.training.state import load_newest_state, save_state
from sonolora.training.trainer import Trainer, TrainingConfig
from sonolora.training.validation import SIGMAS, eval_losses

LOG_EVERY = 10


@dataclass(frozen=True)
class Run:
    """What a run is: its mode, request, settings, folder and base."""

    mode: Mode
    request: TrainRequest
    settings: RunSettings
    folder: Path
    base: Base

    @property
    def lora_path(self) -> Path:
        """Where the trained LoRA goes."""
        return self.folder / LORA_FILE

    @property
    def sigma_density(self) -> str:
        """What noise levels are drawn from: as asked for, or what suits the mode."""
        return self.settings.sigma_density or self.mode.sigma_density

    def identity(self, prepared: Prepared) -> dict[str, str]:
        """What a training state must agree with to be continued."""
        settings = (
            f"{self.mode.name} {self.request.model_dump_json()} {self.settings.seed} {self.settings.batch_size} "
            f"{self.sigma_density} {self.settings.v2a_video} {self.settings.weights}"
            f"{' compiled' if self.settings.compile else ''}"
        )
        return {
            "base": self.base.fingerprint,
            "dataset": prepared.digest,
            "settings": hashlib.sha256(settings.encode()).hexdigest()[:16],
        }


def train(run: Run, prepared: Prepared, networks: Networks, progress: StoppableProgress) -> None:
    """Train to the end, from the newest state if there is one.

    Raises `InterruptedRunError` when asked to stop: between two steps, or in the middle of listening. What was not
    heard to the end is heard when the run goes on. Raises `SonoloraError` when training diverges; the states from
    before stay.
    """
    request, settings, device = run.request, run.settings, networks.device
    states, identity = run.folder / "checkpoints", run.identity(prepared)
    config = TrainingConfig(
        steps=request.number_of_steps,
        learning_rate=request.learning_rate,
        seed=settings.seed,
        batch_size=settings.batch_size,
        sigma_density=run.sigma_density,
    )
    one_way = settings.one_way_video
    with networks.transformer(video=run.mode.video and not one_way, one_way=one_way, policy=settings.policy) as model:
        place = device
        if one_way:
            prepared, place = cache_videos(run, prepared, networks, progress.progress)
        adapters = add_adapters(model, run.mode.lora_targets, request.rank, settings.seed)
        examples = [example.to(place) for example in prepared.examples]
        trainer = Trainer(model, adapters, examples, config, static=settings.cuda_graph)
        if load_newest_state(states, trainer, identity):
            progress.message(f"going on from step {trainer.step_count}")
        log = _Log(run.folder / "metrics.jsonl", trainer.step_count, progress)
        watch = _Watch(run, prepared, networks.codec, model, adapters, log, progress, device)

        def save() -> None:
            if not trainer.is_finite():
                raise _diverged(run, trainer.step_count)
            save_state(states, trainer, identity, keep=settings.keep_checkpoints)

        try:
            _steps(trainer, settings, watch, log, progress, save)
            save_lora(run.lora_path, adapters, lora_metadata(run, prepared))
            write_config(run, prepared)
            if previews := watch.look(config.steps):
                write_wav(run.folder / "preview.wav", joined(previews))
        except StopAskedError:
            save()
            raise InterruptedRunError(run.folder, trainer.step_count, config.steps) from None


def _steps(
    trainer: Trainer,
    settings: RunSettings,
    watch: _Watch,
    log: _Log,
    progress: StoppableProgress,
    save: Callable[[], object],
) -> None:
    """All steps that are left, with what is to be saved, logged and heard on the way."""
    config = trainer.config
    losses: list[Tensor] = []

    def begin() -> None:
        progress.phase("training", config.steps)
        progress.advance(to=trainer.step_count)

    def look_if_due() -> bool:
        step = trainer.step_count
        due = step % settings.preview_every == 0 and step < config.steps and step not in log.looked
        if due:
            watch.look(step)
        return due

    look_if_due()
    begin()
    since, since_time = trainer.step_count, time.monotonic()
    while trainer.step_count < config.steps:
        progress.check()
        losses.append(trainer.step())
        step = trainer.step_count
        last = step == config.steps
        if step % LOG_EVERY == 0 or last:
            # The only place where the host waits for the device.
            loss = torch.cat(losses).mean().item()
            if not math.isfinite(loss):
                raise _diverged(watch.run, step)
            now = time.monotonic()
            rate = (step - since) / max(now - since_time, 1e-9)
            log.add(
                step,
                loss=loss,
                learning_rate=config.learning_rate_at(step - 1),
                steps_per_second=round(rate, 2),
            )
            losses, since, since_time = [], step, now
            progress.advance(f"loss {loss:.3f}", to=step)
        if step % settings.checkpoint_every == 0 or last:
            save()
        if look_if_due():
            begin()
            since_time = time.monotonic()


def _diverged(run: Run, step: int) -> SonoloraError:
    return SonoloraError(
        f"training diverged: by step {step} its numbers are no longer finite. Start again with a learning_rate below "
        f"{run.request.learning_rate:g}; {run.folder / 'metrics.jsonl'} says how the loss grew"
    )


class _Log:
    """`metrics.jsonl`, and the same to whoever follows the run. `looked`: steps whose fixed grid is in it."""

    def __init__(self, path: Path, step: int, progress: StoppableProgress) -> None:
        self._metrics = Metrics(path, step)
        self._progress = progress
        self.looked = {line["step"] for line in read_metrics(path) if "grid_loss" in line}

    def add(self, step: int, **values: Any) -> None:
        self._metrics.add(step, **values)
        self._progress.metrics(step, values)


@dataclass
class _Watch:
    """Looks at a run from outside: the loss on the fixed grid, and the previews."""

    run: Run
    prepared: Prepared
    codec: AudioCodec
    model: Transformer
    adapters: Adapters
    log: _Log
    progress: StoppableProgress
    device: torch.device

    def look(self, step: int) -> list[Waveform]:
        """Measure and listen, with the adapters as the file will have them."""
        guidance = preview_guidance(self.run.base.checkpoint.metadata, self.run.request)
        settings = SamplingSettings(guidance=guidance, static=self.run.settings.cuda_graph)
        previews = self.prepared.previews
        waveforms = []
        self.progress.phase(f"listening at step {step}", len(previews) * settings.steps + 1)
        with rounded_to_bf16(self.adapters):
            grid = eval_losses(self.model, self.prepared.examples, self.device)
            self.progress.advance()
            for number, item in enumerate(previews, start=1):
                waveform = render(
                    self.model,
                    self.codec,
                    item,
                    settings,
                    self.run.settings.seed,
                    self.device,
                    self.progress.advance,
                )
                write_preview(
                    self.run.folder / "previews" / f"step-{step:06d}-{number}.wav",
                    waveform,
                    f"step {step}: {item.prompt}",
                )
                waveforms.append(waveform)
        by_sigma = {str(sigma): round(loss, 5) for sigma, loss in zip(SIGMAS, grid.mean(0).tolist(), strict=True)}
        self.log.add(step, grid_loss=grid.mean().item(), grid_loss_by_sigma=by_sigma)
        self.progress.message(f"step {step}: loss on the fixed grid {grid.mean().item():.4f}")
        return waveforms
