"""Does each mode learn? Compares the sounds of a LoRA with those of the base and of naive baselines, mode by mode.

For each mode a synthetic dataset is split by index into training and held-out samples. A LoRA is trained on the first,
and base and LoRA generate a sound for each of the others from the same noise. In: options. Out: a page of tables,
printed, and rewritten at `--out` after every mode. Results are cached: the same command resumes after an interruption.

    python bench/learning/run.py --threads 1 --out docs/learning.md                   all modes
    python bench/learning/run.py --densities published clamped matched --preserve 0.125 --out docs/learning.md
    python bench/learning/run.py --modes a2a v2a --steps 1000 --sounds heard          some, longer, with the sounds
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from contenders import contenders
from experiment import Data, Outcome, Plan, base_alone, make_encoder, prepare, with_lora
from judge import FIGURES, LORA, Contenders, Leak, Row, judge, judge_sets, leaks
from losses import zero_velocity
from made_data import Made
from page import KEPT, Losses, Preserved, Report, page
from sets import Space, both_spaces

from sonolora.core.atomic_files import atomic_write
from sonolora.core.devices import resolve_device
from sonolora.ltx.weights.base import Base, find_base
from sonolora.modes import MODES
from sonolora.modes.mode import Mode
from sonolora.sampling.guidance import Guidance
from sonolora.sampling.preview import joined, write_preview
from sonolora.sampling.sampler import SamplingSettings
from sonolora.training.noise import DENSITIES
from sonolora.training.trainer import TrainingConfig

# Factors on the number of held-out samples, where a pilot with the usual number gave no clear answer. The densities are
# compared on the usual number.
PRESERVED = ("t2a", "v2a")  # modes that `--preserve` is tried in
MORE_HELD_OUT = {"t2a": 3, "audio-extend-suffix": 8, "audio-extend-prefix": 4}


def measure(
    mode: Mode, base: Base, plans: Mapping[str, Plan], preserve: float, device: torch.device, sounds: Path | None
) -> Report:
    """Make the data, train with each density, generate and evaluate; prints progress.

    `preserve`: a LoRA of the first density is also trained with this share of steps that keep the base; 0: none.
    """
    first, plan = next(iter(plans.items()))
    _tell(mode, "preparing")
    encoder = make_encoder(mode, base, device)
    data = prepare(mode, encoder, plan)
    alone = base_alone(mode, encoder, data, plan, partial(_tell, mode))
    taught = {
        density: with_lora(mode, encoder, _first(data, one.held_out_clips), one, partial(_tell, mode, density))
        for density, one in plans.items()
    }
    lora = taught[first]
    kept = None
    if preserve:
        one = replace(plan, training=replace(plan.training, preserve=preserve))
        kept = with_lora(mode, encoder, data, one, partial(_tell, mode, f"preserve {preserve:g}"))
    _tell(mode, "judging")
    spaces = both_spaces(data.held_out[0].seconds)
    found = contenders(mode, encoder, data, alone.held_out, lora.held_out)
    if sounds is not None:
        _write_sounds(sounds / mode.name, found, data.held_out)
    return Report(
        mode.name,
        plan.training.steps,
        len(data.held_out),
        _rows(mode, data.held_out, found, spaces),
        _leaks(data, alone, lora, spaces),
        _by_density(mode, data.held_out, taught, spaces),
        None if kept is None else _preserved(mode, data, alone, lora, preserve, kept, spaces),
        Losses(zero_velocity(data.held_out_examples), alone.losses, lora.losses, lora.exchanged_losses),
    )


def _first(data: Data, count: int) -> Data:
    """The first `count` held-out samples; unrelated ones only with all of them."""
    if count == len(data.held_out):
        return data
    examples, items = data.held_out_examples[:count], data.items[:count]
    return replace(data, held_out=data.held_out[:count], held_out_examples=examples, items=items, unrelated=())


def _rows(mode: Mode, samples: Sequence[Made], found: Contenders, spaces: Sequence[Space]) -> list[Row]:
    figures = FIGURES.get(mode.name)
    return judge_sets(samples, found, spaces) if figures is None else judge(figures, samples, found)


def _leaks(data: Data, base: Outcome, lora: Outcome, spaces: Sequence[Space]) -> list[Leak]:
    if not data.unrelated:
        return []
    return [
        leak for space in spaces for leak in leaks(space, data.unrelated, base.unrelated, lora.unrelated, data.held_out)
    ]


def _preserved(
    mode: Mode, data: Data, base: Outcome, lora: Outcome, share: float, kept: Outcome, spaces: Sequence[Space]
) -> Preserved:
    """All metrics of the LoRA that kept the base, with the margin of the other one."""
    found = {LORA: [(sound,) for sound in lora.held_out], KEPT: [(sound,) for sound in kept.held_out]}
    rows = [row for row in _rows(mode, data.held_out, found, spaces) if row.contender == KEPT]
    return Preserved(share, rows, _leaks(data, base, kept, spaces))


def _by_density(
    mode: Mode, samples: Sequence[Made], taught: Mapping[str, Outcome], spaces: Sequence[Space]
) -> dict[str, Row]:
    """The rows of the main metric, on the samples common to all densities."""
    first = next(iter(taught))
    count = min(len(outcome.held_out) for outcome in taught.values())
    found = {
        LORA if density == first else density: [(sound,) for sound in outcome.held_out[:count]]
        for density, outcome in taught.items()
    }
    rows = _rows(mode, samples[:count], found, spaces[:1])[: len(taught)]
    return dict(zip(taught, rows, strict=True))


def _write_sounds(folder: Path, found: Contenders, samples: Sequence[Made]) -> None:
    """Write all sounds of a contender to one file with its picture, in the order of the samples."""
    for name, some in [*found.items(), ("the truth", [(made.true,) for made in samples])]:
        write_preview(folder / f"{name.replace(' ', '-')}.wav", joined([sounds[0] for sounds in some]), name)


def _tell(mode: Mode, *notes: str) -> None:
    print(": ".join((mode.name, *notes)), flush=True)


def main() -> None:
    usual = Plan()
    parser = argparse.ArgumentParser(description="Does each mode learn? LoRA against base on held-out sounds.")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--densities", nargs="+", choices=list(DENSITIES), default=[],
                        help="also train with these; the main tables use the default density of the mode")  # fmt: skip
    parser.add_argument("--preserve", type=float, default=0.0,
                        help=f"also train so that this share of steps keeps the base; in {PRESERVED}")  # fmt: skip
    parser.add_argument("--steps", type=int, default=usual.training.steps)
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="length of a sample")
    parser.add_argument("--train-clips", type=int, default=usual.train_clips)
    parser.add_argument("--held-out-clips", type=int, default=usual.held_out_clips,
                        help=f"some modes multiply it: {MORE_HELD_OUT}")  # fmt: skip
    parser.add_argument("--unrelated", type=int, default=usual.unrelated, help="captions of known kinds, in t2a")
    parser.add_argument("--rank", type=int, default=usual.rank)
    parser.add_argument("--learning-rate", type=float, default=usual.training.learning_rate)
    parser.add_argument("--sampling-steps", type=int, default=usual.sampling.steps)
    parser.add_argument("--cfg-scale", type=float, help="classifier-free guidance; default: that of the base")
    parser.add_argument("--stg-scale", type=float, help="spatio-temporal guidance; default: that of the base")
    parser.add_argument("--seed", type=int, default=usual.training.seed, help="of data, adapters, training and sounds")
    parser.add_argument("--base", default="tiny", help="name of a base, or its folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--sounds", type=Path, help="folder for the sounds that are compared")
    parser.add_argument("--out", type=Path, help="also write the page to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base, device = find_base(options.base), resolve_device(options.device)
    config = TrainingConfig(options.steps, options.learning_rate, options.seed)
    guidance = Guidance.of_base(base.checkpoint.metadata, cfg=options.cfg_scale, stg=options.stg_scale)
    plan = Plan(
        options.train_clips, options.held_out_clips, options.unrelated, options.seconds, options.rank, config,
        SamplingSettings(options.sampling_steps, guidance),
    )  # fmt: skip
    reports: list[Report] = []
    for name in options.modes:
        mode = MODES[name]
        densities = dict.fromkeys([mode.sigma_density, *options.densities])
        plans = {one: replace(plan, training=replace(config, sigma_density=one)) for one in densities}
        own = plans[mode.sigma_density]
        plans[mode.sigma_density] = replace(own, held_out_clips=own.held_out_clips * MORE_HELD_OUT.get(name, 1))
        preserve = options.preserve if name in PRESERVED else 0.0
        reports.append(measure(mode, base, plans, preserve, device, options.sounds))
        text = page(reports, base, plan, sys.argv[1:])
        if options.out is not None:
            with atomic_write(options.out) as temporary:
                temporary.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
