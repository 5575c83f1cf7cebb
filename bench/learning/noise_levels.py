"""Which noise levels to train at: densities, and ways to draw or weight them, by held-out losses and sounds.

For each seed a dataset is made, and a LoRA trained on it with each variant. Held-out losses are taken at nine noise
levels with antithetic pairs of noise, and sounds are judged by the mode's main metric and by their distances to the
truth in two spaces. In: options. Out: a line of JSON for each LoRA, appended to `--rows` (what stands there is not
trained again), and a page of tables.

    python bench/learning/noise_levels.py --threads 1 --variants published clamped matched --rows noise-levels.jsonl \
        --out bench/results/noise_levels.md

The rule: another density than `published` becomes the default of a mode where over five seeds or
more it is clearly better (95 % Student interval of the paired difference) by sounds in one space or more and clearly
worse in none, and not clearly worse by the loss weighted by where the sampler steps.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from experiment import Data, Plan, make_encoder, prepare
from judge import FIGURES, LORA, judge, judge_sets, space_figures
from made_data import Made
from sets import both_spaces
from torch import Tensor

from sonolora.conditioning import Example, collate
from sonolora.core.randomness import generator, normal
from sonolora.data.encode import Encoder
from sonolora.ltx.lora.adapters import add_adapters, rounded_to_bf16, with_values
from sonolora.ltx.model.lora_layer import Adapters
from sonolora.ltx.model.transformer import Transformer, load_transformer
from sonolora.ltx.weights.base import find_base
from sonolora.media.audio import Waveform
from sonolora.modes import MODES
from sonolora.modes.mode import Mode
from sonolora.sampling.guidance import Guidance
from sonolora.sampling.noise_schedule import sampling_sigmas
from sonolora.sampling.preview import render
from sonolora.sampling.sampler import SamplingSettings
from sonolora.training.differences import student_quantile
from sonolora.training.loss import flow_losses
from sonolora.training.noise import DENSITIES
from sonolora.training.trainer import Trainer, TrainingConfig

SIGMAS = (0.05, 0.15, 0.3, 0.45, 0.6, 0.75, 0.85, 0.925, 0.975)
USUAL = "published"  # what the others are compared with; with `--averaged` its weights are also averaged
EMA_DECAY = 0.98
SOUNDS = 12  # of the held-out samples, those of which sounds are generated
HIGH = 0.8  # noise level from which a step of `two-at-high-noise` has two clips


@dataclass(frozen=True)
class Variant:
    """A density and what is changed about it."""

    density: str
    stratified: bool = False  # every run of 16 steps has one level of each sixteenth of the density
    weighted: bool = False  # losses are divided by what the base loses at the level
    two_at_high_noise: bool = False


VARIANTS = {
    **{density: Variant(density) for density in ("published", "clamped", "matched")},
    "published, stratified": Variant("published", stratified=True),
    "published, weighted": Variant("published", weighted=True),
    "published, two at high noise": Variant("published", two_at_high_noise=True),
}
_STRATA = 16


class _Levels:
    """Noise levels of a variant; `stratified` inverts an empirical distribution of the density."""

    def __init__(self, variant: Variant, tokens: int, seed: int) -> None:
        draw = generator(0, "levels")
        self._density = DENSITIES[variant.density]
        self._sorted = sorted(self._density(tokens, draw) for _ in range(20_000)) if variant.stratified else None
        self._tokens, self._seed = tokens, seed

    def __call__(self, step: int, slot: int) -> float:
        if self._sorted is None:
            return self._density(self._tokens, generator(self._seed, "sigma", step, slot))
        block, position = divmod(step, _STRATA)
        order = torch.randperm(_STRATA, generator=generator(self._seed, "strata", block))
        within = torch.rand((), generator=generator(self._seed, "sigma", step, slot)).item()
        quantile = (order[position].item() + within) / _STRATA
        return self._sorted[int(quantile * len(self._sorted))]


class _Study(Trainer):
    """The product's trainer with other noise levels, weights or batches."""

    def __init__(
        self, variant: Variant, base_losses: Tensor, model: Transformer, adapters: Adapters,
        examples: Sequence[Example], config: TrainingConfig,
    ) -> None:  # fmt: skip
        super().__init__(model, adapters, examples, config)
        self._variant, self._base_losses = variant, base_losses
        self._levels = _Levels(variant, examples[0].latents_BTC.shape[1], config.seed)

    def _inputs(self, step: int) -> tuple[Example, Tensor, Tensor]:
        sigma = self._levels(step, 0)
        count = 2 if self._variant.two_at_high_noise and sigma >= HIGH else 1
        picked = [self._examples[self._index(step)]]
        sigmas = [sigma]
        if count == 2:
            picked.append(self._examples[self._index(self.config.steps + step)])
            sigmas.append(sigma)
        example = collate(picked)
        frames, channels = example.latents_BTC.shape[1:]
        noise = [normal((1, frames, channels), self.config.seed, "noise", step, slot) for slot in range(count)]
        return example, torch.cat(noise), torch.tensor(sigmas)

    def _compute(self, example: Example, noise_BTC: Tensor, sigma_B: Tensor) -> Tensor:
        self._free_gradients()
        losses = flow_losses(self._model, example, noise_BTC, sigma_B)
        # Two clips at high noise are a batch of their own size.
        weight = self.config.batch_size / len(losses)
        return self._update(losses, weight * (self._weight(sigma_B[0].item()) if self._variant.weighted else 1.0))

    def _weight(self, sigma: float) -> float:
        nearest = min(range(len(SIGMAS)), key=lambda index: abs(SIGMAS[index] - sigma))
        return float(self._base_losses.mean() / self._base_losses[nearest])


@torch.inference_mode()
def held_out_losses(model: Transformer, examples: Sequence[Example]) -> Tensor:
    """Losses (clips, sigmas), each the mean over a pair of noises of opposite sign."""
    rows = []
    for index, example in enumerate(examples):
        noise = normal(tuple(example.latents_BTC.shape), 0, "held-out", index)
        both = collate([example, example])
        pair = torch.cat([noise, -noise])
        rows.append([flow_losses(model, both, pair, torch.full((2,), sigma)).mean() for sigma in SIGMAS])
    return torch.tensor([[loss.item() for loss in row] for row in rows])


def sampler_weights() -> Tensor:
    """(sigmas,) The share of the published sampler's steps nearest to each of `SIGMAS`; sums to 1."""
    steps = sampling_sigmas(30)[:-1]
    nearest = (steps[:, None] - torch.tensor(SIGMAS)).abs().argmin(1)
    return torch.bincount(nearest, minlength=len(SIGMAS)) / len(steps)


def measure(
    mode: Mode,
    name: str,
    data: Data,
    encoder: Encoder,
    plan: Plan,
    base_losses: Tensor,
    *,
    sounds: bool,
    averaged: bool,
) -> dict[str, object]:
    """Train one LoRA; its held-out losses, those of its averaged weights, and the metrics of its sounds."""
    variant = VARIANTS[name]
    model = load_transformer(encoder.base.checkpoint, video=mode.video, device=encoder.device, dtype=encoder.dtype)
    adapters = add_adapters(model, mode.lora_targets, plan.rank, plan.training.seed)
    config = replace(plan.training, sigma_density=variant.density)
    trainer = _Study(variant, base_losses.mean(0), model, adapters, data.training_examples, config)
    average = adapters.flat.detach().clone()
    while trainer.step_count < config.steps:
        trainer.step()
        keep = min(EMA_DECAY, trainer.step_count / (trainer.step_count + 10))
        average.lerp_(adapters.flat.detach(), 1 - keep)
    with rounded_to_bf16(adapters):
        losses = held_out_losses(model, data.held_out_examples)
        found = generated(model, data, encoder, plan) if sounds else []
    row: dict[str, object] = {
        "losses": losses.mean(0).tolist(),
        "sounds": metrics(mode.name, data.held_out, found) if found else None,
    }
    if averaged and name == USUAL:
        with with_values(adapters, average), rounded_to_bf16(adapters):
            row["averaged"] = held_out_losses(model, data.held_out_examples).mean(0).tolist()
    return row


def generated(model: Transformer, data: Data, encoder: Encoder, plan: Plan) -> list[Waveform]:
    """A sound for each of the first held-out samples."""
    items = data.items[:SOUNDS]
    seeds = range(plan.training.seed, plan.training.seed + len(items))
    return [
        render(model, encoder.codec, item, plan.sampling, seed, encoder.device)
        for item, seed in zip(items, seeds, strict=True)
    ]


def metrics(mode: str, samples: Sequence[Made], sounds: Sequence[Waveform]) -> dict[str, float]:
    """The mode's `main` metric, and the distances to the truth in the spaces `log_mel` and `learned`."""
    samples, contenders = samples[: len(sounds)], {LORA: [(sound,) for sound in sounds]}
    if mode not in FIGURES:
        log_mel, learned = (row.value for row in judge_sets(samples, contenders, both_spaces(samples[0].seconds)))
        return {"main": log_mel, "log_mel": log_mel, "learned": learned}
    return {name: judge([one], samples, contenders)[0].value for name, one in space_figures(mode).items()}


def page(rows: Sequence[dict[str, object]], plan: Plan, arguments: Sequence[str] = ()) -> str:
    """How the rows were made, and a table for each mode: means over seeds, differences to `published`."""
    weights = sampler_weights()
    lines = [
        "# Noise levels", "",
        f"Made by `python bench/learning/noise_levels.py {shlex.join(arguments)}` on the base "
        f"`tiny`: {plan.training.steps} steps on {plan.train_clips} made clips of {plan.seconds:g} s, "
        f"{plan.held_out_clips} held-out clips, {SOUNDS} sounds of {plan.sampling.steps} sampling steps; sizes were "
        "fixed beforehand. Mean over seeds of the held-out loss, plain over nine noise levels and weighted by where "
        "the sampler steps, of the mode's main metric of the sounds, and of their distances to the truth in log-mels "
        "and in the learned space ([evaluation](../../docs/evaluation.md#distances-of-sounds)). Differences are "
        "against `published`, paired by seed, with 95 % Student intervals over seeds; in brackets, in how many seeds "
        "the variant is better. All of it is about `tiny`.",
        "",
        "The rule: another density becomes a mode's default where over five seeds or more it is "
        "clearly better by sounds in one space or more and clearly worse in none, and not clearly worse by the "
        "weighted loss.",
    ]  # fmt: skip
    by_mode: dict[str, dict[str, dict[int, dict[str, float]]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        seed, mode, name = int(str(row["seed"])), str(row["mode"]), str(row["variant"])
        for suffix, key in (("", "losses"), (", averaged weights", "averaged")):
            if key not in row:
                continue
            losses = torch.tensor(row[key])
            values = {"plain": losses.mean().item(), "weighted": (losses * weights).sum().item()}
            if key == "losses" and row.get("sounds") is not None:
                values |= row["sounds"]  # type: ignore[operator]
            by_mode[mode][f"{name}{suffix}"][seed] = values
    for mode, variants in by_mode.items():
        figures = {"plain": "plain", "weighted": "weighted", "main": "main metric"}
        figures |= {"log_mel": "log-mel distance", "learned": "learned distance"}
        if mode not in FIGURES or FIGURES[mode][0] is space_figures(mode)["log_mel"]:
            del figures["main"]
        lines += ["", f"## {mode}", "", f"| variant | seeds | {' | '.join(figures.values())} |"]
        lines.append("|---|---:|" + "---|" * len(figures))
        for name, seeds in variants.items():
            cells = [_cell(variants.get(USUAL, {}), seeds, figure, mode) for figure in figures]
            lines.append(f"| {name} | {len(seeds)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(reference: dict[int, dict[str, float]], seeds: dict[int, dict[str, float]], figure: str, mode: str) -> str:
    values = {seed: row[figure] for seed, row in seeds.items() if figure in row}
    if not values:
        return ""
    mean = sum(values.values()) / len(values)
    differences = [value - reference[seed][figure] for seed, value in values.items() if seed in reference]
    if len(differences) < 2 or not any(differences):
        return f"{mean:.4f}"
    higher = figure == "main" and FIGURES[mode][0].higher_is_better
    change = sum(differences) / len(differences)
    error = (sum((one - change) ** 2 for one in differences) / (len(differences) - 1) / len(differences)) ** 0.5
    better = sum((one > 0) == higher for one in differences if one)
    half = student_quantile(0.975, len(differences) - 1) * error
    return f"{mean:.4f} ({change:+.4f} ± {half:.4f}) [{better} of {len(differences)}]"


def main() -> None:
    usual = Plan(train_clips=32, held_out_clips=24, unrelated=0)
    parser = argparse.ArgumentParser(description="Which noise levels to train at.")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--steps", type=int, default=usual.training.steps)
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="length of a sample")
    parser.add_argument("--held-out-clips", type=int, default=usual.held_out_clips)
    parser.add_argument("--sampling-steps", type=int, default=12, help="0: losses alone, without sounds")
    parser.add_argument("--averaged", action="store_true", help=f"also the losses of averaged weights of {USUAL}")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--rows", type=Path, default=Path("noise-levels.jsonl"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base, device = find_base("tiny"), torch.device("cpu")
    guidance = Guidance.of_base(base.checkpoint.metadata)
    rows = [json.loads(line) for line in options.rows.read_text().splitlines()] if options.rows.exists() else []
    done = {(row["mode"], row["variant"], row["seed"]) for row in rows}
    plan = replace(
        usual,
        held_out_clips=options.held_out_clips,
        training=TrainingConfig(options.steps, 1e-3, 0),
        sampling=SamplingSettings(options.sampling_steps or 1, guidance),
        seconds=options.seconds,
    )
    for seed in options.seeds:
        for mode_name in options.modes:
            mode = MODES[mode_name]
            left = [name for name in options.variants if (mode_name, name, seed) not in done]
            if not left:
                continue
            plan = replace(plan, training=replace(plan.training, seed=seed))
            encoder = make_encoder(mode, base, device)
            data = prepare(mode, encoder, plan)
            model = load_transformer(base.checkpoint, video=mode.video, device=device, dtype=encoder.dtype)
            base_losses = held_out_losses(model, data.held_out_examples)
            for name in left:
                row = {"mode": mode_name, "variant": name, "seed": seed, "base": base_losses.mean(0).tolist()}
                with_sounds = bool(options.sampling_steps)
                row |= measure(
                    mode, name, data, encoder, plan, base_losses, sounds=with_sounds, averaged=options.averaged
                )
                rows.append(row)
                with options.rows.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(mode_name, name, seed, [round(loss, 4) for loss in row["losses"]], row["sounds"], flush=True)
    shown = [row for row in rows if row["mode"] in options.modes and row["variant"] in options.variants]
    text = page(shown, plan, sys.argv[1:])
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
