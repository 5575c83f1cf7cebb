"""A training step with random weights and data, made on the device: it takes as long as a real one.

In: a base's shape, a number of its layers, a step. Out: a `Trainer` and its model. No file is read.
"""

from __future__ import annotations

import torch
from torch import nn

from sonolora.core.devices import compute_dtype
from sonolora.core.errors import SonoloraError
from sonolora.cuda_graph import CudaGraphStep
from sonolora.ltx.lora.adapters import add_stacked_adapters
from sonolora.ltx.memory.quantised import QuantisedLinear, quantise
from sonolora.ltx.model.transformer import Transformer, apply_policy
from sonolora.planning.base_shape import BaseShape
from sonolora.planning.work_counts import Step, make_example
from sonolora.training.trainer import Trainer, TrainingConfig

_SEED = 0
_LEARNING_RATE = 1e-4
_STD = 0.02
_STEPS = 1 << 20  # over which the learning rate falls


def synthetic_model(shape: BaseShape, layers: int, step: Step, device: torch.device) -> Transformer:
    """The first layers of the transformer of that shape, under the step's weight policy, with random weights."""
    tokens = step.tokens
    model = shape.transformer(
        layers, compute_dtype(device), video=tokens.joint, one_way=tokens.one_way, policy=step.policy
    )
    blocks, model.transformer_blocks = model.transformer_blocks, nn.ModuleList()
    _fill(model, device, step.policy.weights)
    for block in blocks:  # offloaded blocks are never on the device all at once
        _fill(block, device, step.policy.weights).to("cpu" if step.policy.offloaded else device)
    model.transformer_blocks = blocks
    apply_policy(model, step.policy, device)
    return model


@torch.no_grad()
def _fill(module: nn.Module, device: torch.device, weights: str) -> nn.Module:
    module.to_empty(device=device)
    for parameter in module.parameters():
        parameter.normal_(std=_STD)
    for layer in module.modules():
        if isinstance(layer, QuantisedLinear):  # zeros need less power, with which a GPU may run faster
            weight = torch.randn(layer.out_features, layer.in_features, device=device) * _STD
            for target, values in zip((layer.codes, layer.scales), quantise(weight, weights), strict=True):
                target.copy_(values)
    return module


def synthetic_trainer(
    shape: BaseShape, layers: int, step: Step, device: torch.device, *, static: bool = False
) -> tuple[Trainer, Transformer]:
    """A trainer of such a model on one example."""
    model = synthetic_model(shape, layers, step, device)
    adapters = add_stacked_adapters(model, step.targets, [step.rank] * step.members, _SEED)
    example = make_example(shape, step.tokens, device, compute_dtype(device), layers)
    config = TrainingConfig(_STEPS, _LEARNING_RATE, _SEED, step.batch_size)
    graph = CudaGraphStep(warn=fail) if static else None
    rates = [_LEARNING_RATE] * step.members
    return Trainer(model, adapters, [example], config, learning_rates=rates, graph=graph), model


def fail(reason: str) -> None:
    """What a graph that cannot be captured is in a measurement: a time that is not the graph's is none."""
    raise SonoloraError(reason)
