"""The loss with fixed noise: the same clips, noise levels and noise at every evaluation.

The loss of a single training step depends mostly on its noise level. This one falls when the model learns, and can be
compared clip by clip. Each noise is used with both signs (antithetic), which cancels what is odd in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from sonolora.conditioning import Example
from sonolora.core.randomness import normal
from sonolora.ltx.lora.adapters import with_values
from sonolora.ltx.model.lora_layer import Adapters
from sonolora.ltx.model.transformer import Transformer
from sonolora.training.loss import flow_losses

SIGMAS = (0.125, 0.375, 0.625, 0.875)
SIGNS = (1, -1)
MAX_CLIPS = 8
_SEED = 0


def spread(count: int, most: int) -> range:
    """At most `most` of `count` indices, evenly spread."""
    return range(0, count, max(1, -(-count // most)))


def grid_noise(example: Example, index: int) -> Tensor:
    """The noise of clip number `index`, shaped like its latents, on the CPU."""
    return normal(tuple(example.latents_BTC.shape), _SEED, "grid", index)


@torch.inference_mode()
def grid_losses(
    model: Transformer,
    examples: Sequence[Example],
    device: torch.device,
    *,
    sigmas: Sequence[float] = SIGMAS,
    advance: Callable[[], None] = lambda: None,
) -> Tensor:
    """Losses (clips, sigmas), means over a noise and its negative; `advance` is called after each clip."""
    rows = []
    for index, example in enumerate(examples):
        example = example.to(device)
        noise = grid_noise(example, index).to(device)
        rows.append(
            torch.stack(
                [
                    torch.cat(
                        [flow_losses(model, example, sign * noise, _level(sigma, device)) for sign in SIGNS]
                    ).mean()
                    for sigma in sigmas
                ]
            )
        )
        advance()
    return torch.stack(rows).cpu()


def eval_losses(
    model: Transformer, examples: Sequence[Example], device: torch.device, max_clips: int = MAX_CLIPS
) -> Tensor:
    """`grid_losses` of at most `max_clips` clips, evenly spread over `examples`."""
    return grid_losses(model, [examples[index] for index in spread(len(examples), max_clips)], device)


def _level(sigma: float, device: torch.device) -> Tensor:
    return torch.tensor([sigma], device=device)


def only_adapters(adapters: Adapters, active: Callable[[str], bool]) -> AbstractContextManager[None]:
    """Context in which the adapters of other layers add nothing; with `lambda name: False` the model is the base."""
    values = adapters.flat.detach().clone()
    for name, matrix in adapters.matrices(values).items():
        if not active(name.rpartition(".")[0]):
            matrix.zero_()
    return with_values(adapters, values)


def without_adapters(name: str) -> bool:  # noqa: ARG001 - for `only_adapters`
    """No layer's adapter: the base."""
    return False
