"""Is what a run says of itself right? Sets of which it is known whether they can be learnt, judged as in a run.

    python bench/verdict.py healthy three shuffled strengths

`healthy`: 16 clips of a kind of sound that the base does not know. `three`: 3 of them, which can only be memorised.
`shuffled`: 16 clips of kinds that the base knows, each with the caption of another. 6 more of each set are held out.
All train with learning rate 1e-3 and rank 32 on `tiny`. `strengths`: the effect of the LoRA of `healthy` after 200
steps, at several strengths, beside the held-out loss. Prints a line each; docs/evaluation.md quotes them.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent / "learning"))

from experiment import make_encoder, read_clips
from made_data import Made, known_sounds, make

from sonolora.conditioning import Example
from sonolora.ltx.lora.adapters import add_adapters, rounded_to_bf16, with_values
from sonolora.ltx.model.lora_layer import Adapters
from sonolora.ltx.model.transformer import Transformer, load_transformer
from sonolora.ltx.weights.base import find_base
from sonolora.modes import MODES
from sonolora.runs.evaluation.evaluation_record import percent
from sonolora.training.differences import difference
from sonolora.training.effect import measure_effect
from sonolora.training.evaluation import History, changes, judge
from sonolora.training.trainer import Trainer, TrainingConfig
from sonolora.training.validation import MAX_CLIPS, grid_losses

CPU = torch.device("cpu")
HELD_OUT, EVERY, RANK, LEARNING_RATE = 6, 100, 32, 1e-3
STRENGTHS = (0.03, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
STRENGTH_STEPS = 200
SETS = {"healthy": 16, "three": 3, "shuffled": 16}


def sounds(name: str, seed: int, seconds: float) -> list[Made]:
    """The training sounds of a set, then the held-out ones."""
    count = SETS[name] + HELD_OUT
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
) -> tuple[Transformer, Adapters, Trainer, Sequence[Example], Sequence[Example]]:
    """Everything to train with, and the training and held-out examples; no step is taken yet."""
    examples = encoded(sounds(name, options.seed, options.seconds))
    training, held_out = examples[: SETS[name]], examples[SETS[name] :]
    model = load_transformer(find_base("tiny").checkpoint, video=False, device=CPU, dtype=torch.float32)
    adapters = add_adapters(model, MODES["t2a"].lora_targets, RANK, options.seed)
    trainer = Trainer(model, adapters, training, TrainingConfig(steps, LEARNING_RATE, options.seed))
    return model, adapters, trainer, training, held_out


def judge_set(name: str, options: argparse.Namespace) -> None:
    """Print the judgement of each evaluation."""
    model, adapters, trainer, training, held_out = trained(name, options, options.steps)
    measured = training[:MAX_CLIPS]
    history = History(range(len(measured)), range(100, 100 + HELD_OUT), all_training=len(measured) == len(training))
    looks = options.steps // EVERY
    for step in range(0, options.steps + 1, EVERY):
        while trainer.step_count < step:
            trainer.step()
        with rounded_to_bf16(adapters):
            history.add(step, *(grid_losses(model, part, CPU) for part in (measured, held_out)))
        found = judge(history, len(history.steps) - 1, looks)
        if found is not None:
            on_training = math.expm1(changes(history.training[0], history.training[-1]).mean().item())
            print(
                f"| {name} | {step} | {found.status} | {percent(found.change)} | {100 * on_training:+.0f} % |",
                flush=True,
            )


def strengths(options: argparse.Namespace) -> None:
    """Print the effect and the held-out loss by strength."""
    model, adapters, trainer, _, held_out = trained("healthy", options, STRENGTH_STEPS)
    base = grid_losses(model, held_out, CPU)
    while trainer.step_count < STRENGTH_STEPS:
        trainer.step()
    for strength in STRENGTHS:
        values = adapters.flat.detach().clone()
        for name, matrix in adapters.matrices(values).items():
            if name.endswith("lora_B"):
                matrix *= strength
        with with_values(adapters, values):
            effect = measure_effect(model, adapters, held_out, CPU)
            change = difference(changes(base, grid_losses(model, held_out, CPU)), range(HELD_OUT))
        print(f"| {strength:g} | {effect.change:.3f} | {effect.verdict} | {percent(change)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=[*SETS, "strengths"])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for what in options.what:
        strengths(options) if what == "strengths" else judge_set(what, options)


if __name__ == "__main__":
    main()
