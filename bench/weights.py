"""What it costs to hold the base's weights in fewer bits: errors, losses and bytes.

    python bench/weights.py > bench/results/weights.md

On the base `tiny`, with the clips that `sonolora demo` makes: 16 to train on and 16 held out. At the published shape,
whose weights are not here, with one block of its audio stream and random weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent / "learning"))

from paired import paired_difference

from sonolora.conditioning import Example, velocity
from sonolora.core.randomness import generator, normal
from sonolora.ltx.codec.audio_codec import load_audio_codec
from sonolora.ltx.lora.adapters import add_adapters, rounded_to_bf16
from sonolora.ltx.memory.weight_forms import FULL, WEIGHTS
from sonolora.ltx.memory.weight_policy import WeightPolicy, place_weight
from sonolora.ltx.model.lora_layer import Adapters
from sonolora.ltx.model.transformer import Stream, Transformer, audio_token_midpoints, load_transformer
from sonolora.ltx.text.text_encoder import load_text_encoder
from sonolora.ltx.weights.base import find_base
from sonolora.media.audio import peak_normalized, resample
from sonolora.modes.t2a import T2A
from sonolora.planning.base_shape import BaseShape
from sonolora.runs.demo import CLIPS, clip
from sonolora.training.trainer import Trainer, TrainingConfig
from sonolora.training.validation import SIGMAS, eval_losses

CPU, F32 = torch.device("cpu"), torch.float32
RANK, LEARNING_RATE, SEED = 16, 2e-3, 42
FRAMES = 126  # of the real-size block: 5 s
TEXT_PLACES = 1024


def examples(first: int) -> list[Example]:
    """As many clips of the demo as it trains on, from a number on."""
    base = find_base("tiny")
    codec = load_audio_codec(base.checkpoint, device=CPU)
    made = [clip(first + index) for index in range(CLIPS)]
    text = load_text_encoder(base.checkpoint, base.text_encoder, video=False, device=CPU, dtype=F32)
    captions = sorted({caption for _, caption in made})
    contexts = dict(zip(captions, text.encode(captions), strict=True))
    sounds = [resample(peak_normalized(sound), codec.sample_rate).samples for sound, _ in made]
    with torch.inference_mode():
        latents = [codec.encode(torch.from_numpy(samples)[None]) for samples in sounds]
    return [
        Example(one.clone(), contexts[caption].audio[None].clone())
        for one, (_, caption) in zip(latents, made, strict=True)
    ]


def load(weights: str) -> Transformer:
    """The base so held."""
    policy = WeightPolicy(weights)
    return load_transformer(find_base("tiny").checkpoint, video=False, device=CPU, dtype=F32, policy=policy)


@torch.inference_mode()
def velocities(model: Transformer, clips: Sequence[Example]) -> Tensor:
    """(sigmas, clips, T, C)."""
    rows = []
    for sigma in SIGMAS:
        row = []
        for index, example in enumerate(clips):
            noise = normal(tuple(example.latents_BTC.shape), SEED, "noise", index)
            noisy = (1 - sigma) * example.latents_BTC + sigma * noise
            row.append(velocity(model, example, noisy, torch.tensor([sigma])))
        rows.append(torch.cat(row))
    return torch.stack(rows)


def trained(weights: str, clips: Sequence[Example], steps: int) -> tuple[Transformer, Adapters]:
    """A LoRA trained on the base so held."""
    model = load(weights)
    adapters = add_adapters(model, T2A.lora_targets, RANK, SEED)
    config = TrainingConfig(steps, LEARNING_RATE, SEED, sigma_density=T2A.sigma_density)
    trainer = Trainer(model, adapters, clips, config)
    for _ in range(steps):
        trainer.step()
    return model, adapters


def on_full(adapters: Adapters, clips: Sequence[Example]) -> Tensor:
    """Losses of the same LoRA on the base with full weights."""
    model = load(FULL)
    copies = add_adapters(model, T2A.lora_targets, RANK, SEED)
    theirs = adapters.matrices(adapters.flat.detach())
    for name, matrix in copies.matrices(copies.flat.detach()).items():
        matrix.copy_(theirs[name])  # by name: quantised layers may be joined in another way
    with rounded_to_bf16(copies):
        return eval_losses(model, clips, CPU, CLIPS)


def held(module: nn.Module) -> int:
    """Bytes."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def on_tiny(steps: int) -> Iterator[str]:
    """The table of the embedded base."""
    seen, unseen = examples(0), examples(CLIPS)
    base = {}
    for weights in WEIGHTS:
        model = load(weights)
        base[weights] = velocities(model, unseen), eval_losses(model, unseen, CPU, CLIPS), held(model)
    true = base[FULL][0]
    errors = {
        weights: ((found - true).square().mean(dim=(1, 2, 3)) / true.square().mean(dim=(1, 2, 3))).sqrt().tolist()
        for weights, (found, _, _) in base.items()
    }
    yield f"| weights | MB | {' | '.join(f'velocity, sigma {sigma}' for sigma in SIGMAS)} | the base's loss |"
    yield "|---|---:|" + "---:|" * (len(SIGMAS) + 1)
    for weights, (_, losses, size) in base.items():
        columns = [f"{error:.2%}" for error in errors[weights]]
        yield f"| {weights} | {size / 1e6:.1f} | {' | '.join(columns)} | {compared(base[FULL][1], losses)} |"
    yield ""
    yield f"After {steps} steps at rank {RANK}:"
    yield ""
    yield "| weights | loss with the LoRA | loss of this LoRA on full weights |"
    yield "|---|---:|---:|"
    reference = None
    for weights in WEIGHTS:
        model, adapters = trained(weights, seen, steps)
        with rounded_to_bf16(adapters):
            losses = eval_losses(model, unseen, CPU, CLIPS)
        moved = on_full(adapters, unseen)
        reference = losses if reference is None else reference
        yield f"| {weights} | {compared(reference, losses)} | {compared(reference, moved)} |"
        print(weights, file=sys.stderr)


def compared(before: Tensor, after: Tensor) -> str:
    """The mean of a grid, and how much more than another it is, with the interval over clips."""
    if torch.equal(before, after):
        return f"{after.mean().item():.4f}"
    found = paired_difference(before, after)
    return f"{after.mean().item():.4f} ({found.mean:+.4f}, {found.low:+.4f} to {found.high:+.4f})"


@torch.inference_mode()
def at_full_width() -> Iterator[str]:
    """The table of one block of the published shape, audio stream."""
    shape = BaseShape.published()
    config = replace(shape.transformer_config, layers=1)
    tokens = Stream(
        normal((1, FRAMES, config.audio.channels), "latents"),
        audio_token_midpoints(FRAMES).expand(1, 1, -1),
        torch.tensor([0.5]),
        normal((1, TEXT_PLACES, config.audio.context_dim), "context"),
    )
    outputs: dict[str, tuple[Tensor, Tensor]] = {}
    yield "| weights | error of the block's change | bytes a parameter |"
    yield "|---|---:|---:|"
    for weights in WEIGHTS:
        model = random_block(shape, weights)
        seen: list[tuple[Tensor, Tensor]] = []
        model.transformer_blocks[0].register_forward_hook(lambda _, given, out, to=seen: to.append((given[0], out[0])))
        model(tokens)
        outputs[weights] = seen[0]
        before, true = outputs[FULL]
        error = (outputs[weights][1] - true).norm() / (true - before).norm()
        counted = shape.transformer(1, torch.bfloat16, video=False).transformer_blocks
        size = held(shape.transformer(1, torch.bfloat16, video=False, policy=WeightPolicy(weights)).transformer_blocks)
        parameters = sum(parameter.numel() for parameter in counted.parameters())
        yield f"| {weights} | {error.item():.2%} | {size / parameters:.3f} |"
        print(weights, file=sys.stderr)


def random_block(shape: BaseShape, weights: str) -> Transformer:
    """One block with its ends: linear layers that keep the size of what passes, tables and biases as small as usual."""
    with torch.device("meta"):
        model = Transformer(replace(shape.transformer_config, layers=1), video=False)
    state = {}
    for name, tensor in list(model.state_dict().items()):
        values = torch.randn(tensor.shape, generator=generator(SEED, name))
        if name.endswith("norm.weight"):
            values = torch.ones(tensor.shape)
        elif tensor.ndim == 2 and name.endswith("weight"):
            values /= tensor.shape[1] ** 0.5
        else:
            values *= 0.1
        if (kept := place_weight(model, name, values, WeightPolicy(weights))) is not None:
            state[name] = kept
    model.load_state_dict(state, assign=True)
    return model.eval()


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("# Weights in fewer bits\n")
    print("Made by `python bench/weights.py > bench/results/weights.md`; `docs/small-cards.md` says what it means.\n")
    print("## At the published width\n")
    print(
        "One block of the audio stream (67 M parameters), float32, random weights that are normally distributed, "
        f"{FRAMES} audio and {TEXT_PLACES:,} text tokens: RMS of the output's difference by RMS of what the block "
        "changes. Bytes with all else in the block in bfloat16 and float32, as on a card.\n"
    )
    print("\n".join(at_full_width()))
    print("\n## On `tiny`\n")
    print(
        f"RMS of the velocity's difference to full weights (float32) by the RMS of the velocity, over {CLIPS} held-out "
        "clips. Losses are means over the clips and four noise levels; in brackets the difference to full weights "
        "with a 95 % bootstrap interval over clips.\n"
    )
    print("\n".join(on_tiny(arguments.steps)))


if __name__ == "__main__":
    main()
