"""How much a LoRA moves the model: the change of its velocity, by noise level and by part of the network.

In: a model with adapters, clips. Out: an `Effect`. A change is ||v_LoRA - v_base|| / ||v_base|| over the frames that
are generated, at fixed noise levels and noise. Nonzero adapters alone do not show an effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sonolora.conditioning import Example, velocity
from sonolora.ltx.lora.layer_kinds import layer_kind
from sonolora.ltx.model.lora_layer import Adapters
from sonolora.ltx.model.transformer import Transformer
from sonolora.training.validation import SIGMAS, grid_noise, only_adapters, without_adapters

MAX_CLIPS = 4
# Measured on `tiny` by the strength of one LoRA: docs/evaluation.md.
NONE_BELOW, WEAK_BELOW, TOO_FAR_FROM = 0.01, 0.08, 0.5


@dataclass(frozen=True)
class Effect:
    """Changes of the velocity: over all points, by noise level, and with the adapters of one part alone."""

    change: float
    by_sigma: Mapping[str, float]
    by_part: Mapping[str, float]

    @property
    def verdict(self) -> str:
        """In words; of the size alone, which says nothing of what was learnt."""
        if self.change < NONE_BELOW:
            return "none"
        if self.change < WEAK_BELOW:
            return "weak"
        return "trained too far" if self.change >= TOO_FAR_FROM else "healthy"


def measure_effect(model: Transformer, adapters: Adapters, examples: Sequence[Example], device: torch.device) -> Effect:
    """The effect on the first `MAX_CLIPS` examples, each at every other noise level."""
    parts = sorted({layer_kind(name) for name in adapters})
    squares = {name: torch.zeros(len(SIGMAS)) for name in ("base", "all", *parts)}
    for index, example in enumerate(examples[:MAX_CLIPS]):
        example = example.to(device)
        for at in range(index % 2, len(SIGMAS), 2):
            point = _Point(example, grid_noise(example, index).to(device), SIGMAS[at])
            with only_adapters(adapters, without_adapters):
                base = point.velocity(model)
            squares["base"][at] += base.square().sum().item()
            squares["all"][at] += (point.velocity(model) - base).square().sum().item()
            for part in parts:
                with only_adapters(adapters, lambda name, part=part: layer_kind(name) == part):  # type: ignore[misc]
                    squares[part][at] += (point.velocity(model) - base).square().sum().item()
    base_squares = squares["base"]
    return Effect(
        _relative(squares["all"].sum(), base_squares.sum()),
        {
            str(sigma): _relative(squares["all"][at], base_squares[at])
            for at, sigma in enumerate(SIGMAS)
            if base_squares[at] > 0
        },
        {part: _relative(squares[part].sum(), base_squares.sum()) for part in parts},
    )


@dataclass(frozen=True)
class _Point:
    example: Example
    noise_BTC: Tensor
    sigma: float

    @torch.inference_mode()
    def velocity(self, model: Transformer) -> Tensor:
        """The model's velocity of the frames that are generated."""
        noisy = (1 - self.sigma) * self.example.latents_BTC + self.sigma * self.noise_BTC
        level = torch.tensor([self.sigma], device=noisy.device)
        predicted = velocity(model, self.example, noisy, level)
        return predicted if self.example.keep_BT is None else predicted[~self.example.keep_BT]


def _relative(change: Tensor, base: Tensor) -> float:
    return (change / base).sqrt().item()
