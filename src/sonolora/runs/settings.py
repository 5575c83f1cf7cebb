"""How a run is carried out here: everything that is not part of the published request."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sonolora.errors import SonoloraError
from sonolora.training.sigma import DENSITIES


@dataclass(frozen=True)
class RunSettings:
    """Checked when made; raises `SonoloraError`."""

    base: str = "tiny"
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    seed: int = 42
    batch_size: int = 1
    sigma_density: str | None = None  # None: that of the mode
    checkpoint_every: int = 250
    preview_every: int = 500
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        if self.sigma_density is not None and self.sigma_density not in DENSITIES:
            raise SonoloraError(f"sigma density {self.sigma_density!r} is not one of {', '.join(DENSITIES)}")
        for name in ("batch_size", "checkpoint_every", "preview_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise SonoloraError(f"{name} must be at least 1, not {getattr(self, name)}")


def resolve_device(name: str) -> torch.device:
    """`auto` is the first CUDA card, or the CPU. Raises `SonoloraError` for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SonoloraError(f"--device {name!r} is not a device: give auto, cpu, cuda or cuda:1") from error
    if device.type not in ("cpu", "cuda"):
        raise SonoloraError(f"--device {name!r}: Sonolora runs on cpu and cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SonoloraError(f"--device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def compute_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU, float32 on a CPU; adapters and optimiser are float32 on both."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32
