"""From a synthetic dataset to the results of a LoRA: sounds for held-out samples, and losses.

In: a mode, a base, a `Plan`. Out: `Data`, and the `Outcome` of the base and of LoRAs. The data takes the product's own
path (files, pairing, fitting, codec, text encoder, `Example`), and sounds are rendered as previews are (`PreviewSpec`,
`PreviewItem`, `render`). Only videos are fitted beforehand: requests do not allow sizes as small as those that `tiny`
was trained on.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from losses import exchanged
from made_data import FRAME_RATE, Made, known_sounds, make, preview_spec, write_dataset
from torch import Tensor

import sonolora
from sonolora.conditioning import Example
from sonolora.core.devices import compute_dtype
from sonolora.data.cache_folder import default_cache_folder
from sonolora.data.clips import Clip, load_clips
from sonolora.data.conditioning_inputs import ConditioningInput, load_conditioning_input
from sonolora.data.dataset_files import discover
from sonolora.data.encode import Encoder
from sonolora.data.encoding_cache import Cache, content_key
from sonolora.data.foreign_captions import FOREIGN_CAPTIONS
from sonolora.data.prepared import PreviewItem
from sonolora.data.report import Report
from sonolora.ltx.codec.audio_codec import load_audio_codec
from sonolora.ltx.lora.adapters import add_adapters, rounded_to_bf16
from sonolora.ltx.model.lora_layer import Adapters
from sonolora.ltx.model.transformer import Transformer, load_transformer
from sonolora.ltx.text.text_encoder import load_tokenizer
from sonolora.ltx.weights.base import Base
from sonolora.media.audio import Waveform, peak, peak_normalized, resample
from sonolora.modes.mode import Mode
from sonolora.modes.request import NEGATIVE_PROMPT, parse
from sonolora.sampling.paste_kept import paste_kept
from sonolora.sampling.preview import render
from sonolora.sampling.sampler import SamplingSettings
from sonolora.training.trainer import Trainer, TrainingConfig
from sonolora.training.validation import eval_losses

TELL_EVERY = 100  # steps
# The code that an outcome depends on, beyond the digest of the data.
_CODE = ("ltx", "data", "sampling", "training", "conditioning.py", "core/frames.py", "core/randomness.py")


@dataclass(frozen=True)
class Plan:
    """Sizes and settings. `seconds`: length of a clip; `unrelated`: number of captions of known kinds, in t2a."""

    train_clips: int = 48
    held_out_clips: int = 32
    unrelated: int = 12
    seconds: float = 2.0
    rank: int = 32
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(300, 1e-3, 0))
    sampling: SamplingSettings = field(default_factory=SamplingSettings)


@dataclass(frozen=True)
class Data:
    """A split dataset. `unrelated`: samples of known kinds, whose captions alone are used."""

    training: tuple[Made, ...]
    held_out: tuple[Made, ...]
    unrelated: tuple[Made, ...]
    training_examples: tuple[Example, ...]
    held_out_examples: tuple[Example, ...]
    items: tuple[PreviewItem, ...]  # of the held-out samples, then of the unrelated ones
    digest: str


@dataclass(frozen=True)
class Outcome:
    """Results of the base, or of a LoRA, on the held-out samples. Losses are (clips, sigmas)."""

    held_out: tuple[Waveform, ...]
    unrelated: tuple[Waveform, ...]
    losses: Tensor
    exchanged_losses: Tensor  # with the conditioning of the next clip


def make_encoder(mode: Mode, base: Base, device: torch.device) -> Encoder:
    """The networks that prepare the data of the mode, with the user's cache."""
    codec = load_audio_codec(base.checkpoint, device=device)
    return Encoder(base, codec, Cache(default_cache_folder()), device, compute_dtype(device), mode.video)


def prepare(mode: Mode, encoder: Encoder, plan: Plan) -> Data:
    """Make and encode the data. Raises `RuntimeError` if a clip is skipped."""
    seed, count = plan.training.seed, plan.train_clips + plan.held_out_clips
    made = tuple(make(mode.name, seed, index, plan.seconds) for index in range(count))
    training, held_out = made[: plan.train_clips], made[plan.train_clips :]
    # With conditioning besides text no caption is unrelated.
    unrelated = tuple(known_sounds(seed, plan.unrelated if mode.name == "t2a" else 0, plan.seconds))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        asked = [*held_out, *unrelated]
        if mode.video:
            clips: Iterable[Clip] = [_film_clip(one, encoder) for one in made]
            given = [ConditioningInput(_film_clip(one, encoder), one.seconds) for one in asked]
        else:
            clips = read_clips(mode, made, encoder, folder / "data")
            given = [_read_given(mode, one, encoder, folder / f"{index}.wav") for index, one in enumerate(asked)]
        prepared, _ = encoder.prepare(clips, [(one, NEGATIVE_PROMPT) for one in given], _silent)
    if len(prepared.examples) != count:
        raise RuntimeError(f"{mode.name}: only {len(prepared.examples)} of {count} samples are used")
    examples = prepared.examples[: plan.train_clips], prepared.examples[plan.train_clips :]
    return Data(training, held_out, unrelated, *examples, prepared.previews, prepared.digest)


def read_clips(mode: Mode, made: Sequence[Made], encoder: Encoder, folder: Path) -> Iterable[Clip]:
    """Write samples into a new folder and read them as a run does."""
    request = parse(mode.request, write_dataset(mode.name, folder, made))
    tokenizer = load_tokenizer(encoder.base.checkpoint, encoder.base.text_encoder)
    return load_clips(mode, request, discover(folder), encoder.codec.sample_rate, tokenizer, Report(), _silent)


def _read_given(mode: Mode, made: Made, encoder: Encoder, path: Path) -> ConditioningInput:
    spec = preview_spec(mode.name, path, made)
    return load_conditioning_input(spec, encoder.codec.sample_rate, encoder.codec.output_sample_rate, path.parent)


def _film_clip(made: Made, encoder: Encoder) -> Clip:
    sound = resample(made.true, encoder.codec.sample_rate)
    return Clip("film", made.caption, sound, frames=made.film, frame_rate=FRAME_RATE)


def learn(
    mode: Mode,
    base: Base,
    examples: Sequence[Example],
    rank: int,
    config: TrainingConfig,
    device: torch.device,
    advance: Callable[[int], None] = lambda step: None,  # noqa: ARG005
    foreign: Sequence[Tensor] = (),
) -> tuple[Transformer, Adapters]:
    """Train a LoRA on the examples; returns the model with its adapters. `foreign`: contexts for `preserve`."""
    model = load_transformer(base.checkpoint, video=mode.video, device=device, dtype=compute_dtype(device))
    adapters = add_adapters(model, mode.lora_targets, rank, config.seed)
    trainer = Trainer(model, adapters, examples, config, foreign=foreign)
    while trainer.step_count < config.steps:
        trainer.step()
        advance(trainer.step_count)
    return model, adapters


def base_alone(mode: Mode, encoder: Encoder, data: Data, plan: Plan, tell: Callable[[str], None]) -> Outcome:
    """The base on the held-out samples."""

    def measure() -> dict[str, Tensor]:
        tell("generating with the base")
        model = load_transformer(encoder.base.checkpoint, video=mode.video, device=encoder.device, dtype=encoder.dtype)
        return _measure(model, encoder, data, plan)

    return _outcome("base", encoder, data, (mode.name, plan.sampling, plan.training.seed), measure)


def with_lora(mode: Mode, encoder: Encoder, data: Data, plan: Plan, tell: Callable[[str], None]) -> Outcome:
    """The base with a LoRA trained on the training samples, rounded as in its file."""
    total = plan.training.steps

    def advance(step: int) -> None:
        if step % TELL_EVERY == 0 or step == total:
            tell(f"step {step} of {total}")

    def measure() -> dict[str, Tensor]:
        foreign = [*encoder.encode_texts(FOREIGN_CAPTIONS, _silent).values()] if plan.training.preserve else []
        model, adapters = learn(
            mode, encoder.base, data.training_examples, plan.rank, plan.training, encoder.device, advance, foreign
        )
        tell("generating with the LoRA")
        with rounded_to_bf16(adapters):
            return _measure(model, encoder, data, plan)

    return _outcome("LoRA", encoder, data, (mode.name, plan), measure)


def through_codec(encoder: Encoder, made: Made, item: PreviewItem) -> Waveform:
    """The true sound encoded and decoded, with the kept part pasted back: an upper bound for any model."""
    codec = encoder.codec
    level = peak_normalized(made.true)
    samples = torch.from_numpy(resample(level, codec.sample_rate).samples)[None].to(encoder.device)
    with torch.inference_mode():
        decoded = codec.decode(codec.encode(samples))[0, :, : made.true.samples.shape[1]].cpu().numpy()
    whole = Waveform(decoded * np.float32(peak(made.true) / peak(level)), codec.output_sample_rate)
    if item.kept_CN is None:
        return whole
    return paste_kept(whole, Waveform(item.kept_CN.numpy(), whole.sample_rate), item.regenerate)


def _measure(model: Transformer, encoder: Encoder, data: Data, plan: Plan) -> dict[str, Tensor]:
    """One sound per item, from noise that is the same for every model, and the losses."""
    clips = data.held_out_examples
    sounds = [
        render(model, encoder.codec, item, plan.sampling, plan.training.seed + index, encoder.device)
        for index, item in enumerate(data.items)
    ]
    return {
        "sounds": torch.stack([torch.from_numpy(sound.samples) for sound in sounds]),
        "losses": eval_losses(model, clips, encoder.device, len(clips)),
        "exchanged": eval_losses(model, exchanged(clips), encoder.device, len(clips)),
    }


def _outcome(
    who: str, encoder: Encoder, data: Data, settings: object, measure: Callable[[], dict[str, Tensor]]
) -> Outcome:
    """Measure, or read from the cache if measured before with the same data, settings and code."""
    key = content_key("learning proof", who, encoder.base.fingerprint, data.digest, repr(settings), _code())
    found = encoder.cache.get(key, measure)
    rate = encoder.codec.output_sample_rate
    sounds = tuple(Waveform(samples.numpy(), rate) for samples in found["sounds"])
    count = len(data.held_out)
    return Outcome(sounds[:count], sounds[count:], found["losses"], found["exchanged"])


def _code() -> str:
    package = Path(sonolora.__file__).parent
    files = [file for name in _CODE for file in sorted([package / name, *(package / name).rglob("*.py")])]
    files += [Path(__file__), Path(__file__).with_name("made_data.py")]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files if file.is_file())).hexdigest()


def _silent(note: str) -> None:
    """No progress is shown for what takes seconds."""
