"""What a sweep saves: 8 LoRAs at once on one base, beside 8 runs one after the other.

    OMP_NUM_THREADS=1 python bench/sweep.py steps whole --out bench/results/sweep.md

`steps`: one training step of 8 members beside 8 steps of one LoRA each, in turns, at two lengths of clips. `whole`: a
sweep, the same with --keep-all, and 8 runs with the same clips, from data to LoRA, with evaluations and without
previews; all in one process, the encoded data in the cache before. Also what `whole` shows on the way: how far the
members are from the LoRAs that were trained alone, and whether the best of all was kept. Ratios are of the processor
time of one process, which does not depend on what else the machine does; `wall` beside it is the time of a clock.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).parent / "learning"))

from made_data import make, write_dataset

from sonolora.core.frames import frame_count
from sonolora.core.threads import configure_threads
from sonolora.ltx.weights.base import find_base
from sonolora.modes import MODES
from sonolora.planning.base_shape import BaseShape
from sonolora.planning.bench.synthetic import synthetic_trainer
from sonolora.planning.run_settings import RunSettings
from sonolora.planning.sweep_plan import read_sweep
from sonolora.planning.work_counts import Step, Tokens
from sonolora.runs.artifacts import EVALUATION, SWEEP
from sonolora.runs.start import start

CPU = torch.device("cpu")
T2A = MODES["t2a"]
RATES, RANKS = [1e-4, 5e-4, 1e-3, 2e-3], [16, 32]
MEMBERS = len(RATES) * len(RANKS)
LENGTHS = 1.0, 5.0
ROUNDS = 9


class Quiet:
    """A `Progress` that shows warnings alone."""

    def phase(self, name: str, total: int | None) -> None: ...

    def advance(self, note: str = "", *, to: int | None = None) -> None: ...

    def message(self, text: str) -> None: ...

    def warning(self, text: str) -> None: ...

    def metrics(self, step: int, values: object) -> None: ...

    def remaining(self, seconds: float) -> None: ...


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the processor and of the clock."""
    began = time.process_time(), time.perf_counter()
    function()
    return time.process_time() - began[0], time.perf_counter() - began[1]


def steps() -> Iterator[str]:
    """A step of all members beside a step of each."""
    shape = BaseShape.of(find_base("tiny"))
    layers = shape.transformer_config.layers
    yield "| clip | one step of 8 members | 8 steps of one LoRA | ratio |"
    yield "|---|---|---|---|"
    for seconds in LENGTHS:
        tokens = Tokens(frame_count(seconds))
        many, _ = synthetic_trainer(shape, layers, Step(T2A.lora_targets, max(RANKS), tokens, members=MEMBERS), CPU)
        alone = [synthetic_trainer(shape, layers, Step(T2A.lora_targets, rank, tokens), CPU)[0] for rank in RANKS]
        pairs = []
        for _ in range(2 + ROUNDS):
            together = timed(many.step)[0]
            one_by_one = MEMBERS / len(RANKS) * sum(timed(trainer.step)[0] for trainer in alone)
            pairs.append((together, one_by_one))
        pairs = pairs[2:]
        ratio = median(together / one_by_one for together, one_by_one in pairs)
        together, one_by_one = (1000 * median(one) for one in zip(*pairs, strict=True))
        yield f"| {seconds:g} s | {together:.0f} ms | {one_by_one:.0f} ms | {ratio:.2f} |"


def whole(options: argparse.Namespace) -> Iterator[str]:
    """Whole sweeps beside whole runs."""
    settings = RunSettings(device="cpu", held_out=options.held_out)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["SONOLORA_CACHE"] = str(folder / "cache")
        made = [make("t2a", options.seed, index, options.seconds) for index in range(options.clips)]
        body = {**write_dataset("t2a", folder / "data", made), "number_of_steps": options.steps}

        def sweep(out: Path, *, keep_all: bool, rates: list[float] = RATES, **changed: int) -> None:
            plan, request = read_sweep(
                T2A, {**body, "learning_rate": rates, "rank": RANKS, **changed}, keep_all=keep_all
            )
            start(T2A, request, settings, out, Quiet(), plan=plan)

        sweep(folder / "warm", keep_all=False, rates=RATES[:1], number_of_steps=100)
        halved = timed(lambda: sweep(folder / "halved", keep_all=False))
        everyone = timed(lambda: sweep(folder / "all", keep_all=True))
        standings = json.loads((folder / "all" / SWEEP).read_text())
        runs, changes = [], []
        for number, member in enumerate(standings["members"]):
            own = {"learning_rate": member["learning_rate"], "rank": member["rank"]}
            request = read_sweep(T2A, {**body, "learning_rate": [own["learning_rate"], 1.0]})[1].model_copy(update=own)
            out = folder / f"run{number}"
            runs.append(timed(lambda request=request, out=out: start(T2A, request, settings, out, Quiet())))  # type: ignore[misc]
            evaluation = json.loads((out / EVALUATION).read_text())["evaluations"][-1]
            changes.append(evaluation["held_out"]["change"]["mean"])
        best = json.loads((folder / "halved" / SWEEP).read_text())
    total = [sum(part) for part in zip(*runs, strict=True)]
    yield f"{options.clips} clips of {options.seconds:g} s, {options.steps} steps, seed {options.seed}:"
    yield ""
    yield "| | processor | wall | processor against 8 runs |"
    yield "|---|---|---|---|"
    for what, (processor, wall) in (("sweep", halved), ("sweep --keep-all", everyone), ("8 runs", total)):
        yield f"| {what} | {processor:.0f} s | {wall:.0f} s | {processor / total[0]:.2f} |"
    yield ""
    yield "| rank | learning rate | held-out loss, trained with the others | alone | ended after step |"
    yield "|---|---|---|---|---|"
    for member, alone, ended in zip(standings["members"], changes, best["members"], strict=True):
        together = member["change"]["mean"]
        yield (
            f"| {member['rank']} | {member['learning_rate']:g} | {100 * together:+.3f} % | {100 * alone:+.3f} % "
            f"| {ended['steps']}{' (kept)' if ended is best['members'][best['best']] else ''} |"
        )
    yield ""
    yield "Held-out losses are 100 times the mean logarithm of the ratio to the base's, at the last step. A run also"
    yield "measures training clips, its effect and a table of clips, which a sweep does not: what sharing the base"
    yield "saves by itself is in the ratios of steps."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=["steps", "whole"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--held-out", type=float, default=6)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    configure_threads()
    torch.set_num_threads(1)
    lines = [
        "# A sweep of 8 LoRAs beside 8 runs",
        "",
        f"Made by `OMP_NUM_THREADS=1 python bench/sweep.py {' '.join(options.what)}` on `tiny`, with one thread of a "
        "busy CPU: times are of the processor, and each pair is measured in turns.",
        "",
    ]
    for what in options.what:
        for line in steps() if what == "steps" else whole(options):
            print(line, flush=True)
            lines.append(line)
        lines.append("")
    if options.out is not None:
        options.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
