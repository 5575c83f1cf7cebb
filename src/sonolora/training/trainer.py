"""Optimisation steps: a `Trainer` has the adapters and the optimiser.

In: a frozen model with adapters, examples, a config. Out: trained adapters, and a state from which training continues
exactly. Everything random is a pure function of (seed, step, slot) and the learning rate one of the step, so the state
is the adapters, Adam's two moments and a step count.

T target frames, C latent channels, B batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sonolora.conditioning import Example, collate, distinct_tensors, with_text
from sonolora.core.devices import has_own_memory
from sonolora.core.randomness import generator, normal
from sonolora.cuda_graph import CudaGraphStep
from sonolora.ltx.model.lora_layer import Adapters
from sonolora.ltx.model.transformer import Transformer
from sonolora.training import preservation
from sonolora.training.loss import flow_losses
from sonolora.training.noise import DENSITIES, draw_sigma
from sonolora.training.preservation import foreign_index, is_preserving, preservation_losses

if TYPE_CHECKING:
    from sonolora.ltx.text.text_encoder import TextContext

Inputs = tuple[Example, Tensor, Tensor]
VALUES, MOMENTS = "adapters", ("exp_avg", "exp_avg_sq")
_FINAL_LEARNING_RATE = 0.1  # of the first


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. Checked when made; raises `ValueError`."""

    steps: int
    learning_rate: float
    seed: int
    batch_size: int = 1
    sigma_density: str = "published"
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    preserve: float = 0.0  # share of the steps that keep the base as it is with foreign captions

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"steps and batch size must be at least 1, not {self.steps} and {self.batch_size}")
        if self.sigma_density not in DENSITIES:
            raise ValueError(f"sigma density {self.sigma_density!r} is not one of {', '.join(DENSITIES)}")
        if not 0 <= self.preserve < 1:
            raise ValueError(f"the share of steps that preserve the base must be below 1, not {self.preserve}")

    def learning_rate_at(self, step: int) -> float:
        """Linear, from the full learning rate to a tenth of it."""
        return self.learning_rate * self.decay_at(step)

    def decay_at(self, step: int) -> float:
        """The share of the full learning rate that a step has."""
        return 1 - (1 - _FINAL_LEARNING_RATE) * step / self.steps


def member_prefix(member: int, members: int) -> str:
    """Begins the names of a member's matrices in a layout."""
    return f"{member}." if members > 1 else ""


class Trainer:
    """Takes optimisation steps. `step_count` is the number of steps done.

    The examples have one shape and are on the adapters' device or in pinned host memory. With `graph` a step's inputs
    keep their addresses, and on a GPU the step is captured once and replayed (not yet run on a GPU).

    Adapters of several members, with a learning rate each, are trained at the same examples, noise levels and noise.
    A batch is then one example.
    """

    def __init__(
        self,
        model: Transformer,
        adapters: Adapters,
        examples: Sequence[Example],
        config: TrainingConfig,
        *,
        learning_rates: Sequence[float] = (),
        graph: CudaGraphStep | None = None,
        foreign: Sequence[TextContext] = (),
    ) -> None:
        """`foreign`: contexts of captions that are not of the data, for `config.preserve`."""
        if config.preserve and not foreign:
            raise ValueError("to preserve the base needs foreign captions")
        self.config = config
        self.step_count = 0
        self._model = model
        self._examples = examples
        self._adapters = adapters
        self._learning_rates = learning_rates or [config.learning_rate]
        self._device = adapters.flat.device
        self._orders: dict[int, list[int]] = {}  # of examples, by epoch
        in_host_memory = any(one.device.type == "cpu" for one in distinct_tensors(examples))
        self._prefetches = self._device.type == "cuda" and in_host_memory
        self._next: tuple[int, Inputs, torch.cuda.Event] | None = None  # copied ahead, with its step
        self._host_state: Tensor | None = None  # what states are copied to
        self._copies: torch.cuda.Stream | None = None
        # It gets its function with each call: in a reference cycle a run's memory would outlive the run.
        self._graph = graph
        self._preserving_graph = None if graph is None else graph.another()
        self._foreign = foreign
        # Of each member at the newest step, before it was clipped.
        self.gradient_norm = torch.zeros(len(adapters.rows), device=self._device)
        self.input_seconds = 0.0  # that the host has spent on preparing the inputs of steps
        # On a GPU the learning rate is a tensor, so that a captured update sees it change. Meta has no fused update.
        card = has_own_memory(self._device)
        self._optimizer = torch.optim.AdamW(
            [
                {"params": [row], "lr": torch.tensor(rate, device=self._device) if card else rate}
                for row, rate in zip(adapters.rows, self._learning_rates, strict=True)
            ],
            weight_decay=config.weight_decay,
            fused=self._device.type != "meta",
            capturable=card and graph is not None,
        )

    def step(self) -> Tensor:
        """One optimisation step; returns its losses (B,), or that of each member, on the device, without waiting."""
        for group, rate in zip(self._optimizer.param_groups, self._learning_rates, strict=True):
            learning_rate = rate * self.config.decay_at(self.step_count)
            group["lr"] = group["lr"].fill_(learning_rate) if isinstance(group["lr"], Tensor) else learning_rate
        began = time.perf_counter()
        inputs = self._take_inputs()
        self.input_seconds += time.perf_counter() - began
        preserves = self.preserves(self.step_count)
        compute, graph = (self._preserve, self._preserving_graph) if preserves else (self._compute, self._graph)
        losses = compute(*inputs) if graph is None else graph(compute, *inputs)
        self.step_count += 1
        if self._prefetches and self.step_count < self.config.steps:
            self._prefetch()
        return losses

    def preserves(self, step: int) -> bool:
        """Whether a step keeps the base as it is, instead of learning from the data; its losses are other ones."""
        return is_preserving(self.config.preserve, self.config.seed, step)

    def _prefetch(self) -> None:
        """Copy the inputs of the next step while this one computes."""
        self._copies = self._copies or torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._copies):
            inputs = self._inputs(self.step_count)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(self._copies)
        self._next = self.step_count, inputs, copied

    def _take_inputs(self) -> Inputs:
        """Those of this step, copied ahead if they were."""
        ahead, self._next = self._next, None
        if ahead is None or ahead[0] != self.step_count:
            return self._inputs(self.step_count)
        _, inputs, copied = ahead
        current = torch.cuda.current_stream(self._device)
        current.wait_event(copied)
        example, *others = inputs
        for tensor in (*distinct_tensors([example]), *others):
            tensor.record_stream(current)  # its memory belongs to the stream that copied it
        return inputs

    def _inputs(self, step: int) -> Inputs:
        """Example, noise and sigma of a step, on the device: a pure function of the seed and the step."""
        config = self.config
        slots = range(config.batch_size)
        batch = [self._examples[self._index(step * config.batch_size + slot)] for slot in slots]
        if self.preserves(step):
            texts = [self._foreign[foreign_index(len(self._foreign), config.seed, step, slot)] for slot in slots]
            batch = [with_text(one, text.audio, text.video) for one, text in zip(batch, texts, strict=True)]
        example = collate([one.to(self._device) for one in batch])
        frames, channels = example.latents_BTC.shape[1:]
        noise = torch.cat([normal((1, frames, channels), config.seed, "noise", step, slot) for slot in slots])
        sigma = torch.tensor(
            [draw_sigma(config.sigma_density, frames, config.seed, "sigma", step, slot) for slot in slots]
        )
        return example, self._to_device(noise), self._to_device(sigma)

    def _to_device(self, tensor: Tensor) -> Tensor:
        # From memory that is not pinned the host would wait for the copy.
        tensor = tensor.pin_memory() if has_own_memory(self._device) else tensor
        return tensor.to(self._device, non_blocking=True)

    def _compute(self, example: Example, noise_BTC: Tensor, sigma_B: Tensor) -> Tensor:
        """Everything that a step does on the device."""
        self._free_gradients()
        return self._update(flow_losses(self._model, example, noise_BTC, sigma_B))

    def _preserve(self, example: Example, noise_BTC: Tensor, sigma_B: Tensor) -> Tensor:
        """The same for a step that keeps the base."""
        self._free_gradients()
        losses = preservation_losses(self._model, self._adapters, example, noise_BTC, sigma_B)
        return self._update(losses, preservation.WEIGHT)

    def _free_gradients(self) -> None:
        """Before the forward pass, which needs their memory."""
        self._optimizer.zero_grad(set_to_none=True)
        self._adapters.flat.grad = None

    def _update(self, losses: Tensor, weight: float = 1.0) -> Tensor:
        """From the mean of a batch's losses, of each member."""
        (weight * (losses.sum() / self.config.batch_size)).backward()  # type: ignore[no-untyped-call]
        self._adapters.share_gradient()
        for row, norm in zip(self._adapters.rows, self.gradient_norm, strict=True):
            # In place, so that the replay of a captured step writes to it.
            norm.copy_(torch.nn.utils.clip_grad_norm_(row, self.config.max_grad_norm))
        self._optimizer.step()
        return losses.detach()

    def _index(self, draw: int) -> int:
        """The example of a draw: each once an epoch, in an order of the epoch's own."""
        epoch, position = divmod(draw, len(self._examples))
        if epoch not in self._orders:
            order = torch.randperm(len(self._examples), generator=generator(self.config.seed, "order", epoch))
            # A batch may reach into the next epochs; earlier ones do not come back.
            self._orders = {kept: one for kept, one in self._orders.items() if kept == epoch - 1}
            self._orders[epoch] = order.tolist()
        return self._orders[epoch][position]

    def is_finite(self) -> bool:
        """Whether all adapters are finite; waits for the device, for one number."""
        return bool(torch.linalg.vector_norm(self._adapters.flat.detach()).isfinite())

    def state(self) -> dict[str, Tensor]:
        """Adapters and Adam's moments, each in one tensor as `layout` has them, in host memory."""
        return self.begin_state()()

    def begin_state(self) -> Callable[[], dict[str, Tensor]]:
        """Begin to copy the state; the result waits for it, and may be called in another thread.

        The next call uses the same host memory. On a GPU the copy runs beside the host, and before the next step.
        """
        rows = self._adapters.rows
        moments = [self._optimizer.state.get(row, {}) for row in rows]
        parts = [row.detach() for row in rows]
        parts += [of.get(name, torch.zeros_like(parts[0])) for name in MOMENTS for of in moments]
        card = self._device.type == "cuda"
        if self._host_state is None:
            host_state = torch.empty(1 + len(MOMENTS), len(rows) * len(rows[0]))
            self._host_state = host_state.pin_memory() if card else host_state
        host = self._host_state
        targets = host.view(len(parts), -1)
        if not card:
            for target, part in zip(targets, parts, strict=True):
                target.copy_(part)
            return lambda: dict(zip((VALUES, *MOMENTS), host, strict=True))
        if self._copies is None:
            self._copies = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream(self._device)
        self._copies.wait_stream(current)
        with torch.cuda.stream(self._copies):
            for target, part in zip(targets, parts, strict=True):
                target.copy_(part, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(self._copies)
        current.wait_event(copied)  # a step changes the values in place

        def state() -> dict[str, Tensor]:
            copied.synchronize()
            return dict(zip((VALUES, *MOMENTS), host, strict=True))

        return state

    @property
    def layout(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the matrices in each tensor of a state, in their order."""
        rows = self._adapters.rows
        return {
            f"{member_prefix(member, len(rows))}{name}": tuple(matrix.shape)
            for member, row in enumerate(rows)
            for name, matrix in self._adapters.matrices(row.detach()).items()
        }

    def load_state(self, state: Mapping[str, Tensor], step_count: int) -> None:
        """Continue from `state`, before any step is taken; its tensors lie as `layout` says."""
        rows = self._adapters.rows
        parts = {name: state[name].view(len(rows), -1) for name in (VALUES, *MOMENTS)}
        for member, row in enumerate(rows):
            with torch.no_grad():
                row.copy_(parts[VALUES][member])
            # Copies: what is read from a file is mapped into memory, and Windows deletes no mapped file.
            self._optimizer.state[row] = {
                "step": torch.tensor(float(step_count), device=self._device),
                **{moment: parts[moment][member].to(row, copy=True) for moment in MOMENTS},
            }
        self.step_count = step_count
