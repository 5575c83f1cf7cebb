"""What LTX-2.3 needs of a card's memory, for every mode and rank, by the function that refuses what does not fit.

    python bench/memory_table.py --out docs/memory.md

No card and no weights are needed: shapes are those of the published table, the work is done on the meta device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sonolora.modes import MODES
from sonolora.modes.mode import Mode
from sonolora.modes.request import TrainRequest, parse
from sonolora.planning.base_shape import BaseShape
from sonolora.planning.needs import CUDA_RESERVE, Needs, count_needs
from sonolora.planning.run_settings import JOINT, V2A_VIDEO, RunSettings

RANKS = (8, 16, 32, 64, 128)
DEFAULT_RANK = 32
# One preview; every mode takes the fields that it knows.
PREVIEW = {"prompt": "", "reference_audio_url": "a", "audio_url": "a", "video_url": "a", "time_ranges": [[1.0, 2.0]]}


def cli_options(way: Mapping[str, Any]) -> list[str]:
    """Settings as the command line has them."""
    return [f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}") for name, value in way.items()]


HEAD = """\
# Memory that LTX-2.3 needs

Every figure here is **computed, not measured on a GPU**, by the function with which `sonolora estimate` and
`sonolora train` decide whether a run fits. Weights are those of the published table (bfloat16; the scale and shift
tables, codec and vocoder float32). All else is counted by running the training step, the sampler and the encoders
themselves on the meta device, with fused attention as on CUDA. A GB is 10^9 bytes. The page is made by

    python bench/memory_table.py --out docs/memory.md

Requests have the published defaults, with one clip and one preview: 5 s of sound; in v2a 89 frames of 768 x 768, and of
960 x 960 for the preview. Clips that find no room on the device stay on the host: 4 MB each, 16 MB in v2a, and less
where captions repeat.
"""
STAGES = """\
## Before training

| mode | tokens: audio + reference + video | encoding clips, peak | encoding texts, peak |
|---|---|---|---|"""
TRAINING = f"""
The text encoder is Gemma 3 12B in bfloat16, read layer by layer for all texts at once: of its 23.5 GB the device holds
one layer, 0.45 GB, beside what projects its states. A text is counted with 1,024 tokens; those that wait do so on the
host. Nothing above depends on the rank.

## Training

Resident: transformer, codec, adapters with gradients and both moments of AdamW (float32), one clip. Activations: saved
by the forward pass for the backward pass, without gradient checkpointing. Validation: losses and previews, with all
that is resident in training. Peak of the run: the largest of all stages and {CUDA_RESERVE / 1e9:.2f} GB for CUDA's
kernels, workspaces and fragmentation, which is an assumption.

| mode | rank | transformer | adapters and moments | resident | activations | training | validation | peak of the run |
|---|---|---|---|---|---|---|---|---|"""

# From the least harm on: what changes no number first, then weights in fewer bits.
HOLDINGS: tuple[dict[str, Any], ...] = (
    {},
    {"gradient_checkpointing": True},
    {"stream_blocks": True},
    {"weights": "int8"},
    {"weights": "int8", "gradient_checkpointing": True},
    {"weights": "int8", "stream_blocks": True},
    {"weights": "nf4"},
    {"weights": "nf4", "gradient_checkpointing": True},
    {"weights": "nf4", "stream_blocks": True},
)
CARDS = (8, 12, 16, 24)  # GB that are free
SMALL_CARDS = f"""
## On small cards

Peak of the run at rank {DEFAULT_RANK}, by the options of `sonolora train`; fp8 takes what int8 takes. `--stream-blocks`
keeps the blocks in the host's memory, which is the last column of each: full, int8 and nf4. It and
`--gradient-checkpointing` change no number; see `docs/small-cards.md` for what int8 and nf4 change.

| mode | {" | ".join("`" + " ".join(cli_options(way)) + "`" if way else "no option" for way in HOLDINGS)} | host |
|---|{"---|" * (len(HOLDINGS) + 1)}"""
FITS = """
The first of these, from the left, that fits a card with so many GB free:

| mode | 8 GB | 12 GB | 16 GB | 24 GB |
|---|---|---|---|---|"""


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
    third, fourth = [SMALL_CARDS], [FITS]
    for mode in MODES.values():
        for film in V2A_VIDEO if mode.video else (JOINT,):
            counted = [
                count_needs(shape, mode, request(mode), RunSettings(v2a_video=film, **way), device) for way in HOLDINGS
            ]
            name = mode.name if film == JOINT else f"{mode.name}, {film}"
            hosts = ", ".join(gb(needs.host_bytes) for needs in counted if needs.host_bytes)
            third.append(f"| {name} | {' | '.join(gb(needs.peak) for needs in counted)} | {hosts} |")
            fourth.append(f"| {name} | {' | '.join(first_that_fits(counted, card) for card in CARDS)} |")
            print(third[-1], file=sys.stderr)
    yield from (*third, *fourth)


def first_that_fits(counted: Sequence[Needs], card: int) -> str:
    """The options, in words."""
    for needs, way in zip(counted, HOLDINGS, strict=True):
        if needs.peak <= card * 1e9:
            return f"`{' '.join(cli_options(way))}`" if way else "no option"
    return "none"


def stages_row(mode: Mode, needs: Needs) -> str:
    """Row of the first table."""
    clips, texts = needs.stages[:2]
    tokens = f"{needs.tokens.audio} + {needs.tokens.reference} + {needs.tokens.video}"
    return f"| {mode.name} | {tokens} | {gb(clips.peak)} | {gb(texts.peak)} |"


def training_row(mode: Mode, rank: int, needs: Needs) -> str:
    """Row of the second table."""
    training, validation = needs.stages[2:]
    resident = training.resident
    sizes = (
        resident["transformer"],
        resident["adapters, gradients and moments"],
        sum(resident.values()),
        needs.step.activations,
        training.peak,
        validation.peak,
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
