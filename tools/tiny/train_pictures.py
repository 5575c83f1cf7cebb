"""Trains the video path of the transformer of `tiny` alone: how a video determines its sound.

    python tools/tiny/train_pictures.py [--work DIR] [--steps N] [--device cuda]

Out: pictures.pt and pictures.jsonl in the work folder; run it again to resume. Needs transformer.pt, whose EMA weights
it starts from, and video.pt.

All batches are videos. The audio path stays bit-identical, so the base keeps what it knows of sounds. The video stream
is reinitialised, since the network closes paths that it learnt to do without. The losses are those of
train_transformer.py.
"""

from __future__ import annotations

import torch
import train_transformer
from fit import Plan, arguments, fit, newest
from header import CONFIG
from latents import FILMS
from train_transformer import Mix, Network, training

from sonolora.ltx.model.transformer import is_transformer_tensor

NAME = "pictures"
_TRANSFORMER = "transformer."


def of_sound(name: str) -> bool:
    """Whether a tensor of the network is used without video."""
    if name.startswith(_TRANSFORMER):
        return is_transformer_tensor(name.removeprefix(_TRANSFORMER), video=False)
    return name.startswith(("audio.", "heard."))


def keep_what_sounds(network: Network, average: dict[str, torch.Tensor]) -> None:
    """Copy and freeze the audio path."""
    network.load_state_dict({name: value for name, value in average.items() if of_sound(name)}, strict=False)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not of_sound(name))


def main() -> None:
    args = arguments(__doc__, batch=8, steps=2_000, learning_rate=1e-3).parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    state = newest(args.work, train_transformer.NAME, CONFIG["transformer"])
    if not state:
        raise SystemExit(f"{args.work} has no {train_transformer.NAME}.pt, which has to be trained first")
    shares = {one: one.share for one in FILMS}
    network, losses_of = training(
        args.work, torch.device(args.device), NAME, FILMS, lambda step: Mix(shares, dict.fromkeys(FILMS, step))
    )
    keep_what_sounds(network, state["average"])
    plan = Plan(args.work, NAME, CONFIG["transformer"], args.batch, args.steps, args.learning_rate, save=200)
    fit(plan, network, losses_of)


if __name__ == "__main__":
    main()
