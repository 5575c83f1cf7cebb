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
MAX_CLIPS, MAX_HELD_OUT = 8, 32
ALL_LEVELS_UP_TO = 4  # clips; of more each is measured at every other level
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
    alternate: bool = False,
    sigmas: Sequence[float] = SIGMAS,
) -> Tensor:
    """Losses (clips, sigmas), means over a noise and its negative.

    With `alternate` every clip is measured at every other level alone, in turns, and is NaN at the rest: clips differ
    more than levels, so that more clips say more than more levels.
    """
    return member_losses(model, examples, device, alternate=alternate, sigmas=sigmas)[0]


@torch.inference_mode()
def member_losses(
    model: Transformer,
    examples: Sequence[Example],
    device: torch.device,
    *,
    alternate: bool = False,
    sigmas: Sequence[float] = SIGMAS,
) -> Tensor:
    """The same for each LoRA of those that are trained at once, (members, clips, sigmas)."""
    members = 1 if model.adapters is None else len(model.adapters.rows)
    losses = torch.full((members, len(examples), len(sigmas)), torch.nan)
    for index, example in enumerate(examples):
        example = example.to(device)
        noise = grid_noise(example, index).to(device)
        for at, sigma in enumerate(sigmas):
            if not alternate or at % 2 == index % 2:
                level = torch.tensor([sigma], device=device)
                of_signs = torch.stack([flow_losses(model, example, sign * noise, level) for sign in SIGNS])
                losses[:, index, at] = of_signs.mean(0).cpu()
    return losses


def eval_losses(
    model: Transformer, examples: Sequence[Example], device: torch.device, max_clips: int = MAX_CLIPS
) -> Tensor:
    """`grid_losses` of at most `max_clips` clips, evenly spread over `examples`."""
    return grid_losses(model, [examples[index] for index in spread(len(examples), max_clips)], device)


def only_adapters(adapters: Adapters, active: Callable[[str], bool]) -> AbstractContextManager[None]:
    """Context in which the adapters of other layers add nothing; with `lambda name: False` the model is the base."""
    values = adapters.flat.detach().clone()
    for row in values.view(len(adapters.rows), -1):
        for name, matrix in adapters.matrices(row).items():
            if not active(name.rpartition(".")[0]):
                matrix.zero_()
    return with_values(adapters, values)


def without_adapters(name: str) -> bool:  # noqa: ARG001 - for `only_adapters`
    """No layer's adapter: the base."""
    return False
