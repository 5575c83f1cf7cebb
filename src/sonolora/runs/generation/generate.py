"""Using a trained LoRA, in all six modes, through the function that renders the previews.

In: a mode, a request body, a LoRA. Out: a sound file and its picture. What is given keeps its length, and in inpainting
and extension its sample rate, channels and sample format.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sonolora.analysis.spectrogram import draw_waveform_and_mel
from sonolora.conditioning import with_reference_positions
from sonolora.core.determinism import deterministic
from sonolora.core.devices import resolve_device
from sonolora.core.errors import InputError
from sonolora.core.frames import OVERLAP
from sonolora.core.progress import Progress
from sonolora.data.cache_folder import default_cache_folder
from sonolora.data.encode import Encoder
from sonolora.data.encoding_cache import Cache
from sonolora.data.fetch import ANYWHERE, Sources, fetch
from sonolora.ltx.lora.lora_file import LoRAFile, open_lora
from sonolora.ltx.lora.lora_fit import summarise
from sonolora.ltx.lora.lora_stack import LoRAUse, apply_loras
from sonolora.ltx.memory.weight_forms import FULL
from sonolora.ltx.weights.base import Base, find_base
from sonolora.ltx.weights.transformer_config import TransformerConfig
from sonolora.media.audio import Waveform, resample, to_stereo
from sonolora.media.film_sound import write_film
from sonolora.media.source_format import probe_audio
from sonolora.media.write_audio import write_audio, write_audio_like
from sonolora.modes.generate_request import GenerationSpec
from sonolora.modes.mode import Mode
from sonolora.modes.negative_prompts import resolve_negative_prompt
from sonolora.modes.preview_spec import MIN_SECONDS
from sonolora.modes.request import parse
from sonolora.planning.generate_settings import GenerateSettings
from sonolora.planning.run_settings import JOINT, RunSettings
from sonolora.runs.artifacts import PATTERNS
from sonolora.runs.cached_video import with_cached_videos
from sonolora.runs.evaluation.copies import describe_likeness, load_patterns
from sonolora.runs.generation.generation_clips import (
    ClipLength,
    GenerationInput,
    continued_windows,
    load_generation_input,
    region_input,
)
from sonolora.runs.generation.values_used import values_used
from sonolora.runs.loaded_networks import Networks
from sonolora.runs.start_up import announce
from sonolora.sampling.guidance import Guidance
from sonolora.sampling.noise_schedule import DISTILLED_STEPS
from sonolora.sampling.paste_kept import paste_passage
from sonolora.sampling.preview import render_continued, render_windows
from sonolora.sampling.sampler import SamplingSettings

OUTPUT_SAMPLE_RATE = 48_000
PUBLISHED_STEPS = SamplingSettings().steps
LOSSY_EXTENSIONS = ".mp3", ".ogg", ".aac", ".m4a"


def generate(
    mode: Mode,
    body: Mapping[str, Any],
    settings: GenerateSettings,
    out: Path,
    progress: Progress,
    *,
    sources: Sources = ANYWHERE,
    networks: Networks | None = None,
) -> None:
    """Write `out` and a picture beside it. Fields that `body` lacks follow the LoRA's metadata.

    `networks`, which may have served other runs, take precedence over the base and device of the settings.
    Raises `InputError` for input that cannot be used, `SonoloraError` for a LoRA that does not fit.
    """
    networks = networks or Networks(find_base(settings.base), resolve_device(settings.device))
    announce(networks.device, progress, deterministic=settings.deterministic)
    with deterministic(settings.deterministic):
        _generate(mode, body, settings, out, progress, sources, networks)


def _generate(
    mode: Mode,
    body: Mapping[str, Any],
    settings: GenerateSettings,
    out: Path,
    progress: Progress,
    sources: Sources,
    networks: Networks,
) -> None:
    base, device, dtype = networks.base, networks.device, networks.dtype
    lora = open_lora(settings.lora) if settings.lora else None
    uses = [LoRAUse(lora, settings.scale)] if lora is not None else []
    uses += [LoRAUse(open_lora(path), strength) for path, strength in settings.more_loras]
    if settings.distill_lora is not None:
        uses.append(LoRAUse(open_lora(settings.distill_lora[0]), settings.distill_lora[1]))
    sampling = _sampling(base, settings, progress)
    metadata = lora.metadata if lora is not None and lora.metadata.get("mode") == mode.name else {}
    one_way = _one_way_video(mode, settings.v2a_video, metadata)
    positions = _reference_positions(mode, settings.reference_positions, metadata)
    policy = RunSettings(weights=settings.weights, block_offload=settings.block_offload).policy
    spec = _spec(mode, body, metadata)
    config = TransformerConfig.from_header(base.checkpoint.section("transformer"))
    length = ClipLength(_trained_seconds(lora), config.audio.max_positions[0])
    codec = networks.codec
    with tempfile.TemporaryDirectory() as scratch:
        given = load_generation_input(spec, length, codec.sample_rate, Path(scratch), progress, sources)
        used = values_used(
            mode,
            body,
            settings,
            sampling,
            lora=metadata,
            recommended=base.checkpoint.metadata.get("guidance", {}),
            seconds=given.seconds,
            trained_seconds=length.trained,
        )
        progress.message(used)
        progress.phase("encoding the input", None)
        cache = Cache(default_cache_folder(), warn=progress.warning)
        text_encoder = partial(networks.text_encoder, video=mode.video)
        encoder = Encoder(base, codec, cache, device, dtype, mode.video, text_encoder)
        contexts = encoder.encode_texts([spec.prompt, spec.negative_prompt], progress.advance)
        windows = [(start, encoder.prepare_given(one, contexts, spec.negative_prompt)) for start, one in given.windows]
        windows = [
            (start, replace(item, example=with_reference_positions(item.example, positions))) for start, item in windows
        ]
        if one_way:
            examples = [item.example for _, item in windows]
            cached = with_cached_videos(examples, base.checkpoint, device=device, dtype=dtype, place=device)
            windows = [(start, replace(item, example=one)) for (start, item), one in zip(windows, cached, strict=True)]
        with networks.transformer(video=mode.video and not one_way, one_way=one_way, policy=policy) as model:
            if uses:
                for use, unused in zip(uses, apply_loras(model, uses), strict=True):
                    name = "this LoRA" if len(uses) == 1 else use.lora.path.name
                    for line in use.lora.warnings:
                        progress.warning(f"{use.lora.path.name}: {line}")
                    for line in summarise(unused):
                        progress.warning(f"not used of {name}: {line}")
            if lora is not None:
                for note in _notes(lora, mode, base.fingerprint, settings.weights, spec.prompt):
                    progress.message(f"note: {note}")
            plans = [continued_windows(spec, region.end - region.start, length) for region in given.regions]
            progress.phase("generating", sampling.steps * (sum(len(starts) for starts, _ in plans) or 1))
            if given.recording is None:
                result = render_windows(
                    model, codec, windows, given.seconds, sampling, (settings.seed,), device, progress.advance
                )
            else:
                result = given.recording
                for number, (region, (starts, window)) in enumerate(zip(given.regions, plans, strict=True)):
                    part = region_input(result, region, spec, codec.sample_rate)
                    item = encoder.prepare_given(part.given, contexts, spec.negative_prompt)
                    seed = (settings.seed, number) if number else (settings.seed,)
                    sound = render_continued(
                        model, codec, item, starts, window, sampling, seed, device, progress.advance
                    )
                    paste_passage(result, sound, part.first, part.paste, correct=not settings.codec_level)
        _write(out, result, given, settings, spec.prompt, progress)
        # Beside the LoRA of a run lies what its clips are like.
        patterns = load_patterns(lora.path.with_name(PATTERNS)) if lora is not None else None
        if patterns is not None and spec.source is None and (text := describe_likeness(patterns, result)):
            progress.message(text)
        if spec.video is not None:
            film = fetch(spec.video, Path(scratch), field=spec.field, sources=sources)
            write_film(out.with_suffix(".mp4"), film, result)


def _sampling(base: Base, settings: GenerateSettings, progress: Progress) -> SamplingSettings:
    """As suits the base; with a distill LoRA as distilled models."""
    distilled = base.distilled or settings.distill_lora is not None
    if base.distilled and settings.distill_lora is not None:
        raise InputError.of("distill_lora", f"the base {base.name} is distilled already: leave it out")
    guidance = Guidance.of_base(
        base.checkpoint.metadata, distilled=distilled, stg=settings.stg_scale, cfg=settings.cfg_scale
    )
    if not distilled:
        return SamplingSettings(settings.steps or PUBLISHED_STEPS, guidance, settings.sampler)
    if settings.steps in (None, DISTILLED_STEPS):
        progress.message(f"a distilled model: {DISTILLED_STEPS} steps of its own schedule")
        return SamplingSettings(DISTILLED_STEPS, guidance, settings.sampler, distilled=True)
    progress.message(
        f"note: distilled models are made for {DISTILLED_STEPS} steps; {settings.steps} follow the dev base's schedule"
    )
    assert settings.steps is not None
    return SamplingSettings(settings.steps, guidance, settings.sampler)


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


def _write(
    out: Path,
    result: Waveform,
    given: GenerationInput,
    settings: GenerateSettings,
    title: str,
    progress: Progress,
) -> None:
    """The result in the format of its source, if it has one, and its picture."""
    if given.source is None or settings.output_48k:
        write_audio(out, resample(to_stereo(result), OUTPUT_SAMPLE_RATE))
    else:
        source = probe_audio(given.source)
        if out.suffix.lower() in LOSSY_EXTENSIONS and source.codec != "alac":
            progress.warning(f"{out.name} is lossy: give a .wav or .flac to keep every sample as it is")
        elif source.is_float and out.suffix.lower() == ".flac":
            progress.warning(f"{out.name} has 24 bits, the source floats: give a .wav to keep every sample as it is")
        write_audio_like(out, result, source, offset=given.source_offset)
    draw_waveform_and_mel(out.with_suffix(".png"), to_stereo(result), title)


def _one_way_video(mode: Mode, requested: str | None, metadata: Mapping[str, Any]) -> bool:
    """Whether the video does not attend to the audio: as the LoRA was trained, or without one as requested."""
    trained = metadata.get("v2a_video", JOINT) if metadata else None
    settings = RunSettings(v2a_video=requested or trained or JOINT)
    settings.check_mode(mode)
    if requested is not None and trained is not None and requested != trained:
        raise InputError.of("v2a_video", f"this LoRA was trained with {trained} and needs it; found {requested}")
    return settings.one_way_video


def _reference_positions(mode: Mode, requested: str | None, metadata: Mapping[str, Any]) -> str:
    """As the LoRA was trained, or without one as requested."""
    trained = metadata.get("reference_positions") if metadata else None
    settings = RunSettings(reference_positions=requested or (trained if mode.reference else None) or OVERLAP)
    settings.check_mode(mode)
    if requested is not None and trained is not None and requested != trained:
        raise InputError.of(
            "reference_positions", f"this LoRA was trained with {trained} and needs it; found {requested}"
        )
    return settings.reference_positions


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
