"""Plots the training losses of the parts of `tiny`.

    python tools/tiny/curves.py --out docs/tiny-curves.png [--logs tools/tiny/logs]

In: a folder with the logs (NAME.jsonl) of the training scripts. Out: a picture with a panel for each part.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sonolora.analysis.save_figure import save_figure

PARTS = {
    "vae": ("mel", "coarse"),
    "vocoder": ("bands", "bins"),
    "bwe": ("bands", "bins"),
    "video_training": ("onset", "look"),
    "transformer": ("loss", "flow", "told"),
    "pictures": ("flow", "seen"),
}
_NOT_LOSSES = {"step", "time", "clips_per_second"}
_SMOOTHED = 15  # reports


def read(log: Path) -> dict[int, dict[str, float]]:
    """Losses by step. After a resume a step may have two lines; the later one counts."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return {line["step"]: {name: line[name] for name in line.keys() - _NOT_LOSSES} for line in lines}


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Moving average over neighbouring reports."""
    weights = np.ones(_SMOOTHED)
    return np.convolve(values, weights, "same") / np.convolve(np.ones_like(values), weights, "same")


def draw(logs: Path, out: Path) -> None:
    """Write the picture (.png); parts without a log are skipped."""
    found = {name: read(logs / f"{name}.jsonl") for name in PARTS if (logs / f"{name}.jsonl").exists()}
    figure = Figure(figsize=(10, 2.4 * len(found)), dpi=100, layout="constrained", facecolor="white")
    rows = figure.subplots(len(found), 1, squeeze=False)[:, 0]
    for axes, (part, by_step) in zip(rows, found.items(), strict=True):
        for loss in PARTS[part]:
            points = np.array([(step, values[loss]) for step, values in sorted(by_step.items()) if loss in values])
            (line,) = axes.plot(points[:, 0], points[:, 1], alpha=0.25, linewidth=0.7)
            axes.plot(points[:, 0], smoothed(points[:, 1]), color=line.get_color(), label=loss)
        axes.set_title(part, fontsize=11, loc="left")
        axes.set(xlim=(0, None), ylim=(0, None))
        axes.grid(color="#eeeeee")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    rows[-1].set_xlabel("step")
    save_figure(out, figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Plots the training losses of the parts of 'tiny'.")
    parser.add_argument("--logs", type=Path, default=Path(__file__).with_name("logs"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    draw(args.logs, args.out)


if __name__ == "__main__":
    main()
