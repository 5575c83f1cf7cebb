"""What `--preserve` costs and saves: LoRAs trained with several shares of steps that keep the base as it is.

For each seed a dataset of a new kind is made, and a LoRA trained on it with each share. Measured: the mode's metrics of
sounds of the new kind; for captions of kinds that the base knows, in t2a, whether the sounds stay nearer to what the
captions say than to the new kind (leakage, as on docs/learning.md); and held-out losses of both against the base's.
In: options. Out: a line of JSON for each LoRA, appended to `--rows` (what stands there is not trained again), and a
page of tables.

    python bench/learning/preserve.py --threads 1 --rows preserve.jsonl --out bench/results/preserve.md
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from experiment import Data, Plan, make_encoder, prepare, read_clips
from judge import FIGURES, LORA, judge, judge_sets, leaks, space_figures
from made_data import FRAME_RATE, Made
from paired import paired_difference
from sets import both_spaces
from torch import Tensor

from sonolora.conditioning import Example
from sonolora.data.clips import Clip
from sonolora.data.encode import Encoder
from sonolora.data.foreign_captions import FOREIGN_CAPTIONS
from sonolora.ltx.lora.adapters import add_adapters, rounded_to_bf16
from sonolora.ltx.model.transformer import Transformer, load_transformer
from sonolora.ltx.weights.base import find_base
from sonolora.media.audio import Waveform, resample
from sonolora.modes import MODES
from sonolora.modes.mode import Mode
from sonolora.sampling.guidance import Guidance
from sonolora.sampling.preview import render
from sonolora.sampling.sampler import SamplingSettings
from sonolora.training import preservation
from sonolora.training.trainer import Trainer, TrainingConfig
from sonolora.training.validation import eval_losses

KNOWN = 16  # sounds or films of kinds that the base knows
_LEAKAGE = {"leaks": "leakage", "learned_leaks": "leakage, learned"}
_FILM_SEED = 7_000  # of films of known kinds; added to the seed of the data


def known_examples(mode: Mode, encoder: Encoder, data: Data, plan: Plan, scratch: Path) -> Sequence[Example]:
    """Examples of kinds that the base knows, with their own captions."""
    if not mode.video:
        clips = read_clips(mode, data.unrelated, encoder, scratch / f"known-{plan.training.seed}")
    else:
        from films import FRAME_COUNTS, film

        pictures = data.training[0].film.shape[0]  # type: ignore[union-attr]
        frames = next(count for count in FRAME_COUNTS if count >= pictures)
        made = [film(_FILM_SEED + plan.training.seed, index, frames) for index in range(KNOWN)]
        seconds = pictures / FRAME_RATE
        clips = [
            Clip(
                "film",
                one.caption,
                resample(
                    replace(one.audio, samples=one.audio.samples[:, : round(seconds * one.audio.sample_rate)]),
                    encoder.codec.sample_rate,
                ),
                frames=one.frames[:pictures],
                frame_rate=FRAME_RATE,
            )
            for one in made
        ]
    prepared, _ = encoder.prepare(clips, [], lambda note: None)  # noqa: ARG005
    return prepared.examples


def sounds(model: Transformer, encoder: Encoder, data: Data, plan: Plan) -> list[Waveform]:
    """One for each item, from noise that is the same for every model."""
    return [
        render(model, encoder.codec, item, plan.sampling, plan.training.seed + index, encoder.device)
        for index, item in enumerate(data.items)
    ]


class Seed:
    """The data of one seed and what the base makes of it."""

    def __init__(self, mode: Mode, plan: Plan, scratch: Path) -> None:
        self.mode, self.plan = mode, plan
        self.encoder = make_encoder(mode, find_base("tiny"), torch.device("cpu"))
        self.data = prepare(mode, self.encoder, plan)
        self.known = known_examples(mode, self.encoder, self.data, plan, scratch)
        self.foreign = [*self.encoder.encode_texts(FOREIGN_CAPTIONS, lambda note: None).values()]  # noqa: ARG005
        model = self._model()
        self.base_losses = self._losses(model)
        self.base_sounds = sounds(model, self.encoder, self.data, plan) if plan.sampling.steps > 1 else []

    def _model(self) -> Transformer:
        return load_transformer(
            self.encoder.base.checkpoint, video=self.mode.video, device=self.encoder.device, dtype=self.encoder.dtype
        )

    def _losses(self, model: Transformer) -> tuple[Tensor, Tensor]:
        new, known = self.data.held_out_examples, self.known
        return tuple(eval_losses(model, some, self.encoder.device, len(some)) for some in (new, known))  # type: ignore[return-value]

    def row(self, share: float, weight: float) -> dict[str, Any]:
        """Train one LoRA and measure it."""
        preservation.WEIGHT = weight
        model = self._model()
        adapters = add_adapters(model, self.mode.lora_targets, self.plan.rank, self.plan.training.seed)
        config = replace(self.plan.training, preserve=share, sigma_density=self.mode.sigma_density)
        trainer = Trainer(model, adapters, self.data.training_examples, config, foreign=self.foreign)
        while trainer.step_count < config.steps:
            trainer.step()
        with rounded_to_bf16(adapters):
            losses = self._losses(model)
            made = sounds(model, self.encoder, self.data, self.plan) if self.base_sounds else []
        held_out = self.data.held_out
        row: dict[str, Any] = {
            name: asdict(paired_difference(before, after))
            for name, before, after in zip(("new", "known"), self.base_losses, losses, strict=True)
        }
        row["base_losses"] = [one.mean().item() for one in self.base_losses]
        if not made:
            return row | {"figures": {}}
        if self.mode.name in FIGURES:
            chosen = dict.fromkeys(space_figures(self.mode.name).values())
            row["figures"] = {one.name: _value(one, held_out, made) for one in chosen}
            row["base_figures"] = {one.name: _value(one, held_out, self.base_sounds) for one in chosen}
            return row
        spaces = both_spaces(held_out[0].seconds)
        count = len(held_out)
        pairs = ((made, "figures"), (self.base_sounds, "base_figures"))
        for some, name in pairs:
            found = judge_sets(held_out, {LORA: [(sound,) for sound in some[:count]]}, spaces)
            row[name] = {one.figure: one.value for one in found}
        for space, name in zip(spaces, ("leaks", "learned_leaks"), strict=True):
            found_leaks = leaks(space, self.data.unrelated, self.base_sounds[count:], made[count:], held_out)
            row[name] = [asdict(one.margin) for one in found_leaks]
        return row


def _value(figure: Any, samples: Sequence[Made], some: Sequence[Waveform]) -> float:
    return judge([figure], samples, {LORA: [(sound,) for sound in some]})[0].value


def page(rows: Sequence[dict[str, Any]], steps: int) -> str:
    """A table for each mode, a line for each LoRA."""
    lines = [
        "# Keeping the base as it is", "",
        "Made by `python bench/learning/preserve.py --threads 1 --out bench/results/preserve.md` on the base `tiny`: "
        f"{steps} steps on made clips of a kind that it does not know, learning rate 1e-3, rank 32. `share`: of the "
        "steps that keep the base (`--preserve`); `weight`: of their loss. Losses are differences to the base; leakage "
        f"is of {KNOWN} captions of known kinds, below 0 where the sounds stay with their captions. Intervals are 95 % "
        "bootstrap intervals over samples.",
    ]  # fmt: skip
    for mode in dict.fromkeys(row["mode"] for row in rows):
        some = [row for row in rows if row["mode"] == mode]
        figures = list(some[0]["figures"])
        heads = ["seed", "share", "weight", *figures, "loss of the new kind", "loss of known kinds"]
        leaking = [(key, head) for key, head in _LEAKAGE.items() if key in some[0]]
        heads += [head for _, head in leaking]
        lines += ["", f"## {mode}", "", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
        for seed in dict.fromkeys(row["seed"] for row in some):
            of_seed = [row for row in some if row["seed"] == seed]
            base = of_seed[0]
            cells = [
                str(seed),
                "base",
                "",
                *(f"{base['base_figures'][name]:.3f}" for name in figures if "base_figures" in base),
            ]
            cells += [f"{loss:.3f}" for loss in base["base_losses"]]
            cells += [_interval(base[key][0]) for key, _ in leaking]
            lines.append(f"| {' | '.join(cells)} |")
            for row in of_seed:
                cells = [str(seed), f"{row['share']:g}", f"{row['weight']:g}" if row["share"] else ""]
                cells += [f"{row['figures'][name]:.3f}" for name in figures]
                cells += [_interval(row["new"]), _interval(row["known"])]
                cells += [_interval(row[key][1]) for key, _ in leaking]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _interval(one: dict[str, float]) -> str:
    return f"{one['mean']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", nargs="+", choices=("t2a", "v2a"), default=["t2a", "v2a"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.0, 0.25, 0.5])
    parser.add_argument("--weights", nargs="+", type=float, default=[preservation.WEIGHT])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--sampling-steps", type=int, default=12, help="1: losses alone, without sounds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--rows", type=Path, default=Path("preserve.jsonl"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    guidance = Guidance.of_base(find_base("tiny").checkpoint.metadata)
    usual = Plan(held_out_clips=24, unrelated=KNOWN, sampling=SamplingSettings(options.sampling_steps, guidance))
    rows = [json.loads(line) for line in options.rows.read_text().splitlines()] if options.rows.exists() else []
    done = {(row["mode"], row["seed"], row["share"], row["weight"]) for row in rows}
    variants = [(share, weight) for share in options.shares for weight in (options.weights if share else [1.0])]
    with tempfile.TemporaryDirectory() as scratch:
        for seed in options.seeds:
            for name in options.modes:
                left = [one for one in variants if (name, seed, *one) not in done]
                if not left:
                    continue
                plan = replace(usual, training=TrainingConfig(options.steps, 1e-3, seed))
                measured = Seed(MODES[name], plan, Path(scratch))
                for share, weight in left:
                    row = {"mode": name, "seed": seed, "share": share, "weight": weight, **measured.row(share, weight)}
                    rows.append(row)
                    with options.rows.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(json.dumps(row), flush=True)
    text = page(rows, options.steps)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
