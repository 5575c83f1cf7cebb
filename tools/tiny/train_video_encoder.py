"""Fits the video encoder of `tiny` to the films in closed form: principal components of what is seen and of what moves.

    python tools/tiny/train_video_encoder.py [--work DIR] [--films N]

Out: video.pt and video.jsonl in the work folder. Nothing here knows of sounds or of events.

A latent stands for 8 frames of 32 x 32 pixels, 24576 numbers, with 32. Which 32 matter is measured on two films at
once: the film itself, and its changes from each frame to the next. Both pass through the same linear layers, and each
layer keeps the principal components of the two together. Changes are scaled to unit size in every film, so that a small
thing that moves counts like a large one, and the background, which does not change, counts in one of the two alone.

How the published network computes a linear map: the residual blocks add nothing; the first convolution and the one in
each compression read the middle of their kernel; a compression then stacks the places it merges, and adds their mean,
against which its components are made large. What the last normalisation and activation leave of the result is mapped
to the 32 numbers from which the components of both films are best rebuilt, all of equal size. Trained from random
weights instead, encoder and decoder had found hardly any motion in ten times the time that this takes.

N films, F frames, H W pixels, C channels of a layer.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from films import FRAME_RATE, SIZE, Film, film
from header import CONFIG
from scenes import KINDS
from torch import Tensor, nn

from sonolora.files import atomic_write
from sonolora.ltx.video_encoder import VideoEncoder

__all__ = ["FRAME_RATE", "NAME", "from_state"]

NAME = "video"
FILMS = 60
_SEED = 0  # of the corpus
_FRAMES = 49
_SIZES = (SIZE, SIZE, SIZE, SIZE, (64, 64), (96, 96), (96, 160))
_FILM_WEIGHT = 0.5  # of a film against its changes, pixels being from -1 to 1 and changes of unit size
_LEAST_CHANGE = 1e-4  # mean square; where hardly anything moves, changes are not blown up
_GAIN = 4.0  # of components over the mean that a compression adds
_BIAS = 2.0  # of the last compression, against the size of what comes out of it
_FLOOR = 1e-4  # of variances, against the largest


@dataclass(frozen=True)
class Seen:
    """A film and its changes on their way through the layers, each (C, F, H, W), and their weights."""

    film: Tensor
    changes: Tensor
    changes_weight: float

    def through(self, layer: nn.Module) -> Seen:
        film, changes = layer(torch.stack([self.film, self.changes]))
        return Seen(film, changes, self.changes_weight)

    def weighted(self) -> Tensor:
        """(2, positions, C)"""
        rows = torch.stack([_FILM_WEIGHT * self.film, self.changes_weight * self.changes])
        return rows.flatten(2).transpose(1, 2)


def pixels_of(films: Sequence[Film]) -> Tensor:
    """What the encoder sees of films of one size, (N, 3, F, H, W), -1 to 1."""
    frames = torch.from_numpy(np.stack([one.frames for one in films]))
    return frames.movedim(-1, 1).float() / 127.5 - 1


@torch.no_grad()
def fit_encoder(films: Sequence[Tensor]) -> tuple[VideoEncoder, dict[str, float]]:
    """The encoder for films (1, 3, F, H, W), its weights and statistics rounded as the base's file stores them.

    Also what share of the last compression's components its latents explain, of films and of changes.
    """
    encoder = VideoEncoder(CONFIG["vae"]).eval().requires_grad_(False)
    network = encoder.network
    for parameter in network.parameters():
        parameter.zero_()
    seen = [_seen(one[0], network.patch_size) for one in films]
    _keep_components(network.conv_in.conv, seen, 1.0)
    seen = [one.through(network.conv_in) for one in seen]
    for block in network.down_blocks:
        compression = block.downsamplers[0]
        _keep_components(compression.conv.conv, seen, _GAIN)
        seen = [one.through(compression) for one in seen]
    size = torch.cat([one.film.flatten() for one in seen]).square().mean().sqrt()
    bias = (_BIAS * size).bfloat16()
    network.down_blocks[-1].downsamplers[0].conv.conv.bias.fill_(bias)
    explained = _map_to_latents(network, seen, bias)
    _measure_statistics(encoder, films)
    return encoder, explained


def _seen(film_CFHW: Tensor, patch: int) -> Seen:
    """A film as the network's first convolution sees it: in patches, their pixels by column, then by row."""
    cells = film_CFHW.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (3, F, H, row, W, column)
    patches = cells.permute(0, 5, 3, 1, 2, 4).flatten(0, 2)
    changes = torch.cat([torch.zeros_like(patches[:, :1]), patches.diff(dim=1)], dim=1)
    return Seen(patches, changes, float((changes.square().mean() + _LEAST_CHANGE).rsqrt()))


def _keep_components(conv: nn.Conv3d, seen: Sequence[Seen], gain: float) -> None:
    """Make a convolution compute the principal components of what comes in."""
    covariance = sum(rows.T @ rows for one in seen for rows in one.weighted())
    components = torch.linalg.eigh(covariance.double())[1].flip(1)[:, : len(conv.weight)].T
    conv.weight.zero_()
    conv.weight[:, :, -1, 1, 1] = gain * components.bfloat16()


def _map_to_latents(network: nn.Module, seen: Sequence[Seen], bias: Tensor) -> dict[str, float]:
    """Fill the last convolution: reduced-rank regression of what the last compression holds of both films."""
    hidden = [network.conv_act(network.norm_out((one.film + bias)[None]))[0].flatten(1).T for one in seen]
    rows = torch.cat(hidden).double()
    goals = torch.cat([one.weighted().transpose(0, 1).flatten(1) for one in seen]).double()
    rows, goals = rows - rows.mean(0), goals - goals.mean(0)
    variances, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    whitening = vectors / (variances + _FLOOR * variances[-1]).sqrt()
    best, strengths, rebuilt = torch.linalg.svd((rows @ whitening).T @ goals / len(rows), full_matrices=False)
    conv = network.conv_out.conv
    count = len(conv.weight) - 1  # the last channel is the log-variance, from which nothing here draws
    conv.weight.zero_()
    conv.weight[:count, :, -1, 1, 1] = (whitening @ best[:, :count]).T.bfloat16().float()
    shares = (strengths[:count, None] * rebuilt[:count]).square().sum(0).chunk(2)
    totals = goals.square().mean(0).chunk(2)
    return {
        name: float(share.sum() / total.sum())
        for name, share, total in zip(("film", "changes"), shares, totals, strict=True)
    }


def _measure_statistics(encoder: VideoEncoder, films: Sequence[Tensor]) -> None:
    """Set the mean and spread of the latents."""
    latents = torch.cat([encoder.encode(one)[0].flatten(1) for one in films], dim=1)  # (C, tokens)
    encoder.latents_mean.copy_(latents.mean(1).bfloat16())
    encoder.latents_std.copy_(latents.std(1).bfloat16())


def from_state(state: dict[str, Any]) -> VideoEncoder:
    """The encoder for use, from the state in video.pt."""
    encoder = VideoEncoder(CONFIG["vae"])
    encoder.load_state_dict(state["average"])
    return encoder.eval().requires_grad_(False)


def training_films(count: int) -> list[Tensor]:
    """The films that the encoder is fitted to, each (1, 3, F, H, W), in several sizes."""
    sizes = [_SIZES[block % len(_SIZES)] for block in range(-(-count // len(KINDS)))]
    return [pixels_of([film(_SEED, index, _FRAMES, sizes[index // len(KINDS)])]) for index in range(count)]


def train(work: Path, films: int) -> None:
    """Fit the encoder to that many films and leave it in the folder `work`."""
    encoder, explained = fit_encoder(training_films(films))
    work.mkdir(parents=True, exist_ok=True)
    report = {"step": films, **explained}
    (work / f"{NAME}.jsonl").write_text(json.dumps(report) + "\n", encoding="utf-8")
    with atomic_write(work / f"{NAME}.pt") as temporary:
        torch.save({"step": films, "header": CONFIG["vae"], "average": encoder.state_dict()}, temporary)
    print(f"{NAME}  " + "  ".join(f"{name} {value:.3g}" for name, value in report.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "sonolora-tiny", help="folder of states")
    parser.add_argument("--films", type=int, default=FILMS, help="how many to fit it to")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.work, args.films)


if __name__ == "__main__":
    main()
