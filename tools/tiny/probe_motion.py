"""Probes what the latents of a video encoder say about the times of impacts.

    python tools/tiny/probe_motion.py [--work DIR] [--out FILE.json] [--films 400]

In: the video.pt of train_video_encoder.py. Out: a table, also as JSON. The videos are never drawn in training, of known
and of held-out kinds. On one half a small probe learns in which frames a sound begins; on the other half its onsets are
matched with the true ones, one to one within 60 ms. The input of the probe:

    low-res pixels  the 8 frames of each latent as 8 x 8 gray pixels: about an upper bound
    trained         latents of the trained encoder
    random          latents of the encoder of make_random_base.py

and "chance" places as many onsets at random. The probe reads each position with the latents before and after it, and
sums over positions. N videos, T latent frames, H W tokens, C channels.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
import train_video_encoder
from films import FRAME_RATE, film
from fit import newest
from header import CONFIG
from make_random_base import make_video_encoder
from scenes import HELD_OUT_KINDS, KINDS
from scenes.scene import FilmKind
from torch import Tensor, nn

from sonolora.core.randomness import generator
from sonolora.ltx.codec.video_encoder import FRAMES_PER_LATENT, PIXELS_PER_LATENT, VideoEncoder

TOLERANCE = 0.06  # seconds
SETS: Mapping[str, Mapping[str, FilmKind]] = {"known kinds": KINDS, "held-out kinds": HELD_OUT_KINDS}
FIGURES = ("precision", "recall", "F")
_SEED = 50  # a corpus of its own
_FRAMES = 49
_SIDE = 8  # low-resolution pixels across a token
_HIDDEN, _STEPS, _LEARNING_RATE, _WEIGHT_DECAY, _DROPOUT = 64, 300, 3e-3, 0.1, 0.2
_AT_ONCE = 8  # films

Onsets = Sequence[float]  # seconds, rising


class Probe(nn.Module):
    """(N, C, T, H, W) to log-odds (N, 8 (T - 1)) that a sound begins in a frame. The first frame has no latent."""

    def __init__(self, seen: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", seen.mean((0, 2, 3, 4), keepdim=True))
        self.register_buffer("std", seen.std((0, 2, 3, 4), keepdim=True) + 1e-6)
        self.hidden = nn.Conv3d(seen.shape[1], _HIDDEN, (3, 1, 1), padding=(1, 0, 0))
        self.out = nn.Conv3d(_HIDDEN, FRAMES_PER_LATENT, 1)

    def forward(self, seen: Tensor) -> Tensor:
        hidden = F.dropout(F.relu(self.hidden((seen - self.mean) / self.std)), _DROPOUT, self.training)
        odds = self.out(hidden).flatten(3).logsumexp(3)  # (N, 8, T)
        return odds[:, :, 1:].transpose(1, 2).flatten(1)


def train_probe(seen: Tensor, onsets: Sequence[Onsets]) -> Probe:
    """A probe trained on these videos."""
    torch.manual_seed(0)
    truth = torch.zeros(len(onsets), FRAMES_PER_LATENT * (seen.shape[2] - 1))
    for row, times in zip(truth, onsets, strict=True):
        for time in times:
            row[max(0, round(time * FRAME_RATE) - 1)] = 1
    probe = Probe(seen)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    for _ in range(_STEPS):
        loss = F.binary_cross_entropy_with_logits(probe(seen), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return probe.eval()


@torch.no_grad()
def likelihood(probe: Probe, seen: Tensor) -> Tensor:
    """Likelihood of an onset near each frame, (N, frames), summed over the tolerance."""
    return F.conv1d(probe(seen).sigmoid()[:, None], torch.ones(1, 1, 3), padding=1)[:, 0]


def peaks(likely: Tensor, threshold: float) -> list[Onsets]:
    """Peaks of the likelihood (N, frames), as onsets of each video."""
    highest = F.max_pool1d(likely, 5, stride=1, padding=2)
    return [((row.nonzero()[:, 0] + 1) / FRAME_RATE).tolist() for row in (likely == highest) & (likely > threshold)]


def matches(found: Onsets, true: Onsets) -> int:
    """Number of onsets matched one to one within the tolerance."""
    pairs, here, there = 0, 0, 0
    while here < len(found) and there < len(true):
        late = found[here] - true[there]
        pairs += abs(late) <= TOLERANCE
        here += late <= TOLERANCE
        there += late >= -TOLERANCE
    return pairs


def score(found: Sequence[Onsets], true: Sequence[Onsets]) -> dict[str, float]:
    """Precision, recall and F-score over all videos."""
    pairs = sum(matches(*both) for both in zip(found, true, strict=True))
    counts = sum(map(len, found)), sum(map(len, true))
    precision, recall = (pairs / max(1, count) for count in counts)
    return dict(zip(FIGURES, (precision, recall, 2 * pairs / max(1, sum(counts))), strict=True))


def chance(true: Sequence[Onsets]) -> list[Onsets]:
    """As many onsets as each video has, at random times."""
    rng = generator(_SEED, "chance")
    return [sorted((torch.rand(len(times), generator=rng) * _FRAMES / FRAME_RATE).tolist()) for times in true]


def low_resolution(films_NCFHW: Tensor) -> Tensor:
    """Gray pixels in latent layout, (N, 8 * 8 * 8, T, H, W)."""
    gray = F.avg_pool2d(films_NCFHW.mean(1), PIXELS_PER_LATENT // _SIDE)
    padded = torch.cat([gray[:, :1].expand(-1, FRAMES_PER_LATENT - 1, -1, -1), gray], dim=1)
    split = padded.unflatten(3, (-1, _SIDE)).unflatten(2, (-1, _SIDE)).unflatten(1, (-1, FRAMES_PER_LATENT))
    return split.permute(0, 2, 4, 6, 1, 3, 5).flatten(1, 3)


@torch.no_grad()
def watch(
    kinds: Mapping[str, FilmKind], count: int, encoders: Mapping[str, VideoEncoder]
) -> tuple[dict[str, Tensor], list[Onsets]]:
    """The inputs of the probe by kind, and the true onsets."""
    seen: dict[str, list[Tensor]] = {"low-res pixels": [], **{name: [] for name in encoders}}
    onsets: list[Onsets] = []
    for first in range(0, count, _AT_ONCE):
        films = [film(_SEED, index, _FRAMES, kinds=kinds) for index in range(first, min(count, first + _AT_ONCE))]
        onsets += [one.events for one in films]
        pixels = train_video_encoder.pixels_of(films)
        seen["low-res pixels"].append(low_resolution(pixels))
        for name, encoder in encoders.items():
            seen[name].append(encoder.encode(pixels))
    return {name: torch.cat(parts) for name, parts in seen.items()}, onsets


def judge(encoders: Mapping[str, VideoEncoder], count: int) -> dict[str, dict[str, dict[str, float]]]:
    """Scores by set of videos and input of the probe; `count` videos in each set."""
    results: dict[str, dict[str, dict[str, float]]] = {}
    for set_name, kinds in SETS.items():
        seen, onsets = watch(kinds, count, encoders)
        half = count // 2
        results[set_name] = {}
        for name, each in seen.items():
            probe = train_probe(each[:half], onsets[:half])
            known, unknown = (likelihood(probe, part) for part in (each[:half], each[half:]))
            thresholds = [step / 50 for step in range(1, 50)]
            threshold = max(thresholds, key=lambda one: score(peaks(known, one), onsets[:half])["F"])
            results[set_name][name] = score(peaks(unknown, threshold), onsets[half:])
        results[set_name]["chance"] = score(chance(onsets[half:]), onsets[half:])
    return results


def _table(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    lines = [f"{'':20}" + "".join(f"{figure:>11}" for figure in FIGURES)]
    for set_name, rows in results.items():
        lines.append(set_name)
        for name, figures in rows.items():
            lines.append(f"    {name:16}" + "".join(f"{figures[figure]:11.2f}" for figure in FIGURES))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "sonolora-tiny", help="folder of states")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    parser.add_argument("--films", type=int, default=400, help="videos in each set; half of them train the probe")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    state = newest(args.work, train_video_encoder.NAME, CONFIG["vae"])
    if state is None:
        raise SystemExit(f"{args.work} has no {train_video_encoder.NAME}.pt: run train_video_encoder.py first")
    torch.manual_seed(0)
    encoders = {"trained": train_video_encoder.from_state(state), "random": make_video_encoder()}
    results = judge(encoders, args.films)
    print(_table(results))
    if args.out:
        args.out.write_text(json.dumps({"films": args.films, "figures": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
