"""The training loop shared by the parts of `tiny`: steps, EMA weights, a log, checkpoints, resume.

In: a network and a function from a step number to its losses. Out: NAME.pt (the latest state) and NAME.jsonl (a line
for each report; after a resume the later of two lines for a step counts) in the work folder. Randomness depends on the
step number alone, so a resumed run equals an uninterrupted one.
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
_DECAY = 0.25  # final share of the steps, in which the learning rate decays to zero
_LONGEST_AVERAGE = 0.999
_BETAS = (0.9, 0.99)
_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Plan:
    """Training settings. `report` and `save` are intervals in steps; `header` is the config of the network."""

    work: Path
    name: str
    header: Any
    batch: int
    steps: int
    learning_rate: float
    report: int = 20
    save: int = 50


def fit(plan: Plan, network: nn.Module, losses_of: LossesOf) -> nn.Module:
    """Train until `plan.steps` on the loss named "loss". Returns the network with its EMA weights.

    Raises `ValueError` if the state in the work folder belongs to another config.
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
    # Losses stay on the device between reports: reading one would synchronise.
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
            counts[name] = counts.get(name, 0) + 1  # some batches lack some losses
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
    """The latest state of a part, on the CPU, or None. Raises `ValueError` if it belongs to another config."""
    path = work / f"{name}.pt"
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if state["header"] != header:
        raise ValueError(f"{path} belongs to a network of other sizes than in header.py: move it away to start over")
    return state


def arguments(description: str | None, *, batch: int, steps: int, learning_rate: float) -> argparse.ArgumentParser:
    """The options shared by all training scripts."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "sonolora-tiny", help="folder of states")
    parser.add_argument("--steps", type=int, default=steps, help="total number of steps, earlier runs included")
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
