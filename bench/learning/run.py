"""Does each mode learn? LoRA against base on a fixed held-out grid, mode by mode, in a table.

For each mode a made dataset is split by index into training and held-out clips; a LoRA is trained on the ones, and
measured on the others with the same noise levels and noise as the base. In: options. Out: a page of tables, printed,
and rewritten at `--out` after every mode.

    python bench/learning/run.py --threads 1 --out bench/learning/results.md      all modes
    python bench/learning/run.py --modes a2a v2a --steps 1000 --seconds 4         some, longer
"""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import torch
from experiment import exchanged, learn, make_encoder, prepare, zero_velocity
from made_data import KINDS
from torch import Tensor

from sonolora import __version__
from sonolora.bench import cpu_name
from sonolora.files import atomic_write
from sonolora.ltx.base import Base, find_base
from sonolora.ltx.lora import as_saved
from sonolora.modes import MODES
from sonolora.modes.mode import Mode
from sonolora.runs.settings import resolve_device
from sonolora.training.evaluation import SIGMAS, Difference, grid_losses, paired_difference, paired_grids
from sonolora.training.trainer import TrainingConfig

LINE = 115
TELL_EVERY = 50
RANDOM_BASE = "make_random_base"  # how such a base says of itself that it was never trained
GIVEN = {
    "t2a": "words",
    "a2a": "reference",
    "v2a": "film",
    "audio-inpaint": "kept frames",
    "audio-extend-suffix": "closing",
    "audio-extend-prefix": "opening",
}


@dataclass(frozen=True)
class Outcome:
    """Grids of losses (clips, sigmas) of one mode. `exchanged`: the LoRA, given what belongs to another clip."""

    mode: str
    base: Tensor
    lora: Tensor
    exchanged: Tensor
    zero: Tensor  # (clips, 1)
    trained_base: Tensor
    trained_lora: Tensor
    step_seconds: float


def measure(mode: Mode, base: Base, options: argparse.Namespace) -> Outcome:
    """Make the data, train, measure; tells how far it is."""
    device = resolve_device(options.device)
    config = TrainingConfig(options.steps, options.learning_rate, options.seed)
    print(f"{mode.name}: preparing {options.train_clips} + {options.held_out_clips} clips", flush=True)
    encoder = make_encoder(mode, base, device)
    examples = prepare(mode, encoder, options.train_clips + options.held_out_clips, options.seconds, options.seed)
    trained, held_out = examples[: options.train_clips], examples[options.train_clips :]
    began = time.monotonic()

    def tell(step: int) -> None:
        if step % TELL_EVERY == 0 or step == config.steps:
            print(f"{mode.name}: step {step} of {config.steps}, {time.monotonic() - began:.0f} s", flush=True)

    model, adapters = learn(mode, base, trained, options.rank, config, device, tell)
    step_seconds = (time.monotonic() - began) / config.steps
    count = len(held_out)
    lone, with_lora = paired_grids(model, adapters, held_out, device, count)
    with as_saved(adapters):
        confused = grid_losses(model, exchanged(held_out), device, count)
    trained_grids = paired_grids(model, adapters, trained, device, count)
    return Outcome(mode.name, lone, with_lora, confused, zero_velocity(held_out), *trained_grids, step_seconds)


def page(outcomes: list[Outcome], base: Base, options: argparse.Namespace) -> str:
    """The tables with what made them, Markdown."""
    held_out = table(
        ("mode", "kind of clips", "velocity 0", "base", "LoRA", "LoRA − base", "what is given", "exchanged − own"),
        [
            (
                one.mode,
                KINDS[one.mode],
                *(f"{losses.mean().item():.3f}" for losses in (one.zero, one.base, one.lora)),
                shown(paired_difference(one.base, one.lora)),
                GIVEN[one.mode],
                shown(paired_difference(one.lora, one.exchanged)),
            )
            for one in outcomes
        ],
    )
    by_sigma = table(
        ("mode", *(f"sigma {sigma:g}" for sigma in SIGMAS)),
        [
            (
                one.mode,
                *(
                    shown(paired_difference(one.base[:, [column]], one.lora[:, [column]]))
                    for column in range(len(SIGMAS))
                ),
            )
            for one in outcomes
        ],
    )
    gaps = []
    for one in outcomes:
        seen = paired_difference(one.trained_base, one.trained_lora)
        unseen = paired_difference(one.base, one.lora)
        gaps.append(
            (one.mode, shown(seen), shown(unseen), f"{unseen.mean - seen.mean:+.3f}", f"{1000 * one.step_seconds:.0f}")
        )
    made_by = str(base.checkpoint.metadata.get("made_by", "an unknown maker"))
    caveat = (
        " The base's weights are random: what is learnt here is a loss and no sound yet, and since such a base is "
        "worse than a velocity of 0, beating it says little. The table also has the loss of a velocity of 0, and what "
        "happens when what is given is exchanged."
    )
    threads = torch.get_num_threads()
    return "\n\n".join(
        [
            "# Does each mode learn?",
            f"    python bench/learning/run.py {shlex.join(sys.argv[1:])}",
            fill(
                f"Base {base.name} ({base.fingerprint}, made by {made_by}); {options.train_clips} training and "
                f"{options.held_out_clips} held-out clips of {options.seconds:g} s a mode, {options.steps} steps at "
                f"learning rate {options.learning_rate:g}, rank {options.rank}, seed {options.seed}. {cpu_name()}, "
                f"device {options.device}, {threads} thread{'s' * (threads > 1)}; Sonolora {__version__}, Python "
                f"{platform.python_version()}, torch {torch.__version__}." + caveat * made_by.startswith(RANDOM_BASE),
                LINE,
            ),
            fill(
                "Losses are means over clips and noise levels of the fixed grid. Differences are paired by clip, in "
                "brackets their 95 % bootstrap interval over clips. Below 0 the LoRA is better.",
                LINE,
            ),
            "## Held-out clips",
            fill(
                "The last column is the LoRA's own loss when each clip is given what belongs to the next one, minus "
                "its loss with its own: above 0, what is given is made use of.",
                LINE,
            ),
            held_out,
            "## Held-out clips by noise level: LoRA − base",
            by_sigma,
            "## Training clips and held-out clips: LoRA − base",
            "The two columns are of different clips, so that the gap is known no better than their intervals say.",
            table(("mode", "training", "held-out", "gap", "ms a step"), gaps),
        ]
    )


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def shown(difference: Difference) -> str:
    return f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description="Does each mode learn? LoRA against base on held-out clips.")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a clip; see made_data.py for films")
    parser.add_argument("--train-clips", type=int, default=24)
    parser.add_argument("--held-out-clips", type=int, default=12)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0, help="of the data, the adapters and the training")
    parser.add_argument("--base", default="tiny", help="name of a base, or its folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--out", type=Path, help="write the page there too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = find_base(options.base)
    outcomes: list[Outcome] = []
    for name in options.modes:
        outcomes.append(measure(MODES[name], base, options))
        if options.out is not None:
            with atomic_write(options.out) as temporary:
                temporary.write_text(page(outcomes, base, options) + "\n")
    print(page(outcomes, base, options))


if __name__ == "__main__":
    main()
