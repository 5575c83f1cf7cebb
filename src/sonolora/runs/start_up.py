"""What a run says first: where and how it computes, and what that means for its results.

In: a device, the dtype and the settings. Out: lines of text.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from sonolora.core.cuda_environment import EXPANDABLE, allocator_options
from sonolora.core.devices import compute_dtype, has_native_bfloat16
from sonolora.core.progress import Progress
from sonolora.planning.available_memory import available_bytes
from sonolora.planning.bench.machine_limits import device_name

_HEAD_DIM = 64  # of the audio stream's attention in LTX-2.3
_HEADS, _TOKENS = 32, 126


def announce(device: torch.device, progress: Progress, *, deterministic: bool) -> None:
    """The device, and on a card what a user may want to change."""
    progress.message(", ".join(_parts(device)))
    if device.type != "cuda":
        return
    if not has_native_bfloat16(device):
        progress.warning(
            f"{torch.cuda.get_device_name(device)} has no bfloat16, in which LTX-2.3 is published (cards since Ampere "
            "have it, such as RTX 30 or A100): this run computes in float32, with twice the memory for weights"
        )
    if deterministic:
        progress.message("deterministic: runs of one seed, also resumed ones, are bit-identical on this card")
    else:
        progress.message("not deterministic: runs of one seed differ by rounding on a card; see --deterministic")


def _parts(device: torch.device) -> Iterator[str]:
    yield f"device {device} ({device_name(device)})"
    dtype = compute_dtype(device)
    why = ""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        why = f" (compute capability {major}.{minor})"
    yield f"{str(dtype).removeprefix('torch.')}{why}"
    yield f"attention {attention_backend(device, dtype)}"
    if device.type == "cuda":
        yield "expandable segments" if EXPANDABLE in allocator_options() else "fixed segments"
        yield f"{available_bytes(device) / 1e9:.1f} GB free"
    else:
        yield f"{torch.get_num_threads()} threads"


def attention_backend(device: torch.device, dtype: torch.dtype) -> str:
    """The one that torch chooses for the audio stream's self-attention: flash, efficient, cudnn or math."""
    q = torch.empty(1, _HEADS, _TOKENS, _HEAD_DIM, device=device, dtype=dtype, requires_grad=True)
    chosen = torch.nn.attention.SDPBackend(torch._fused_sdp_choice(q, q, q))
    return chosen.name.removesuffix("_ATTENTION").lower()
