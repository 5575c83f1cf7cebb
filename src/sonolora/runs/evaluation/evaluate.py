"""What a run is judged by while it trains: its loss on training clips with fixed noise, and its previews.

In: a run, its data and its model. Out: a line of metrics, preview files, and their sounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from sonolora.core.cancellation import CancelToken
from sonolora.core.progress import Progress
from sonolora.cuda_graph import CudaGraphSteps
from sonolora.data.prepared import Prepared, PreviewItem
from sonolora.ltx.codec.audio_codec import AudioCodec
from sonolora.ltx.lora.adapters import at_strength, rounded_to_bf16
from sonolora.ltx.lora.lora_stack import with_loras
from sonolora.ltx.model.lora_layer import Adapters
from sonolora.ltx.model.transformer import Transformer
from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_wav
from sonolora.runs.artifacts import Preview
from sonolora.runs.evaluation.evaluation import Evaluation
from sonolora.runs.evaluation.metrics_log import MetricsLog
from sonolora.runs.preview_columns import PreviewColumn
from sonolora.runs.report.preview_picture import draw_preview, draw_strengths, put_film
from sonolora.runs.report.report_page import update_page
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
    columns: Sequence[PreviewColumn]
    evaluation: Evaluation
    graphs: CudaGraphSteps | None = None  # of the previews, which keep them from one evaluation to the next
    seconds: list[float] = field(default_factory=list)  # that each evaluation took

    def seconds_to_come(self, step: int) -> float:
        """Of the evaluations after a step, the last included; 0 until one was done."""
        if not self.seconds:
            return 0.0
        settings, steps = self.run.settings, self.run.request.number_of_steps
        between = 0
        if settings.preview_every is not None:  # else those between take little time by themselves
            between = (steps - 1) // settings.preview_every - step // settings.preview_every
        return (between + 1) * sum(self.seconds) / len(self.seconds)

    def evaluate(self, step: int, *, with_previews: bool = True) -> list[Waveform]:
        """Measure the losses, render the previews, write them. Raises `StopRequestedError` between sampling steps."""
        began = time.monotonic()
        previews = self.prepared.previews if with_previews else ()
        waveforms = []
        step_done = self.cancel.after(self.progress.advance)
        self.progress.phase(
            f"validating at step {step}", len(previews) * sum(one.sampling.steps for one in self.columns) + 1
        )
        self.cancel.check()
        self.evaluation.measure(step)
        step_done()
        with rounded_to_bf16(self.adapters):
            for column in self.columns if with_previews else ():
                with with_loras(self.model, self.adapters, column.loras):
                    rendered = [
                        self._render(step, number, item, column, step_done)
                        for number, item in enumerate(previews, start=1)
                    ]
                waveforms += [] if column.distilled else rendered
        values = self.evaluation.metrics(step)
        self.log.add(step, **values)
        update_page(self.run.artifacts)
        if with_previews:
            self.seconds.append(time.monotonic() - began)
        summary = self.evaluation.summary()
        self.progress.message(f"step {step}: train_eval_loss {values['train_eval_loss']:.4f}; {summary}")
        return waveforms

    def put_strengths(self, step: int, sounds: Sequence[Waveform]) -> None:
        """Render the last previews, whose sounds are given, at the other strengths that the settings want."""
        strengths = self.run.settings.other_strengths
        if not strengths or not sounds:
            return
        column, seed = self.columns[0], self.run.settings.seed
        items = self.prepared.previews
        self.progress.phase("rendering other strengths", len(items) * len(strengths) * column.sampling.steps)
        step_done = self.cancel.after(self.progress.advance)
        made: list[dict[float, Waveform]] = [{1.0: sound} for sound in sounds]
        for strength in strengths:
            with (
                at_strength(self.adapters, strength),
                with_loras(self.model, self.adapters, column.loras),
            ):
                for number, item in enumerate(items):
                    sampling = replace(column.sampling, graphs=None if column.loras else self.graphs)
                    sound = render(self.model, self.codec, item, sampling, seed, self.device, step_done)
                    made[number][strength] = sound
        for number, (item, of_strength) in enumerate(zip(items, made, strict=True), start=1):
            preview = Preview(step, number, item.prompt, seed, "lora")
            by_strength = {f"{strength:g}": of_strength[strength] for strength in sorted(of_strength)}
            for strength_text, sound in by_strength.items():
                if strength_text != "1":
                    self.run.artifacts.put(preview.at_strength(strength_text), partial(write_wav, waveform=sound))
            picture = preview.at_strength("all").removesuffix(".wav") + ".png"
            draw = partial(draw_strengths, artifacts=self.run.artifacts, preview=preview, sounds=by_strength)
            self.run.artifacts.put(picture, draw)

    def _render(
        self, step: int, number: int, item: PreviewItem, column: PreviewColumn, step_done: Callable[[], None]
    ) -> Waveform:
        seed = self.run.settings.seed
        # LoRAs beside the trained one are new modules each time, which a kept graph does not know.
        sampling = replace(column.sampling, graphs=None if column.loras else self.graphs)
        waveform = render(self.model, self.codec, item, sampling, seed, self.device, step_done)
        preview = Preview(step, number, item.prompt, seed, "lora" if step else "base", column.distilled)
        self.run.artifacts.put_preview(
            preview,
            partial(write_wav, waveform=waveform),
            partial(draw_preview, artifacts=self.run.artifacts, preview=preview, sound=waveform),
        )
        put_film(self.run.artifacts, preview, waveform)
        return waveform
