"""What a training step of LTX-2.3 costs here, and what others compute and hold for the same step, counted.

    python bench/versus.py > bench/results/versus.md

Nothing is timed: FLOPs are counted on the meta device, parameters and bytes in the published table of tensors. The
published trainer is ltx-trainer 1.2.0 (the publisher's repository LTX-2 at commit 400fd31); its code is not here. What
is counted of it is what it does by its design: it holds both streams and both text connectors, and runs both connectors
at every step, of which the forward pass alone is counted.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from sonolora.core.tensor_file import TensorInfo
from sonolora.ltx.text.text_projector import empty_projectors
from sonolora.ltx.weights.checkpoint import MetaCheckpoint
from sonolora.modes import find_mode
from sonolora.modes.request import parse
from sonolora.planning.base_shape import META, BaseShape
from sonolora.planning.meta_kernels import device_kernels
from sonolora.planning.needs import training_step
from sonolora.planning.run_settings import RunSettings
from sonolora.planning.work_counts import step_flops
from sonolora.training.step_phases import flop_counter

KIND, DTYPE = "cuda", torch.bfloat16
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("t2a", {}),
    ("a2a", {}),
    ("v2a", {"resolution": "low", "aspect_ratio": "16:9"}),
)


def connector_costs(shape: BaseShape) -> tuple[int, int]:
    """FLOPs of the forward pass of both text connectors, and their parameters."""
    tensors = {name: TensorInfo(info.dtype, tuple(info.shape), 0, 0) for name, info in shape.tensors.items()}
    checkpoint = MetaCheckpoint(Path(shape.name), tensors, {"config": shape.config})
    parameters = 0
    with device_kernels(KIND), torch.no_grad(), flop_counter() as counter:
        for stream, projector in empty_projectors(checkpoint, video=True).items():
            connector = projector.connector.to(DTYPE)
            parameters += sum(parameter.numel() for parameter in connector.parameters())
            config = shape.transformer_config
            width = (config.video if stream == "video" else config.audio).context_dim
            x = torch.empty(1, shape.context_tokens, width, device=META, dtype=DTYPE)
            connector(x, torch.ones(1, shape.context_tokens, dtype=torch.bool, device=META))
    return counter.get_total_flops(), parameters


def held_parameters(shape: BaseShape, *, video: bool) -> int:
    """Of the transformer."""
    model = shape.transformer(shape.transformer_config.layers, DTYPE, video=video)
    return sum(math.prod(parameter.shape) for parameter in model.parameters())


def main() -> None:
    """Print the page."""
    shape = BaseShape.published()
    connector_flops, connector_parameters = connector_costs(shape)
    print("# A training step, here and elsewhere\n\n    python bench/versus.py > bench/results/versus.md\n")
    print("LTX-2.3, rank 32, batch 1, the published defaults (v2a: low resolution, 16:9). Counted, not timed.\n")
    print("| mode | | TFLOP a step | parameters held | weights in bfloat16 |\n|---|---|---:|---:|---:|")
    for name, body in CASES:
        mode = find_mode(name)
        step = training_step(mode, parse(mode.request, {"training_data_url": "none", **body}), RunSettings())
        flops, held = step_flops(shape, step, KIND).whole, held_parameters(shape, video=mode.video)
        both = held_parameters(shape, video=True)
        rows = [("Sonolora", flops, held)]
        if mode.video:
            cached = training_step(
                mode, parse(mode.request, {"training_data_url": "none", **body}), RunSettings(v2a_video="frozen-cached")
            )
            one_way = shape.transformer(shape.transformer_config.layers, DTYPE, video=False, one_way=True)
            parameters = sum(math.prod(parameter.shape) for parameter in one_way.parameters())
            rows.append(("Sonolora, `--v2a-video frozen-cached`", step_flops(shape, cached, KIND).whole, parameters))
        rows.append(("published trainer, at least", flops + connector_flops, both + connector_parameters))
        for who, count, parameters in rows:
            print(
                f"| {name} | {who} | {count / 1e12:,.2f} | {parameters / 1e9:,.2f} B | {2 * parameters / 1e9:,.2f} GB |"
            )
    print(
        f"\nBoth text connectors, forward pass: {connector_flops / 1e12:.2f} TFLOP and "
        f"{connector_parameters / 1e9:.2f} B parameters. Here they run once for each text of a run."
    )


if __name__ == "__main__":
    main()
