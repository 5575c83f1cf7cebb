"""Writes samples of the corpus to listen to and look at.

    python tools/tiny/preview_corpus.py --out DIR [--each 2] [--seed 0]

Out: DIR/sounds and DIR/films with `each` samples of every kind, trained or held out: a WAV with its spectrogram, or an
MP4 with a contact sheet; and captions.txt with a line for each.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import matplotlib.image
import numpy as np
import scenes
import sounds
from corpus import sound
from films import FRAME_RATE, film
from numpy.typing import NDArray
from scenes.scene import FilmKind
from sounds.kind import Kind

from sonolora.analysis.spectrogram import draw_waveform_and_mel
from sonolora.media.write_audio import write_wav
from sonolora.media.write_video import write_video

_SECONDS = 4.0
_SHEET_COLUMNS = 12
_ENLARGED = 2


def preview_sounds(out: Path, each: int, seed: int, kinds: Mapping[str, Kind], mark: str) -> list[str]:
    """Write them to `out` and return the lines for captions.txt; `mark` is the prefix of the names."""
    lines = []
    for index in range(each * len(kinds)):
        sample = sound(seed, index, _SECONDS, kinds)
        name = f"{mark}{sample.kind.replace(' ', '-')}-{index:03d}"
        write_wav(out / f"{name}.wav", sample.audio)
        draw_waveform_and_mel(out / f"{name}.png", sample.audio, sample.caption)
        lines.append(f"{name}: {sample.caption}")
    return sorted(lines)


def preview_films(out: Path, each: int, seed: int, kinds: Mapping[str, FilmKind], mark: str) -> list[str]:
    lines = []
    for index in range(each * len(kinds)):
        made = film(seed, index, kinds=kinds)
        name = f"{mark}{made.kind}-{index:03d}"
        write_video(out / f"{name}.mp4", made.frames, FRAME_RATE, made.audio)
        matplotlib.image.imsave(out / f"{name}.png", contact_sheet(made.frames))
        at = ", ".join(f"{seconds:.2f}" for seconds in made.events)
        lines.append(f"{name}: {made.caption} [sounds at {at} s]")
    return sorted(lines)


def contact_sheet(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(height, width, 3): all frames in rows, each with a dark line around it."""
    blank = -len(frames) % _SHEET_COLUMNS
    framed = np.pad(frames, ((0, blank), (1, 1), (1, 1), (0, 0)))
    rows = framed.reshape(-1, _SHEET_COLUMNS, *framed.shape[1:])
    sheet = rows.swapaxes(1, 2).reshape(-1, _SHEET_COLUMNS * framed.shape[2], 3)
    return sheet.repeat(_ENLARGED, axis=0).repeat(_ENLARGED, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes samples of the corpus to listen to and look at.")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write into")
    parser.add_argument("--each", type=int, default=2, help="how many of each kind")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    lines: list[str] = []
    for mark, sound_kinds, film_kinds in (
        ("", sounds.KINDS, scenes.KINDS),
        ("held-out-", sounds.HELD_OUT_KINDS, scenes.HELD_OUT_KINDS),
    ):
        for folder in ("sounds", "films"):
            (args.out / folder).mkdir(parents=True, exist_ok=True)
        lines += preview_sounds(args.out / "sounds", args.each, args.seed, sound_kinds, mark)
        lines += preview_films(args.out / "films", args.each, args.seed, film_kinds, mark)
    (args.out / "captions.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} clips in {args.out}")


if __name__ == "__main__":
    main()
