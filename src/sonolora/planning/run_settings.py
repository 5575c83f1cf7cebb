"""How a run is carried out here: everything that is not part of the published request."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

import torch

from sonolora.core.errors import InputError, SonoloraError
from sonolora.ltx.memory.quantised import FULL, WEIGHTS
from sonolora.ltx.memory.weight_policy import WeightPolicy
from sonolora.modes.mode import Mode
from sonolora.training.noise import DENSITIES

V2A_VIDEO = JOINT, FROZEN_CACHED = "joint", "frozen-cached"
_COMPILERS = (os.environ.get("CXX", "g++"), "clang++", "cl")


@dataclass(frozen=True)
class RunSettings:
    """Checked when made; raises `SonoloraError`."""

    base: str = "tiny"
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    seed: int = 42
    batch_size: int = 1
    sigma_density: str | None = None  # None: that of the mode
    weights: str = FULL  # of the frozen base: one of `WEIGHTS`; see docs/small-cards.md
    gradient_checkpointing: bool = False
    stream_blocks: bool = False
    v2a_video: str = JOINT  # whether the video hears the audio, as published; see docs/v2a-video.md
    checkpoint_every: int = 250
    preview_every: int = 500
    keep_checkpoints: int = 2
    cuda_graph: bool = False  # experimental: no GPU has run it yet
    compile: bool = False  # experimental on a GPU, where it has not run yet

    def __post_init__(self) -> None:
        if self.sigma_density is not None and self.sigma_density not in DENSITIES:
            raise SonoloraError(f"sigma density {self.sigma_density!r} is not one of {', '.join(DENSITIES)}")
        if self.weights not in WEIGHTS:
            raise InputError.of("weights", f"{self.weights!r} is not one of {', '.join(WEIGHTS)}")
        if self.cuda_graph and self.stream_blocks:
            raise SonoloraError("--cuda-graph and --stream-blocks: a step that waits for blocks cannot be captured")
        if self.compile and self.stream_blocks:
            raise SonoloraError(
                "--compile and --stream-blocks: blocks that come and go cannot be compiled; leave one of the two out"
            )
        if self.v2a_video not in V2A_VIDEO:
            raise InputError.of("v2a_video", f"{self.v2a_video!r} is not one of {', '.join(V2A_VIDEO)}")
        for name in ("batch_size", "checkpoint_every", "preview_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise SonoloraError(f"{name} must be at least 1, not {getattr(self, name)}")

    @property
    def policy(self) -> WeightPolicy:
        """How the base is held."""
        return WeightPolicy(self.weights, self.gradient_checkpointing, self.stream_blocks, self.compile)

    @property
    def one_way_video(self) -> bool:
        """Whether the video does not hear the audio, so that it is watched once and no longer there in training."""
        return self.v2a_video == FROZEN_CACHED

    def check_mode(self, mode: Mode) -> None:
        """Raise `InputError` for what the mode has no use for."""
        if self.v2a_video != JOINT and not mode.video:
            raise InputError.of("v2a_video", f"{self.v2a_video} is for v2a alone; {mode.name} has no video")

    def given(self) -> tuple[str, ...]:
        """What decides how a step is computed and is not the default, as it is given on the command line."""
        found = []
        for name in ("weights", "gradient_checkpointing", "stream_blocks", "v2a_video", "cuda_graph", "compile"):
            value = getattr(self, name)
            if value != getattr(RunSettings, name):
                found.append("--" + name.replace("_", "-") + ("" if value is True else f" {value}"))
        return tuple(found)

    def place(self) -> torch.device:
        """Where the run is. Raises `SonoloraError` for a device that is not there, or that cannot do what is set."""
        device = resolve_device(self.device)
        if self.cuda_graph and device.type != "cuda":
            raise SonoloraError(
                f"--cuda-graph: a step is captured on a CUDA device alone, and this run is on {device}; leave it out"
            )
        if self.compile and not any(map(shutil.which, _COMPILERS)):
            raise SonoloraError(
                f"--compile: torch.compile needs a C++ compiler, and there is none of {', '.join(_COMPILERS)} here: "
                "install one (Debian: apt install g++), or train without the option"
            )
        return device


def resolve_device(name: str) -> torch.device:
    """`auto` is the first CUDA card, or the CPU. Raises `SonoloraError` for a device that is not there.

    From here on float32 is float32 on cards too: the codec's convolutions would else be rounded to TF32, and be further
    from the publisher's numbers than they may be.
    """
    torch.backends.cudnn.allow_tf32 = False
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
