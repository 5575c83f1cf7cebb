"""Where networks run, and in which precision.

In: a device by name, as the command and `server.toml` take it. Out: a torch device that is present, and its dtype.
"""

from __future__ import annotations

import torch

from sonolora.core.errors import SonoloraError

_AMPERE = (8, 0)  # compute capability


def resolve_device(name: str) -> torch.device:
    """`auto` is the first CUDA card, or the CPU. Raises `SonoloraError` for a device that is not present.

    Turns TF32 off for convolutions: the audio codec would otherwise be less exact on a card than the published one.
    """
    torch.backends.cudnn.allow_tf32 = False
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SonoloraError(f"--device {name!r} is not a device: use auto, cpu, cuda, cuda:1 or mps") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise SonoloraError(f"--device {name!r} is not supported: use auto, cpu, cuda, cuda:1 or mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SonoloraError(f"--device {name!r} is not present: {_cuda_status()}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SonoloraError(f"--device {name!r} is not present: it needs a Mac with an Apple GPU and macOS 14 or newer")
    return device


def _cuda_status() -> str:
    if torch.version.cuda is None:
        return "this build of PyTorch has no CUDA support; install one that has it (the README says how)"
    return f"PyTorch sees {torch.cuda.device_count()} CUDA devices; `sonolora env` shows what it found"


def has_own_memory(device: torch.device) -> bool:
    """Whether the device runs beside the host on other memory: copies to it should come from pinned memory."""
    return device.type not in ("cpu", "meta", "mps")


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether a CUDA card computes in bfloat16 itself; those before Ampere emulate it, slower than float32."""
    if not torch.cuda.is_available() or torch.version.hip:  # a card that is not here is taken to be a recent one
        return True
    return torch.cuda.get_device_capability(device) >= _AMPERE


def compute_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on CUDA, float32 elsewhere and on cards before Ampere; adapters and optimiser are float32 everywhere.

    Not float16: the weights are published in bfloat16, whose range float16 does not have.
    """
    return torch.bfloat16 if device.type == "cuda" and has_native_bfloat16(device) else torch.float32
