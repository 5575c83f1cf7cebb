"""The effect of one-way video attention in v2a: `--v2a-video frozen-cached` compared with `joint`.

    python bench/v2a_video.py > bench/results/v2a_video.md

Prints a page of tables: velocities and losses of the base on held-out made films, losses after short trainings from
several seeds, whether what is then generated sounds when the picture says so (the figure of bench/learning), the time
of a step here, and, computed, what a step of LTX-2.3 takes. Some ten minutes of one core.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent / "learning"))

from experiment import Data, Plan, make_encoder, prepare
from judge import FIGURES
from losses import exchanged
from paired import paired_difference

from sonolora.conditioning import Example, velocity
from sonolora.core.randomness import normal
from sonolora.data.encode import Encoder
from sonolora.ltx.lora.adapters import add_adapters, remove_adapters, rounded_to_bf16
from sonolora.ltx.model.transformer import Transformer, load_transformer
from sonolora.ltx.weights.base import Base, find_base
from sonolora.modes.preview_spec import VideoFormat
from sonolora.modes.request import parse
from sonolora.modes.v2a import V2A
from sonolora.planning.base_shape import BaseShape
from sonolora.planning.needs import count_needs, training_step
from sonolora.planning.run_settings import FROZEN_CACHED, JOINT, V2A_VIDEO, RunSettings
from sonolora.planning.work_counts import Step, Tokens, make_example, step_flops
from sonolora.runs.cached_video import with_cached_videos
from sonolora.sampling.guidance import Guidance
from sonolora.sampling.preview import render
from sonolora.sampling.sampler import SamplingSettings
from sonolora.training.step_phases import phase_times
from sonolora.training.trainer import Trainer, TrainingConfig
from sonolora.training.validation import SIGMAS, eval_losses

CPU, F32 = torch.device("cpu"), torch.float32
ALONE = "without a film"
WARM_UP, TIMED = 2, 15  # steps
STEPS = 20  # of the sampler


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train-clips", type=int, default=24)
    parser.add_argument("--held-out-clips", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = find_base(options.base)
    plan = Plan(train_clips=options.train_clips, held_out_clips=options.held_out_clips)
    encoder = make_encoder(V2A, base, CPU)
    data = prepare(V2A, encoder, plan)
    said = "" if len(sys.argv) == 1 else " " + " ".join(sys.argv[1:])
    print(f"# One-way video attention in v2a\n\nBase {base.name}; made by")
    print(f"\n    python bench/v2a_video.py{said}\n")
    print("Measured on one machine; `docs/v2a-video.md` discusses it.\n")
    arms = {name: load(base, name) for name in V2A_VIDEO}
    held_out = {JOINT: list(data.held_out_examples), FROZEN_CACHED: watched(base, data.held_out_examples)}
    training = {JOINT: list(data.training_examples), FROZEN_CACHED: watched(base, data.training_examples)}
    for part in (
        velocities(arms, held_out),
        losses(arms, held_out, training, listening(encoder, data), options),
        times(base, arms, options.rank),
        published(options.rank),
    ):
        for line in part:
            print(line, flush=True)


def load(base: Base, name: str) -> Transformer:
    """The transformer of that variant."""
    one_way = name == FROZEN_CACHED
    return load_transformer(base.checkpoint, video=not one_way, one_way=one_way, device=CPU, dtype=F32)


def watched(base: Base, examples: Sequence[Example]) -> list[Example]:
    """With the cached keys and values of their videos."""
    return with_cached_videos(examples, base.checkpoint, device=CPU, dtype=F32, place=CPU)


def blind(examples: Sequence[Example]) -> list[Example]:
    """Without their videos."""
    return [replace(example, video=None) for example in examples]


def velocities(arms: dict[str, Transformer], held_out: dict[str, list[Example]]) -> Iterator[str]:
    """The change of the base's velocity: RMS of the difference relative to that of the joint velocity."""
    films = len(held_out[JOINT])
    yield f"## The base's velocity, {films} held-out videos\n\nRMS of the difference, relative to that of `joint`.\n"
    yield "| sigma | frozen-cached | without a video |\n|---:|---:|---:|"

    @torch.inference_mode()
    def of(model: Transformer, examples: Sequence[Example], sigma: float) -> Tensor:
        found = []
        for index, one in enumerate(examples):
            noisy = (1 - sigma) * one.latents_BTC + sigma * normal(tuple(one.latents_BTC.shape), "noise", index)
            found.append(velocity(model, one, noisy, torch.tensor([sigma])))
        return torch.cat(found)

    for sigma in SIGMAS:
        joint = of(arms[JOINT], held_out[JOINT], sigma)
        others = of(arms[FROZEN_CACHED], held_out[FROZEN_CACHED], sigma), of(arms[JOINT], blind(held_out[JOINT]), sigma)
        yield f"| {sigma} | " + " | ".join(f"{rms(other - joint) / rms(joint):.4f}" for other in others) + " |"


def rms(x: Tensor) -> float:
    """Root of the mean square."""
    return x.square().mean().sqrt().item()


def listening(encoder: Encoder, data: Data) -> Callable[[str, Transformer], Tensor]:
    """A function from a variant and its model to the onset F-score for each of N held-out videos, (N, 1)."""
    (onsets, *_) = FIGURES[V2A.name]
    settings = SamplingSettings(STEPS, Guidance.of_base(encoder.base.checkpoint.metadata))
    seen = watched(encoder.base, [item.example for item in data.items])
    items = {
        JOINT: data.items,
        FROZEN_CACHED: [replace(item, example=example) for item, example in zip(data.items, seen, strict=True)],
        ALONE: [
            replace(item, example=example)
            for item, example in zip(data.items, blind([item.example for item in data.items]), strict=True)
        ],
    }

    def heard(name: str, model: Transformer) -> Tensor:
        sounds = (render(model, encoder.codec, item, settings, seed, CPU) for seed, item in enumerate(items[name]))
        scores = [onsets.of(sound, made) for sound, made in zip(sounds, data.held_out, strict=True)]
        return torch.tensor(scores, dtype=torch.float64)[:, None]

    return heard


def losses(
    arms: dict[str, Transformer],
    held_out: dict[str, list[Example]],
    training: dict[str, list[Example]],
    heard: Callable[[str, Transformer], Tensor],
    options: argparse.Namespace,
) -> Iterator[str]:
    """Held-out losses on the fixed grid, and onset F-scores, before and after training."""
    yield (
        f"\n## Held-out loss\n\n{len(held_out[JOINT])} videos never trained on, four noise levels; training on "
        f"{len(training[JOINT])} videos, {options.steps} steps, rank {options.rank}. In brackets the 95 % interval of "
        "the mean difference over videos (bootstrap).\n"
    )
    head = "| | joint | frozen-cached | without a video | frozen-cached - joint |\n|---|---:|---:|---:|---:|"
    yield head
    clips = len(held_out[JOINT])
    models = {**arms, ALONE: arms[FROZEN_CACHED]}
    held_out, training = ({**given, ALONE: blind(given[FROZEN_CACHED])} for given in (held_out, training))

    def row(what: str, grids: Sequence[Tensor]) -> str:
        joint, one_way, *_ = grids
        gap = paired_difference(joint, one_way)
        means = " | ".join([*(f"{grid.mean():.4f}" for grid in grids), ""][:3])
        return f"| {what} | {means} | {gap.mean:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}] |"

    yield row("base", [eval_losses(models[name], held_out[name], CPU, clips) for name in models])
    onsets = [row("base", [heard(name, model) for name, model in models.items()])]
    for seed in range(options.seeds):
        own, others, scores = [], [], []
        for name, model in models.items():
            adapters = add_adapters(model, V2A.lora_targets, options.rank, seed)
            config = TrainingConfig(options.steps, 1e-3, seed, sigma_density=V2A.sigma_density)
            trainer = Trainer(model, adapters, training[name], config)
            while trainer.step_count < config.steps:
                trainer.step()
            with rounded_to_bf16(adapters):
                own.append(eval_losses(model, held_out[name], CPU, clips))
                scores.append(heard(name, model))
                if name != ALONE:
                    others.append(eval_losses(model, exchanged(held_out[name]), CPU, clips))
            remove_adapters(model)
        yield row(f"LoRA, seed {seed}", own)
        yield row(f"LoRA, seed {seed}, with another video", others)
        onsets.append(row(f"LoRA, seed {seed}", scores))
    yield (
        f"\n## Onsets\n\nF-score of the onsets of what is generated for those videos in {STEPS} sampling steps, within "
        "60 ms; higher is better.\n"
    )
    yield head
    yield from onsets


def times(base: Base, arms: dict[str, Transformer], rank: int) -> Iterator[str]:
    """Median step time, the variants in turn."""
    shape = BaseShape.of(base)
    yield f"\n## Time of a step here\n\nMedian of {TIMED} steps, the variants in turn, one thread, rank {rank}.\n"
    yield "| video | video tokens | joint, ms | frozen-cached, ms | without a video, ms | caching a video once, ms |"
    yield "|---|---:|---:|---:|---:|---:|"
    for film in (VideoFormat(49, 24, 96, 64), VideoFormat(89, 24, 512, 288)):
        joint = Tokens(51, video_format=film)
        tokens = {JOINT: joint, FROZEN_CACHED: replace(joint, one_way=True), ALONE: Tokens(51)}
        trainers = {}
        for name, each in tokens.items():
            model = arms[FROZEN_CACHED if name == ALONE else name]
            example = make_example(shape, each, CPU, F32)
            trainers[name] = model, example
        measured: dict[str, list[float]] = {name: [] for name in tokens}
        for _ in range(3):
            for name, (model, example) in trainers.items():
                adapters = add_adapters(model, V2A.lora_targets, rank, 0)
                trainer = Trainer(model, adapters, [example], TrainingConfig(100, 1e-3, 0))
                steps = phase_times(trainer, model, CPU, WARM_UP + TIMED // 3)[WARM_UP:]
                measured[name] += map(sum, steps)
                remove_adapters(model)
        began = time.perf_counter()
        watched(base, [trainers[JOINT][1]])
        took = 1000 * (time.perf_counter() - began)
        cells = " | ".join(f"{statistics.median(each):.0f}" for each in measured.values())
        yield f"| {film.frames} x {film.width} x {film.height} | {joint.video} | {cells} | {took:.0f} |"


def published(rank: int) -> Iterator[str]:
    """FLOPs of a step and memory of LTX-2.3 at the published defaults."""
    shape, cuda = BaseShape.published(), torch.device("cuda")
    entry = {"prompt": "", "video_url": "a"}
    request = parse(V2A.request, {"training_data_url": "a", "rank": rank, "validation": [entry]})
    yield (
        "\n## LTX-2.3, computed\n\nBy the functions of `sonolora estimate`; no GPU has run it. Published defaults (89 "
        f"frames of 768 x 768, preview 960 x 960), rank {rank}, bfloat16, nothing recomputed.\n"
    )
    yield "| | TFLOP a step | transformer, GB | training, GB | validation, GB | peak of the run, GB | seen, GB a clip |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for name in V2A_VIDEO:
        settings = RunSettings(v2a_video=name)
        step: Step = training_step(V2A, request, settings)
        needs = count_needs(shape, V2A, request, settings, cuda)
        stages = {stage.name: stage for stage in needs.stages}
        seen = count_needs(shape, V2A, request, settings, cuda, clips=2).examples - needs.examples
        sizes = (
            stages["training"].resident["transformer"],
            stages["training"].peak,
            stages["validation"].peak,
            needs.peak,
            seen,
        )
        flops = step_flops(shape, step, "cuda").whole / 1e12
        yield f"| {name} | {flops:.1f} | " + " | ".join(f"{size / 1e9:.2f}" for size in sizes) + " |"


if __name__ == "__main__":
    main()
