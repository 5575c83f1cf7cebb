"""Is what a run says of itself right? Sets of which it is known whether they can be learnt, judged as in a run.

    python bench/verdict.py healthy three shuffled strengths copies time

`healthy`: 16 clips of a kind of sound that the base does not know. `three`: 3 of them, which can only be memorised.
`shuffled`: 16 clips of kinds that the base knows, each with the caption of another. More of each set are held out
(`--held-out`), and the state of their lowest loss is compared with the last one on 12 sounds that are in neither.
All train with learning rate 1e-3 and rank 32 on `tiny`. `strengths`: the effect of the LoRA of `healthy` after 200
steps, at several strengths, beside the held-out loss. `copies`: of made sounds of several kinds, how many copies of
training clips, and how many new sounds of the kind, the copy detector calls copies. `time`: the share of a run's
computing time that its evaluations, table of clips, effect and distances of sounds take, by the process's own clock,
without the previews themselves. Of its training steps a few are taken, and the time of the others follows from them.
Prints a line each;
docs/evaluation.md quotes them.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tools" / "tiny"))
sys.path.insert(0, str(Path(__file__).parent / "learning"))

from corpus import sound
from experiment import make_encoder, read_clips
from made_data import Made, known_sounds, make, write_dataset
from sounds import HELD_OUT_KINDS, KINDS

from sonolora.analysis.copies import is_copy, likenesses, pattern
from sonolora.cli.terminal import TerminalProgress
from sonolora.conditioning import Example
from sonolora.ltx.lora.adapters import add_adapters, at_strength, rounded_to_bf16, save_lora, with_values
from sonolora.ltx.model.lora_layer import Adapters
from sonolora.ltx.model.transformer import Transformer, load_transformer
from sonolora.ltx.weights.base import find_base
from sonolora.media.audio import Waveform
from sonolora.modes import MODES
from sonolora.modes.request import parse
from sonolora.planning.run_settings import RunSettings
from sonolora.runs.evaluation.evaluation import Evaluation
from sonolora.runs.evaluation.evaluation_record import percent
from sonolora.runs.lora_files.inspect_lora import inspect_lora
from sonolora.runs.report import finish
from sonolora.runs.start import start
from sonolora.training.differences import difference
from sonolora.training.effect import measure_effect
from sonolora.training.evaluation import History, changes, judge
from sonolora.training.trainer import Trainer, TrainingConfig
from sonolora.training.validation import MAX_CLIPS, grid_losses

CPU = torch.device("cpu")
UNSEEN, EVERY, RANK, LEARNING_RATE = 12, 100, 32, 1e-3
STRENGTHS = (0.03, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
STRENGTH_STEPS = 200
TIMED_CLIPS = 24
WARM_UP, TIMED_STEPS = 5, 60
COPY_KINDS = ("laser", "purr", "chiptune", "creak", "rain", "piano", "melody", "drum pattern", "speech", "knock")
COPY_CLIPS, COPIES = 16, 8  # training clips; as many held out, copies and new sounds each
SETS = {"healthy": 16, "three": 3, "shuffled": 16}


def sounds(name: str, options: argparse.Namespace) -> list[Made]:
    """The training sounds of a set, then the held-out ones."""
    count, seed, seconds = SETS[name] + options.held_out + UNSEEN, options.seed, options.seconds
    if name != "shuffled":
        return [make("t2a", seed, index, seconds) for index in range(count)]
    known = known_sounds(seed + 50, count, seconds)
    captions = [one.caption for one in known]
    random.Random(1).shuffle(captions)
    return [replace(one, caption=caption) for one, caption in zip(known, captions, strict=True)]


def encoded(made: Sequence[Made]) -> tuple[Example, ...]:
    """The examples of a set."""
    encoder = make_encoder(MODES["t2a"], find_base("tiny"), CPU)
    with tempfile.TemporaryDirectory() as folder:
        clips = read_clips(MODES["t2a"], made, encoder, Path(folder) / "data")
        return encoder.prepare(clips, [], lambda note: None)[0].examples  # noqa: ARG005


def trained(
    name: str, options: argparse.Namespace, steps: int
) -> tuple[Transformer, Adapters, Trainer, Sequence[Example], Sequence[Example], Sequence[Example]]:
    """Everything to train with, and the training, held-out and unseen examples; no step is taken yet."""
    examples = encoded(sounds(name, options))
    training, others = examples[: SETS[name]], examples[SETS[name] :]
    model = load_transformer(find_base("tiny").checkpoint, video=False, device=CPU, dtype=torch.float32)
    adapters = add_adapters(model, MODES["t2a"].lora_targets, RANK, options.seed)
    trainer = Trainer(model, adapters, training, TrainingConfig(steps, LEARNING_RATE, options.seed))
    return model, adapters, trainer, training, others[: options.held_out], others[options.held_out :]


def judge_set(name: str, options: argparse.Namespace) -> None:
    """Print the judgement of each evaluation."""
    model, adapters, trainer, training, held_out, unseen = trained(name, options, options.steps)
    best = adapters.flat.detach().clone()
    base_unseen = grid_losses(model, unseen, CPU)
    measured = training[:MAX_CLIPS]
    history = History(
        range(len(measured)), range(100, 100 + options.held_out), all_training=len(measured) == len(training)
    )
    looks = options.steps // EVERY
    for step in range(0, options.steps + 1, EVERY):
        while trainer.step_count < step:
            trainer.step()
        with rounded_to_bf16(adapters):
            history.add(step, *(grid_losses(model, part, CPU) for part in (measured, held_out)))
        if history.best() == len(history.steps) - 1:
            best = adapters.flat.detach().clone()
        found = judge(history, len(history.steps) - 1, looks)
        if found is not None:
            on_training = math.expm1(changes(history.training[0], history.training[-1]).mean().item())
            print(
                f"| {name} | {step} | {found.status} | {percent(found.change)} | {100 * on_training:+.0f} % |",
                flush=True,
            )
    with rounded_to_bf16(adapters):
        last_unseen = grid_losses(model, unseen, CPU)
    with with_values(adapters, best), rounded_to_bf16(adapters):
        best_unseen = grid_losses(model, unseen, CPU)
    best_change, last_change = changes(base_unseen, best_unseen), changes(base_unseen, last_unseen)
    print(
        f"| {name} | best: step {history.steps[history.best() or 0]} | unseen sounds against the base: best "
        f"{percent(difference(best_change, range(UNSEEN)))}, last {percent(difference(last_change, range(UNSEEN)))}, "
        f"best against last {percent(difference(best_change - last_change, range(UNSEEN)))} |",
        flush=True,
    )


def strengths(options: argparse.Namespace) -> None:
    """Print the effect and the held-out loss by strength."""
    model, adapters, trainer, _, held_out, _ = trained("healthy", options, STRENGTH_STEPS)
    base = grid_losses(model, held_out, CPU)
    while trainer.step_count < STRENGTH_STEPS:
        trainer.step()
    with tempfile.TemporaryDirectory() as folder:
        save_lora(Path(folder) / "lora.safetensors", adapters, {})
        weights = inspect_lora(Path(folder) / "lora.safetensors", find_base("tiny")).total.change or 0.0
    for strength in STRENGTHS:
        with at_strength(adapters, strength):
            effect = measure_effect(model, adapters, held_out, CPU)
            change = difference(changes(base, grid_losses(model, held_out, CPU)), range(options.held_out))
        weights_changed = f"{100 * strength * weights:.1f} %"
        print(
            f"| {strength:g} | {weights_changed} | {effect.change:.3f} | {effect.verdict} | {percent(change)} |",
            flush=True,
        )


def copies(options: argparse.Namespace) -> None:
    """Print by kind the likenesses, and what is called a copy; a copy is later, fainter, brighter, cut and noisy."""
    for kind, of_kind in {**KINDS, **HELD_OUT_KINDS}.items():
        if kind not in COPY_KINDS:
            continue
        count = COPY_CLIPS + 2 * COPIES
        audio = [sound(options.seed + 7, index, 2.0, {kind: of_kind}).audio for index in range(count)]
        patterns = [pattern(one) for one in audio]
        clips, held_out, new = patterns[:COPY_CLIPS], patterns[COPY_CLIPS:-COPIES], patterns[-COPIES:]
        changed = [pattern(_changed(one, index)) for index, one in enumerate(audio[:COPIES])]
        known, copied, others = (
            [max(values) for values in zip(*(likenesses(some, clip) for clip in clips), strict=True)]
            for some in (held_out, changed, new)
        )
        called = [sum(is_copy(one, known) for one in some) for some in (copied, others)]
        middles = [f"{median(some):.2f}" for some in (copied, others)]
        print(
            f"| {kind} | {middles[0]} | {called[0]} of {COPIES} | {middles[1]} | {called[1]} of {COPIES} |", flush=True
        )


def _changed(clip: Waveform, seed: int) -> Waveform:
    rng = np.random.default_rng(seed)
    samples = 0.3 * np.roll(clip.samples, clip.sample_rate // 7, axis=1)
    samples = samples + 0.5 * np.diff(samples, axis=1, prepend=0)
    samples = samples + 0.03 * samples.std() * rng.normal(size=samples.shape)
    return replace(clip, samples=samples[:, : round(1.6 * clip.sample_rate)].astype(np.float32))


def share_of_time(options: argparse.Namespace) -> None:
    """Print what the evaluation of a run takes."""
    spent = 0.0

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            nonlocal spent
            began = time.process_time()
            try:
                return method(*args, **named)
            finally:
                spent += time.process_time() - began

        return call

    for name in ("measure", "finish", "add_previews", "metrics", "summary"):
        setattr(Evaluation, name, timed(getattr(Evaluation, name)))
    finish.preview_distances = timed(finish.preview_distances)  # type: ignore[assignment]
    mode = MODES["t2a"]
    with tempfile.TemporaryDirectory() as folder:
        made = [make("t2a", options.seed, index, options.seconds) for index in range(TIMED_CLIPS)]
        body = write_dataset("t2a", Path(folder) / "data", made) | {"number_of_steps": options.steps}
        taken: list[float] = []
        step = Trainer.step

        def timed_step(trainer: Trainer) -> torch.Tensor:
            if trainer.step_count >= WARM_UP + TIMED_STEPS:
                trainer.step_count += 1
                return torch.zeros(1)
            began = time.process_time()
            losses = step(trainer)
            taken.append(time.process_time() - began)
            return losses

        Trainer.step = timed_step  # type: ignore[method-assign]
        start(mode, parse(mode.request, body), RunSettings(device="cpu"), Path(folder) / "run", TerminalProgress())
    each = sum(taken[WARM_UP:]) / TIMED_STEPS
    training = options.steps * each
    print(
        f"{options.steps} steps on {TIMED_CLIPS} clips: evaluation {spent:.1f} s, training {training:.1f} s "
        f"({1000 * each:.0f} ms a step): {spent / training:.1%} more"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=[*SETS, "strengths", "copies", "time"])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--held-out", type=int, default=6, help="clips")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for what in options.what:
        {"strengths": strengths, "copies": copies, "time": share_of_time}.get(what, partial(judge_set, what))(options)


if __name__ == "__main__":
    main()
