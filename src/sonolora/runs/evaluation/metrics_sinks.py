"""Where metrics go besides `metrics.jsonl`: TensorBoard, Weights & Biases, trackio, by `--log-to`.

In: the values of a line of metrics. Out: the same in another program's format. Each is an extra package, imported when
it is asked for; nothing is sent anywhere: Weights & Biases works offline unless WANDB_MODE says otherwise, trackio
writes to its folder on this machine.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Protocol

from sonolora.core.errors import SonoloraError
from sonolora.runs.artifacts import METRICS

PROJECT = "sonolora"
TENSORBOARD_FOLDER = "tensorboard"  # in the run's folder


class MetricsSink(Protocol):
    """Receives each line of metrics."""

    def log(self, step: int, values: Mapping[str, float | str]) -> None:
        """Values of a step, flat: numbers, or words such as a status."""

    def close(self) -> None:
        """No more will come."""


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        module = _import("torch.utils.tensorboard", "tensorboard")
        self._writer = module.SummaryWriter(folder / TENSORBOARD_FOLDER)

    def log(self, step: int, values: Mapping[str, float | str]) -> None:
        for name, value in values.items():
            if isinstance(value, str):
                self._writer.add_text(name, value, step)
            else:
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, folder: Path) -> None:
        module = _import("wandb", "wandb")
        mode = os.environ.get("WANDB_MODE", "offline")
        self._run = module.init(project=PROJECT, name=folder.name, dir=folder, mode=mode)

    def log(self, step: int, values: Mapping[str, float | str]) -> None:
        self._run.log({**values, "step": step})  # its own step may not repeat, and lines of one step do

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    def __init__(self, folder: Path) -> None:
        self._module = _import("trackio", "trackio")
        resume = "allow" if (folder / METRICS).exists() else "never"
        with redirect_stdout(sys.stderr):  # it greets on stdout, where the results of commands go
            self._module.init(project=PROJECT, name=folder.name, resume=resume)

    def log(self, step: int, values: Mapping[str, float | str]) -> None:
        self._module.log(dict(values), step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._module.finish()


SINKS: dict[str, Callable[[Path], MetricsSink]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WeightsAndBiases,
    "trackio": _Trackio,
}


@contextmanager
def open_sinks(names: str, folder: Path) -> Iterator[list[MetricsSink]]:
    """The sinks of these names, separated by commas. Raises `SonoloraError` when a package is missing."""
    with ExitStack() as stack:
        sinks: list[MetricsSink] = []
        for name in filter(None, names.split(",")):
            sinks.append(SINKS[name](folder))
            stack.callback(sinks[-1].close)
        yield sinks


def flat(values: Mapping[str, Any]) -> dict[str, float | str]:
    """Flatten to numbers and strings; keys of nested values are joined by `/`, and None is skipped."""
    result: dict[str, float | str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= flat({f"{name}/{part}": one for part, one in value.items()})
        elif isinstance(value, list):
            result |= flat({f"{name}/{at}": one for at, one in enumerate(value)})
        elif value is not None:
            result[name] = value
    return result


def _import(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SonoloraError(
            f"--log-to {package} needs a package that is not installed: pip install 'sonolora[{package}]' ({error})"
        ) from error
