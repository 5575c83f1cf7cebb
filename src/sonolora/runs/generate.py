"""Using a trained LoRA, in all six modes, through the function that renders the previews.

In: a mode, a request body, a LoRA. Out: a sound file and its picture. What is given keeps its length, and in inpainting
and extension its sample rate, channels and sample format.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sonolora.analysis.spectrogram import draw_waveform_and_mel
from sonolora.core.devices import compute_dtype, resolve_device
from sonolora.core.errors import InputError
from sonolora.core.progress import Progress
from sonolora.data.cache_folder import default_cache_folder
from sonolora.data.encode import Encoder
from sonolora.data.encoding_cache import Cache
from sonolora.data.prepared import PreviewItem
from sonolora.ltx.codec.audio_codec import load_audio_codec
from sonolora.ltx.lora.adapters import apply_lora
from sonolora.ltx.lora.lora_file import LoRAFile, open_lora
from sonolora.ltx.lora.lora_fit import summarise
from sonolora.ltx.memory.weight_forms import FULL
from sonolora.ltx.model.transformer import load_transformer
from sonolora.ltx.weights.base import find_base
from sonolora.ltx.weights.transformer_config import TransformerConfig
from sonolora.media.audio import Waveform, resample, to_stereo
from sonolora.media.source_format import probe_audio
from sonolora.media.write_audio import write_audio, write_audio_like
from sonolora.modes.generate_request import GenerationSpec
from sonolora.modes.mode import Mode
from sonolora.modes.preview_spec import MIN_SECONDS
from sonolora.modes.request import parse
from sonolora.planning.generate_settings import GenerateSettings
from sonolora.planning.run_settings import JOINT, RunSettings
from sonolora.runs.cached_video import with_cached_videos
from sonolora.runs.generation_clips import ClipLength, GenerationInput, Passage, load_generation_input
from sonolora.sampling.guidance import Guidance
from sonolora.sampling.negative_prompts import resolve_negative_prompt
from sonolora.sampling.paste_kept import paste_passage
from sonolora.sampling.preview import render_windows
from sonolora.sampling.sampler import SamplingSettings

OUTPUT_SAMPLE_RATE = 48_000


def generate(mode: Mode, body: Mapping[str, Any], settings: GenerateSettings, out: Path, progress: Progress) -> None:
    """Write `out` and a picture beside it. Fields that `body` lacks follow the LoRA's metadata.

    Raises `InputError` for input that cannot be used, `SonoloraError` for a LoRA that does not fit.
    """
    device = resolve_device(settings.device)
    dtype = compute_dtype(device)
    base = find_base(settings.base)
    lora = open_lora(settings.lora) if settings.lora else None
    metadata = lora.metadata if lora is not None and lora.metadata.get("mode") == mode.name else {}
    one_way = _one_way_video(mode, settings.v2a_video, metadata)
    policy = RunSettings(weights=settings.weights, block_offload=settings.block_offload).policy
    spec = _spec(mode, body, metadata)
    config = TransformerConfig.from_header(base.checkpoint.section("transformer"))
    length = ClipLength(_trained_seconds(lora), config.audio.max_positions[0])
    codec = load_audio_codec(base.checkpoint, device=device)
    with tempfile.TemporaryDirectory() as scratch:
        given = load_generation_input(spec, length, codec.sample_rate, Path(scratch), progress)
        progress.phase("encoding the input", None)
        encoder = Encoder(base, codec, Cache(default_cache_folder(), warn=progress.warning), device, dtype, mode.video)
        inputs = [one for passage in given.passages for _, one in passage.windows]
        items = encoder.prepare_given(inputs, spec.negative_prompt, progress.advance)
        if one_way:
            examples = with_cached_videos(
                [item.example for item in items], base.checkpoint, device=device, dtype=dtype, place=device
            )
            items = [replace(item, example=example) for item, example in zip(items, examples, strict=True)]
        model = load_transformer(
            base.checkpoint,
            video=mode.video and not one_way,
            one_way=one_way,
            device=device,
            dtype=dtype,
            policy=policy,
        )
        if lora is not None:
            applied = apply_lora(model, lora, settings.scale)
            for line in summarise(applied.unused):
                progress.warning(f"not used of this LoRA: {line}")
            for note in _notes(lora, mode, base.fingerprint, settings.weights, spec.prompt):
                progress.message(f"note: {note}")
        guidance = Guidance.of_base(base.checkpoint.metadata, stg=settings.stg_scale, cfg=settings.cfg_scale)
        sampling = SamplingSettings(settings.steps, guidance)
        progress.phase("generating", settings.steps * len(given.passages))
        for number, (passage, windows) in enumerate(_with_items(given.passages, items)):
            seed = (settings.seed, number) if number else (settings.seed,)
            sound = render_windows(model, codec, windows, passage.seconds, sampling, seed, device, progress.advance)
            if given.recording is not None:
                paste_passage(given.recording, sound, passage.offset, passage.paste)
        _write(out, given.recording or sound, given, settings, spec.prompt)


def _with_items(
    passages: Sequence[Passage], items: Sequence[PreviewItem]
) -> Iterator[tuple[Passage, list[tuple[int, PreviewItem]]]]:
    """Each passage with its encoded windows."""
    rest = iter(items)
    for passage in passages:
        yield passage, [(start, next(rest)) for start, _ in passage.windows]


def _spec(mode: Mode, body: Mapping[str, Any], metadata: Mapping[str, Any]) -> GenerationSpec:
    """The request; what it lacks follows the LoRA, but for the length, which what is given decides."""
    defaults = {name: value for name, value in metadata.items() if name != "seconds"}
    spec = parse(mode.generation, {**defaults, **body}).spec()
    return replace(spec, negative_prompt=resolve_negative_prompt(spec.negative_prompt))


def _trained_seconds(lora: LoRAFile | None) -> float | None:
    """Length of the LoRA's training clips, None where its file does not say."""
    try:
        seconds = float(lora.metadata["seconds"]) if lora is not None else math.nan
    except (KeyError, TypeError, ValueError):
        return None
    return seconds if seconds >= MIN_SECONDS else None


def _write(out: Path, recording: Waveform, given: GenerationInput, settings: GenerateSettings, title: str) -> None:
    if given.source is not None and not settings.output_48k:
        write_audio_like(out, recording, probe_audio(given.source), offset=given.source_offset)
    else:
        write_audio(out, resample(to_stereo(recording), OUTPUT_SAMPLE_RATE))
    draw_waveform_and_mel(out.with_suffix(".png"), to_stereo(recording), title)


def _one_way_video(mode: Mode, requested: str | None, metadata: Mapping[str, Any]) -> bool:
    """Whether the video does not attend to the audio: as the LoRA was trained, or without one as requested."""
    trained = metadata.get("v2a_video", JOINT) if metadata else None
    settings = RunSettings(v2a_video=requested or trained or JOINT)
    settings.check_mode(mode)
    if requested is not None and trained is not None and requested != trained:
        raise InputError.of("v2a_video", f"this LoRA was trained with {trained} and needs it; found {requested}")
    return settings.one_way_video


def _notes(lora: LoRAFile, mode: Mode, base_fingerprint: str, weights: str, prompt: str) -> list[str]:
    """What the user should know of using this LoRA here."""
    metadata = lora.metadata
    notes = []
    if metadata.get("base_fingerprint", base_fingerprint) != base_fingerprint:
        notes.append(f"this LoRA was trained on another base ({metadata.get('base', 'unknown')})")
    if (trained := metadata.get("base_weights", FULL)) != weights:
        notes.append(f"this LoRA was trained with --weights {trained} and is used here with {weights}")
    if metadata.get("mode", mode.name) != mode.name:
        notes.append(f"this LoRA was trained for {metadata['mode']} and is used here for {mode.name}")
    if metadata.get("trigger_phrase", "") not in prompt:
        notes.append(
            f"this LoRA was trained with the trigger phrase {metadata['trigger_phrase']!r}, which the prompt lacks"
        )
    return notes
