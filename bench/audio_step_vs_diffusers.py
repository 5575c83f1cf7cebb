"""Forward and backward pass of an audio-alone training step: ours against the nearest that diffusers can do.

diffusers has no audio-alone transformer. Its cheapest equivalent is the whole model with `isolate_modalities`, one
dummy video token, one video text token, one timestep a sample, and adapters by PEFT. Both sides have the same weights,
adapters, inputs and loss, are timed in turn in one process, and must agree in velocity and gradients to 1e-4 of the
largest value, or this fails; on a card, where both compute in bfloat16, to 1e-1. Eager mode. No GPU has run it yet.

    python bench/audio_step_vs_diffusers.py                     the embedded base, to the screen
    python bench/audio_step_vs_diffusers.py --sizes tiny medium --threads 1 \\
        --out bench/results/audio_step_vs_diffusers.md
    python bench/audio_step_vs_diffusers.py --sizes ltx-2.3 --device cuda       the full shape, random weights, 40 GB

Needs the packages of the extra `dev`.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from textwrap import fill
from typing import Any, cast

import diffusers
import peft
import torch
from torch import Tensor, nn

from diffusers_twin import diffusers_transformer
from sonolora.conditioning import Example, velocity
from sonolora.core.atomic_files import atomic_write
from sonolora.core.devices import compute_dtype, resolve_device
from sonolora.core.frames import frame_count
from sonolora.core.randomness import normal
from sonolora.ltx.lora.adapters import add_adapters
from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS
from sonolora.ltx.model.transformer import Transformer, join_layers, load_transformer
from sonolora.ltx.text.text_encoder import PUBLISHED_TOKENS, load_tokenizer
from sonolora.ltx.weights.base import find_base
from sonolora.ltx.weights.ltx23_config import LTX23_CONFIG
from sonolora.ltx.weights.transformer_config import TransformerConfig
from sonolora.planning.bench.machine_limits import device_name
from sonolora.training.step_phases import clock

SEED = 0
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-1}
WARM_UP = 2
LINE = 115
MEDIUM = {  # what differs from the embedded base: the streams' widths in about the proportion of the published model
    "num_layers": 8,
    "num_attention_heads": 16,
    "attention_head_dim": 64,
    "cross_attention_dim": 1024,
    "in_channels": 128,
    "out_channels": 128,
    "audio_num_attention_heads": 16,
    "audio_attention_head_dim": 32,
    "audio_cross_attention_dim": 512,
    "audio_in_channels": 128,
    "audio_out_channels": 128,
}
SHAPES: dict[str, Mapping[str, Any]] = {"tiny": {}, "medium": MEDIUM, "ltx-2.3": LTX23_CONFIG["transformer"]}


@dataclass(frozen=True)
class Side:
    """One implementation with its adapters, whose factors and their gradients are by name."""

    name: str
    held: int  # parameters in memory, adapters included
    velocity: Callable[[], Tensor]  # the forward pass
    parameters: Sequence[nn.Parameter]
    factors: Mapping[str, Tensor]
    gradients: Callable[[], Mapping[str, Tensor]]

    def step(self, target: Tensor) -> Tensor:
        """Gradients of the loss, put on the adapters; returns the velocity."""
        for parameter in self.parameters:
            parameter.grad = None
        predicted = self.velocity()
        (predicted - target).square().mean().backward()
        return predicted.detach()


def both_streams(size: str, layers: int | None, device: torch.device) -> tuple[Transformer, int]:
    """The whole model of that size, or its first layers, and its number of text tokens."""
    base, dtype = find_base("tiny"), compute_dtype(device)
    if size == "tiny" and layers is None:
        model = load_transformer(base.checkpoint, video=True, device=device, dtype=dtype)
        return model.to(dtype), load_tokenizer(base.checkpoint, base.text_encoder).max_tokens
    header = {**base.checkpoint.section("transformer"), **SHAPES[size]}
    config = TransformerConfig.from_header({**header, "num_layers": layers or header["num_layers"]})
    with torch.device("meta"):
        model = Transformer(config, video=True).to(dtype).requires_grad_(False)
    model = model.to_empty(device=device)
    torch.manual_seed(SEED)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.fill_(1)
        else:
            parameter.normal_(std=1 if "scale_shift_table" in name else parameter.shape[-1] ** -0.5)
    return model, PUBLISHED_TOKENS


def our_side(whole: Transformer, example: Example, noisy: Tensor, sigma: Tensor, rank: int) -> Side:
    """The audio stream alone. The second factors are random, so that every gradient is at work."""
    with torch.device("meta"):
        model = Transformer(whole.config, video=False).requires_grad_(False)
    state = whole.state_dict()
    model.load_state_dict({name: state[name] for name in model.state_dict()}, assign=True)
    join_layers(model)
    adapters = add_adapters(model, AUDIO_TARGETS, rank, SEED)
    factors = adapters.matrices(adapters.flat.detach())
    for name, matrix in factors.items():
        if name.endswith("lora_B"):
            matrix.copy_(0.02 * normal(tuple(matrix.shape), SEED, name))
    return Side(
        "Sonolora",
        held(model),
        lambda: velocity(model, example, noisy, sigma),
        [adapters.flat],
        factors,
        lambda: adapters.matrices(cast(Tensor, adapters.flat.grad)),
    )


def their_side(whole: Transformer, example: Example, noisy: Tensor, sigma: Tensor, ours: Side, rank: int) -> Side:
    """diffusers' model with PEFT's adapters, filled from ours."""
    video = whole.config.video
    device, dtype = noisy.device, compute_dtype(noisy.device)
    model = diffusers_transformer(whole)
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=list(AUDIO_TARGETS))
    peft.inject_adapter_in_model(config, model)
    factors = {}
    for name, matrix in ours.factors.items():
        module, _, factor = name.rpartition(".")
        factors[name] = getattr(model.get_submodule(module), factor)["default"].weight
        with torch.no_grad():
            factors[name].copy_(matrix)
    inputs = {
        "hidden_states": torch.zeros(1, 1, video.channels, device=device, dtype=dtype),
        "encoder_hidden_states": torch.zeros(1, 1, video.context_dim, device=device, dtype=dtype),
        "timestep": 1000 * sigma,
        "video_coords": torch.zeros(1, 3, 1, 2, device=device),
        "audio_hidden_states": noisy.to(dtype),
        "audio_encoder_hidden_states": example.context_BSD.to(dtype),
        "audio_timestep": 1000 * sigma,
        "sigma": 1000 * sigma,
        "audio_coords": model.audio_rope.prepare_audio_coords(1, noisy.shape[1], device),
        "isolate_modalities": True,
        "return_dict": False,
    }
    return Side(
        "diffusers + PEFT",
        held(model),
        lambda: model(**inputs)[1].float(),
        list(factors.values()),
        factors,
        lambda: {name: parameter.grad for name, parameter in factors.items()},
    )


def in_turn(sides: Sequence[Side], target: Tensor, rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds of a step of each side; the host waits for the device only after the last."""
    mark, elapsed = clock(device)
    moments = [mark()]
    for _ in range(rounds):
        for side in sides:
            side.step(target)
            moments.append(mark())
    steps = [elapsed(*pair) for pair in pairwise(moments)]
    return {side.name: steps[at :: len(sides)] for at, side in enumerate(sides)}


def held(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def difference(ours: Side, theirs: Side, target: Tensor) -> float:
    """The largest difference of velocity and of any gradient, as a share of the largest value."""
    pairs = [(ours.step(target), theirs.step(target))]
    expected = theirs.gradients()
    pairs += [(gradient, expected[name]) for name, gradient in ours.gradients().items()]
    return max(((found - wanted).abs().max() / wanted.abs().max()).item() for found, wanted in pairs)


def compare(size: str, layers: int | None, seconds: float, rank: int, rounds: int, device: torch.device) -> str:
    """Table lines for one size. Raises `SystemExit` when the two sides compute something different."""
    whole, text_tokens = both_streams(size, layers, device)
    audio, frames = whole.config.audio, frame_count(seconds)
    latents, noise = (normal((1, frames, audio.channels), SEED, name).to(device) for name in ("latents", "noise"))
    sigma = torch.tensor([0.6], device=device)
    example = Example(latents, normal((1, text_tokens, audio.context_dim), SEED, "context").to(device))
    noisy, target = torch.lerp(latents, noise, sigma), noise - latents
    ours = our_side(whole, example, noisy, sigma, rank)
    theirs = their_side(whole, example, noisy, sigma, ours, rank)
    shape = f"{whole.config.layers} layers, audio {audio.width}, video {whole.config.video.width}"
    del whole
    error, allowed = difference(ours, theirs, target), TOLERANCE[compute_dtype(device)]
    if not error <= allowed:
        raise SystemExit(f"{size}: the two sides differ by {error:.1e} of the largest value; allowed is {allowed}")
    times = in_turn((ours, theirs), target, WARM_UP + rounds, device)
    lines = [
        f"## {size}: {shape}; {frames} audio + {text_tokens} text tokens, rank {rank}",
        "",
        "| | parameters held | median ms | fastest | slowest |",
        "|---|---:|---:|---:|---:|",
    ]
    for side in (ours, theirs):
        kept = times[side.name] = times[side.name][WARM_UP:]
        lines.append(
            f"| {side.name} | {side.held / 1e6:,.1f} M | {median(kept):,.1f} | {min(kept):,.1f} | {max(kept):,.1f} |"
        )
    ratios = [their / our for our, their in zip(times[ours.name], times[theirs.name], strict=True)]
    low, middle, high = quantiles(ratios, n=4)
    return "\n".join(
        [
            *lines,
            "",
            fill(
                f"diffusers takes {middle:.2f} times as long (median of {rounds} paired rounds; quartiles {low:.2f} "
                f"and {high:.2f}). Velocity and gradients differ by at most {error:.0e} of the largest value.",
                LINE,
            ),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Our audio-alone training step against diffusers' nearest.")
    parser.add_argument("--sizes", nargs="+", choices=SHAPES, default=["tiny"])
    parser.add_argument("--layers", type=int, help="only so many, with random weights")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of the clip")
    parser.add_argument("--rank", type=int, default=32, help="rank of the adapters")
    parser.add_argument("--rounds", type=int, default=20, help="timed rounds, one step of each side")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--out", type=Path, help="write the page there too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    sections = [
        compare(size, options.layers, options.seconds, options.rank, options.rounds, device) for size in options.sizes
    ]
    command = (
        f"python bench/audio_step_vs_diffusers.py --sizes {' '.join(options.sizes)} --seconds {options.seconds:g} "
    )
    command += f"--layers {options.layers} " if options.layers else ""
    command += f"--rank {options.rank} --rounds {options.rounds} --threads {options.threads} --device {device}"
    page = "\n\n".join(
        [
            "# Audio-alone training step: Sonolora and diffusers",
            fill(
                "Forward and backward pass with equal weights, adapters, inputs and loss, "
                f"{str(compute_dtype(device)).removeprefix('torch.')}, eager mode, the two "
                "in turn in one process. diffusers runs its whole model with `isolate_modalities` and one dummy video "
                "token, the cheapest call it has for this.",
                LINE,
            ),
            f"    {command}",
            f"{device_name(device)}, {options.threads} thread{'s' * (options.threads > 1)}; Python "
            f"{platform.python_version()}, torch {torch.__version__}, diffusers {diffusers.__version__}, peft "
            f"{peft.__version__}.",
            *sections,
            fill(
                "The times are those of one machine, which may have had other work; what the rounds in turn make fair "
                "is the ratio, and its quartiles say how far to trust it.",
                LINE,
            ),
        ]
    )
    print(page)
    if options.out is not None:
        with atomic_write(options.out) as temporary:
            temporary.write_text(page + "\n")


if __name__ == "__main__":
    main()
