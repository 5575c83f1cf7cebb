"""Whether a mode learns: a LoRA trained on one part of a made dataset and measured on the rest.

In: a mode and how much of everything. Out: grids of losses. The data goes down the product's own road: files, pairing,
fitting, codec, text encoder, `Example`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from made_data import write_dataset

from sonolora.conditioning import Example
from sonolora.data.cache import Cache, default_cache_folder
from sonolora.data.clips import load_clips
from sonolora.data.encode import Encoder
from sonolora.data.files import discover
from sonolora.data.report import Report
from sonolora.ltx.audio_codec import load_audio_codec
from sonolora.ltx.base import Base
from sonolora.ltx.lora import Adapters, add_adapters
from sonolora.ltx.text import load_tokenizer
from sonolora.ltx.transformer import Transformer, load_transformer
from sonolora.modes.mode import Mode
from sonolora.modes.request import parse
from sonolora.runs.settings import compute_dtype
from sonolora.training.trainer import Trainer, TrainingConfig


def make_encoder(mode: Mode, base: Base, device: torch.device) -> Encoder:
    """The networks that prepare the mode's data, behind the user's cache."""
    codec = load_audio_codec(base.checkpoint, device=device)
    return Encoder(base, codec, Cache(default_cache_folder()), device, compute_dtype(device), mode.video)


def prepare(mode: Mode, encoder: Encoder, count: int, seconds: float, seed: int) -> tuple[Example, ...]:
    """`count` examples of the mode's made dataset, by index. Raises `RuntimeError` when one of them is left out."""
    base, rate, report = encoder.base, encoder.codec.sample_rate, Report()
    tokenizer = load_tokenizer(base.checkpoint, base.text_encoder)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "data"
        request = parse(mode.request, write_dataset(mode.name, folder, count, seconds, seed))
        clips = load_clips(mode, request, discover(folder), rate, tokenizer, report, _silent)
        prepared, _ = encoder.prepare(clips, [], _silent)
    if len(prepared.examples) != count:
        raise RuntimeError(f"{mode.name}: only {len(prepared.examples)} of {count} samples: {report.summary_line()}")
    return prepared.examples


def learn(
    mode: Mode,
    base: Base,
    examples: Sequence[Example],
    rank: int,
    config: TrainingConfig,
    device: torch.device,
    advance: Callable[[int], None] = lambda step: None,  # noqa: ARG005
) -> tuple[Transformer, Adapters]:
    """Train a LoRA on the examples; returns the base's model with it."""
    model = load_transformer(base.checkpoint, video=mode.video, device=device, dtype=compute_dtype(device))
    adapters = add_adapters(model, mode.lora_targets, rank, config.seed)
    trainer = Trainer(model, adapters, examples, config)
    while trainer.step_count < config.steps:
        trainer.step()
        advance(trainer.step_count)
    return model, adapters


def zero_velocity(examples: Sequence[Example]) -> torch.Tensor:
    """The expected loss (clips, 1) of a velocity of 0: 1 for the noise, and the mean square of the latents."""
    rows = []
    for example in examples:
        latents = example.latents_BTC if example.keep_BT is None else example.latents_BTC[~example.keep_BT]
        rows.append(1 + latents.square().mean())
    return torch.stack(rows)[:, None]


def exchanged(examples: Sequence[Example]) -> list[Example]:
    """The same targets, each with what is given beside the next one: its film, reference, kept frames or, if none of
    these, its words. A model that has learnt to use what is given loses more with it."""
    return [_given(one, other) for one, other in zip(examples, [*examples[1:], examples[0]], strict=True)]


def _silent(note: str) -> None:
    """No progress is told of what takes seconds."""


def _given(example: Example, other: Example) -> Example:
    if example.video is not None:
        return replace(example, video=other.video)
    if example.reference_BRC is not None:
        return replace(example, reference_BRC=other.reference_BRC)
    if example.keep_BT is not None:
        kept = torch.where(example.keep_BT[..., None], other.latents_BTC, example.latents_BTC)
        return replace(example, latents_BTC=kept)
    return replace(example, context_BSD=other.context_BSD)
