"""What LTX-2.3 needs of a card's memory, for every mode and rank, by the function that refuses what does not fit.

    python bench/memory_table.py --out docs/memory.md

No card and no weights are needed: shapes are those of the published table, the work is done on the meta device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sonolora.modes import MODES
from sonolora.modes.mode import Mode
from sonolora.modes.request import TrainRequest, parse
from sonolora.runs.needs import CUDA_RESERVE, Needs, count_needs
from sonolora.runs.settings import RunSettings
from sonolora.runs.shapes import BaseShape

RANKS = (8, 16, 32, 64, 128)
DEFAULT_RANK = 32
# One preview; every mode takes the fields that it knows.
PREVIEW = {"prompt": "", "reference_audio_url": "a", "audio_url": "a", "video_url": "a", "time_ranges": [[1.0, 2.0]]}

HEAD = """\
# Memory that LTX-2.3 needs

Every figure here is **computed, not measured on a GPU**, by the function with which `sonolora estimate` and
`sonolora train` decide whether a run fits. Weights are those of the published table (bfloat16; the scale and shift
tables, codec and vocoder float32). All else is counted by running the training step, the sampler and the encoders
themselves on the meta device, with fused attention as on CUDA. A GB is 10^9 bytes. The page is made by

    python bench/memory_table.py --out docs/memory.md

Requests have the published defaults, with one clip and one preview: 5 s of sound; in v2a 89 frames of 768 x 768, and of
960 x 960 for the preview. Every further clip adds its latents and contexts: 4 MB, or 16 MB in v2a.
"""
STAGES = """\
## Before training

| mode | tokens: audio + reference + video | encoding clips, peak | text encoder, held | encoding texts, peak |
|---|---|---|---|---|"""
TRAINING = f"""
The text encoder is Gemma 3 12B in bfloat16; it is gone before training starts. Nothing above depends on the rank.

## Training

Held: transformer, codec, adapters with gradients and both moments of AdamW (float32), the clip. Kept: what the forward
pass leaves for the backward pass; nothing is recomputed. Listening: the fixed grid and the preview, beside all that
training holds. Peak of the run: the largest of all stages and {CUDA_RESERVE / 1e9:.2f} GB for CUDA's kernels,
workspaces and gaps, which is an assumption. In the audio modes the text encoder decides it, not training.

| mode | rank | transformer | adapters, gradients, moments | held | kept | training | listening | peak of the run |
|---|---|---|---|---|---|---|---|---|"""


def request(mode: Mode, **changed: Any) -> TrainRequest:
    """The defaults, with one preview."""
    return parse(mode.request, {"training_data_url": "a", "validation": [PREVIEW], **changed})


def gb(size: int) -> str:
    """Two decimals."""
    return f"{size / 1e9:.2f}"


def page(shape: BaseShape, device: torch.device) -> Iterator[str]:
    """The parts of docs/memory.md."""
    first, second = [STAGES], [TRAINING]
    for mode in MODES.values():
        for rank in RANKS:
            needs = count_needs(shape, mode, request(mode, rank=rank), RunSettings(), device)
            if rank == DEFAULT_RANK:
                first.append(stages_row(mode, needs))
            second.append(training_row(mode, rank, needs))
            print(second[-1], file=sys.stderr)
    yield from (HEAD, *first, *second)


def stages_row(mode: Mode, needs: Needs) -> str:
    """Row of the first table."""
    clips, texts = needs.stages[:2]
    tokens = f"{needs.tokens.audio} + {needs.tokens.reference} + {needs.tokens.video}"
    return f"| {mode.name} | {tokens} | {gb(clips.peak)} | {gb(texts.held['text encoder'])} | {gb(texts.peak)} |"


def training_row(mode: Mode, rank: int, needs: Needs) -> str:
    """Row of the second table."""
    training, listening = needs.stages[2:]
    held = training.held
    sizes = (
        held["transformer"],
        held["adapters, gradients and moments"],
        sum(held.values()),
        needs.step.activations,
        training.peak,
        listening.peak,
        needs.peak,
    )
    return f"| {mode.name} | {rank} | {' | '.join(map(gb, sizes))} |"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    lines = page(BaseShape.published(), torch.device("cuda"))
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
