"""What a folder says of the run in it, without anything heavy: so that a command can refuse at once.

In: a folder. Out: whether it holds a run, which one, and whether that is over.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sonolora.errors import SonoloraError
from sonolora.training.metrics import read_metrics

RUN_FILE = "run.json"
LORA_FILE = "lora.safetensors"


def refuse_taken(folder: Path) -> None:
    """Raise `SonoloraError` when there is a run in the folder."""
    if (folder / RUN_FILE).exists():
        raise SonoloraError(
            f"{folder} already holds a run. Continue it with: sonolora train --resume {folder}, or give another --out"
        )


def read_run(folder: Path) -> dict[str, Any]:
    """What `run.json` says. Raises `SonoloraError` when there is none."""
    try:
        data: dict[str, Any] = json.loads((folder / RUN_FILE).read_text())
    except FileNotFoundError as error:
        raise SonoloraError(
            f"{folder} holds no run that can be continued (there is no {RUN_FILE}): it stopped before training "
            "began, or is another folder. Start it with: sonolora train MODE DATA --out DIR"
        ) from error
    return data


def is_finished(folder: Path) -> bool:
    """Whether nothing is left to do: trained, measured at the last step, and heard. Raises as `read_run` does."""
    request = read_run(folder)["request"]
    try:
        grids = [line["step"] for line in read_metrics(folder / "metrics.jsonl") if "grid_loss" in line]
    except (FileNotFoundError, ValueError):  # nothing measured yet, or a line that the power cut in two
        return False
    outputs = [LORA_FILE, *(["preview.wav"] if request["validation"] else [])]
    return request["number_of_steps"] in grids and all((folder / name).exists() for name in outputs)
