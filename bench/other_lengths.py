"""How much of what a LoRA learnt holds at lengths other than that of its training clips.

    python bench/other_lengths.py > bench/results/other_lengths.md

Trains t2a LoRAs on made clips of one length and measures, on held-out sounds of other lengths, how much lower the loss
is than the base's: the share of the gain at the trained length that is left. `generate` warns where it is less than
half. Some ten minutes of one core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent / "learning"))

from experiment import Plan, learn, make_encoder, prepare
from made_data import make

from sonolora.data.clips import Clip
from sonolora.ltx.lora.adapters import rounded_to_bf16
from sonolora.ltx.model.transformer import load_transformer
from sonolora.ltx.weights.base import find_base
from sonolora.media.audio import peak_normalized, resample
from sonolora.modes import MODES
from sonolora.training.trainer import TrainingConfig
from sonolora.training.validation import eval_losses

CPU = torch.device("cpu")
RATIOS = (0.25, 1 / 3, 0.5, 2 / 3, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", default="t2a", choices=("t2a", "a2a"))
    parser.add_argument("--seconds", type=float, nargs="+", default=(0.6, 1.0, 2.0), help="of training clips")
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--train-clips", type=int, default=32)
    parser.add_argument("--steps", type=int, default=200, help="of training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    mode, base = MODES[options.mode], find_base("tiny")
    encoder = make_encoder(mode, base, CPU)
    plain = load_transformer(base.checkpoint, video=False, device=CPU, dtype=torch.float32)
    print(f"# {mode.name} LoRAs at lengths other than their own\n")
    print("Share of the gain in loss at the trained length that is left at a multiple of it.\n")
    print("| trained on | " + " | ".join(f"{ratio:.2g}" for ratio in RATIOS) + " |")
    print("|---|" + "---:|" * len(RATIOS))
    for seconds in options.seconds:
        training = TrainingConfig(options.steps, 1e-3, 0, sigma_density=mode.sigma_density)
        plan = Plan(options.train_clips, 1, 0, seconds, 16, training)
        data = prepare(mode, encoder, plan)
        model, adapters = learn(mode, base, data.training_examples, plan.rank, training, CPU)
        gains = []
        with rounded_to_bf16(adapters):
            for ratio in RATIOS:
                clips = []
                for index in range(options.samples):
                    made = make(mode.name, 0, options.train_clips + 1 + index, seconds * ratio)
                    rate = encoder.codec.sample_rate
                    reference = made.reference and resample(peak_normalized(made.reference), rate)
                    clips.append(Clip("", made.caption, resample(peak_normalized(made.true), rate), reference))
                prepared, _ = encoder.prepare(clips, [], lambda note: None)  # noqa: ARG005
                losses = [eval_losses(one, prepared.examples, CPU, options.samples).mean() for one in (plain, model)]
                gains.append((losses[0] - losses[1]).item())
        whole = gains[RATIOS.index(1.0)]
        print(
            f"| {seconds:g} s ({whole:.3f}) | " + " | ".join(f"{gain / whole:.0%}" for gain in gains) + " |", flush=True
        )


if __name__ == "__main__":
    main()
