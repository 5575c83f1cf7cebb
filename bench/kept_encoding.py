"""What a kept frame knows of the span beside it, for each way of encoding what is kept.

Run: python bench/kept_encoding.py [--base NAME_OR_FOLDER] [--clips 24]

Held-out sounds of the corpus, a span of half a second in the middle. For each way the same clip is encoded with two
different contents in the span, or on the two sides of the published mismatch; the table has the RMS difference of the
latents, in units of their standard deviation, by distance of the frame from the seam. 0 means: nothing leaks, and
training sees what inference sees.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tools" / "tiny"))

import sounds
from corpus import sound

from sonolora.core.frames import frame_count, kept_frames
from sonolora.ltx.codec.audio_codec import AudioCodec, load_audio_codec
from sonolora.ltx.weights.base import find_base
from sonolora.media.audio import resample

SECONDS, SPAN = 2.56, (1.0, 1.5)
OFFSETS = (-3, -2, -1, 1, 2, 3, 4, 6, 8)
RATE = 16000


def clips(count: int, seed: int) -> Tensor:
    """(clips, 2, samples) at the codec's rate, peak 0.9."""
    made = [resample(sound(seed, index, SECONDS, sounds.HELD_OUT_KINDS).audio, RATE).samples for index in range(count)]
    stacked = torch.from_numpy(np.stack([one[:, : round(SECONDS * RATE)] for one in made]))
    return stacked / stacked.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1e-3) * 0.9


def silenced(waves: Tensor, start: float, end: float) -> Tensor:
    """The same with silence between two times."""
    waves = waves.clone()
    waves[..., round(start * RATE) : round(end * RATE)] = 0
    return waves


@torch.inference_mode()
def main() -> None:
    """Print the table as markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--clips", type=int, default=24)
    options = parser.parse_args()
    torch.set_num_threads(1)
    codec = load_audio_codec(find_base(options.base).checkpoint, device=torch.device("cpu"))
    waves, others = clips(options.clips, 1), clips(options.clips, 2)
    first, last = (round(at * RATE) for at in SPAN)
    replaced = waves.clone()
    replaced[..., first:last] = others[..., first:last]
    spread = codec.encode(waves).std().item()
    keep = kept_frames([SPAN], frame_count(SECONDS))
    before, behind = keep.index(False), len(keep) - keep[::-1].index(False)

    def row(name: str, one: Tensor, two: Tensor, start: int, end: int) -> None:
        """Differences at frames counted from the seam: negative before the span, positive behind it."""
        difference = (one - two).square().mean(dim=(0, 2)).sqrt() / spread
        frames = [start + offset if offset < 0 else end + offset - 1 for offset in OFFSETS]
        cells = [f"{difference[frame]:.3f}" if 0 <= frame < len(keep) else "" for frame in frames]
        print(f"| {name} | {' | '.join(cells)} |")

    print(f"| frames from the seam | {' | '.join(map(str, OFFSETS))} |\n|---|{'---|' * len(OFFSETS)}")
    row("inpaint, whole clip encoded", codec.encode(waves), codec.encode(replaced), before, behind)
    row(
        "inpaint, span silenced",
        codec.encode(silenced(waves, *SPAN)),
        codec.encode(silenced(replaced, *SPAN)),
        before,
        behind,
    )
    # Suffix: the closing part is given. A whole clip in training, that part alone at inference.
    seam = SPAN[1]
    begin = kept_frames([(0.0, seam)], frame_count(SECONDS)).index(True)
    inside = codec.encode(waves)
    alone = torch.full_like(inside, torch.nan)
    part = _standalone(codec, waves, seam)
    alone[:, -part.shape[1] :] = part[:, -inside.shape[1] :]
    row("suffix, whole clip against stand-alone", inside, alone, 0, begin)
    muted = codec.encode(silenced(waves, 0.0, seam))
    row("suffix, span silenced, on both sides", muted, codec.encode(silenced(replaced, 0.0, seam)), 0, begin)
    whole = codec.encode(waves)
    print(f"\n{options.clips} clips, base `{options.base}`; latents have a standard deviation of {whole.std():.2f}")


def _standalone(codec: AudioCodec, waves: Tensor, seam: float) -> Tensor:
    """The closing part encoded by itself, as the published inference does."""
    return codec.encode(waves[..., round(seam * RATE) :])


if __name__ == "__main__":
    main()
