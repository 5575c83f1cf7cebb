"""Trains the video encoder of `tiny` to encode the times of impacts and the colours of a video.

    python tools/tiny/train_video_encoder.py [--work DIR] [--steps N]

Out: video_training.pt and .jsonl in the work folder, from which a second call resumes, and at the end video.pt, the
encoder.

A latent of 32 numbers stands for 8 frames of 32 x 32 pixels, 24,576 numbers. Two linear heads, which are discarded
later, decide what it encodes: in which of its frames a sound begins, and the last frame as 4 x 4 colours. They are
linear so that the transformer, which has few layers for video, can read it directly. Principal components would not do:
the mark of a contact is a few pixels, which they drop.

Crops are columns, one latent wide and a second long, most of them with an impact: six times as many impacts in the same
time as with whole videos. Colours are permuted and inverted, and frames mirrored, so that it learns impacts and not the
look of these videos.

N films, F frames, H W pixels, T latent frames, C channels of a latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from films import FRAME_RATE, SIZE, Film, film
from fit import Plan, arguments, fit
from header import CONFIG, VIDEO_CHANNELS
from numpy.typing import NDArray
from torch import Tensor, nn

from sonolora.core.atomic_files import atomic_write
from sonolora.core.frames import FRAMES_PER_LATENT, PIXELS_PER_LATENT
from sonolora.ltx.codec.video_encoder import VideoEncoder

__all__ = ["FRAME_RATE", "NAME", "from_state"]

NAME, _TRAINING = "video", "video_training"
_SEED = 0  # of the corpus
_FILMS = 3000  # number of videos in the training set
_MEASURED = 60  # further videos, whose latents give the statistics
_FRAMES, _SEEN = 49, 25  # frames of a video, of a crop
_ON_AN_IMPACT = 0.75  # share of the crops
_NEAR = 2  # pixels by which an impact may lie outside a crop that still shows it
_INVERTED = 0.15  # share of the crops
_CONTRAST, _BRIGHTNESS = (0.7, 1.0), (-0.15, 0.15)
_LOOKS = 4  # colours along a side of a latent
_ONSET_WEIGHT, _LOOK_WEIGHT = 10.0, 0.2
_RARE = -3.0  # initial log-odds of an onset


class Looker(nn.Module):
    """The encoder with its two linear heads."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = VideoEncoder(CONFIG["vae"])
        # 3-D convolutions on a CPU are a third faster with this layout.
        self.encoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.onsets = nn.Conv3d(VIDEO_CHANNELS, FRAMES_PER_LATENT, 1)
        self.look = nn.Conv3d(VIDEO_CHANNELS, 3 * _LOOKS**2, 1)
        nn.init.constant_(self.onsets.bias, _RARE)  # type: ignore[arg-type]

    def losses(self, pixels_NCFHW: Tensor, onsets_NF: Tensor) -> dict[str, Tensor]:
        """Losses of the onsets (in every frame but the first) and of the colours."""
        latents = self.encoder.network(pixels_NCFHW)[:, :VIDEO_CHANNELS]
        latents = F.batch_norm(latents, None, None, training=True)
        odds = self.onsets(latents).flatten(3).logsumexp(3)[:, :, 1:]  # (N, 8, T - 1), wherever it is
        onset = F.binary_cross_entropy_with_logits(odds.transpose(1, 2).flatten(1), onsets_NF)
        colours = _colours(pixels_NCFHW)
        look = F.mse_loss(self.look(latents), colours) / colours.var()
        return {"loss": _ONSET_WEIGHT * onset + _LOOK_WEIGHT * look, "onset": onset, "look": look}


def _colours(pixels_NCFHW: Tensor) -> Tensor:
    """The last frame of every latent as 4 x 4 colours, (N, 3 * 4 * 4, T, H / 32, W / 32)."""
    side = PIXELS_PER_LATENT // _LOOKS
    small = F.avg_pool3d(pixels_NCFHW[:, :, ::FRAMES_PER_LATENT], (1, side, side))
    cells = small.unflatten(4, (-1, _LOOKS)).unflatten(3, (-1, _LOOKS))  # (N, 3, T, rows, 4, columns, 4)
    return cells.permute(0, 1, 4, 6, 2, 3, 5).flatten(1, 3)


def pixels_of(films: Sequence[Film]) -> Tensor:
    """The input of the encoder for videos of one size, (N, 3, F, H, W), -1 to 1."""
    return _pixels(np.stack([one.frames for one in films]))


def _pixels(frames_NFHWC: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(frames_NFHWC).movedim(-1, 1).float() / 127.5 - 1


def crops(films: Sequence[Film], step: int, count: int) -> tuple[Tensor, Tensor]:
    """The crops of a step (N, 3, F, H, 32) and in which of their frames a sound begins, (N, F - 1)."""
    rng = np.random.default_rng([_SEED, step])
    made = [_crop(films[rng.integers(len(films))], rng) for _ in range(count)]
    pixels = _pixels(np.stack([frames for frames, _ in made]))
    for each in pixels:  # (3, F, H, 32)
        each.copy_(each[torch.from_numpy(rng.permutation(3))])
        if rng.random() < 0.5:
            each.copy_(each.flip(-1))
        each *= rng.uniform(*_CONTRAST) * (-1 if rng.random() < _INVERTED else 1)
        each += rng.uniform(*_BRIGHTNESS)
    return pixels.contiguous(memory_format=torch.channels_last_3d), torch.stack([onsets for _, onsets in made])


def _crop(one: Film, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Tensor]:
    width = one.frames.shape[2]
    columns, latest = width // PIXELS_PER_LATENT, len(one.frames) - _SEEN
    at = [(round(seconds * FRAME_RATE), place * width) for seconds, place in one.impacts]
    if rng.random() < _ON_AN_IMPACT:
        frame, x = at[rng.integers(len(at))]
        column = min(max(int(x) // PIXELS_PER_LATENT, 0), columns - 1)
        first = min(max(frame - int(rng.integers(1, _SEEN)), 0), latest)
    else:
        column, first = int(rng.integers(columns)), int(rng.integers(latest + 1))
    left = PIXELS_PER_LATENT * column
    onsets = torch.zeros(_SEEN - 1)
    for frame, x in at:
        if first < frame < first + _SEEN and left - _NEAR <= x <= left + PIXELS_PER_LATENT + _NEAR:
            onsets[frame - first - 1] = 1
    return one.frames[first : first + _SEEN, :, left : left + PIXELS_PER_LATENT], onsets


@torch.no_grad()
def measure_statistics(encoder: VideoEncoder, films: Sequence[Film]) -> None:
    """Set the mean and standard deviation of the latents to those of whole videos."""
    encoder.latents_mean.zero_()
    encoder.latents_std.fill_(1)
    latents = torch.cat([encoder.encode(pixels_of([one]))[0].flatten(1) for one in films], dim=1)  # (C, tokens)
    encoder.latents_mean.copy_(latents.mean(1).bfloat16())
    encoder.latents_std.copy_(latents.std(1).bfloat16())


def from_state(state: dict[str, Any]) -> VideoEncoder:
    """The encoder from the state in video.pt."""
    encoder = VideoEncoder(CONFIG["vae"])
    encoder.load_state_dict(state["average"])
    return encoder.eval().requires_grad_(False)


def train(plan: Plan, films: int, device: torch.device) -> None:
    """Train as planned on so many films, and leave the encoder in the work folder."""
    looker = Looker().to(device)
    seen = [film(_SEED, index, _FRAMES, SIZE) for index in range(films)]
    fit(plan, looker, lambda step: looker.losses(*(part.to(device) for part in crops(seen, step, plan.batch))))
    encoder = looker.encoder.eval().cpu()
    for parameter in encoder.parameters():
        parameter.data = parameter.data.bfloat16().float()  # as the base's file has them
    measure_statistics(encoder, [film(_SEED, films + index, _FRAMES, SIZE) for index in range(_MEASURED)])
    with atomic_write(plan.work / f"{NAME}.pt") as temporary:
        torch.save({"step": plan.steps, "header": plan.header, "average": encoder.state_dict()}, temporary)


def main() -> None:
    args = arguments(__doc__, batch=40, steps=900, learning_rate=2e-3).parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    plan = Plan(args.work, _TRAINING, CONFIG["vae"], args.batch, args.steps, args.learning_rate)
    train(plan, _FILMS, torch.device(args.device))


if __name__ == "__main__":
    main()
