"""What a run is judged by while it trains: its loss on training clips with fixed noise, and its previews.

In: a run, its data and its model. Out: a line of metrics, preview files, and their sounds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from sonolora.core.cancellation import CancelToken
from sonolora.core.progress import Progress
from sonolora.cuda_graph import CudaGraphSteps
from sonolora.data.prepared import Prepared
from sonolora.ltx.codec.audio_codec import AudioCodec
from sonolora.ltx.lora.adapters import rounded_to_bf16
from sonolora.ltx.model.lora_layer import Adapters
from sonolora.ltx.model.transformer import Transformer
from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_wav
from sonolora.planning.needs import preview_sampling
from sonolora.runs.artifacts import Preview
from sonolora.runs.evaluation import Evaluation
from sonolora.runs.metrics_log import MetricsLog
from sonolora.runs.preview_picture import draw_preview, put_film
from sonolora.runs.run import Run
from sonolora.sampling.preview import render


@dataclass(frozen=True)
class Evaluator:
    """Evaluates the adapters with the values that the LoRA file will hold."""

    run: Run
    prepared: Prepared
    codec: AudioCodec
    model: Transformer
    adapters: Adapters
    log: MetricsLog
    progress: Progress
    cancel: CancelToken
    device: torch.device
    evaluation: Evaluation
    graphs: CudaGraphSteps | None = None  # of the previews, which keep them from one evaluation to the next
    seconds: list[float] = field(default_factory=list)  # that each evaluation took

    def seconds_to_come(self, step: int) -> float:
        """Of the evaluations after a step, the last included; 0 until one was done."""
        if not self.seconds:
            return 0.0
        every, steps = self.run.settings.preview_every, self.run.request.number_of_steps
        between = (steps - 1) // every - step // every
        return (between + 1) * sum(self.seconds) / len(self.seconds)

    def evaluate(self, step: int, *, with_previews: bool = True) -> list[Waveform]:
        """Measure the losses, render the previews, write them. Raises `StopRequestedError` between sampling steps."""
        run = self.run
        began = time.monotonic()
        settings = replace(preview_sampling(run.base.checkpoint.metadata, run.request), graphs=self.graphs)
        previews = self.prepared.previews if with_previews else ()
        waveforms = []
        step_done = self.cancel.after(self.progress.advance)
        self.progress.phase(f"validating at step {step}", len(previews) * settings.steps + 1)
        self.cancel.check()
        self.evaluation.measure(step)
        step_done()
        with rounded_to_bf16(self.adapters):
            for number, item in enumerate(previews, start=1):
                seed = run.settings.seed
                waveform = render(self.model, self.codec, item, settings, seed, self.device, step_done)
                preview = Preview(step, number, item.prompt, seed, "lora" if step else "base")
                run.artifacts.put_preview(
                    preview,
                    partial(write_wav, waveform=waveform),
                    partial(draw_preview, artifacts=run.artifacts, preview=preview, sound=waveform),
                )
                put_film(run.artifacts, preview, waveform)
                waveforms.append(waveform)
        values = self.evaluation.metrics(step)
        self.log.add(step, **values)
        self.seconds.append(time.monotonic() - began)
        summary = self.evaluation.summary()
        self.progress.message(f"step {step}: train_eval_loss {values['train_eval_loss']:.4f}; {summary}")
        return waveforms
