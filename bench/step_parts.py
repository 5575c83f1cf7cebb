"""Where the FLOPs of a training step go: by part of the network, forward and backward, counted on the meta device.

    python bench/step_parts.py --mode v2a > bench/results/step_parts.md

Products are told apart by their shapes: how many tokens they have, and from which width to which. No card, no weights.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sonolora.modes import find_mode
from sonolora.modes.request import parse
from sonolora.planning.base_shape import BaseShape
from sonolora.planning.meta_kernels import device_kernels
from sonolora.planning.needs import training_step
from sonolora.planning.run_settings import RunSettings
from sonolora.planning.work_counts import _model, _trainer
from sonolora.training.step_phases import read_phases

KIND = "cuda"
COUNTED = 2, 3  # layers, extrapolated to all
OPTIONS = "resolution", "number_of_frames"


class Products(TorchDispatchMode):
    """FLOPs by the sizes of a product: (tokens, inputs, outputs), or (queries, keys) of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, tuple[int, ...]]] = Counter()
        self.phase = "forward"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            size = count(*args, **(kwargs or {}), out_val=result)
            self.counts[self.phase, sizes(func._overloadpacket.__name__, args)] += size
        return result


def sizes(name: str, args: Sequence[Any]) -> tuple[int, ...]:
    """What tells a product from another."""
    if "attention" in name:
        query, key = (args[1], args[2]) if "backward" in name else (args[0], args[1])
        return query.shape[-2], key.shape[-2]
    left, right = (args[1], args[2]) if "add" in name else (args[0], args[1])
    return left.shape[-2], left.shape[-1], right.shape[-1]


def part(size: tuple[int, ...], video: int, audio: int, text: int, wide: int, narrow: int) -> str:
    """The part of the network with a product of this size."""
    if len(size) == 2:
        names = {video: "video", audio: "audio", text: "text"}
        queries, keys = (names.get(one, "?") for one in size)
        if queries == keys:
            return f"{queries}: self-attention, scores"
        return f"{queries}: attention to the {keys}, scores"
    tokens, inputs, outputs = size
    widths = {inputs, outputs}
    if tokens == video:
        if 4 * wide in widths:
            return "video: feed-forward"
        if narrow in widths and wide in widths:
            return "video: projections of queries to the audio and back"
        # Keys and values for the audio are one product of the same size as the others.
        return "video: projections of self-attention, to the text, keys and values for the audio"
    if tokens == text:
        return f"{'video' if inputs == wide else 'audio'}: keys and values of the text"
    return "audio: all projections, adapters included" if tokens == audio else "other"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", default="v2a")
    parser.add_argument("--resolution", default="medium", choices=("low", "medium", "high"))
    parser.add_argument("--number-of-frames", type=int, default=89)
    options = parser.parse_args()
    mode, shape = find_mode(options.mode), BaseShape.published()
    body: dict[str, Any] = {"training_data_url": "none"}
    if mode.video:
        body |= {name: getattr(options, name) for name in OPTIONS}
    step = training_step(mode, parse(mode.request, body), RunSettings())
    config, tokens = shape.transformer_config, step.tokens

    def counted(layers: int) -> Counter[tuple[str, tuple[int, ...]]]:
        model = _model(shape, layers, tokens, KIND)
        products = Products()
        with device_kernels(KIND), products:
            trainer, _ = _trainer(shape, model, step)
            phases = iter(("forward", "backward", "backward", "backward"))

            def next_phase() -> None:
                products.phase = next(phases)

            read_phases(trainer, model, next_phase, 1)
        return products.counts

    fewer, more = map(counted, COUNTED)
    table: Counter[tuple[str, str]] = Counter()
    for key in more.keys() | fewer.keys():
        phase, size = key
        name = part(size, tokens.video, tokens.audio, shape.context_tokens, config.video.width, config.audio.width)
        table[phase, name] += fewer[key] + (more[key] - fewer[key]) * (config.layers - COUNTED[0])
    total = table.total()
    print(f"# Where the FLOPs of a step of {mode.name} go\n\n    python bench/step_parts.py --mode {mode.name}", end="")
    print("".join(f" --{name.replace('_', '-')} {body[name]}" for name in OPTIONS if name in body))
    print(
        f"\nLTX-2.3, rank {step.rank}: {tokens.audio} audio, {tokens.video} video, {shape.context_tokens} text tokens."
    )
    print(f"{total / 1e12:,.1f} TFLOP a step.\n\n| part | forward | backward | share |\n|---|---:|---:|---:|")
    names = sorted({name for _, name in table}, key=lambda name: -table["forward", name] - table["backward", name])
    for name in names:
        forward, backward = table["forward", name], table["backward", name]
        print(f"| {name} | {forward / 1e12:,.2f} | {backward / 1e12:,.2f} | {(forward + backward) / total:.1%} |")


if __name__ == "__main__":
    main()
