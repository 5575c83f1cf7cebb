"""How many operations a training step dispatches, and how many kernels torch.compile makes of it. No GPU is needed.

    python bench/operations.py                        eager, the full shape on the meta device, as on a card
    python bench/operations.py --compiled             what Inductor generates, three layers of it on the CPU
    PYTHONPATH=../before/src python bench/operations.py      another commit's

Eager: every operation that reaches the dispatcher but views counts, allocations too, which launch nothing. Two and
three layers are counted and extrapolated: from the second on they are alike. Compiled: calls of generated kernels,
products and attention in the code of a block, forward and backward; what is outside the blocks runs eagerly.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sonolora.ltx.lora.adapters import add_adapters
from sonolora.ltx.memory.weight_policy import WeightPolicy
from sonolora.modes.t2a import T2A
from sonolora.planning.base_shape import META, BaseShape
from sonolora.planning.bench.synthetic import synthetic_trainer
from sonolora.planning.meta_kernels import device_kernels
from sonolora.planning.work_counts import Step, Tokens, make_example
from sonolora.training.loss import flow_losses
from sonolora.training.trainer import Trainer, TrainingConfig

RANK = 32
ALLOCATIONS = {"aten.empty", "aten.empty_like", "aten.new_empty", "aten.empty_strided", "aten.new_empty_strided"}
KERNEL = re.compile(r"^\s+(?:\w+ = )?(cpp_fused|triton_|extern_kernels\.|torch\.ops\.)", re.MULTILINE)


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations by name, without views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and func.namespace == "aten":
            self.count[str(func._overloadpacket)] += 1
        return func(*args, **(kwargs or {}))


def eager(shape: BaseShape, frames: int, layers: int) -> tuple[Counter[str], Counter[str]]:
    """Operations of the forward and backward pass, and of the whole step, with so many layers."""
    tokens = Tokens(frames)
    model = shape.transformer(layers, torch.bfloat16, video=False)
    with device_kernels("cuda"):
        example = make_example(shape, tokens, META, torch.bfloat16)
        adapters = add_adapters(model, T2A.lora_targets, RANK, 0)
        trainer = Trainer(model, adapters, [example], TrainingConfig(5, 1e-4, 0))
        trainer.step()
        with Operations() as whole:  # type: ignore[no-untyped-call]
            trainer.step()
        model.zero_grad()
        noise = torch.empty_like(example.latents_BTC)
        with Operations() as passes:  # type: ignore[no-untyped-call]
            flow_losses(model, example, noise, noise[:, 0, 0]).mean().backward()
    return passes.count, whole.count


def extrapolated(two: Counter[str], three: Counter[str], layers: int) -> Counter[str]:
    return Counter({name: two[name] + (three[name] - two[name]) * (layers - 2) for name in three})


def compiled(shape: BaseShape, frames: int) -> list[int]:
    """Kernels in the generated code of the forward and the backward pass of a block, in the order of compilation."""
    from torch._inductor.utils import run_and_get_code

    step = Step(T2A.lora_targets, RANK, Tokens(frames), policy=WeightPolicy(compiled=True))
    trainer, _ = synthetic_trainer(shape, 3, step, torch.device("cpu"))
    _, codes = run_and_get_code(trainer.step)  # type: ignore[no-untyped-call]
    return [len(KERNEL.findall(code[code.index("def call(") :])) for code in codes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="ltx-2.3", help="whose shape")
    parser.add_argument("--frames", type=int, default=126, help="latent frames, 25 a second")
    parser.add_argument("--compiled", action="store_true", help="count the kernels of --compile")
    options = parser.parse_args()
    shape = BaseShape.find(options.base)
    layers = shape.transformer_config.layers
    if options.compiled:
        # Blocks but the first share their code; the first has no gradient of its input.
        forward, *others = compiled(shape, options.frames)
        backward, first = others[-2], others[-1]
        total = (forward + backward) * (layers - 1) + forward + first
        print(f"a block: {forward} forward, {backward} backward (the first {first}); {layers} blocks: {total:,}")
        return
    two, three = (eager(shape, options.frames, count) for count in (2, 3))
    for name, few, more in zip(("forward and backward pass", "whole step"), two, three, strict=True):
        count = extrapolated(few, more, layers)
        without = sum(number for kind, number in count.items() if kind not in ALLOCATIONS)
        a_block = sum(more.values()) - sum(few.values())
        print(f"{name}: {sum(count.values()):,} operations, {without:,} without allocations; {a_block} a block")
    casts = extrapolated(two[1], three[1], layers)["aten._to_copy"]
    print(f"casts in the whole step: {casts}")


if __name__ == "__main__":
    main()
