"""The training loop that the parts of `tiny` share: steps, an average of the weights, a log, checkpoints, resume.

In: a network and a function from the number of a step to its losses. Out: in the work folder, NAME.pt (the newest
state) and NAME.jsonl (a line for each report; where a run was interrupted, the later of two lines for a step holds).
A step draws its randomness from its number alone, so a run that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sonolora.core.atomic_files import atomic_write

LossesOf = Callable[[int], Mapping[str, Tensor]]

_WARM_UP = 100  # steps
_DECAY = 0.25  # last share of the steps, in which the learning rate falls to zero
_LONGEST_AVERAGE = 0.999
_BETAS = (0.9, 0.99)
_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Plan:
    """How long and how fast. `report` and `save`: every so many steps. `header`: what the network was built from."""

    work: Path
    name: str
    header: Any
    batch: int
    steps: int
    learning_rate: float
    report: int = 20
    save: int = 50


def fit(plan: Plan, network: nn.Module, losses_of: LossesOf) -> nn.Module:
    """Train up to `plan.steps` in all, on the part called "loss". Returns the network with its averaged weights.

    Raises ValueError when the state in the work folder is of a network of another header.
    """
    plan.work.mkdir(parents=True, exist_ok=True)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=plan.learning_rate, betas=_BETAS, weight_decay=0.0)
    average = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    begun = 0
    state = newest(plan.work, plan.name, plan.header)
    if state:
        begun = state["step"]
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        for name, tensor in state["average"].items():
            average[name].copy_(tensor)
    # The figures stay on the device between reports: reading one would make the host wait.
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    clock = time.perf_counter()
    for step in range(begun, plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate * min(
                1.0, (step + 1) / _WARM_UP, (plan.steps - step) / (_DECAY * plan.steps)
            )
        losses = losses_of(step)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(trained, _GRADIENT_NORM)
        optimizer.step()
        _blend(average, network, min(_LONGEST_AVERAGE, (step + 1) / (step + 10)))
        for name, value in losses.items():
            sums[name] = sums.get(name, torch.zeros_like(value.detach())) + value.detach()
            counts[name] = counts.get(name, 0) + 1  # some losses are not of every batch
        if (step + 1) % plan.report == 0:
            seconds, clock = time.perf_counter() - clock, time.perf_counter()
            figures = {name: round(value.item() / counts[name], 5) for name, value in sums.items()}
            _report(plan, step + 1, figures | {"clips_per_second": round(plan.report * plan.batch / seconds, 2)})
            sums, counts = {}, {}
        if (step + 1) % plan.save == 0 or step + 1 == plan.steps:
            state = {"step": step + 1, "header": plan.header, "average": average}
            state |= {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            with atomic_write(plan.work / f"{plan.name}.pt") as temporary:
                torch.save(state, temporary)
    network.load_state_dict(average)
    return network


def newest(work: Path, name: str, header: object) -> dict[str, Any] | None:
    """The newest state of a part, on the CPU, or None. Raises ValueError when it is of another header."""
    path = work / f"{name}.pt"
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if state["header"] != header:
        raise ValueError(f"{path} is of a network of other sizes than header.py has now: move it away to start anew")
    return state


def arguments(description: str | None, *, batch: int, steps: int, learning_rate: float) -> argparse.ArgumentParser:
    """The options that all training scripts have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "sonolora-tiny", help="folder of states")
    parser.add_argument("--steps", type=int, default=steps, help="in all, those of earlier runs included")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--learning-rate", type=float, default=learning_rate)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser


@torch.no_grad()
def _blend(average: dict[str, Tensor], network: nn.Module, share: float) -> None:
    for name, tensor in network.state_dict().items():
        average[name].lerp_(tensor, 1 - share)


def _report(plan: Plan, step: int, figures: Mapping[str, float]) -> None:
    print(f"{plan.name} {step:6d}  " + "  ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)
    with (plan.work / f"{plan.name}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "time": round(time.time(), 1), **figures}) + "\n")
