"""a2a with its reference overlapping the target or at negative times: what each LoRA is worth in each.

    python bench/reference_positions.py --steps 200 > bench/results/reference_positions.md

Trains a LoRA on made pairs (a sound, and the same through a small radio) with each of the two, and measures the loss on
held-out pairs with fixed noise in both, beside the base. In brackets the loss with the reference of the next pair: the
nearer the two, the less the LoRA uses the reference. About ten minutes of one core.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent / "learning"))

from experiment import Plan, learn, make_encoder, prepare
from losses import exchanged

from sonolora.conditioning import with_reference_positions
from sonolora.core.frames import REFERENCE_POSITIONS
from sonolora.ltx.lora.adapters import rounded_to_bf16
from sonolora.ltx.weights.base import find_base
from sonolora.modes.a2a import A2A
from sonolora.training.validation import eval_losses, only_adapters, without_adapters

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--train-clips", type=int, default=24)
    parser.add_argument("--held-out-clips", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = find_base("tiny")
    usual = Plan()
    print("# a2a: where the reference lies on the time axis\n")
    print(f"`python bench/reference_positions.py {' '.join(sys.argv[1:])}`; base {base.fingerprint}. Loss on held-out")
    print("pairs with fixed noise, in brackets with the reference of the next pair.\n")
    print("| trained with | seed | used with overlap | used with negative |\n|---|---|---|---|")
    for seed in options.seeds:
        training = replace(usual.training, steps=options.steps, seed=seed, sigma_density=A2A.sigma_density)
        plan = replace(
            usual,
            train_clips=options.train_clips,
            held_out_clips=options.held_out_clips,
            seconds=options.seconds,
            training=training,
        )
        encoder = make_encoder(A2A, base, CPU)
        data = prepare(A2A, encoder, plan)
        for positions in REFERENCE_POSITIONS:
            examples = [with_reference_positions(example, positions) for example in data.training_examples]
            model, adapters = learn(A2A, base, examples, plan.rank, training, CPU)

            def measured(model=model, data=data) -> str:
                cells = []
                for used in REFERENCE_POSITIONS:
                    clips = [with_reference_positions(example, used) for example in data.held_out_examples]
                    pair = [eval_losses(model, some, CPU, len(clips)).mean() for some in (clips, exchanged(clips))]
                    cells.append("{:.3f} ({:.3f})".format(*pair))
                return " | ".join(cells)

            if positions == REFERENCE_POSITIONS[0]:
                with only_adapters(adapters, without_adapters):
                    print(f"| the base | {seed} | {measured()} |", flush=True)
            with rounded_to_bf16(adapters):
                print(f"| {positions} | {seed} | {measured()} |", flush=True)


if __name__ == "__main__":
    main()
